"""The search for templates on one frame, coarse to fine: two candidates on a coarse level, verification, refinement.

Plain tensors and numbers in; what the steps are for is said in [`fgvc_hf.tracking.template_tracker`].
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .patches import PointRows, SearchWindow, replace_rows, rows_to_compute, window_scores
from .pyramid import downsample_patches


@dataclass(frozen=True)
class MotionPrior(PointRows):
    """
    What a shift of a point costs: a quadratic penalty on similarity.

    Args:
        last (`torch.Tensor` of shape `(N, 2)`): Cells (x, y) that the points were on.
        cost (`torch.Tensor` of shape `(N,)`): Similarity that a shift of one cell costs; grows with the square of the shift.
    """

    last: torch.Tensor
    cost: torch.Tensor

    def coarse(self) -> "MotionPrior":
        """The same prior in cells of the next pyramid level: one of these is two, whose square is four."""
        return MotionPrior(self.last / 2, 4 * self.cost)

    def scores(self, window: SearchWindow, least_share: float) -> torch.Tensor:
        """Similarity less the cost of the shift (N, D, D) of the cells of windows; -inf outside the frame."""
        axis = torch.arange(window.scores.shape[1], device=self.last.device)
        dx, dy = (window.corner[:, i, None] + axis - self.last[:, i, None] for i in (0, 1))  # (N, D)
        squared = dy[:, :, None] ** 2 + dx[:, None, :] ** 2  # (N, D, D) squared cells
        similarity = window.similarity(least_share) - self.cost[:, None, None] * squared
        return similarity.masked_fill(window.share == 0, -math.inf)


@dataclass(frozen=True)
class Candidates:
    """
    The two best places of a coarse search.

    Args:
        cells (`torch.Tensor` of shape `(2, N, 2)`): Cells (x, y) of full resolution, the best first.
        margin (`torch.Tensor` of shape `(N,)`): By how much the best leads over the other, at most 1.
    """

    cells: torch.Tensor
    margin: torch.Tensor


@dataclass(frozen=True)
class Match(PointRows):
    """
    Where points were found, and the evidence that they are visible there.

    Args:
        cells (`torch.Tensor` of shape `(N, 2)`): Fractional cells (x, y).
        evidence (`torch.Tensor` of shape `(N, 3)`): Score of the first patch and of the mean template there, and the margin by which the
            place leads over every other.
    """

    cells: torch.Tensor
    evidence: torch.Tensor

    @property
    def anchor(self) -> torch.Tensor:
        """Score (N,) of the first patch."""
        return self.evidence[:, 0]

    @property
    def mean(self) -> torch.Tensor:
        """Score (N,) of the mean template."""
        return self.evidence[:, 1]


def search_coarse(
    coarse: torch.Tensor,
    templates: torch.Tensor,
    weights: torch.Tensor,
    search: int,
    prior: MotionPrior,
    rival_distance: int,
    least_share: float,
) -> Candidates:
    """The two best places in the search window, on the coarse pyramid level: a twentieth of the products of full resolution.

    Args:
        coarse (`torch.Tensor` of shape `(h/2, w/2, C)`): The frame, by [`downsample`].
        templates (`torch.Tensor` of shape `(N, P, C)`), weights (`torch.Tensor` of shape `(N, P)`): At full resolution.
        search (`int`): Radius of the window in cells of full resolution.
        prior ([`MotionPrior`]): In these cells, too.
        rival_distance (`int`): Coarse cells; the second place is farther than this from the first, along x or y.
        least_share (`float`): As of [`similarity_inside`].
    """
    patches, shares = downsample_patches(templates, weights)
    window = window_scores(coarse, prior.last / 2, patches, shares, -(-search // 2))
    scores = prior.coarse().scores(window, least_share)  # (N, D, D)
    side, cells, best = scores.shape[1], [], []
    for _ in range(2):
        value, cell = scores.flatten(1).max(dim=1)
        row, column = cell // side, cell % side
        cells.append(2 * (window.corner + torch.stack([column, row], dim=1)))
        best.append(value)
        scores = scores.masked_fill(_near(side, row, column, rival_distance), -math.inf)
    return Candidates(torch.stack(cells), (best[0] - best[1]).clamp_max(1))


def verify(
    features: torch.Tensor,
    candidates: Candidates,
    templates: torch.Tensor,
    weights: torch.Tensor,
    prior: MotionPrior,
    radius: int,
    close_margin: float,
    least_share: float,
) -> tuple[SearchWindow, torch.Tensor]:
    """The better of two candidates at full resolution. The second is looked at only where the first leads by at most `close_margin`.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        candidates ([`Candidates`]): What [`search_coarse`] gives.
        templates (`torch.Tensor` of shape `(N, P, C)`), weights (`torch.Tensor` of shape `(N, P)`), prior ([`MotionPrior`]): As there.
        radius (`int`): Cells around a candidate that are searched.
        close_margin, least_share (`float`): Similarity; as of [`similarity_inside`].

    Returns:
        The window around the better candidate, and by how much (N,) it leads over the other, at most 1.
    """
    window = window_scores(features, candidates.cells[0], templates, weights, radius)
    close = candidates.margin <= close_margin  # (N,)
    rows = rows_to_compute(close)  # (n,)
    other = window_scores(features, candidates.cells[1, rows], templates[rows], weights[rows], radius)
    first, second = (
        prior.rows(rows).scores(of, least_share).flatten(1).amax(dim=1) for of in (window.rows(rows), other)
    )
    margin = replace_rows(candidates.margin, rows, close[rows], (first - second).abs().clamp_max(1))
    return window.replaced(rows, close[rows] & (second > first), other), margin


def refine(
    window: SearchWindow,
    anchor_scores: torch.Tensor,
    prior: MotionPrior,
    margin: torch.Tensor,
    anchor_radius: int,
    rival_distance: int,
    least_share: float,
) -> Match:
    """The match in a window, to a fraction of a cell.

    The best cell of the mean template is moved by up to `anchor_radius` cells to the best of the mean of both scores, that of the first
    patch and that of the mean template; then a parabola through its neighbours' scores, along x and along y, gives the fraction.

    Args:
        window ([`SearchWindow`]): Scores of the mean template.
        anchor_scores (`torch.Tensor` of shape `(N, D, D)`): Scores of the first patch in the same windows.
        prior ([`MotionPrior`]): Where the points were.
        margin (`torch.Tensor` of shape `(N,)`): By how much the window leads over the rest of the frame.
        anchor_radius, rival_distance (`int`): Cells; a maximum farther than `rival_distance` from the best, along x or y, is a rival.
        least_share (`float`): As of [`similarity_inside`].
    """
    scores, side = prior.scores(window, least_share), window.scores.shape[1]
    best, cell = scores.flatten(1).max(dim=1)
    row, column = cell // side, cell % side
    rival = scores.masked_fill(_near(side, row, column, rival_distance), -math.inf).flatten(1).amax(dim=1)

    both = (SearchWindow(anchor_scores, window.share, window.corner).similarity(least_share) + scores) / 2
    cell = both.masked_fill(~_near(side, row, column, anchor_radius), -math.inf).flatten(1).argmax(dim=1)
    row, column = cell // side, cell % side
    fraction = _fraction(both, row, column)  # (N, 2)
    cells = window.corner + torch.stack([column, row], dim=1) + fraction
    point = torch.arange(len(cell), device=cell.device)
    lead = torch.minimum(best - rival, margin).nan_to_num(nan=0.0)  # of a window beside the frame, -inf less -inf
    evidence = anchor_scores[point, row, column], window.scores[point, row, column], lead
    return Match(cells, torch.stack(evidence, dim=1))


def _near(side: int, row: torch.Tensor, column: torch.Tensor, distance: int) -> torch.Tensor:
    """Cells (N, side, side) of a window at most `distance` rows and columns from one cell (N,) each."""
    axis = torch.arange(side, device=row.device)
    rows, columns = ((axis - middle[:, None]).abs() <= distance for middle in (row, column))
    return rows[:, :, None] & columns[:, None, :]


def _fraction(scores: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """(x, y) in -0.5..0.5 (N, 2) from cells (N,) to the top of the parabolas through scores (N, D, D) beside them, along each axis."""
    padded = F.pad(scores, (1, 1, 1, 1), value=-math.inf)
    point = torch.arange(len(row), device=row.device)
    at = lambda dy, dx: padded[point, row + 1 + dy, column + 1 + dx]  # noqa: E731
    middle = at(0, 0)
    return torch.stack([vertex(at(0, -1), middle, at(0, 1)), vertex(at(-1, 0), middle, at(1, 0))], dim=1)


def vertex(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the parabola through three neighbouring scores has its top, in -0.5..0.5; 0 beside the border, or where it has none."""
    bend = before - 2 * middle + after
    top = ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where(torch.isfinite(bend) & (bend < 0), top, 0)


__all__ = ["Candidates", "Match", "MotionPrior", "refine", "search_coarse", "verify", "vertex"]
