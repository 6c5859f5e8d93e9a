"""Coarse-to-fine search for keys: the best block of cells first, and then the cells in and around it.

[`refined_topk`] has the signature of the exact search, [`window_topk`], at a small part of its cost; [`best_keys`] chooses between them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..kernels.dispatch import backend_for, topk_for
from .tiles import check_frames
from .windows import Window, window_topk


BLOCK = 4  # cells along a side of a block: the coarse stride of 8 pixels over the fine stride of 2


def refined_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    margin: int = 2,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k keys, coarse to fine: of the cells in and around the best block of each key frame instead of the whole window.

    1. Blocks of 4x4 cells are matched by their mean features in a window of a quarter of the radius (6 for 24).
    2. The queries of a block are matched with the best block of each frame and `margin` cells around it, by float32 products.

    Args:
        query, keys, radius, shape, topk, backend: As of [`window_topk`].
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Blocks without any active query are skipped.
        margin (`int`): Cells around the best block.

    Returns, raises:
        As [`window_topk`].
    """
    query, keys = check_frames(query, keys, active)
    h, w, channels = query.shape
    means, coarse_radius = block_means(query), -(-radius // BLOCK)
    rows, columns = means.shape[:2]
    wanted = None if active is None else F.max_pool2d(active[None].float(), BLOCK, ceil_mode=True)[0] > 0
    best = [window_topk(means, [block_means(key)], coarse_radius, shape, 1, wanted, backend)[1] for key in keys]
    found = torch.cat(best, dim=1)  # (rows * columns, F), flat blocks
    size = min(BLOCK + 2 * margin, h), min(BLOCK + 2 * margin, w)
    top = (found // columns * BLOCK - margin).clamp(0, h - size[0])
    left = (found % columns * BLOCK - margin).clamp(0, w - size[1])
    blocks = torch.arange(len(found), device=query.device) if wanted is None else wanted.flatten().nonzero()[:, 0]
    queries = _split(query).transpose(1, 2).reshape(len(found), BLOCK**2, channels)[blocks]  # (n, 16, C)
    corners = torch.stack([top, left], dim=-1)[blocks]  # (n, F, 2)
    kernels = topk_for(backend_for(query, backend))
    scores = query.new_full((len(found), BLOCK**2, topk), -torch.inf, dtype=torch.float32)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    scores[blocks], indices[blocks] = kernels.refine(queries, keys, corners, size, topk)  # (n, 16, topk)
    return _joined(scores, columns, h, w), _joined(indices, columns, h, w)


def _split(features: torch.Tensor) -> torch.Tensor:
    """Blocks (rows, 4, columns, 4, C) of features (h, w, C), padded with zeros at the border."""
    h, w, channels = features.shape
    padded = F.pad(features, (0, 0, 0, -w % BLOCK, 0, -h % BLOCK)) if h % BLOCK or w % BLOCK else features
    return padded.reshape(-(-h // BLOCK), BLOCK, -(-w // BLOCK), BLOCK, channels)


def _joined(values: torch.Tensor, columns: int, h: int, w: int) -> torch.Tensor:
    """Values (blocks, 16, k) of all blocks as a map (h*w, k)."""
    values = values.view(-1, columns, BLOCK, BLOCK, values.shape[-1]).transpose(1, 2)
    return values.reshape(-1, columns * BLOCK, values.shape[-1])[:h, :w].flatten(0, 1)


def block_means(features: torch.Tensor) -> torch.Tensor:
    """Means (rows, columns, C), float32 and of unit length, of blocks of 4x4 features (h, w, C); cells outside the map do not count."""
    rows = _split(features).sum(dim=1, dtype=torch.float32)  # a sum over both axes at once is slower
    return F.normalize(rows.sum(dim=2), dim=-1)


def best_keys(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    refine_radius: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best `topk` keys of every query: by [`refined_topk`] with a margin of `refine_radius` cells, or if that is 0 by [`window_topk`]."""
    if refine_radius:
        return refined_topk(query, keys, radius, shape, topk, active, refine_radius)
    return window_topk(query, keys, radius, shape, topk, active)


def best_keys_reach(radius: int, shape: str, refine_radius: int = 0) -> int:
    """Largest offset in cells along an axis of the keys that [`best_keys`] finds."""
    return refined_reach(radius, shape, refine_radius) if refine_radius else Window(radius, shape).reach


def refined_reach(radius: int, shape: str, margin: int) -> int:
    """Largest offset along an axis of a key that [`refined_topk`] can find; areas that would cross the border are moved inwards."""
    return BLOCK * Window(-(-radius // BLOCK), shape).reach + 2 * (BLOCK - 1) + 2 * margin


__all__ = ["best_keys", "best_keys_reach"]
