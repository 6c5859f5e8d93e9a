"""Patches of features compared with the cells of a window: the map of matching probabilities (Eq. 1 of the paper) for points alone.

A cell's score is the weighted mean of the cosine similarities between the cells of a patch and those around it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..configuration_fgvc import FgvcConfig
from ..kernels.dispatch import limit_for, numba_fits


REFINEMENT = 2  # cells around the best one within which the first patch has a say
LOST_GROWTH = 0.1  # of the range of likely motion, per frame that a point was not seen
RIVAL_DISTANCE = 3  # cells beyond which another maximum is a rival
HALF_RIVAL_DISTANCE = 2  # and of those of the halved map
CLOSE_MARGIN = 0.1  # of the best place of the halved map; the second is compared as well where it is smaller
FINE_REACH = 3  # cells around a place of the halved map that are compared at full resolution
LEAST_SHARE = 0.25  # of a patch, by weight, that must lie in the frame for its place to be told by it
# Held at a time; always as many, for the last bit of a product depends on its size
WINDOWS_AT_ONCE = {"cpu": 16, "accelerator": 32}


def patch_offsets(radius: int, device=None) -> torch.Tensor:
    """(dx, dy) of the cells of a patch, (P, 2), row by row."""
    axis = torch.arange(-radius, radius + 1, device=device)
    return torch.cartesian_prod(axis, axis).flip(-1)


def patch_weights(radius: int, device=None) -> torch.Tensor:
    """Weights (P,) of the cells of a patch, which sum to 1: a Gaussian that falls to a third at the edge."""
    distance = patch_offsets(radius, device).float().square().sum(dim=-1)
    weights = torch.exp(-distance / max(1, radius**2))
    return weights / weights.sum()


def sample_patches(features: torch.Tensor, cells: torch.Tensor, radius: int) -> torch.Tensor:
    """Patches (N, P, C) around fractional cells (N, 2) of features (h, w, C): bilinear, and constant beyond the border."""
    h, w, c = features.shape
    first = cells.floor()
    fx, fy = ((cells - first)[:, i, None, None, None] for i in (0, 1))
    axis = torch.arange(-radius, radius + 2, device=cells.device)
    x, y = ((first[:, i, None].long() + axis).clamp(0, side - 1) for i, side in ((0, w), (1, h)))  # (N, D+1)
    index = (y[:, :, None] * w + x[:, None]).flatten()
    block = features.reshape(h * w, c).index_select(0, index).float().view(*y.shape, x.shape[1], c)  # (N, D+1, D+1, C)
    rows = torch.lerp(block[:, :, :-1], block[:, :, 1:], fx)
    return torch.lerp(rows[:, :-1], rows[:, 1:], fy).flatten(1, 2).to(features.dtype)


class TorchPatches:
    """What is done to patches of features, by torch on any device; [`patches_for`] says where machine code takes its place."""

    @staticmethod
    def correlate(
        features: torch.Tensor, corner: torch.Tensor, templates: torch.Tensor, weights: torch.Tensor, search: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`scores` and `share` of [`window_scores`], with windows from their `corner` (N, 2) on, and weights (N, P)."""
        h, w = features.shape[:2]
        n, p, c = templates.shape
        radius = (math.isqrt(p) - 1) // 2
        # Sides of a patch, a window, and the cells that its patches cover
        side, d, b = 2 * radius + 1, 2 * search + 1, 2 * (search + radius) + 1
        axis = torch.arange(b, device=features.device) - radius
        x, y = corner[:, 0, None] + axis, corner[:, 1, None] + axis  # (N, b)
        x_inside, y_inside = (x >= 0) & (x < w), (y >= 0) & (y < h)
        inside = (y_inside[:, :, None] & x_inside[:, None]).flatten(1)[:, None].to(features.dtype)  # (N, 1, b*b)
        index = (y.clamp(0, h - 1)[:, :, None] * w + x.clamp(0, w - 1)[:, None]).flatten(1)  # (N, b*b)
        at_once = limit_for(features, WINDOWS_AT_ONCE)
        weighted = features.new_empty((n + -n % at_once, p, c))
        torch.mul(templates, weights[..., None], out=weighted[:n])
        weighted[n:] = 0
        scores = torch.zeros((n, d * b), device=features.device)
        length = (d - 1) * b + d  # from the first cell of a window to its last, in rows of b
        # Buffers are reused, for fresh memory costs more than the arithmetic that fills it
        flat = features.reshape(h * w, c)
        windows, products = features.new_zeros((at_once, b * b, c)), features.new_empty((at_once, p, b * b))
        for start in range(0, n, at_once):
            part = slice(start, start + at_once)
            k = len(index[part])
            torch.index_select(flat, 0, index[part].flatten(), out=windows[:k].view(-1, c))
            torch.bmm(weighted[part], windows.transpose(1, 2), out=products)  # (at_once, P, b*b)
            products[:k] *= inside[part]
            # The product with cell (dy, dx) of a patch counts for the cell so many rows up and columns left: all of them as one view
            shifted = products[:k].as_strided((k, side, side, length), (p * b * b, (side * b + 1) * b, b * b + 1, 1))
            torch.sum(shifted, dim=(1, 2), dtype=torch.float32, out=scores[part, :length])
        columns, rows = (of.float().unfold(1, side, 1) for of in (x_inside, y_inside))  # (N, D, side)
        share = rows @ weights.unflatten(1, (side, side)) @ columns.transpose(1, 2)  # (N, D, D)
        cells = slice(radius, radius + d)
        share = share * (y_inside[:, cells, None] & x_inside[:, None, cells])
        return scores.view(n, d, b)[:, :, :d], share

    @staticmethod
    def mean(anchor: torch.Tensor, share: float, recent: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Mean (N, P, C) of the first patches, which count `share`, and of those (N, P, C) of earlier frames that are trusted (N,).

        Patches that are not trusted are 0.
        """
        total = share * anchor.float()
        count = total.new_full((len(anchor),), share)
        for patches, trusted in recent:
            total, count = total.add_(patches), count + trusted.float()
        return total.div_(count[:, None, None]).to(anchor.dtype)

    @staticmethod
    def take(
        features: torch.Tensor, cells: torch.Tensor, mean: torch.Tensor, trusted: torch.Tensor, patches: torch.Tensor
    ) -> torch.Tensor:
        """Copy what is around fractional cells (N, 2) of features (h, w, C) to `patches` (N, P, C), and 0 where it is not trusted (N,).

        Returns:
            Cosine similarity (N, P), float32, of the cells of what is there with those of `mean` (N, P, C).
        """
        found = sample_patches(features, cells, (math.isqrt(mean.shape[1]) - 1) // 2)
        # Without copies in float32
        norm, other_norm = (torch.linalg.vector_norm(of, dim=-1, dtype=torch.float32) for of in (found, mean))
        similarity = (found * mean).sum(dim=-1, dtype=torch.float32) / (norm * other_norm).clamp_min(1e-8)
        patches.copy_(found.masked_fill_(~trusted[:, None, None], 0))
        return similarity


def patches_for(features: torch.Tensor) -> Any:
    """[`TorchPatches`], or where there is machine code for features like these what numba makes of them."""
    if not numba_fits(features):
        return TorchPatches
    from ..kernels.patches_numba import CompiledPatches

    return CompiledPatches


def window_scores(
    features: torch.Tensor,
    centres: torch.Tensor,
    templates: torch.Tensor,
    weights: torch.Tensor,
    search: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of the cells in a window around each point.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        centres (`torch.Tensor` of shape `(N, 2)`): Cells that the windows are centred on; rounded.
        templates (`torch.Tensor` of shape `(N, P, C)`): Template of each point, a square of P cells.
        weights (`torch.Tensor` of shape `(N, P)` or `(P,)`): How much each cell of a template counts; their sum is 1.
        search (`int`): Radius of the window in cells; D is twice it plus 1.

    Returns:
        `scores` (N, D, D), float32: mean similarity of the patch around a cell, where cells outside the frame count 0. `share` (N, D, D):
        by weight, of the patch that lies in the frame; 0 where the cell itself does not. `corner` (N, 2): the first cell (x, y) of each
        window.
    """
    corner = centres.round().long() - search
    weights = weights.expand(len(templates), -1)
    return *patches_for(features).correlate(features, corner, templates, weights, search), corner


def halve(features: torch.Tensor) -> torch.Tensor:
    """Every second cell of features (h, w, C), along both axes: means of 3 x 3 cells, of unit length."""
    sums = features
    for _ in range(2):
        odd, sums = sums[1::2], sums[::2].to(torch.float32, copy=True)
        sums[: len(odd)] += odd
        sums[1:] += odd[: len(sums) - 1]
        sums = sums.transpose(0, 1)
    return F.normalize(sums, dim=-1).to(features.dtype).contiguous()


def halve_patches(patches: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, P, C) with the weights (N, P) of their cells, as [`halve`] does: each cell counts for the nearest of every second cell."""
    radius = (math.isqrt(patches.shape[1]) - 1) // 2
    axis = torch.arange(-radius, radius + 1, device=patches.device)
    half = torch.arange(-(radius // 2), radius // 2 + 1, device=patches.device)
    near = (1 - ((axis / 2).clamp(half[0], half[-1]) - half[:, None]).abs()).clamp_min(0)  # (S, D)
    shares = torch.kron(near, near) * weights[:, None]  # (N, S * S, P)
    halved = (shares.to(patches.dtype) @ patches).float()
    return F.normalize(halved, dim=-1).to(patches.dtype), shares.sum(dim=-1)


def likely_places(
    scores: torch.Tensor,
    share: torch.Tensor,
    corner: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> torch.Tensor:
    """Similarity (N, D, D) of the cells of windows less what their distance from the last cells costs; arguments as of [`locate`]."""
    axis = torch.arange(scores.shape[1], device=scores.device)
    dx, dy = (corner[:, i, None] + axis - last[:, i, None] for i in (0, 1))  # (N, D)
    moved = dy[:, :, None] ** 2 + dx[:, None, :] ** 2  # (N, D, D) squared cells
    # The longer a point was not seen, the farther it may be
    penalty = prior / (1 + LOST_GROWTH * lost[:, None, None])
    return (similarity_inside(scores, share) - penalty * moved).masked_fill(share == 0, -math.inf)


def search_halved(
    halved: torch.Tensor,
    templates: torch.Tensor,
    weights: torch.Tensor,
    search: int,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points may be: the two best places of a frame at half its resolution, which takes a twentieth of the arithmetic.

    Args:
        halved (`torch.Tensor` of shape `(h/2, w/2, C)`): The frame, by [`halve`].
        templates, weights, search: As of [`window_scores`].
        last, lost, prior: As of [`locate`].

    Returns:
        Cells (2, N, 2) of the frame itself, of which the second are not next to the first, and by how much (N,) those are better, at most 1.
    """
    patches, shares = halve_patches(templates, weights)
    scores, share, corner = window_scores(halved, last / 2, patches, shares, -(-search // 2))
    # A cell of the halved map is two of the frame, whose square is four
    likely = likely_places(scores, share, corner, last / 2, lost, 4 * prior)
    side, places, similarities = likely.shape[1], [], []
    axis = torch.arange(side, device=likely.device)
    for _ in range(2):
        best, cell = likely.flatten(1).max(dim=1)
        row, column = cell // side, cell % side
        places.append(2 * (corner + torch.stack([column, row], dim=1)))
        similarities.append(best)
        likely = likely.masked_fill(_near(axis, row, column, HALF_RIVAL_DISTANCE), -math.inf)
    return torch.stack(places), (similarities[0] - similarities[1]).clamp_max(1)


def better_window(
    features: torch.Tensor,
    places: torch.Tensor,
    margin: torch.Tensor,
    templates: torch.Tensor,
    weights: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The better of two places, at full resolution; the first, where it was better by far already.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        places (`torch.Tensor` of shape `(2, N, 2)`), margin (`torch.Tensor` of shape `(N,)`): What [`search_halved`] gives.
        templates, weights: As of [`window_scores`].
        last, lost, prior: As of [`locate`].

    Returns:
        The window around the better place, as [`window_scores`] gives it, and by how much better (N,) it is, at most 1.
    """
    window = window_scores(features, places[0], templates, weights, FINE_REACH)
    rows = (margin <= CLOSE_MARGIN).nonzero()[:, 0]
    other = window_scores(features, places[1, rows], templates[rows], weights[rows], FINE_REACH)
    where = last[rows], lost[rows], prior
    first, second = (
        likely_places(*of, *where).flatten(1).amax(dim=1) for of in ([part[rows] for part in window], other)
    )
    won, margin = second > first, margin.index_copy(0, rows, (first - second).abs().clamp_max(1))
    scores, share, corner = (part.index_copy(0, rows[won], of[won]) for part, of in zip(window, other, strict=True))
    return (scores, share, corner), margin


def search_cells(h: int, w: int, config: FgvcConfig) -> int:
    """Radius of the search window in cells of an (h, w) map."""
    return max(1, round(config.search_radius * math.sqrt(h * w)))


def locate(
    first: torch.Tensor,
    mean: torch.Tensor,
    share: torch.Tensor,
    corner: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
    margin: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points are, and the evidence that they are seen there.

    Args:
        first, mean (`torch.Tensor` of shape `(N, D, D)`), share, corner: Scores of windows with the first patches and with the mean of
            patches, as [`window_scores`] gives them. The first have a say around the best cells of the mean alone.
        last (`torch.Tensor` of shape `(N, 2)`): Cells that the points were on.
        lost (`torch.Tensor` of shape `(N,)`): Frames since they were seen.
        prior (`float`): Similarity that a shift of one cell costs; it grows with the square of the shift.
        margin (`torch.Tensor` of shape `(N,)`): By how much better the window is than any other place.

    Returns:
        Fractional cells (N, 2), and evidence (N, 3) in the order of `EVIDENCE`: similarity to the first patch and to the mean of
        patches, and by how much the place found is better than any other.
    """
    n, d, _ = mean.shape
    axis, point = torch.arange(d, device=mean.device), torch.arange(n, device=mean.device)
    likely = likely_places(mean, share, corner, last, lost, prior)
    best, cell = likely.flatten(1).max(dim=1)
    row, column = cell // d, cell % d
    rival = likely.masked_fill(_near(axis, row, column, RIVAL_DISTANCE), -math.inf).flatten(1).amax(dim=1)

    refined = (similarity_inside(first, share) + likely) / 2
    around = refined.masked_fill(~_near(axis, row, column, REFINEMENT), -math.inf)
    fine = around.flatten(1).argmax(dim=1)
    row, column = fine // d, fine % d
    padded = F.pad(refined, (1, 1, 1, 1), value=-math.inf)
    at = lambda dy, dx: padded[point, row + 1 + dy, column + 1 + dx]  # noqa: E731
    x = corner[:, 0] + column + _vertex(at(0, -1), at(0, 0), at(0, 1))
    y = corner[:, 1] + row + _vertex(at(-1, 0), at(0, 0), at(1, 0))
    evidence = first[point, row, column], mean[point, row, column], torch.minimum(best - rival, margin)
    return torch.stack([x, y], dim=1), torch.stack(evidence, dim=1)


def similarity_inside(scores: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mean similarity of that part of a patch which lies in the frame: else nothing would be found at the border, but beside it."""
    return scores / share.clamp_min(LEAST_SHARE)


def _vertex(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the parabola through three neighbouring scores has its top, in -0.5..0.5; 0 at a border and where it has none."""
    bend = before - 2 * middle + after
    top = ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where(torch.isfinite(bend) & (bend < 0), top, 0)


def _near(axis: torch.Tensor, row: torch.Tensor, column: torch.Tensor, distance: int) -> torch.Tensor:
    """Cells (N, D, D) of a window at most so many rows and columns from one."""
    rows, columns = (axis - row[:, None]).abs() <= distance, (axis - column[:, None]).abs() <= distance
    return rows[:, :, None] & columns[:, None, :]


__all__ = ["better_window", "halve", "locate", "patches_for", "sample_patches", "search_halved", "window_scores"]
