"""The choice of the best keys from the products of a tile of queries with the halo of keys around it, and their exact scores.

Two implementations of one definition: [`TorchSelection`] here, for any device, and [`fgvc_hf.kernels.topk_numba.CompiledSelection`], which
needs numba and takes a fraction of its time on a CPU. [`selection_for`] chooses. On a GPU a Triton kernel takes the place of products and
selection at once; [`fused_topk_for`] says where.
"""

import logging
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch


logger = logging.getLogger(__name__)

TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK_BYTES = {"cpu": 16 * 2**20, "accelerator": 256 * 2**20}  # scores held at a time; on CPU they stay in cache


def limit_for(features: torch.Tensor, limits: dict[str, int]) -> int:
    """Of limits for a CPU and for an accelerator, the one where these features are."""
    return limits["cpu" if features.device.type == "cpu" else "accelerator"]


class TorchSelection:
    """Selection by torch alone."""

    @staticmethod
    def select(products: torch.Tensor, half_widths: list[int], topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Exact top-k of every window in two stages: the k rows with the largest maxima hold the k largest values.

        Args:
            products (`torch.Tensor` of shape `(n, tile, tile, F, Ky, Kx)`): Of the queries (row, column) of n tiles with the keys of their
                halos in F frames; the window of query (0, 0) begins at key (0, 0), and one query on is one key on.
            half_widths (`list[int]`): Half the width of each row of the window.

        Returns:
            Values, and flat places in the halo: (n, cells, k) each, the largest first.
        """
        size, reach = len(half_widths), len(half_widths) // 2
        n, rows, columns, frames, ky, kx = products.shape
        queries = rows * columns
        windows = window_view(products, size)
        if min(half_widths) == reach:
            maxima = windows.amax(dim=-1)
        else:  # the rows of a disc differ in width: a slice for each keeps the cells outside it out, without a mask
            row_maxima = [
                windows[..., d, reach - hw : reach + hw + 1].amax(dim=-1) for d, hw in enumerate(half_widths)
            ]
            maxima = torch.stack(row_maxima, dim=-1)
        maxima = maxima.view(n, queries, frames * size)
        best_rows = maxima.topk(min(topk, maxima.shape[-1]), dim=-1, sorted=False).indices  # (n, cells, k)
        frame, row = best_rows // size, best_rows % size

        column = torch.arange(size, device=products.device)
        query = torch.arange(queries, device=products.device)
        first = (frame * ky + row + (query // columns)[:, None]) * kx + (query % columns)[:, None]
        places = (first[..., None] + column).flatten(-2)  # (n, cells, k*D)
        values = products.view(n, queries, -1).gather(-1, places)
        widths = torch.tensor(half_widths, device=products.device)[row]
        beyond = (column - reach).abs() > widths[..., None]  # (n, cells, k, D)
        values = values.masked_fill(beyond.flatten(-2), -torch.inf)
        values, position = values.topk(min(topk, values.shape[-1]), dim=-1)
        return values, places.gather(-1, position)

    @staticmethod
    def score(queries: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Products in float32 of queries (n, cells, C) with those of the keys (n, K, C) that are at `places` (n, cells, k)."""
        tile = torch.arange(len(keys), device=keys.device)[:, None, None]
        return torch.einsum("nqc,nqkc->nqk", queries.float(), keys[tile, places].float())

    @staticmethod
    def refine(
        queries: torch.Tensor,
        keys: Sequence[torch.Tensor],
        corners: torch.Tensor,
        size: tuple[int, int],
        topk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best keys of blocks of queries among those of one patch of each key frame, by products in float32.

        Args:
            queries (`torch.Tensor` of shape `(n, Q, C)`): Blocks of queries that share their keys.
            keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the key frames.
            corners (`torch.Tensor` of shape `(n, F, 2)`), size: The first row and column of each patch, and its rows and columns.

        Returns:
            Scores and flat positions `(frame * h + y) * w + x` in `keys`, (n, Q, topk) each, descending; -inf and 0 where there are fewer.
        """
        n, per_block, channels = queries.shape
        h, w, _ = keys[0].shape
        y, x = (corners[..., axis, None] + torch.arange(size[axis], device=corners.device) for axis in (0, 1))
        scores = torch.full((n, per_block, topk), -torch.inf, device=queries.device)
        indices = torch.zeros(scores.shape, dtype=torch.long, device=queries.device)
        limit = limit_for(queries, CHUNK_BYTES)
        chunk = max(1, limit // (4 * channels * len(keys) * size[0] * size[1]))
        buffer = scores.new_empty((min(chunk, n), len(keys), size[0] * size[1], channels))
        for blocks in torch.arange(n, device=queries.device).split(chunk) if n else ():
            places = (y[blocks][..., None] * w + x[blocks][:, :, None]).flatten(2)  # (n, F, Ky * Kx)
            around = buffer[: len(blocks)]
            for f, key in enumerate(keys):
                around[:, f] = key.reshape(h * w, channels)[places[:, f]]
            products = torch.bmm(around.flatten(1, 2), queries[blocks].float().transpose(1, 2))  # (n, F * Ky * Kx, Q)
            values, position = _select_rows(products.unflatten(1, (-1, size[1])), topk)  # (n, k, Q)
            places = places + torch.arange(len(keys), device=queries.device)[:, None] * (h * w)
            which = places.flatten(1).gather(1, position.flatten(1)).view_as(position)
            kept = values.shape[1]
            scores[blocks, :, :kept], indices[blocks, :, :kept] = values.transpose(1, 2), which.transpose(1, 2)
        return scores, indices


def _select_rows(products: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k of rows of keys (n, rows, Kx, queries) in two stages, as [`TorchSelection.select`]: values and flat positions (n, k, queries)."""
    kx = products.shape[2]
    best = products.amax(dim=2).topk(min(topk, products.shape[1]), dim=1, sorted=False).indices  # (n, k, queries)
    values = products.gather(1, best[:, :, None].expand(-1, -1, kx, -1)).flatten(1, 2)
    values, position = values.topk(min(topk, values.shape[1]), dim=1)
    return values, best.gather(1, position // kx) * kx + position % kx


def window_view(products: torch.Tensor, size: int) -> torch.Tensor:
    """The D x D windows of all queries of the tiles as one view (n, tile, tile, F, D, D): no copy, no gather."""
    n, rows, columns, frames, *_ = products.shape
    s = products.stride()
    return products.as_strided(
        (n, rows, columns, frames, size, size), (s[0], s[1] + s[4], s[2] + s[5], s[3], s[4], s[5])
    )


@cache
def compiled_selection() -> Any:
    """The selection that numba compiles; nothing where numba is not installed, or (with a warning) does not work."""
    try:
        from .topk_numba import CompiledSelection
    except ImportError as error:
        if find_spec("numba") is not None:
            logger.warning(f"numba is installed but cannot be used ({error}); matching by torch alone is slower.")
        return None
    return CompiledSelection


def numba_fits(features: torch.Tensor) -> bool:
    """Whether there is machine code by numba for features like these: float32 and bfloat16 on a CPU."""
    fits = features.device.type == "cpu" and features.dtype in (torch.bfloat16, torch.float32)
    return fits and compiled_selection() is not None


def selection_for(features: torch.Tensor, compiled: bool | None = None) -> Any:
    """How keys are chosen for features like these.

    Args:
        compiled (`bool`, *optional*): Whether by what numba compiles; if not given, wherever that works.

    Raises:
        `ValueError`: it does not work for these, and was asked for.
    """
    if compiled is not False and numba_fits(features):
        return compiled_selection()
    if compiled:
        raise ValueError(
            "compiled selection needs numba (`pip install fgvc-hf[fast]`), and features in float32 or bfloat16 on a CPU; or Triton, and "
            f"features on a GPU; got {features.dtype} on {features.device.type}."
        )
    return TorchSelection


@cache
def triton_fits(device: torch.device, shared_memory: int = 0) -> bool:
    """Whether Triton's kernels are the default on a device: NVIDIA's GPUs since Ampere, with at least so many bytes of shared memory.

    They were run and timed on an H100, and compile for the others. Where Triton is missing, as on Windows, torch takes their place.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    properties = torch.cuda.get_device_properties(device)
    return properties.major >= 8 and properties.shared_memory_per_block_optin >= shared_memory


def fused_topk_for(features: torch.Tensor, compiled: bool | None = None) -> Callable | None:
    """The whole search as one Triton kernel for features like these, else nothing.

    Args:
        compiled (`bool`, *optional*): Whether it is wanted; if not given, wherever [`triton_fits`] says so. Triton's interpreter
            (`TRITON_INTERPRET=1`) runs it on a CPU, for tests.

    Raises:
        `ValueError`: it was asked for, and Triton is missing.
    """
    if compiled is None:
        compiled = features.dtype in TRITON_TYPES and triton_fits(features.device)
    if not compiled or not (features.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    try:
        from .topk_triton import fused_topk
    except ImportError as error:
        raise ValueError(f"{error}; or leave `compiled` out.") from error
    return fused_topk


__all__ = [
    "CHUNK_BYTES",
    "TorchSelection",
    "fused_topk_for",
    "limit_for",
    "numba_fits",
    "selection_for",
    "triton_fits",
    "window_view",
]
