"""The box tracker: a box moves, grows and turns as most of the points inside it do.

`config.box_matching` says how the points are found on a frame:

* `"templates"`: each point of an 8 x 8 grid by its template ([`TemplateTracker`]). A similarity transform is fitted to their motion by
  iteratively reweighted least squares, which points that were lost, or that are not on the object, do not bend.
* `"coordinates"`, as UVC does (Li et al., NeurIPS 2019): the affinity carries the coordinates of the grid along, and their mean and their
  mean deviation are the box.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import cell_to_point, exact, exact_dtype
from ..kernels.constants import constant_like
from .encoded_frame import EncodedFrame
from .localisation import BANDWIDTH, INERTIA, carried, read_box
from .results import BoxReadout
from .template_tracker import TemplateTracker


GRID = 8  # points along each side of a box
ROUNDS = 10  # of reweighted least squares
TOLERANCE = 0.05  # residual at which a point has half its weight, as a share of the box's diagonal
LEAST_CONFIDENCE = 0.02  # below it a box stays where it is
SEARCH = 1.5  # half sides around the middle of a box within which its coordinates are looked for
LARGEST_GROWTH = 2.0  # factor by which a side may change from one frame to the next, with "coordinates"


@dataclass
class BoxTracker:
    """
    M boxes followed by the points inside them.

    Args:
        config ([`FgvcConfig`]): `box_matching`, and the group of fields of what that uses.
        ids (`list[int]`), turns (`list[bool]`): Id of each box, and whether it may turn; one that may not keeps its sides upright.
        first, corners (`torch.Tensor` of shape `(M, 4, 2)`, float64): Corners (x, y), one after the other, in pixels of the model's input,
            on the box's first frame and on the last.
        grid (`torch.Tensor` of shape `(M, 64, 2)`, float64): The points in the box on its first frame, in the same pixels.
        confidence (`torch.Tensor` of shape `(M,)`, float32): Share of the points that are visible and agree.
        templates ([`TemplateTracker`]): The points of all boxes, one box after the other, with the ids of their boxes.
    """

    config: FgvcConfig
    ids: list[int]
    turns: list[bool]
    first: torch.Tensor
    corners: torch.Tensor
    grid: torch.Tensor
    confidence: torch.Tensor
    templates: TemplateTracker

    @classmethod
    def empty(cls, features: torch.Tensor, config: FgvcConfig) -> "BoxTracker":
        """A tracker without boxes. Patches are kept with the channels, the dtype and the device of these features (h, w, C)."""
        corners = features.new_zeros((0, 4, 2), dtype=exact_dtype(features.device))
        grid, confidence = corners.new_zeros((0, GRID**2, 2)), corners.new_zeros(0, dtype=torch.float32)
        return cls(config, [], [], corners, corners, grid, confidence, TemplateTracker.empty(features, config))

    def start(self, ids: list[int], corners: torch.Tensor, turns: list[bool], frame: EncodedFrame) -> None:
        """Begin to follow boxes.

        Args:
            ids (`list[int]`), turns (`list[bool]`): Of n boxes, none of which is followed yet.
            corners (`torch.Tensor` of shape `(n, 4, 2)`, float64): Their corners, one after the other, in pixels of the model's input.
            frame ([`EncodedFrame`]): The frame that they are given on.
        """
        grid = grid_in(corners)  # (n, 64, 2)
        self.templates.start([obj_id for obj_id in ids for _ in range(GRID**2)], grid.flatten(0, 1), frame)
        confidence = corners.new_ones(len(ids), dtype=torch.float32)
        new = {"first": corners, "corners": corners, "grid": grid, "confidence": confidence}
        for name, rows in new.items():
            setattr(self, name, torch.cat([getattr(self, name), rows]))
        self.ids, self.turns = self.ids + ids, self.turns + turns

    def step(self, frame: EncodedFrame) -> None:
        """Find all boxes on the next frame."""
        carry = self.config.box_matching == "coordinates"
        if not carry:
            self.templates.step(frame)
        for box in range(len(self.ids)):
            found = self._carry(box, frame.features) if carry else self._fit(box, frame.size)
            self.corners[box], self.confidence[box] = found

    def read(self) -> BoxReadout:
        """Where the boxes are on the last frame, in pixels of the model's input."""
        return BoxReadout(list(self.ids), self.corners.clone(), self.confidence.clone())

    def drop(self, ids: set[int]) -> None:
        """Forget boxes; the others go on as if these had never been there."""
        rows = [row for row, obj_id in enumerate(self.ids) if obj_id not in ids]
        self.ids, self.turns = [self.ids[row] for row in rows], [self.turns[row] for row in rows]
        for name in ("first", "corners", "grid", "confidence"):
            setattr(self, name, getattr(self, name)[rows])
        self.templates.drop(ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the patches in memory."""
        return self.templates.nbytes

    def bytes_of(self, number: int) -> int:
        """Bytes of the patches of a number of boxes."""
        return self.templates.bytes_of(number * GRID**2)

    def _fit(self, box: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners (4, 2) and confidence () of a box, by the motion of its points in the frame, of (height, width)."""
        rows, first, grid = slice(box * GRID**2, (box + 1) * GRID**2), self.first[box], self.grid[box]
        points, visible = self.templates.state.points[rows], exact(self.templates.state.confidence[rows])
        seen = ((grid >= 0) & (grid <= constant_like(size[::-1], grid))).all(dim=1)
        visible = torch.where(seen, visible, 0)  # what lay beside the frame has no looks of its own
        tolerance = TOLERANCE * (first[2] - first[0]).norm()
        transform, weights = fit_similarity(grid, points, visible, tolerance, self.turns[box])
        confidence = (weights.sum() / seen.sum().clamp(min=1)).float()
        return transform(first) if confidence >= LEAST_CONFIDENCE else self.corners[box], confidence

    def _carry(self, box: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Corners (4, 2) and confidence () of a box, by the coordinates that the affinity carries to the frame (UVC)."""
        stride, origin = self.config.output_stride, self.config.cell_origin
        first, corners, grid = self.first[box], self.corners[box], self.grid[box]
        within = self._cells_around(corners, features)  # (h, w)
        if not within.any():  # the box has left the frame
            return corners, torch.zeros_like(self.confidence[box])
        anchor = self.templates.memory.anchor[box * GRID**2 : (box + 1) * GRID**2]  # (64, P, C)
        centre = anchor[:, anchor.shape[1] // 2]  # (64, C) the middle cell of each patch
        found = cell_to_point(carried(centre, features, within, self.config), stride, origin)  # (64, 2)
        if self.turns[box]:
            tolerance = TOLERANCE * (first[2] - first[0]).norm()
            transform, weights = fit_similarity(grid, found, torch.ones_like(found[:, 0]), tolerance, True)
            return transform(first), weights.mean().float()
        shift, growth, weights = read_box(grid, found, BANDWIDTH * stride)
        before, middle = (corners[2] - corners[0]) / (first[2] - first[0]), first.mean(dim=0)
        growth = growth.minimum(LARGEST_GROWTH * before).maximum(before / LARGEST_GROWTH)
        growth = INERTIA * before + (1 - INERTIA) * growth
        return middle + shift + (first - middle) * growth, weights.mean().float()

    def _cells_around(self, corners: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Cells (h, w), bool, that coordinates of a box with these corners are looked for in."""
        stride, origin = self.config.output_stride, self.config.cell_origin
        middle = corners.mean(dim=0)
        reach = SEARCH * (corners - middle).abs().amax(dim=0).clamp_min(BANDWIDTH * stride)  # (2,) pixels
        x, y = (
            (cell_to_point(torch.arange(n, dtype=centre.dtype, device=centre.device), stride, origin) - centre).abs()
            <= side
            for n, centre, side in zip((features.shape[1], features.shape[0]), middle, reach, strict=True)
        )
        return y[:, None] & x


def grid_in(corners: torch.Tensor) -> torch.Tensor:
    """Points (n, 64, 2) spread evenly over quadrilaterals (n, 4, 2), row by row."""
    share = (torch.arange(GRID, dtype=corners.dtype, device=corners.device) + 0.5) / GRID
    across, down = (axis.flatten()[:, None] for axis in torch.meshgrid(share, share, indexing="xy"))  # (64, 1)
    a, b, c, d = (corner[:, None] for corner in corners.unbind(dim=1))  # (n, 1, 2)
    top, bottom = a + across * (b - a), d + across * (c - d)  # (n, 64, 2)
    return top + down * (bottom - top)


def fit_similarity(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, tolerance: float | torch.Tensor, turns: bool
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """The shift, scale and, if it `turns`, rotation that carries most points from `source` to `target`.

    Least squares, iteratively reweighted by the residual (Cauchy's weights), from the weighted medians of the shifts on.

    Args:
        source, target (`torch.Tensor` of shape `(N, 2)`), weights (`torch.Tensor` of shape `(N,)`): Points, and how much each counts.
        tolerance (`float`): Residual at which a point has half its weight, in the unit of the points.
        turns (`bool`): Whether there may be a rotation.

    Returns:
        A function that carries points (M, 2), and the final weights (N,).
    """
    shift = _weighted_median(target - source, weights)
    matrix, robust = torch.eye(2, dtype=source.dtype, device=source.device), weights
    centre, moved = torch.zeros_like(shift), shift
    for _ in range(ROUNDS):
        residual = (target - (source - centre) @ matrix.T - moved).norm(dim=1)
        robust = weights / (1 + (residual / tolerance) ** 2)
        total = robust.sum().clamp_min(1e-9)
        centre, moved = (robust[:, None] * source).sum(dim=0) / total, (robust[:, None] * target).sum(dim=0) / total
        a, b = source - centre, target - moved
        along = (robust * (a * b).sum(dim=1)).sum()
        across = (robust * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])).sum() if turns else torch.zeros_like(along)
        spread = (robust * (a * a).sum(dim=1)).sum().clamp_min(1e-9)
        cos, sin = along / spread, across / spread
        matrix = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    return lambda points: (points - centre) @ matrix.T + moved, robust


def _weighted_median(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Median (2,) of values (N, 2) along each axis."""
    medians = []
    for column in values.unbind(dim=1):
        order = column.argsort()
        reached = weights[order].cumsum(0) >= weights.sum() / 2
        medians.append(column[order][reached.int().argmax()])
    return torch.stack(medians)


__all__ = ["BoxTracker"]
