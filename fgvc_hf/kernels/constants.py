"""Numbers of the code as tensors on any device."""

from collections.abc import Sequence
from functools import lru_cache

import torch


def constant_like(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Numbers as a tensor (n,) of the type and on the device of another; not to be written to.

    On an accelerator it is made once: every copy from the host makes the host wait for the device, and cannot be part of a CUDA graph. Tensors of
    subclasses, as of graphs that are being exported, are made anew.
    """
    if like.device.type == "cpu" or type(like) is not torch.Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _made(tuple(values), like.dtype, like.device)


@lru_cache(maxsize=256)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # usable in every mode after
        return torch.tensor(values, dtype=dtype, device=device)


__all__ = ["constant_like"]
