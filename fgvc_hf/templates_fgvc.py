"""Points followed by their templates: the probabilistic map (Eq. 1 of the paper), computed for the points alone.

Label maps carry every cell of a neighbourhood along; a point needs just one row of the map. Here its query is a template, the
features of a patch of cells around it, and its window moves with it. The score of a cell is the mean cosine similarity of the
patch around that cell, with two templates:

* the mean of the point's first patch and of its patches some frames back, which finds it through changes of appearance;
* the first patch alone, which decides within a cell or two: what was found before is a little off, and those errors add up.

A patch enters the memory only if it was similar enough, so that what covers a point does not become its template. A point
that is hidden waits where it was seen last; and one that resembles its first patch too little is looked for in the whole frame.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from .configuration_fgvc import FgvcConfig
from .coordinates_fgvc import cell_to_point, point_to_cell
from .correlation_fgvc import copy_block


BACK = (
    1,
    2,
    4,
    8,
    16,
)  # frames back that templates are taken from: near ones know the pose, far ones have drifted less
ANCHOR_SHARE = 1.5  # of the first patch in the mean; each other one counts 1
REFINEMENT = 2  # cells around the best one within which the first patch has a say
LOST_GROWTH = 0.1  # of the range of likely motion, per frame that a point was not seen
RIVAL_DISTANCE = 3  # cells beyond which another maximum is a rival
POINTS_AT_ONCE = 64  # scores held at a time
WINDOWS_AT_ONCE = 8  # windows held at a time; always as many, for the last bit of a product depends on its size
RECALL_CELLS = 4  # a side of the blocks of cells that a whole frame is searched by; as mean_blocks adds them up
RECALL_REACH = 5  # cells around the best block
RECALL_GAIN = 0.05  # similarity that a place far off has to win
RECALLS_AT_ONCE = 16  # always as many, too
EVIDENCE = ("anchor", "mean", "margin")  # what visibility is told from


@dataclass
class PointTemplates:
    """Points being followed, a row each: N points, patches of P cells, features of C channels.

    `anchor` (N, P, C) is the first patch; `recent` (16, N, P, C) a ring of the following ones, of which `trusted` (16, N) may be used.
    `cells` (N, 2) is where a point was seen last, `lost` (N,) the frames since its patch was trusted, `evidence` (N, 3) what its
    confidence and its uncertainty, in pixels of the model's input, are told from, `points` (N, 2) its position in these pixels, and
    `expected` (N, 2) where it would be one frame after it was seen last.
    """

    ids: list[int]
    anchor: torch.Tensor
    recent: torch.Tensor
    trusted: torch.Tensor
    cells: torch.Tensor
    lost: torch.Tensor
    points: torch.Tensor
    expected: torch.Tensor
    confidence: torch.Tensor
    uncertainty: torch.Tensor
    evidence: torch.Tensor
    count: int = 0

    @classmethod
    def empty(cls, features: torch.Tensor, config: FgvcConfig) -> "PointTemplates":
        """No points, for features (h, w, C)."""
        patch = (2 * config.template_radius + 1) ** 2
        new = features.new_zeros
        return cls(
            [],
            new((0, patch, features.shape[-1])),
            new((max(BACK), 0, patch, features.shape[-1])),
            new((max(BACK), 0), dtype=torch.bool),
            new((0, 2), dtype=torch.float32),
            new((0,), dtype=torch.float32),
            new((0, 2), dtype=torch.float64),
            new((0, 2), dtype=torch.float64),
            new((0,), dtype=torch.float32),
            new((0,), dtype=torch.float32),
            new((0, len(EVIDENCE)), dtype=torch.float32),
        )

    @staticmethod
    def bytes_each(features: torch.Tensor, config: FgvcConfig) -> int:
        """What the patches of one point take, for features (h, w, C)."""
        patches = 1 + max(BACK)
        return patches * (2 * config.template_radius + 1) ** 2 * features.shape[-1] * features.element_size()

    def add(self, ids: list[int], points: torch.Tensor, features: torch.Tensor, config: FgvcConfig) -> None:
        """Start to follow points (n, 2), float64 in pixels of the model's input, from a frame with features (h, w, C)."""
        cells = point_to_cell(points, config.output_stride, config.cell_origin).float()
        n = len(ids)
        anchor = sample_patches(features, cells, config.template_radius)
        self.ids = self.ids + ids
        self.anchor = torch.cat([self.anchor, anchor])
        self.recent = torch.cat([self.recent, anchor.new_zeros((len(self.recent), *anchor.shape))], dim=1)
        self.trusted = torch.cat([self.trusted, self.trusted.new_zeros((len(self.trusted), n))], dim=1)
        self.cells, self.points = torch.cat([self.cells, cells]), torch.cat([self.points, points])
        self.expected = torch.cat([self.expected, points])
        for name, value in (("lost", 0), ("confidence", 1), ("uncertainty", 0)):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_full((n,), value)]))
        self.evidence = torch.cat([self.evidence, self.evidence.new_zeros((n, len(EVIDENCE)))])

    def keep(self, rows: list[int]) -> None:
        """Forget all other points."""
        self.ids = [self.ids[row] for row in rows]
        self.recent, self.trusted = self.recent[:, rows], self.trusted[:, rows]
        for name in ("anchor", "cells", "lost", "points", "expected", "confidence", "uncertainty", "evidence"):
            setattr(self, name, getattr(self, name)[rows])

    def follow(self, features: torch.Tensor, input_size: tuple[int, int], config: FgvcConfig) -> None:
        """Find all points on the next frame, with features (h, w, C), and learn from what was found."""
        blocks = cache(lambda: mean_blocks(features))  # few frames need them
        for start in range(0, len(self.ids), POINTS_AT_ONCE):
            self._follow(slice(start, start + POINTS_AT_ONCE), features, blocks, input_size, config)
        self.count += 1

    def _follow(
        self,
        rows: slice,
        features: torch.Tensor,
        blocks: Callable[[], torch.Tensor | None],
        input_size: tuple[int, int],
        config: FgvcConfig,
    ) -> None:
        anchor, last, radius = self.anchor[rows], self.cells[rows], config.template_radius
        h, w, _ = features.shape
        slots = [(self.count - back) % len(self.recent) for back in BACK]
        mean = _mean_template(anchor, [(self.recent[slot, rows], self.trusted[slot, rows]) for slot in slots])
        window = window_scores(features, last, mean, radius, search_cells(h, w, config))
        cells, evidence = locate(features, anchor, *window, last, self.lost[rows], config.motion_prior / (h * w))
        cells, evidence, recalled = recall(features, blocks, anchor, mean, cells, evidence, config)
        confidence = visibility(evidence, config.visibility_weights)
        trusted = evidence[:, EVIDENCE.index("mean")] >= config.template_trust
        slot = self.count % len(self.recent)
        self.recent[slot, rows] = sample_patches(features, cells, radius)
        self.trusted[slot, rows] = trusted
        self.lost[rows] = torch.where(trusted, 0, self.lost[rows] + 1)
        hidden = (confidence < config.hidden_threshold) & ~recalled
        step = cell_to_point(2 * cells.double() - last, config.output_stride, config.cell_origin)
        seen = confidence >= config.visibility_threshold
        self.expected[rows] = torch.where(seen[:, None], step, self.expected[rows])
        self.cells[rows] = torch.where(hidden[:, None], last, cells)
        limits = self.points.new_tensor((input_size[1], input_size[0]))
        points = cell_to_point(cells.double(), config.output_stride, config.cell_origin)
        self.points[rows] = points.clamp_min(0).minimum(limits)
        self.evidence[rows], self.confidence[rows] = evidence, confidence
        self.uncertainty[rows] = expected_error(evidence, config.error_weights)


