"""The search for keys from coarse to fine: the best block of cells first, and then cells just around it.

It has the signature of the whole search, [`window_topk`], and takes a small part of its time; [`best_keys`] chooses.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..configuration_fgvc import COARSE_STRIDE, FINE_STRIDE, FgvcConfig
from ..kernels.dispatch import selection_for
from .windows import window_reach, window_topk


BLOCK = COARSE_STRIDE // FINE_STRIDE  # cells along a side of a block


def refined_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    margin: int = 2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best `topk` keys from coarse to fine: of the cells around the best block of each key frame, and not of whole neighbourhoods.

    Blocks of 4x4 cells are matched by their mean features (Eq. 1 with a quarter of the radius: 6 for 24), and the cells of a block with those
    of the best block in each frame, and `margin` cells around it. Scores are float32 products. All cells of a block share their keys.

    Args:
        query, keys, radius, shape, topk: As of [`window_topk`].
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Blocks without any active query are skipped.
        margin (`int`): Cells.

    Returns:
        As [`window_topk`].
    """
    h, w, channels = query.shape
    means, coarse_radius = block_means(query), -(-radius // BLOCK)
    rows, columns = means.shape[:2]
    wanted = None if active is None else F.max_pool2d(active[None].float(), BLOCK, ceil_mode=True)[0] > 0
    best = [window_topk(means, [block_means(key)], coarse_radius, shape, 1, wanted)[1] for key in keys]
    found = torch.cat(best, dim=1)  # (rows * columns, F), flat blocks
    size = min(BLOCK + 2 * margin, h), min(BLOCK + 2 * margin, w)
    top = (found // columns * BLOCK - margin).clamp(0, h - size[0])
    left = (found % columns * BLOCK - margin).clamp(0, w - size[1])
    blocks = torch.arange(len(found), device=query.device) if wanted is None else wanted.flatten().nonzero()[:, 0]
    found_scores, found_indices = selection_for(query).refine(
        _split(query).transpose(1, 2).reshape(len(found), BLOCK**2, channels)[blocks],
        keys,
        torch.stack([top, left], dim=-1)[blocks],
        size,
        topk,
    )  # (n, 16, k)
    scores = found_scores.new_full((rows * columns, BLOCK**2, topk), -torch.inf)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    scores[blocks], indices[blocks] = found_scores, found_indices
    back = [part.view(rows, columns, BLOCK, BLOCK, topk).transpose(1, 2) for part in (scores, indices)]
    scores, indices = (part.reshape(rows * BLOCK, columns * BLOCK, topk)[:h, :w].flatten(0, 1) for part in back)
    return scores, indices


def _split(features: torch.Tensor) -> torch.Tensor:
    """Blocks (rows, 4, columns, 4, C) of features (h, w, C), filled up with zeros at the border."""
    h, w, channels = features.shape
    padded = F.pad(features, (0, 0, 0, -w % BLOCK, 0, -h % BLOCK)) if h % BLOCK or w % BLOCK else features
    return padded.reshape(-(-h // BLOCK), BLOCK, -(-w // BLOCK), BLOCK, channels)


def block_means(features: torch.Tensor) -> torch.Tensor:
    """Means (rows, columns, C) of blocks of 4x4 features (h, w, C), of unit length, for which zeros at the border do not count."""
    rows = _split(features).sum(dim=1, dtype=torch.float32)  # a sum over both axes at once is slower
    return F.normalize(rows.sum(dim=2), dim=-1)


def best_keys(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    config: FgvcConfig,
    active: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys that labels are taken from: by [`refined_topk`] where the configuration refines, else by [`window_topk`]."""
    if config.fine_size and config.refine_radius:
        return refined_topk(query, keys, radius, shape, config.propagation_topk, active, config.refine_radius)
    return window_topk(query, keys, radius, shape, config.propagation_topk, active)


def best_keys_reach(config: FgvcConfig) -> int:
    """Largest offset along an axis of what [`best_keys`] finds in the neighbourhood that labels come from."""
    radius, shape = config.propagation_radius, config.propagation_window
    if config.fine_size and config.refine_radius:
        return refined_reach(radius, shape, config.refine_radius)
    return window_reach(radius, shape)


def refined_reach(radius: int, shape: str, margin: int) -> int:
    """Largest offset along an axis of a key that [`refined_topk`] can find; at the border its cells move inwards."""
    return BLOCK * window_reach(-(-radius // BLOCK), shape) + 2 * (BLOCK - 1) + 2 * margin


__all__ = ["best_keys", "best_keys_reach"]
