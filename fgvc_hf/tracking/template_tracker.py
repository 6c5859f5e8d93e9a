"""Points followed by their templates: the probabilistic map (Eq. 1 of the paper), computed for the points alone.

Label maps carry every cell of a neighbourhood along; a point needs just one row of the map. Here its query is a template, the
features of a patch of cells around it, and its window moves with it. The score of a cell is the mean cosine similarity of the
patch around that cell, with two templates:

* the mean of the point's first patch and of its patches some frames back, which finds it through changes of appearance;
* the first patch alone, which decides within a cell or two: what was found before is a little off, and those errors add up.

The window is searched at half the resolution of the features first, and then cell by cell around the best place there, or around the two
best where these are close.

The cells of a patch do not count alike: around a thin thing, or at the border of a body, most of them are of what lies behind, and
that moves otherwise. A cell counts by how similar it stayed while the point was seen.

A patch enters the memory only if it was similar enough, so that what covers a point does not become its template. A point
that is hidden waits where it was seen last; and one that resembles its first patch too little is looked for in the whole frame.

Whether a point is seen is told from how similar its place is, compared with how similar it was just before and how similar it is
as a rule: one that turns or blurs is seen at a similarity at which another is covered.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
import torch.nn.functional as F

from ..configuration_fgvc import EVIDENCE_WEIGHTS, FgvcConfig
from ..coordinates import cell_to_point, point_to_cell
from ..kernels.dispatch import limit_for
from ..matching.patches import (
    FINE_REACH,
    better_window,
    halve,
    locate,
    patch_weights,
    patches_for,
    sample_patches,
    search_cells,
    search_halved,
    window_scores,
)


BACK = (1, 2, 4, 8, 16)  # frames back that templates are of: near ones know the pose, far ones have drifted less
CELL_TEMPERATURE = 0.1  # of the share that a cell of a patch has by its similarity
CELL_RATE = 0.6  # share of the last frame in the running mean of that similarity
ANCHOR_SHARE = 1.5  # of the first patch in the mean; each other one counts 1
POINTS_AT_ONCE = {"cpu": 512, "accelerator": 1024}  # scores held at a time
RECALL_CELLS = 4  # a side of the blocks of cells that a whole frame is searched by; as mean_blocks adds them up
RECALL_REACH = 5  # cells around the best block
RECALL_GAIN = 0.05  # similarity that a place far off has to win
RECALLS_AT_ONCE = 32  # always as many, too
EVIDENCE = ("anchor", "mean", "margin")  # what a frame shows of a point
PAST_RATES = (0.4, 0.05)  # share of a frame in the running means of the evidence: of just now, and of as a rule
LEAST_USUAL = (
    0.7,
    0.7,
    0.0,
)  # evidence that they begin with at least: a point may be covered on its second frame already


@dataclass
class PointTemplates:
    """Points being followed, a row each: N points, patches of P cells, features of C channels.

    `anchor` (N, P, C) is the first patch; `recent` (16, N, P, C) a ring of the following ones that may be used, `trusted` (16, N), else 0.
    `cells` (N, 2) is where a point was seen last, `lost` (N,) the frames since its patch was trusted, `evidence` (N, 9) what its
    confidence and its uncertainty, in pixels of the model's input, are told from, `past` (N, 2, 3) the running means of the evidence of
    frames, inf before the first, `points` (N, 2) its position in these pixels, and `expected` (N, 2) where it would be one frame after it
    was seen last. `similarity` (N, P) is the running mean of the cosine similarities
    of the cells of its patch where it was seen.
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
    past: torch.Tensor
    similarity: torch.Tensor
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
            new((0, EVIDENCE_WEIGHTS - 1), dtype=torch.float32),
            new((0, len(PAST_RATES), len(EVIDENCE)), dtype=torch.float32),
            new((0, patch), dtype=torch.float32),
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
        self.evidence = torch.cat([self.evidence, self.evidence.new_zeros((n, EVIDENCE_WEIGHTS - 1))])
        self.past = torch.cat([self.past, self.past.new_full((n, *self.past.shape[1:]), math.inf)])
        self.similarity = torch.cat([self.similarity, self.similarity.new_ones((n, self.similarity.shape[1]))])

    def keep(self, rows: list[int]) -> None:
        """Forget all other points."""
        self.ids = [self.ids[row] for row in rows]
        rings = {"recent", "trusted"}
        for name in rings:
            setattr(self, name, getattr(self, name)[:, rows])
        for name in {field.name for field in fields(self)} - rings - {"ids", "count"}:
            setattr(self, name, getattr(self, name)[rows])

    def follow(self, features: torch.Tensor, input_size: tuple[int, int], config: FgvcConfig) -> None:
        """Find all points on the next frame, with features (h, w, C), and learn from what was found."""
        halved = halve(features)
        blocks = cache(lambda: mean_blocks(features))  # few frames need them
        at_once = limit_for(features, POINTS_AT_ONCE)
        for start in range(0, len(self.ids), at_once):
            self._follow(slice(start, start + at_once), features, halved, blocks, input_size, config)
        self.count += 1

    def _follow(
        self,
        rows: slice,
        features: torch.Tensor,
        halved: torch.Tensor,
        blocks: Callable[[], torch.Tensor | None],
        input_size: tuple[int, int],
        config: FgvcConfig,
    ) -> None:
        anchor, last, radius = self.anchor[rows], self.cells[rows], config.template_radius
        h, w, _ = features.shape
        weights = _cell_weights(self.similarity[rows], radius)
        slots = [(self.count - back) % len(self.recent) for back in BACK]
        recent = [(self.recent[slot, rows], self.trusted[slot, rows]) for slot in slots]
        patches = patches_for(features)
        mean = patches.mean(anchor, ANCHOR_SHARE, recent)
        where = last, self.lost[rows], config.motion_prior / (h * w)
        places, margin = search_halved(halved, mean, weights, search_cells(h, w, config), *where)
        window, margin = better_window(features, places, margin, mean, weights, *where)
        scores, _, _ = window_scores(features, window[-1] + FINE_REACH, anchor, weights, FINE_REACH)
        cells, shown = locate(scores, *window, *where, margin)
        cells, shown, recalled = recall(features, blocks, anchor, mean, weights, cells, shown, config)
        first = shown.maximum(shown.new_tensor(LEAST_USUAL))
        past = torch.where(self.past[rows].isinf(), first[:, None], self.past[rows])  # (N, 2, 3)
        self.past[rows] = torch.lerp(past, shown[:, None], past.new_tensor(PAST_RATES)[:, None])
        evidence = torch.cat([shown, past.flatten(1)], dim=1)
        confidence = visibility(evidence, config.visibility_weights)
        trusted = shown[:, EVIDENCE.index("mean")] >= config.template_trust
        seen = confidence >= config.visibility_threshold
        slot = self.count % len(self.recent)
        similarity = patches.take(features, cells, mean, trusted, self.recent[slot, rows])
        self.similarity[rows] = torch.lerp(self.similarity[rows], similarity, CELL_RATE * seen[:, None])
        self.trusted[slot, rows] = trusted
        self.lost[rows] = torch.where(trusted, 0, self.lost[rows] + 1)
        hidden = (confidence < config.hidden_threshold) & ~recalled
        step = cell_to_point(2 * cells.double() - last, config.output_stride, config.cell_origin)
        self.expected[rows] = torch.where(seen[:, None], step, self.expected[rows])
        self.cells[rows] = torch.where(hidden[:, None], last, cells)
        limits = self.points.new_tensor((input_size[1], input_size[0]))
        points = cell_to_point(cells.double(), config.output_stride, config.cell_origin)
        self.points[rows] = points.clamp_min(0).minimum(limits)
        self.evidence[rows], self.confidence[rows] = evidence, confidence
        self.uncertainty[rows] = expected_error(evidence, config.error_weights)