def _mean_template(anchor: torch.Tensor, recent: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Mean (N, P, C) of the first patches and of those (N, P, C) of earlier frames that are trusted (N,)."""
    total, count = ANCHOR_SHARE * anchor.float(), ANCHOR_SHARE
    for patches, trusted in recent:
        shares = trusted.float()[:, None, None]
        total, count = total.add_(shares * patches.float()), count + shares
    return total.div_(count).to(anchor.dtype)


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
    features: torch.Tensor, centres: torch.Tensor, templates: torch.Tensor, radius: int, search: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of the cells in a window around each point.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        centres (`torch.Tensor` of shape `(N, 2)`): Cells that the windows are centred on; rounded.
        templates (`torch.Tensor` of shape `(N, P, C)`): Template of each point.
        radius, search (`int`): Of the templates and of the window, in cells; D is twice the latter plus 1.

    Returns:
        `scores` (N, D, D), float32: mean similarity of the patch around a cell. `inside` (N, D, D), bool: cells of the frame.
        `corner` (N, 2): the first cell (x, y) of each window.
    """
    h, w = features.shape[:2]
    n, p, c = templates.shape
    side, d, b = (
        2 * radius + 1,
        2 * search + 1,
        2 * (search + radius) + 1,
    )  # of a patch, a window, and the cells that its patches cover
    corner = centres.round().long() - search
    weighted = (templates.float() * patch_weights(radius, features.device)[:, None]).to(features.dtype)
    scores = torch.zeros((n, d * b), device=features.device)
    length = (d - 1) * b + d  # from the first cell of a window to its last, in rows of b
    weighted = F.pad(weighted, (0, 0, 0, 0, 0, -n % WINDOWS_AT_ONCE))
    windows = features.new_zeros(
        (WINDOWS_AT_ONCE, b, b, c)
    )  # buffers are reused, for fresh memory costs more than the
    products = features.new_empty((WINDOWS_AT_ONCE, p, b * b))  # arithmetic that fills it
    for start in range(0, n, WINDOWS_AT_ONCE):
        part = slice(start, start + WINDOWS_AT_ONCE)
        k = len(corner[part])
        _cut_windows(features, corner[part] - radius, windows[:k])
        torch.bmm(weighted[part], windows.flatten(1, 2).transpose(1, 2), out=products)  # (8, P, b*b)
        # The product with cell (dy, dx) of a patch counts for the window's cell so many rows up and columns left: all of them as one view
        shifted = products[:k].as_strided((k, side, side, length), (p * b * b, (side * b + 1) * b, b * b + 1, 1))
        torch.sum(shifted, dim=(1, 2), dtype=torch.float32, out=scores[part, :length])
    axis = torch.arange(d, device=features.device)
    x, y = corner[:, 0, None] + axis, corner[:, 1, None] + axis  # (N, D)
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]
    return scores.view(n, d, b)[:, :, :d], inside, corner


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
    scores: torch.Tensor,
    inside: torch.Tensor,
    corner: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points are, and the evidence that they are seen there.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        anchor (`torch.Tensor` of shape `(N, P, C)`): First patches. They are compared around the best cells alone.
        scores, inside, corner: With the mean of patches, as [`window_scores`] gives them.
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
    likely = (scores - penalty * moved).masked_fill(~inside, -math.inf)
    best, best_cell = likely.flatten(1).max(dim=1)
    row, column = best_cell // d, best_cell % d

    reach = REFINEMENT + 1  # one more on each side, for the parabola
    side = 2 * reach + 1
    radius = (math.isqrt(anchor.shape[1]) - 1) // 2
    first, _, near_corner = window_scores(features, corner + torch.stack([column, row], 1), anchor, radius, reach)
    refined = (first + _around(likely, row, column, reach)) / 2  # (N, side, side)
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


