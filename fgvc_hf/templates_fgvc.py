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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .configuration_fgvc import FgvcConfig
from .coordinates_fgvc import cell_to_point, point_to_cell


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
POINTS_AT_ONCE = 64  # windows held at a time
RECALL_CELLS = 4  # a side of the blocks of cells that a whole frame is searched by
RECALL_REACH = 5  # cells around the best block
RECALL_GAIN = 0.05  # similarity that a place far off has to win
RECALLS_AT_ONCE = 16  # always as many, for the last bit of a product depends on its size
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
        blocks = mean_blocks(features) if config.recall_similarity <= 1 else None
        for start in range(0, len(self.ids), POINTS_AT_ONCE):
            self._follow(slice(start, start + POINTS_AT_ONCE), features, blocks, input_size, config)
        self.count += 1

    def _follow(
        self,
        rows: slice,
        features: torch.Tensor,
        blocks: torch.Tensor | None,
        input_size: tuple[int, int],
        config: FgvcConfig,
    ) -> None:
        anchor, last, size = self.anchor[rows], self.cells[rows], (features.shape[0], features.shape[1])
        slots = [(self.count - back) % len(self.recent) for back in BACK]
        mean = _mean_template(anchor, self.recent[slots, rows], self.trusted[slots, rows])
        templates, radius = torch.stack([anchor, mean], dim=1), config.template_radius
        window = window_scores(features, last, templates, radius, search_cells(*size, config))
        cells, evidence = locate(*window, last, self.lost[rows], config.motion_prior / (size[0] * size[1]))
        cells, evidence, recalled = recall(features, blocks, templates, cells, evidence, config)
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


def _mean_template(anchor: torch.Tensor, recent: torch.Tensor, trusted: torch.Tensor) -> torch.Tensor:
    """Mean (N, P, C) of the first patches and of those (B, N, P, C) of earlier frames that are `trusted` (B, N)."""
    shares = trusted.float()[..., None, None]
    total = ANCHOR_SHARE * anchor.float() + (shares * recent.float()).sum(dim=0)
    return (total / (ANCHOR_SHARE + shares.sum(dim=0))).to(anchor.dtype)


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
    h, w = features.shape[:2]
    where = cells[:, None] + patch_offsets(radius, cells.device)  # (N, P, 2)
    x, y = where[..., 0].clamp(0, w - 1), where[..., 1].clamp(0, h - 1)
    left, top = x.floor().clamp_max(max(w - 2, 0)).long(), y.floor().clamp_max(max(h - 2, 0)).long()
    right, bottom = (left + 1).clamp_max(w - 1), (top + 1).clamp_max(h - 1)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    above = features[top, left].float() * (1 - fx) + features[top, right].float() * fx
    below = features[bottom, left].float() * (1 - fx) + features[bottom, right].float() * fx
    return (above * (1 - fy) + below * fy).to(features.dtype)