def _cell_weights(similarity: torch.Tensor, radius: int) -> torch.Tensor:
    """How much each cell of a patch counts (N, P): by its place in it, and by its similarity (N, P) on earlier frames."""
    return torch.softmax(patch_weights(radius, similarity.device).log() + similarity / CELL_TEMPERATURE, dim=1)


def recall(
    features: torch.Tensor,
    blocks: Callable[[], torch.Tensor | None],
    anchor: torch.Tensor,
    mean: torch.Tensor,
    weights: torch.Tensor,
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
        weights (`torch.Tensor` of shape `(N, P)`): How much each of their cells counts.
        cells (`torch.Tensor` of shape `(N, 2)`), evidence (`torch.Tensor` of shape `(N, 3)`): What was found near.

    Returns:
        Cells and evidence with those of the points in place that were found again, and which these are (N,), bool.
    """
    was_first, was_mean, _ = evidence.unbind(dim=1)
    recalled = torch.zeros_like(was_first, dtype=torch.bool)
    rows = (was_first < config.recall_similarity).nonzero()[:, 0]
    if config.recall_similarity > 1 or not len(rows) or (means := blocks()) is None:
        return cells, evidence, recalled
    places = best_blocks(means, anchor[rows], config.template_radius)
    scores, _, _ = window_scores(features, places, anchor[rows], weights[rows], RECALL_REACH)
    least = (was_first[rows] + RECALL_GAIN).clamp_min(config.recall_similarity)
    possible = scores.flatten(1).amax(dim=1) >= least  # of the others the means need not be compared
    rows, places, scores, least = (of[possible] for of in (rows, places, scores, least))
    window = window_scores(features, places, mean[rows], weights[rows], RECALL_REACH)
    never, alone = torch.zeros_like(least), torch.ones_like(least)
    far, seen = locate(scores, *window, places, never, 0.0, alone)
    better = (seen[:, 0] >= least) & (seen[:, 1] >= was_mean[rows])
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


def visibility(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Probability (N,) that points are visible: a logistic model of the evidence (N, E), with the constant last."""
    parameters = torch.tensor(weights, device=evidence.device)
    return torch.sigmoid((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


def expected_error(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Distance (N,) in pixels of the model's input by which visible points are expected to be off: log-linear in the evidence (N, E)."""
    parameters = torch.tensor(weights, device=evidence.device)
    return torch.exp((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


__all__ = ["EVIDENCE", "PointTemplates"]
