"""Tiles of queries, and the halo of keys that the windows of a tile reach.

A tile of 8 x 16 queries is multiplied with just its halo, so that cost is linear in the number of cells. Features are channels last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


TILE = (8, 16)  # queries per tile (rows, columns): 128 rows fill a matrix unit, and the halo stays small


def check_frames(
    query: torch.Tensor, keys: Sequence[torch.Tensor], active: torch.Tensor | None = None, dims: int = 3
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Features of a frame and of the key frames, checked and contiguous, so that the same features always give the same bits.

    Args:
        query (`torch.Tensor` of shape `(..., h, w, C)`): Of `dims` dimensions.
        keys (sequence of `torch.Tensor`): Of the same shape, in any precision.
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Which queries count.

    Raises:
        `ValueError`: dimensions, shapes, types or devices differ from that.
    """
    if query.ndim != dims or not query.is_floating_point() or not query.numel():
        kind = "(h, w, C)" if dims == 3 else "(B, h, w, C)"
        raise ValueError(f"query must hold floating-point features {kind}, got {query.dtype} of {tuple(query.shape)}.")
    if not len(keys):
        raise ValueError("keys must hold the features of at least one frame, got none.")
    for key in keys:
        if key.shape != query.shape or key.device != query.device or not key.is_floating_point():
            raise ValueError(
                f"keys must be floating-point features of shape {tuple(query.shape)} on {query.device}, as the query is, got "
                f"{key.dtype} of {tuple(key.shape)} on {key.device}."
            )
    if active is not None and (active.shape != query.shape[-3:-1] or active.dtype != torch.bool):
        size = tuple(query.shape[-3:-1])
        raise ValueError(f"active must be a bool mask of shape {size}, got {active.dtype} of {tuple(active.shape)}.")
    return query.contiguous(), [key.contiguous() for key in keys]


def copy_block(source: torch.Tensor, top: int, left: int, block: torch.Tensor) -> None:
    """Copy a block at (top, left) of the (h, w, C) map; what lies outside the map is left as it was."""
    y0, y1, x0, x1 = _overlap(top, left, *block.shape[:2], *source.shape[:2])
    block[y0:y1, x0:x1] = source[top + y0 : top + y1, left + x0 : left + x1]


def exclude_outside(products: torch.Tensor, top: int, left: int, h: int, w: int) -> None:
    """Set the scores of keys (..., Ky, Kx) of a halo at (top, left) that lie outside the map to -inf."""
    y0, y1, x0, x1 = _overlap(top, left, *products.shape[-2:], h, w)
    for outside in (products[..., :y0, :], products[..., y1:, :], products[..., :x0], products[..., x1:]):
        outside.fill_(-torch.inf)


def _overlap(top: int, left: int, height: int, width: int, h: int, w: int) -> tuple[int, int, int, int]:
    """The part y0:y1, x0:x1 of a block at (top, left) that lies on the h x w map."""
    return max(0, -top), min(height, h - top), max(0, -left), min(width, w - left)


def active_tiles(active: torch.Tensor | None, h: int, w: int, device: torch.device) -> torch.Tensor:
    """Flat numbers of the tiles of an (h, w) map that hold an active query (h, w); all without such a mask."""
    rows, columns = -(-h // TILE[0]), -(-w // TILE[1])
    if active is None:
        return torch.arange(rows * columns, device=device)
    padded = F.pad(active, (0, columns * TILE[1] - w, 0, rows * TILE[0] - h))
    padded = padded.view(rows, TILE[0], columns, TILE[1])
    return padded.any(dim=3).any(dim=1).flatten().nonzero()[:, 0]


def untile(values: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Values (tiles, cells, k) of all tiles as a map (h*w, k)."""
    rows, columns, k = -(-h // TILE[0]), -(-w // TILE[1]), values.shape[-1]
    values = values.view(rows, columns, *TILE, k).transpose(1, 2).reshape(rows * TILE[0], columns * TILE[1], k)
    return values[:h, :w].reshape(h * w, k)


__all__ = ["TILE"]
