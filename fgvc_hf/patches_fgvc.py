"""Patches of features compared with the cells of a window: the map of matching probabilities (Eq. 1 of the paper) for points alone.

A cell's score is the weighted mean of the cosine similarities between the cells of a patch and those around it.
"""

import math

import torch
import torch.nn.functional as F

from .configuration_fgvc import FgvcConfig
from .correlation_fgvc import copy_block


REFINEMENT = 2  # cells around the best one within which the first patch has a say
LOST_GROWTH = 0.1  # of the range of likely motion, per frame that a point was not seen
RIVAL_DISTANCE = 3  # cells beyond which another maximum is a rival
LEAST_SHARE = 0.25  # of a patch, by weight, that must lie in the frame for its place to be told by it
# Held at a time; always as many, for the last bit of a product depends on its size
WINDOWS_AT_ONCE = {"cpu": 8, "accelerator": 32}


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
    block = features[y[:, :, None], x[:, None]].float()  # (N, D+1, D+1, C)
    rows = torch.lerp(block[:, :, :-1], block[:, :, 1:], fx)
    return torch.lerp(rows[:, :-1], rows[:, 1:], fy).flatten(1, 2).to(features.dtype)


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
    h, w = features.shape[:2]
    n, p, c = templates.shape
    radius = (math.isqrt(p) - 1) // 2
    # Sides of a patch, a window, and the cells that its patches cover
    side, d, b = 2 * radius + 1, 2 * search + 1, 2 * (search + radius) + 1
    corner = centres.round().long() - search
    weighted = (templates.float() * weights[..., None]).to(features.dtype)
    scores = torch.zeros((n, d * b), device=features.device)
    length = (d - 1) * b + d  # from the first cell of a window to its last, in rows of b
    at_once = WINDOWS_AT_ONCE["cpu" if features.device.type == "cpu" else "accelerator"]
    weighted = F.pad(weighted, (0, 0, 0, 0, 0, -n % at_once))
    # Buffers are reused, for fresh memory costs more than the arithmetic that fills it
    windows, products = features.new_zeros((at_once, b, b, c)), features.new_empty((at_once, p, b * b))
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        k = len(corner[part])
        _cut_windows(features, corner[part] - radius, windows[:k])
        torch.bmm(weighted[part], windows.flatten(1, 2).transpose(1, 2), out=products)  # (at_once, P, b*b)
        # The product with cell (dy, dx) of a patch counts for the window's cell so many rows up and columns left: all of them as one view
        shifted = products[:k].as_strided((k, side, side, length), (p * b * b, (side * b + 1) * b, b * b + 1, 1))
        torch.sum(shifted, dim=(1, 2), dtype=torch.float32, out=scores[part, :length])
    axis = torch.arange(b, device=features.device) - radius
    x, y = corner[:, 0, None] + axis, corner[:, 1, None] + axis  # (N, b)
    x_inside, y_inside = (x >= 0) & (x < w), (y >= 0) & (y < h)
    columns, rows = (of.float().unfold(1, side, 1) for of in (x_inside, y_inside))  # (N, D, side)
    share = rows @ weights.expand(n, -1).unflatten(1, (side, side)) @ columns.transpose(1, 2)  # (N, D, D)
    cells = slice(radius, radius + d)
    share = share * (y_inside[:, cells, None] & x_inside[:, None, cells])
    return scores.view(n, d, b)[:, :, :d], share, corner


def _cut_windows(features: torch.Tensor, corners: torch.Tensor, windows: torch.Tensor) -> None:
    """Fill windows (k, b, b, C) with the cells from `corners` (k, 2) on, (x, y); 0 outside the frame."""
    (h, w), b = features.shape[:2], windows.shape[1]
    if features.device.type != "cpu":  # one gather: a copy for each would wait for the launch of each
        x, y = (corners[:, i, None] + torch.arange(b, device=corners.device) for i in (0, 1))  # (k, b)
        inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]
        windows.copy_(features[y.clamp(0, h - 1)[:, :, None], x.clamp(0, w - 1)[:, None, :]] * inside[..., None])
        return
    for window, (left, top) in zip(windows, corners.tolist(), strict=True):
        if not (0 <= left <= w - b and 0 <= top <= h - b):
            window.zero_()
        copy_block(features, top, left, window)


