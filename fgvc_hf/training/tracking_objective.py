"""The objective of tracking: the read-out of the template tracker must peak at the true place, and nowhere where the point is hidden.

A point is followed by the patch of features around it (see `tracking/template_tracker.py`): the score of a cell is the weighted mean of the cosines
between the cells of the patch and those around the cell. The losses of the paper train single cells; this one trains the scores that inference
compares, on both levels of the feature pyramid, and single cells beside them. It sees what inference sees: a window around a place that is off by
up to the search radius, with look-alikes in it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..matching.patches import patch_weights, sample_patches
from ..matching.pyramid import downsample, downsample_patches
from .objectives import unit_length


ABSENT = 0.8  # score of "nowhere" among those of the cells: what is found scores more, and what looks like a hidden point less
HIDDEN_SHARE = 0.3  # weight of hidden points against visible ones
CELL_SHARE = 0.3  # weight of the loss of single cells, which masks and flow compare
CELL_TEMPERATURE = 0.07  # of `FgvcConfig.temperature`, by which masks and flow compare them
SUPPORT = 0.2  # temperature of the weights by likeness to the point's own cell
SUPPORTED = 0.7  # share of the updates with these weights; the others have the Gaussian alone


def windows_at(features: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Windows `(B, N, side, side, C)` of features `(B, h, w, C)` from corner cells `(B, N, 2)`, (x, y), on; zeros outside the map."""
    batch, h, w, channels = features.shape
    axis = torch.arange(side, device=features.device)
    x, y = (corners[..., i, None] + axis for i in (0, 1))  # (B, N, side)
    inside = ((y >= 0) & (y < h))[..., :, None] & ((x >= 0) & (x < w))[..., None, :]
    index = y.clamp(0, h - 1)[..., :, None] * w + x.clamp(0, w - 1)[..., None, :]  # (B, N, side, side)
    flat = features.reshape(batch * h * w, channels)
    start = torch.arange(batch, device=features.device)[:, None, None, None] * (h * w)
    cells = F.embedding((index + start).flatten(), flat)  # its gradient is faster than that of an index
    return cells.view(*index.shape, channels) * inside[..., None]


