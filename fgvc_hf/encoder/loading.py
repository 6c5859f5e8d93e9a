"""Loading of weights: one model at a time in a process, none missing, none that is no number."""

import functools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


# While transformers makes a model, torch's default dtype and the functions of torch.nn.init are changed for the whole process
MAKING = threading.RLock()
CHECKED_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MOST_PARAMETERS = 2**28  # of a model: 1 GiB in float32; the bundled ones have up to 3 million
MOST = {  # of fields that sizes in memory and time depend on
    "depths": 1000,
    "num_attention_layers": 1000,
    "attention_window": 1024,
    "window_radius": 1024,
    "propagation_radius": 1024,
    "propagation_topk": 10_000,
    "search_radius": 10,
    "num_context_frames": 100_000,
    "context_step": 100_000,
}
WITHOUT_EFFECT = "num_batches_tracked"  # of batch normalisation; older checkpoints have none
SHOWN = 5  # names in a message


def one_at_a_time(function: Callable) -> Callable:
    """The function, which waits while another thread makes or loads a model."""

    @functools.wraps(function)
    def locked(*args, **kwargs):
        with MAKING:
            return function(*args, **kwargs)

    return locked


@contextmanager
def float32_weights() -> Generator[None]:
    """A context, of one thread at a time, in which new models have weights in float32, whatever torch's default type is: training starts with these."""
    with MAKING:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def check_size(config: Any) -> None:
    """Refuse an [`FgvcConfig`] of a model that no machine holds, before anything of it is made: a few bytes of JSON may say any number.

    Raises:
        `ValueError`: a field is beyond `MOST`, or there would be more than `MOST_PARAMETERS`.
    """
    for name, most in MOST.items():
        value = getattr(config, name)
        if max(value if isinstance(value, list) else [value]) > most:
            raise ValueError(f"{name} must be at most {most}, got {value!r:.100}.")
    last, blocks = config.hidden_sizes[-1], zip(config.depths, config.hidden_sizes, strict=True)
    count = 49 * config.num_channels * config.hidden_sizes[0] + sum(16 * depth * width**2 for depth, width in blocks)
    count += config.projection_size * last * config.projection_kernel**2
    if config.fine_size:
        count += 4 * config.num_attention_layers * last**2 + config.fine_size * (last + config.fine_size)
    if config.encoder == "resnet" and count > MOST_PARAMETERS:
        raise ValueError(f"the model would have {count:.2g} parameters, at most {MOST_PARAMETERS:.2g} are accepted.")


def load_complete(load: Callable[..., Any], name: Any, *args, output_loading_info: bool = False, **kwargs) -> Any:
    """
    A model by `from_pretrained` of transformers, with all of its weights from the checkpoint.

    Args:
        load (callable): The method.
        name (`str` or `Path`): The checkpoint.
        output_loading_info, args, kwargs: As of the method. With `ignore_mismatched_sizes=True` weights that are missing or of another
            size are new ones, as transformers says in a warning; with `output_loading_info=True` those that are missing.

    Raises:
        `ValueError`: weights cannot be read, are missing, are of another size, or are not finite; up to five are named.
        `OSError`: there is no such checkpoint, or no file of weights in it.
    """
    new_weights = kwargs.pop("ignore_mismatched_sizes", False)
    try:
        model, info = load(name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except (ValueError, OSError, TypeError, ImportError, torch.OutOfMemoryError):
        raise  # these say what is wrong
    except Exception as error:  # damaged files raise anything
        if torch.get_default_device().type == "meta":  # transformers says that it does not load there
            raise
        raise ValueError(
            f"{name}: is no checkpoint that can be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        ) from None
    if not new_weights:
        missing = [] if output_loading_info else info["missing_keys"]
        missing = sorted(key for key in missing if not key.endswith(WITHOUT_EFFECT))
        other_size = sorted(f"{key} {tuple(found)} for {tuple(own)}" for key, found, own in info["mismatched_keys"])
        for problem, names in (("has no weights for", missing), ("has weights of another size", other_size)):
            if names:
                raise ValueError(f"{name}: is of another configuration than asked for, it {problem}: {_some(names)}.")
    check_finite(model, f"{name}: ")
    return (model, info) if output_loading_info else model


@torch.no_grad()
def check_finite(model: nn.Module, where: str = "") -> None:
    """Check that all weights of a model are finite numbers; those on no device or in a quantised type are left out.

    Raises:
        `ValueError`: some are not; up to five are named.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors = [(name, t) for name, t in tensors if type(t) in (torch.Tensor, nn.Parameter) and not t.is_meta]
    wrong = [name for name, t in tensors if t.dtype in CHECKED_TYPES and not _is_finite(t)]
    if wrong:
        raise ValueError(
            f"{where}weights must be finite numbers, but there are NaN or infinite ones in {_some(wrong)}."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite: their sum tells in a tenth of the time, unless it is too large itself."""
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


__all__ = ["check_finite", "check_size", "float32_weights", "load_complete", "one_at_a_time"]