def _around(values: torch.Tensor, row: torch.Tensor, column: torch.Tensor, reach: int) -> torch.Tensor:
    """The values (N, D, D) at most `reach` rows and columns from one; -inf beyond the window."""
    padded = F.pad(values, (reach,) * 4, value=-math.inf)
    axis, point = torch.arange(2 * reach + 1, device=row.device), torch.arange(len(row), device=row.device)
    return padded[point[:, None, None], row[:, None, None] + axis[:, None], column[:, None, None] + axis]


def recall(
    features: torch.Tensor,
    blocks: Callable[[], torch.Tensor | None],
    anchor: torch.Tensor,
    mean: torch.Tensor,
    cells: torch.Tensor,
    evidence: torch.Tensor,
    config: FgvcConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Look for points in the whole frame where they were not found near: at the block of cells most similar to their first patch.

    A place far off is taken if it resembles the first patch more than the place near by, and the mean of patches no less: the legs of an
    animal all look like the first patch of one of them, but what was followed until now knows its pose.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        blocks: Gives its [`mean_blocks`] when they are needed.
        anchor, mean (`torch.Tensor` of shape `(N, P, C)`): First patches, and means of patches.
        cells (`torch.Tensor` of shape `(N, 2)`), evidence (`torch.Tensor` of shape `(N, 3)`): What was found near.

    Returns:
        Cells and evidence with those of the points in place that were found again, and which these are (N,), bool.
    """
    recalled = evidence[:, EVIDENCE.index("anchor")] < config.recall_similarity
    rows = recalled.nonzero()[:, 0]
    if config.recall_similarity > 1 or not len(rows) or (means := blocks()) is None:
        return cells, evidence, torch.zeros_like(recalled)
    first = anchor[rows]
    places = best_blocks(means, first, config.template_radius)
    window = window_scores(features, places, mean[rows], config.template_radius, RECALL_REACH)
    far, seen = locate(features, first, *window, places, torch.zeros_like(places[:, 0]), 0.0)
    (was_first, was_mean), (is_first, is_mean) = (of.unbind(dim=1)[:2] for of in (evidence[rows], seen))
    better = (is_first >= (was_first + RECALL_GAIN).clamp_min(config.recall_similarity)) & (is_mean >= was_mean)
    recalled[rows] = better
    cells, evidence = cells.clone(), evidence.clone()
    cells[rows[better]], evidence[rows[better]] = far[better], seen[better]
    return cells, evidence, recalled


def mean_blocks(features: torch.Tensor) -> torch.Tensor | None:
    """Mean features (rows, columns, C), of unit length, of overlapping blocks of cells (h, w, C); nothing if there is no whole block."""
    if min(features.shape[:2]) < RECALL_CELLS:
        return None
    h, w = (side // 2 * 2 for side in features.shape[:2])
    rows = features[:h:2].float() + features[1:h:2]
    cells = rows[:, :w:2] + rows[:, 1:w:2]  # sums of 2 x 2 cells; two by two of these are a block
    rows = cells[:-1] + cells[1:]
    return F.normalize(rows[:, :-1] + rows[:, 1:], dim=-1)


def best_blocks(blocks: torch.Tensor, patches: torch.Tensor, radius: int) -> torch.Tensor:
    """Centres (N, 2), in cells, of the blocks (rows, columns, C) that are most similar to the means of patches (N, P, C)."""
    step, columns = RECALL_CELLS // 2, blocks.shape[1]
    queries = F.normalize((patches.float() * patch_weights(radius, blocks.device)[:, None]).sum(dim=1), dim=1)
    missing = -len(queries) % RECALLS_AT_ONCE
    parts = F.pad(queries, (0, 0, 0, missing)).split(RECALLS_AT_ONCE)
    best = torch.cat([(part @ blocks.flatten(0, 1).T).argmax(dim=1) for part in parts])[: len(queries)]
    return torch.stack([best % columns, best // columns], dim=1) * float(step) + (RECALL_CELLS - 1) / 2


def _vertex(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the parabola through three neighbouring scores has its top, in -0.5..0.5; 0 at a border and where it has none."""
    bend = before - 2 * middle + after
    top = ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where(torch.isfinite(bend) & (bend < 0), top, 0)


def _near(axis: torch.Tensor, row: torch.Tensor, column: torch.Tensor, distance: int) -> torch.Tensor:
    """Cells (N, D, D) of a window at most so many rows and columns from one."""
    rows, columns = (axis - row[:, None]).abs() <= distance, (axis - column[:, None]).abs() <= distance
    return rows[:, :, None] & columns[:, None, :]


def visibility(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Probability (N,) that points are visible: a logistic model of the evidence (N, 3), with the constant last."""
    parameters = torch.tensor(weights, device=evidence.device)
    return torch.sigmoid((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


def expected_error(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Distance (N,) in pixels of the model's input by which visible points are expected to be off: log-linear in the evidence (N, 3)."""
    parameters = torch.tensor(weights, device=evidence.device)
    return torch.exp((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


__all__ = ["EVIDENCE", "PointTemplates"]