def search_cells(h: int, w: int, config: FgvcConfig) -> int:
    """Radius of the search window in cells of an (h, w) map."""
    return max(1, round(config.search_radius * math.sqrt(h * w)))


def locate(
    features: torch.Tensor,
    anchor: torch.Tensor,
    weights: torch.Tensor,
    scores: torch.Tensor,
    share: torch.Tensor,
    corner: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points are, and the evidence that they are seen there.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        anchor (`torch.Tensor` of shape `(N, P, C)`), weights (`torch.Tensor` of shape `(N, P)`): First patches, compared around the best
            cells alone, and how much each of their cells counts.
        scores, share, corner: With the mean of patches, as [`window_scores`] gives them.
        last (`torch.Tensor` of shape `(N, 2)`): Cells that the points were on.
        lost (`torch.Tensor` of shape `(N,)`): Frames since they were seen.
        prior (`float`): Similarity that a shift of one cell costs; it grows with the square of the shift.

    Returns:
        Fractional cells (N, 2), and evidence (N, 3) in the order of `EVIDENCE`: similarity to the first patch and to the mean of
        patches, and by how much the place found is better than any other.
    """
    n, d, _ = scores.shape
    axis = torch.arange(d, device=scores.device)
    dx, dy = (corner[:, i, None] + axis - last[:, i, None] for i in (0, 1))  # (N, D)
    moved = dy[:, :, None] ** 2 + dx[:, None, :] ** 2  # (N, D, D) squared cells
    # The longer a point was not seen, the farther it may be
    penalty = prior / (1 + LOST_GROWTH * lost[:, None, None])
    likely = (similarity_inside(scores, share) - penalty * moved).masked_fill(share == 0, -math.inf)
    best, best_cell = likely.flatten(1).max(dim=1)
    row, column = best_cell // d, best_cell % d

    reach = REFINEMENT + 1  # one more on each side, for the parabola
    side = 2 * reach + 1
    first, part, near_corner = window_scores(features, corner + torch.stack([column, row], 1), anchor, weights, reach)
    refined = (similarity_inside(first, part) + _around(likely, row, column, reach)) / 2  # (N, side, side)
    near = refined[:, 1:-1, 1:-1].flatten(1).argmax(dim=1)
    fine_row, fine_column = near // (side - 2) + 1, near % (side - 2) + 1
    point = torch.arange(n, device=scores.device)
    at = lambda dy, dx: refined[point, fine_row + dy, fine_column + dx]  # noqa: E731
    x = near_corner[:, 0] + fine_column + _vertex(at(0, -1), at(0, 0), at(0, 1))
    y = near_corner[:, 1] + fine_row + _vertex(at(-1, 0), at(0, 0), at(1, 0))

    rival = likely.masked_fill(_near(axis, row, column, RIVAL_DISTANCE), -math.inf).flatten(1).amax(dim=1)
    mean = scores[point, row + fine_row - reach, column + fine_column - reach]
    evidence = [first[point, fine_row, fine_column], mean, (best - rival).clamp_max(1)]
    return torch.stack([x, y], dim=1), torch.stack(evidence, dim=1)


def similarity_inside(scores: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mean similarity of that part of a patch which lies in the frame: else nothing would be found at the border, but beside it."""
    return scores / share.clamp_min(LEAST_SHARE)


def _around(values: torch.Tensor, row: torch.Tensor, column: torch.Tensor, reach: int) -> torch.Tensor:
    """The values (N, D, D) at most `reach` rows and columns from one; -inf beyond the window."""
    padded = F.pad(values, (reach,) * 4, value=-math.inf)
    axis, point = torch.arange(2 * reach + 1, device=row.device), torch.arange(len(row), device=row.device)
    return padded[point[:, None, None], row[:, None, None] + axis[:, None], column[:, None, None] + axis]


def _vertex(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the parabola through three neighbouring scores has its top, in -0.5..0.5; 0 at a border and where it has none."""
    bend = before - 2 * middle + after
    top = ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where(torch.isfinite(bend) & (bend < 0), top, 0)


def _near(axis: torch.Tensor, row: torch.Tensor, column: torch.Tensor, distance: int) -> torch.Tensor:
    """Cells (N, D, D) of a window at most so many rows and columns from one."""
    rows, columns = (axis - row[:, None]).abs() <= distance, (axis - column[:, None]).abs() <= distance
    return rows[:, :, None] & columns[:, None, :]


__all__ = ["locate", "sample_patches", "window_scores"]
