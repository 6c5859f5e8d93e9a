"""What the template tracker knows of its points beside their patches."""

import math
from dataclasses import dataclass, replace

import torch

from ..configuration_fgvc import EVIDENCE_WEIGHTS
from ..matching.patches import PointRows
from .evidence import EVIDENCE


@dataclass
class PointState(PointRows):
    """
    What is known of N points beside their patches.

    Args:
        cells (`torch.Tensor` of shape `(N, 2)`): Cell (x, y) that the search window is around: where a point was last found.
        lost (`torch.Tensor` of shape `(N,)`): Frames since its patch was trusted.
        points, expected (`torch.Tensor` of shape `(N, 2)`, float64), confidence, uncertainty (`torch.Tensor` of shape `(N,)`):
            As of [`PointReadout`].
        evidence (`torch.Tensor` of shape `(N, 9)`), averages (`torch.Tensor` of shape `(N, 2, 3)`): As of [`Judgement`].
    """

    cells: torch.Tensor
    lost: torch.Tensor
    points: torch.Tensor
    expected: torch.Tensor
    confidence: torch.Tensor
    uncertainty: torch.Tensor
    evidence: torch.Tensor
    averages: torch.Tensor

    @classmethod
    def first(cls, points: torch.Tensor, cells: torch.Tensor) -> "PointState":
        """The state on the first frame of points, by their positions (n, 2) in pixels and in cells."""
        n = len(points)
        return cls(
            cells=cells,
            lost=cells.new_zeros(n),
            points=points,
            expected=points,
            confidence=cells.new_ones(n),
            uncertainty=cells.new_zeros(n),
            evidence=cells.new_zeros((n, EVIDENCE_WEIGHTS - 1)),
            averages=cells.new_full((n, 2, len(EVIDENCE)), math.inf),
        )

    @classmethod
    def unknown(cls, number: int, like: "PointState") -> "PointState":
        """The state of a number of points that have not been found: no position, never visible; tensors as those of another state."""
        first = cls.first(like.points.new_full((number, 2), math.nan), like.cells.new_full((number, 2), math.nan))
        return replace(first, confidence=first.uncertainty, uncertainty=torch.full_like(first.uncertainty, math.nan))


__all__ = ["PointState"]