def patch_scores(patches: torch.Tensor, windows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Scores `(M, D, D)` of the cells of windows `(M, D + S - 1, D + S - 1, C)`: weighted mean cosines with patches `(M, S * S, C)`.

    What [`window_scores`] gives, but with gradients. Products of all cells with all cells are one product of matrices; the score of a cell
    is the sum of those that belong together. Weights are `(S * S,)`, or `(M, S * S)` of each patch.
    """
    size, side = math.isqrt(patches.shape[1]), windows.shape[1]
    weighted = patches * weights[..., None].to(patches.dtype)
    products = (weighted @ windows.flatten(1, 2).transpose(1, 2)).float().view(-1, size, size, side, side)
    columns = _sum_of_diagonals(products.transpose(2, 3))  # (M, S, side, D)
    return _sum_of_diagonals(columns.permute(0, 3, 1, 2)).transpose(1, 2)


def _sum_of_diagonals(values: torch.Tensor) -> torch.Tensor:
    """Sums `(..., D)` over r of values[..., r, r + d] of `(..., S, side)`, D = side - S + 1: read with one more cell per row, diagonals are columns."""
    size, side = values.shape[-2:]
    skewed = F.pad(values.flatten(-2), (0, size)).unflatten(-1, (size, side + 1))
    return skewed[..., : side - size + 1].sum(-2)


def support_weights(patches: torch.Tensor, radius: int) -> torch.Tensor:
    """Weights `(M, P)`, which sum to 1, of the cells of patches `(M, P, C)`: [`patch_weights`] times exp(likeness to the middle cell / SUPPORT).

    The cells of the point's own surface count more. Background in the patch of a thin thing must not win.
    """
    likeness = (patches * patches[:, patches.shape[1] // 2, None]).sum(-1).float()
    return (patch_weights(radius, patches.device).log() + likeness / SUPPORT).softmax(dim=1)


def place_loss(
    scores: torch.Tensor,
    corners: torch.Tensor,
    size: Sequence[int],
    truth: torch.Tensor,
    valid: torch.Tensor,
    hidden: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy between the scores of a window and the true place in it, or "nowhere" of a point that is hidden.

    The true place, between four cells, is a distribution over these, by bilinear interpolation.

    Args:
        scores (`torch.Tensor` of shape `(B, N, D, D)`), corners (`torch.Tensor` of shape `(B, N, 2)`, int64): Of windows, and their first cells (x, y).
        size (sequence of two `int`): (h, w) of the features: cells outside are no place.
        truth (`torch.Tensor` of shape `(B, N, 2)`): Cells of the points.
        valid, hidden (`torch.Tensor` of shape `(B, N)`, bool): Points that are known to be visible there, and those known to be hidden. Visible
            points outside their window do not count. Without `hidden` there is no "nowhere".
        temperature (`float`): Divides the scores before the softmax.

    Returns:
        `torch.Tensor` of shape `(B,)`: the mean over the visible points of each pair, and [`HIDDEN_SHARE`] of that over the hidden ones; 0 of none.
    """
    side, (h, w) = scores.shape[-1], size
    axis = torch.arange(side, device=scores.device)
    inner = truth - corners  # (B, N, 2), in cells of the window
    valid = valid & ((inner >= 0) & (inner <= side - 1)).all(-1)
    x, y = (corners[..., i, None] + axis for i in (0, 1))
    outside = ~(((y >= 0) & (y < h))[..., :, None] & ((x >= 0) & (x < w))[..., None, :])
    logits = (scores / temperature).masked_fill(outside, -1e4).flatten(2)
    if hidden is not None:
        logits = F.pad(logits, (0, 1), value=ABSENT / temperature)  # the last one is "nowhere"
    log_probability = logits.log_softmax(-1)
    near = [(1 - (inner[..., i, None] - axis).abs()).clamp_min(0) for i in (0, 1)]  # (B, N, D) along x and along y
    shares = (near[1][..., :, None] * near[0][..., None, :]).masked_fill(outside, 0).flatten(2)
    found = _mean_where(-(shares * log_probability[..., : side**2]).sum(-1), valid)
    return found if hidden is None else found + HIDDEN_SHARE * _mean_where(-log_probability[..., -1], hidden)


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Means (B,) over the chosen ones of values (B, N); 0 of none."""
    return torch.where(chosen, values, 0).sum(1) / chosen.sum(1).clamp_min(1)


def tracking_loss(
    source: torch.Tensor,
    target: torch.Tensor,
    places: torch.Tensor,
    truth: torch.Tensor,
    valid: torch.Tensor,
    hidden: torch.Tensor,
    shifts: torch.Tensor,
    radius: int,
    search: int,
    temperature: float,
    supported: bool = False,
) -> torch.Tensor:
    """[`place_loss`] of what inference compares: patches at half resolution in the whole window, then patches and single cells around the place.

    Args:
        source, target (`torch.Tensor` of shape `(B, h, w, C)`): Features of the frame that patches are taken from, and of the one searched;
            normalised here.
        places, truth (`torch.Tensor` of shape `(B, N, 2)`): Cells (x, y) of the points on either.
        valid, hidden (`torch.Tensor` of shape `(B, N)`, bool): Points known to be visible on both frames, and those hidden on the second alone.
        shifts (`torch.Tensor` of shape `(B, N, 2)`): By how much the windows are off the true place, -1 to 1 of what still holds it.
        radius, search (`int`): Of the patches, and of the windows, in cells of either level.
        temperature (`float`): Divides the scores of patches.
        supported (`bool`): Whether cells are weighted by [`support_weights`].

    Returns:
        `torch.Tensor` of shape `(B,)`: one value for each pair.
    """
    source, target = unit_length(source), unit_length(target)
    patches = torch.cat([sample_patches(*pair, radius) for pair in zip(source, places, strict=True)])  # (B * N, P, C)
    patches = unit_length(patches)
    even = patch_weights(radius, source.device).expand(len(patches), -1)
    weights = support_weights(patches, radius) if supported else even
    coarse, middle = torch.stack([downsample(of) for of in target]), patches.shape[1] // 2
    one = torch.ones_like(even[:, :1])

    def loss(
        of: torch.Tensor,
        patches: torch.Tensor,
        weights: torch.Tensor,
        truth: torch.Tensor,
        hidden: torch.Tensor | None,
        temperature: float,
    ) -> torch.Tensor:
        corners = (truth + (search - 1) * shifts).round().long() - search
        reach = math.isqrt(patches.shape[1]) // 2
        windows = windows_at(of, corners - reach, 2 * (search + reach) + 1).flatten(0, 1)
        scores = patch_scores(patches, windows, weights).view(*valid.shape, 2 * search + 1, -1)
        return place_loss(scores, corners, of.shape[1:3], truth, valid, hidden, temperature)

    # Cell i of the next level is centred on cell 2 i
    far = loss(coarse, *downsample_patches(patches, weights), truth / 2, hidden, temperature)
    near = loss(target, patches, weights, truth, hidden, temperature)
    cell = loss(target, patches[:, middle, None], one, truth, None, CELL_TEMPERATURE)
    return far + near + CELL_SHARE * cell


__all__ = ["patch_scores", "place_loss", "support_weights", "tracking_loss"]
