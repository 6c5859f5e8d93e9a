"""Patches of features compared with the cells of a window: the probabilistic map (Eq. 1 of the paper) for points alone.

A template is a square patch of P = (2 * radius + 1)^2 feature cells. The score of a cell is the weighted mean of the cosine similarities
between the cells of the template and those of the patch around that cell.
"""

import math
from dataclasses import dataclass, fields
from typing import Self

import torch

from ..kernels.dispatch import patches_for
from ..kernels.patches_torch import sample_patches


Rows = slice | list[int] | torch.Tensor  # some of the points: also indices or a mask


def rows_to_compute(wanted: torch.Tensor) -> torch.Tensor:
    """Indices (n,) of the points for which something is computed that is `wanted` (N,), bool, of some of them alone.

    Those of some on a CPU. Those of all on an accelerator, where the host would have to wait for their number, and a step of one video frame
    could not be a CUDA graph.
    """
    if wanted.device.type == "cpu":
        return wanted.nonzero()[:, 0]
    return torch.arange(len(wanted), device=wanted.device)


def replace_rows(values: torch.Tensor, rows: torch.Tensor, chosen: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Values (N, ...) in a new tensor: of those at the indices `rows` (n,), the ones that are `chosen` (n,), bool, are those of `others` (n, ...)."""
    chosen = chosen.view(-1, *[1] * (values.dim() - 1))
    return values.index_copy(0, rows, torch.where(chosen, others, values[rows]))


class PointRows:
    """Base of dataclasses whose fields are tensors with a row for each point."""

    def rows(self, rows: Rows) -> Self:
        """Some of the points; views of their tensors if `rows` is a slice."""
        return type(self)(*(tensor[rows] for tensor in self._tensors()))

    def replaced(self, rows: torch.Tensor, chosen: torch.Tensor, other: Self) -> Self:
        """All points in new tensors: of those at the indices `rows` (n,), the ones that are `chosen` (n,), bool, as in the n of `other`."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return type(self)(*(replace_rows(mine, rows, chosen, theirs) for mine, theirs in pairs))

    def joined(self, other: Self) -> Self:
        """These points, and then those of `other`."""
        return type(self)(*map(torch.cat, zip(self._tensors(), other._tensors(), strict=True)))

    def write(self, rows: Rows, other: Self) -> None:
        """Overwrite some of the points in place."""
        for tensor, value in zip(self._tensors(), other._tensors(), strict=True):
            tensor[rows] = value

    def _tensors(self) -> list[torch.Tensor]:
        return [getattr(self, field.name) for field in fields(self)]  # ty: ignore[invalid-argument-type]


@dataclass(frozen=True)
class SearchWindow(PointRows):
    """
    Scores of templates in windows of D x D cells, D = 2 * radius + 1.

    Args:
        scores (`torch.Tensor` of shape `(N, D, D)`, float32):
            Weighted mean similarity of the patch around each cell (row, column) with the template; cells outside the frame count 0.
        share (`torch.Tensor` of shape `(N, D, D)`, float32):
            Share of the template, by weight, that lies in the frame there; 0 where its centre does not.
        corner (`torch.Tensor` of shape `(N, 2)`, int64): The first cell (x, y) of each window.
    """

    scores: torch.Tensor
    share: torch.Tensor
    corner: torch.Tensor

    def similarity(self, least_share: float) -> torch.Tensor:
        """Mean similarity (N, D, D) of the part of each patch that lies in the frame, see [`similarity_inside`]."""
        return similarity_inside(self.scores, self.share, least_share)


def patch_offsets(radius: int, device=None) -> torch.Tensor:
    """(dx, dy) of the cells of a patch, (P, 2), row by row."""
    axis = torch.arange(-radius, radius + 1, device=device)
    return torch.cartesian_prod(axis, axis).flip(-1)


def patch_weights(radius: int, device=None) -> torch.Tensor:
    """Weights (P,) of the cells of a patch, which sum to 1: a Gaussian exp(-d^2 / radius^2) of their distance d from the centre."""
    distance = patch_offsets(radius, device).float().square().sum(dim=-1)
    weights = torch.exp(-distance / max(1, radius**2))
    return weights / weights.sum()


def search_cells(h: int, w: int, search_radius: float) -> int:
    """Radius in cells, at least 1, of the search window on an (h, w) map; `search_radius` is a share of its mean side sqrt(h * w)."""
    return max(1, round(search_radius * math.sqrt(h * w)))


def window_scores(
    features: torch.Tensor, centres: torch.Tensor, templates: torch.Tensor, weights: torch.Tensor, search: int
) -> SearchWindow:
    """Scores of the cells in a window around each point.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame.
        centres (`torch.Tensor` of shape `(N, 2)`): Cells (x, y) that the windows are centred on; rounded.
        templates (`torch.Tensor` of shape `(N, P, C)`): Template of each point.
        weights (`torch.Tensor` of shape `(N, P)` or `(P,)`, float32): How much each cell of a template counts; their sum is 1.
        search (`int`): Radius of the windows in cells.

    Raises:
        `ValueError`: shapes that do not belong together.
    """
    n, cells, channels = templates.shape
    if (
        channels != features.shape[2]
        or math.isqrt(cells) ** 2 != cells
        or cells % 2 == 0
        or weights.shape[-1] != cells
        or len(centres) != n
    ):
        raise ValueError(
            f"templates must be (N, P, C), P an odd square, for features (h, w, C), weights (N, P) and centres (N, 2); got "
            f"{tuple(templates.shape)}, {tuple(features.shape)}, {tuple(weights.shape)} and {tuple(centres.shape)}."
        )
    corner = centres.round().long() - search
    weights = weights.expand(n, -1).contiguous()
    return SearchWindow(*patches_for(features).correlate(features, corner, templates, weights, search), corner)


def similarity_inside(scores: torch.Tensor, share: torch.Tensor, least_share: float) -> torch.Tensor:
    """Mean similarity of the part of a patch that lies in the frame.

    Without the division, matches at the border would be drawn inwards. Where less than `least_share` of the patch lies in the frame, the
    similarity is lowered instead: so few cells prove nothing.
    """
    return scores / share.clamp_min(least_share)


__all__ = [
    "PointRows",
    "SearchWindow",
    "patch_offsets",
    "patch_weights",
    "sample_patches",
    "search_cells",
    "similarity_inside",
    "window_scores",
]
