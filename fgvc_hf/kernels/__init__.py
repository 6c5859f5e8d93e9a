"""Kernels for GPUs, each with the reference that it must equal. None is used unless [`enable`] is called."""

from .. import correlation_fgvc


def enable(on: bool = True) -> None:
    """Match with the Triton kernel on CUDA devices, in this process; or, with `False`, with torch again.

    Raises:
        `ImportError`: Triton is not installed.
    """
    if not on:
        correlation_fgvc.cuda_topk = None
        return
    try:
        from .window_topk import window_topk
    except ImportError:
        raise ImportError("the kernels need Triton, which comes with torch for CUDA: pip install triton") from None
    correlation_fgvc.cuda_topk = window_topk
