"""The choice of a back end: torch on any device, numba's JIT kernels on a CPU, Triton's on a GPU.

The environment variable `FGVC_KERNELS` chooses one for the whole process: `torch`, `numba` or `triton`. Without it, numba computes on a CPU,
Triton on an NVIDIA GPU since Ampere, and torch everywhere else. Operations that a back end has no kernel for are computed by torch.
"""

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch


logger = logging.getLogger(__name__)

SWITCH = "FGVC_KERNELS"
BACKENDS = ("torch", "numba", "triton")
NUMBA_TYPES = (torch.float32, torch.bfloat16)
TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
REQUIREMENTS = {
    "numba": "numba installed and features in float32 or bfloat16 on a CPU",
    "triton": "Triton installed (`pip install triton`) and features on a GPU, or on a CPU with TRITON_INTERPRET=1",
}


def backend_for(features: torch.Tensor, backend: str | None = None, shared_memory: int = 0) -> str:
    """The back end that computes with features like these: `"torch"`, `"numba"` or `"triton"`.

    Args:
        features (`torch.Tensor`): What is computed with; its device and its type count.
        backend (`str`, *optional*): The back end asked for; what `FGVC_KERNELS` says if not given, else the best one available.
        shared_memory (`int`, defaults to 0): Bytes of a GPU's shared memory that a Triton kernel needs to be the best.

    Raises:
        `ValueError`: the back end asked for is unknown, or not available for these features.
    """
    asked, source = (backend, "backend") if backend else (os.environ.get(SWITCH), SWITCH)
    if not asked:
        if _numba_works(features):
            return "numba"
        fits = features.dtype in TRITON_TYPES and triton_fits(features.device, shared_memory)
        return "triton" if fits else "torch"
    if asked not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {asked!r}.")
    works = {"torch": lambda _: True, "numba": _numba_works, "triton": _triton_runs}[asked]
    if not works(features):
        raise ValueError(
            f"{source}={asked} needs {REQUIREMENTS[asked]}, got {features.dtype} on {features.device.type}; torch is always accepted."
        )
    return asked


def numba_fits(features: torch.Tensor) -> bool:
    """Whether numba computes with features like these, see [`backend_for`]."""
    return backend_for(features) == "numba"


def topk_for(backend: str) -> Any:
    """Top-k operations of a back end: [`fgvc_hf.kernels.topk_torch.TorchTopk`], or numba's with the same functions."""
    if backend == "numba":
        from .topk_numba import NumbaTopk

        return NumbaTopk
    from .topk_torch import TorchTopk

    return TorchTopk


def patches_for(features: torch.Tensor) -> Any:
    """Template operations for features like these: [`fgvc_hf.kernels.patches_torch.TorchPatches`], or numba's with the same functions."""
    if numba_fits(features):
        from .patches_numba import NumbaPatches

        return NumbaPatches
    from .patches_torch import TorchPatches

    return TorchPatches


def flow_for(values: torch.Tensor) -> Any:
    """Operations of dense flow for values like these: [`fgvc_hf.kernels.flow_torch.TorchFlow`], or numba's with the same functions."""
    if numba_fits(values):
        from .flow_numba import NumbaFlow

        return NumbaFlow
    from .flow_torch import TorchFlow

    return TorchFlow


def alignment_for(image: torch.Tensor) -> Any:
    """Alignment of patches of images like these: [`fgvc_hf.kernels.alignment_torch.TorchAlignment`], or numba's with the same functions."""
    if numba_fits(image):
        from .alignment_numba import NumbaAlignment

        return NumbaAlignment
    from .alignment_torch import TorchAlignment

    return TorchAlignment


@cache
def triton_fits(device: torch.device, shared_memory: int = 0) -> bool:
    """Whether Triton's kernels are the default on a device: NVIDIA GPUs since Ampere with so many bytes of shared memory.

    They are measured on an H100 and compile for the others. Triton has no wheels for Windows and macOS.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    properties = torch.cuda.get_device_properties(device)
    return properties.major >= 8 and properties.shared_memory_per_block_optin >= shared_memory


def _triton_runs(features: torch.Tensor) -> bool:
    """Whether Triton can compute with features like these at all, in its interpreter too."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return find_spec("triton") is not None and features.dtype in TRITON_TYPES and (features.is_cuda or interpreted)


def _numba_works(features: torch.Tensor) -> bool:
    return features.device.type == "cpu" and features.dtype in NUMBA_TYPES and _numba_is_there()


@cache
def _numba_is_there() -> bool:
    """Whether numba can be imported; warns where it is installed and broken."""
    try:
        from .numba_runtime import jit  # noqa: F401
    except ImportError as error:
        if find_spec("numba") is not None:
            logger.warning(f"numba is installed but cannot be used ({error}); torch computes instead, more slowly.")
        return False
    return True


__all__ = [
    "BACKENDS",
    "alignment_for",
    "backend_for",
    "flow_for",
    "numba_fits",
    "patches_for",
    "topk_for",
    "triton_fits",
]
