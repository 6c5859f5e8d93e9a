"""The objective of tracking: the read-out of the template tracker must peak at the true place.

A point is followed by the patch of features around it (see `tracking/template_tracker.py`): the score of a cell is the weighted mean of the cosines
between the cells of the patch and those around the cell. The losses of the paper train single cells; this one trains the scores that inference
compares. It sees what inference sees: a window around a place that is off by up to the search radius, with look-alikes in it.
"""

import math

import torch
import torch.nn.functional as F

from ..matching.patches import patch_weights, sample_patches
from .objectives import unit_length


def windows_at(features: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Windows `(B, N, side, side, C)` of features `(B, h, w, C)` from corner cells `(B, N, 2)`, (x, y), on; zeros outside the map."""
    batch, h, w, channels = features.shape
    axis = torch.arange(side, device=features.device)
    x, y = (corners[..., i, None] + axis for i in (0, 1))  # (B, N, side)
    inside = ((y >= 0) & (y < h))[..., :, None] & ((x >= 0) & (x < w))[..., None, :]
    index = y.clamp(0, h - 1)[..., :, None] * w + x.clamp(0, w - 1)[..., None, :]  # (B, N, side, side)
    flat = features.reshape(batch * h * w, channels)
    start = torch.arange(batch, device=features.device)[:, None, None, None] * (h * w)
    return flat[index + start] * inside[..., None]


def patch_scores(patches: torch.Tensor, windows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Scores `(M, D, D)` of the cells of windows `(M, D + S - 1, D + S - 1, C)`: weighted mean cosines with patches `(M, S * S, C)`.

    What [`window_scores`] gives, but with gradients. Products of all cells with all cells are one product of matrices; the score of a cell
    is the sum of those that belong together.
    """
    size, side = math.isqrt(patches.shape[1]), windows.shape[1]
    weighted = patches * weights[:, None].to(patches.dtype)
    products = (weighted @ windows.flatten(1, 2).transpose(1, 2)).float().view(-1, size, size, side, side)
    columns = _sum_of_diagonals(products.transpose(2, 3))  # (M, S, side, D)
    return _sum_of_diagonals(columns.permute(0, 3, 1, 2)).transpose(1, 2)


def _sum_of_diagonals(values: torch.Tensor) -> torch.Tensor:
    """Sums `(..., D)` over r of values[..., r, r + d] of `(..., S, side)`, D = side - S + 1: read with one more cell per row, diagonals are columns."""
    size, side = values.shape[-2:]
    skewed = F.pad(values.flatten(-2), (0, size)).unflatten(-1, (size, side + 1))
    return skewed[..., : side - size + 1].sum(-2)


def tracking_loss(
    source: torch.Tensor,
    target: torch.Tensor,
    places: torch.Tensor,
    truth: torch.Tensor,
    valid: torch.Tensor,
    centres: torch.Tensor,
    radius: int,
    search: int,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy between the scores of a window and the true place in it.

    The true place, between four cells, is a distribution over these, by bilinear interpolation.

    Args:
        source, target (`torch.Tensor` of shape `(B, h, w, C)`): Features of the frame that patches are taken from, and of the one searched; normalised here.
        places, truth (`torch.Tensor` of shape `(B, N, 2)`): Cells (x, y) of the points on either.
        valid (`torch.Tensor` of shape `(B, N)`, bool): Points that count: visible on both frames.
        centres (`torch.Tensor` of shape `(B, N, 2)`): Cells that the windows are centred on; points whose true place is outside do not count.
        radius, search (`int`): Of the patches, and of the windows, in cells.
        temperature (`float`): Divides the scores before the softmax.

    Returns:
        `torch.Tensor` of shape `(B,)`: the mean over the points of each pair; 0 where none counts.
    """
    batch, count = valid.shape
    h, w = target.shape[1:3]
    source, target = unit_length(source), unit_length(target)
    corners = centres.round().long() - search
    inner = truth - corners  # (B, N, 2), in cells of the window
    valid = valid & ((inner >= 0) & (inner <= 2 * search)).all(-1)
    patches = torch.cat([sample_patches(*pair, radius) for pair in zip(source, places, strict=True)])  # (B * N, P, C)
    windows = windows_at(target, corners - radius, 2 * (search + radius) + 1).flatten(0, 1)
    weights = patch_weights(radius, source.device)
    scores = patch_scores(patches, windows, weights).view(batch, count, 2 * search + 1, -1)
    axis = torch.arange(2 * search + 1, device=source.device)
    x, y = (corners[..., i, None] + axis for i in (0, 1))
    outside = ~(((y >= 0) & (y < h))[..., :, None] & ((x >= 0) & (x < w))[..., None, :])
    log_probability = (scores / temperature).masked_fill(outside, -1e4).flatten(2).log_softmax(-1).view_as(scores)
    near = [(1 - (inner[..., i, None] - axis).abs()).clamp_min(0) for i in (0, 1)]  # (B, N, D) along x and along y
    target_probability = near[1][..., :, None] * near[0][..., None, :]
    target_probability = target_probability.masked_fill(outside, 0)
    losses = -(target_probability * log_probability).sum((-1, -2))  # (B, N)
    return (losses * valid).sum(1) / valid.sum(1).clamp_min(1)


__all__ = ["patch_scores", "tracking_loss"]