def window_scores(
    features: torch.Tensor, centres: torch.Tensor, templates: torch.Tensor, radius: int, search: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of the cells in a window around each point.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        centres (`torch.Tensor` of shape `(N, 2)`): Cells that the windows are centred on; rounded.
        templates (`torch.Tensor` of shape `(N, T, P, C)`): Templates of each point.
        radius, search (`int`): Of the templates and of the window, in cells; D is twice the latter plus 1.

    Returns:
        `scores` (N, T, D, D), float32: mean similarity of the patch around a cell. `inside` (N, D, D), bool: cells of the frame.
        `corner` (N, 2): the first cell (x, y) of each window.
    """
    h, w = features.shape[:2]
    axis = torch.arange(-search - radius, search + radius + 1, device=features.device)
    middle = centres.round().long()
    x, y = middle[:, 0, None] + axis, middle[:, 1, None] + axis  # (N, B)
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]  # (N, B, B)
    windows = features[y.clamp(0, h - 1)[:, :, None], x.clamp(0, w - 1)[:, None, :]] * inside[..., None]
    n, t, p, c = templates.shape
    b, d = len(axis), 2 * search + 1
    weighted = (templates.float() * patch_weights(radius, features.device)[:, None]).to(features.dtype)
    products = weighted.view(n, t * p, c) @ windows.view(n, b * b, c).transpose(1, 2)  # (N, T*P, B*B)
    products = products.view(n, t, p, b, b)
    scores = torch.zeros((n, t, d, d), device=features.device)
    for i, (dx, dy) in enumerate((patch_offsets(radius) + radius).tolist()):
        scores += products[:, :, i, dy : dy + d, dx : dx + d]
    return scores, inside[:, radius : radius + d, radius : radius + d], middle - search


def search_cells(h: int, w: int, config: FgvcConfig) -> int:
    """Radius of the search window in cells of an (h, w) map."""
    return max(1, round(config.search_radius * math.sqrt(h * w)))


def locate(
    scores: torch.Tensor,
    inside: torch.Tensor,
    corner: torch.Tensor,
    last: torch.Tensor,
    lost: torch.Tensor,
    prior: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points are, and the evidence that they are seen there.

    Args:
        scores (`torch.Tensor` of shape `(N, 2, D, D)`): With the first patch, and with the mean of patches.
        inside, corner: As [`window_scores`] gives them.
        last (`torch.Tensor` of shape `(N, 2)`): Cells that the points were on.
        lost (`torch.Tensor` of shape `(N,)`): Frames since they were seen.
        prior (`float`): Similarity that a shift of one cell costs; it grows with the square of the shift.

    Returns:
        Fractional cells (N, 2), and evidence (N, 3) in the order of `EVIDENCE`: similarity to the first patch and to the mean of
        patches, and by how much the place found is better than any other.
    """
    n, _, d, _ = scores.shape
    anchor, mean = scores.unbind(dim=1)
    axis = torch.arange(d, device=scores.device)
    dx, dy = (corner[:, i, None] + axis - last[:, i, None] for i in (0, 1))  # (N, D)
    moved = dy[:, :, None] ** 2 + dx[:, None, :] ** 2  # (N, D, D) squared cells
    # The longer a point was not seen, the farther it may be
    penalty = prior / (1 + LOST_GROWTH * lost[:, None, None])
    likely = (mean - penalty * moved).masked_fill(~inside, -math.inf)
    best, best_cell = likely.flatten(1).max(dim=1)
    row, column = best_cell // d, best_cell % d

    near = _near(axis, row, column, REFINEMENT) & inside
    refined = (anchor + likely) / 2
    fine = refined.masked_fill(~near, -math.inf).flatten(1).argmax(dim=1)
    row, column = fine // d, fine % d
    beside = F.pad(refined.masked_fill(~inside, -math.inf), (1, 1, 1, 1), value=-math.inf)  # (N, D+2, D+2)
    point = torch.arange(n, device=scores.device)
    at = lambda dy, dx: beside[point, row + 1 + dy, column + 1 + dx]  # noqa: E731
    x = corner[:, 0] + column + _vertex(at(0, -1), at(0, 0), at(0, 1))
    y = corner[:, 1] + row + _vertex(at(-1, 0), at(0, 0), at(1, 0))

    found = _near(axis, row, column, 0)
    rival = likely.masked_fill(_near(axis, row, column, RIVAL_DISTANCE), -math.inf).flatten(1).amax(dim=1)
    evidence = [(anchor * found).sum(dim=(1, 2)), (mean * found).sum(dim=(1, 2)), (best - rival).clamp_max(1)]
    return torch.stack([x, y], dim=1), torch.stack(evidence, dim=1)


def recall(
    features: torch.Tensor,
    blocks: torch.Tensor | None,
    templates: torch.Tensor,
    cells: torch.Tensor,
    evidence: torch.Tensor,
    config: FgvcConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Look for points in the whole frame where they were not found near: at the block of cells most similar to their first patch.

    A place far off is taken if it resembles the first patch more than the place near by, and the mean of patches no less: the legs of an
    animal all look like the first patch of one of them, but what was followed until now knows its pose.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        blocks (`torch.Tensor` of shape `(C, rows, columns)`, *optional*): Its [`mean_blocks`]; nothing to leave points where they are.
        templates (`torch.Tensor` of shape `(N, 2, P, C)`): First patches, and means of patches.
        cells (`torch.Tensor` of shape `(N, 2)`), evidence (`torch.Tensor` of shape `(N, 3)`): What was found near.

    Returns:
        Cells and evidence with those of the points in place that were found again, and which these are (N,), bool.
    """
    anchor, mean = EVIDENCE.index("anchor"), EVIDENCE.index("mean")
    recalled = evidence[:, anchor] < config.recall_similarity
    rows = recalled.nonzero()[:, 0]
    if blocks is None or not len(rows):
        return cells, evidence, torch.zeros_like(recalled)
    places = best_blocks(blocks, templates[rows, 0], config.template_radius)
    window = window_scores(features, places, templates[rows], config.template_radius, RECALL_REACH)
    far, seen = locate(*window, places, torch.zeros_like(places[:, 0]), 0.0)
    least = (evidence[rows, anchor] + RECALL_GAIN).clamp_min(config.recall_similarity)
    better = (seen[:, anchor] >= least) & (seen[:, mean] >= evidence[rows, mean])
    recalled[rows] = better
    cells, evidence = cells.clone(), evidence.clone()
    cells[rows[better]], evidence[rows[better]] = far[better], seen[better]
    return cells, evidence, recalled


def mean_blocks(features: torch.Tensor) -> torch.Tensor | None:
    """Mean features (C, rows, columns), of unit length, of overlapping blocks of cells (h, w, C); nothing if there is no whole block."""
    if min(features.shape[:2]) < RECALL_CELLS:
        return None
    pooled = F.avg_pool2d(features.permute(2, 0, 1)[None].float(), RECALL_CELLS, RECALL_CELLS // 2)[0]
    return F.normalize(pooled, dim=0)


def best_blocks(blocks: torch.Tensor, patches: torch.Tensor, radius: int) -> torch.Tensor:
    """Centres (N, 2), in cells, of the blocks (C, rows, columns) that are most similar to the means of patches (N, P, C)."""
    step, columns = RECALL_CELLS // 2, blocks.shape[2]
    queries = F.normalize((patches.float() * patch_weights(radius, blocks.device)[:, None]).sum(dim=1), dim=1)
    missing = -len(queries) % RECALLS_AT_ONCE
    parts = F.pad(queries, (0, 0, 0, missing)).split(RECALLS_AT_ONCE)
    best = torch.cat([(part @ blocks.flatten(1)).argmax(dim=1) for part in parts])[: len(queries)]
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
