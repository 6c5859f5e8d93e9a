"""Boxes followed by the points inside them: a box moves, grows and turns as most of its points do.

A grid of points in the box is followed by their templates, and a similarity transform is fitted that points which were lost or left the
object do not bend. Or as UVC does it (Li et al., NeurIPS 2019), with `box_matching="coordinates"`: the affinity carries the coordinates
of the points along, and their mean and mean deviation are the box.
"""

from dataclasses import dataclass

import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import cell_to_point
from .localisation import BANDWIDTH, INERTIA, carried, read_box
from .template_tracker import PointTemplates


GRID = 8  # points along each side
ROUNDS = 10  # of fitting and weighting anew
TOLERANCE = 0.05  # of the box's diagonal: residual at which a point counts half
LEAST = 0.02  # share of the weights that is needed to move a box at all
SEARCH = 1.5  # of the box's sides: how far from its middle its coordinates are looked for
GROWTH = 2.0  # largest change of its size that is believed


@dataclass
class TrackedBox:
    """A box being followed.

    `first` (4, 2) and `corners` (4, 2) are its corners on its first frame and on the last, float64 in pixels of the model's input; `grid`
    (64, 2) the points on the first frame. `confidence` () is the share of the points that are seen and agree.
    """

    turns: bool
    first: torch.Tensor
    corners: torch.Tensor
    grid: torch.Tensor
    confidence: torch.Tensor
    templates: PointTemplates

    @classmethod
    def start(cls, corners: torch.Tensor, turns: bool, features: torch.Tensor, config: FgvcConfig) -> "TrackedBox":
        """Start to follow a box (4, 2), corner after corner, from a frame with features (h, w, C)."""
        share = (torch.arange(GRID, dtype=torch.float64, device=corners.device) + 0.5) / GRID
        across, down = (axis.flatten()[:, None] for axis in torch.meshgrid(share, share, indexing="xy"))
        top, bottom = corners[0] + across * (corners[1] - corners[0]), corners[3] + across * (corners[2] - corners[3])
        grid = top + down * (bottom - top)
        templates = PointTemplates.empty(features, config)
        templates.add(list(range(len(grid))), grid, features, config)
        return cls(turns, corners, corners.clone(), grid, torch.ones((), device=corners.device), templates)

    def follow(self, features: torch.Tensor, input_size: tuple[int, int], config: FgvcConfig) -> None:
        """Find the box on the next frame, with features (h, w, C)."""
        if config.box_matching == "coordinates":
            self._carry(features, config)
            return
        self.templates.follow(features, input_size, config)
        size = (self.first[2] - self.first[0]).norm()
        seen = self.templates.confidence.double()
        transform, agreeing = fit_similarity(self.grid, self.templates.points, seen, TOLERANCE * size, self.turns)
        self.confidence = agreeing.mean().float()
        if self.confidence >= LEAST:
            self.corners = transform(self.first)

    def _carry(self, features: torch.Tensor, config: FgvcConfig) -> None:
        """The box by the coordinates that its points have on the frame, with its size; UVC's tracking."""
        stride, origin, templates = config.output_stride, config.cell_origin, self.templates
        middle, first = self.corners.mean(dim=0), self.first.mean(dim=0)
        reach = SEARCH * (self.corners - middle).abs().amax(dim=0).clamp_min(BANDWIDTH * stride)
        x, y = (
            (cell_to_point(torch.arange(n, device=features.device), stride, origin) - centre).abs() <= side
            for n, centre, side in zip((features.shape[1], features.shape[0]), middle, reach, strict=True)
        )
        within = y[:, None] & x
        if not within.any():  # the box has left the frame
            self.confidence = torch.zeros_like(self.confidence)
            return
        own = templates.anchor.shape[1] // 2  # the cell that a patch is around
        found = cell_to_point(carried(templates.anchor[:, own], features, within, config), stride, origin)
        if self.turns:
            size = (self.first[2] - self.first[0]).norm()
            transform, weights = fit_similarity(self.grid, found, torch.ones_like(found[:, 0]), TOLERANCE * size, True)
            self.corners = transform(self.first)
        else:
            shift, growth, weights = read_box(self.grid, found, BANDWIDTH * stride)
            before = (self.corners[2] - self.corners[0]) / (self.first[2] - self.first[0])
            growth = INERTIA * before + (1 - INERTIA) * growth.minimum(GROWTH * before).maximum(before / GROWTH)
            self.corners = first + shift + (self.first - first) * growth
        self.confidence = weights.mean().float()


def fit_similarity(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, tolerance, turns: bool):
    """The shift, scale and, if it `turns`, rotation that carries most points (N, 2) from `source` to `target`.

    Weighted least squares, again and again with weights that fall with the residual (Cauchy's), from the weighted medians on.

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


__all__ = ["TrackedBox"]
