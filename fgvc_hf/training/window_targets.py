"""Labels: probability distributions over the window of every query (Eqs. 2 to 5), computed for a row of tiles at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .window_tiles import TileRow, Tiling, window_scores


Target = Callable[[Tiling, TileRow], torch.Tensor]  # probabilities (B * nx, 128, Ky * Kx) of a row of tiles


@dataclass(frozen=True)
class DiracTarget:
    """All the mass of a label at the cell nearest to the target position `(B, h, w, 2)`, (x, y) in cells (Eq. 2)."""

    positions: torch.Tensor

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        positions = tiling.queries(tiling.pad_queries(self.positions.round()), row)
        x, y = positions.unflatten(0, (-1, tiling.columns)).unbind(-1)
        labels_y = (row.key_y == y[..., None])[..., None]  # (B, nx, 128, Ky, 1)
        labels_x = (row.key_x[:, None] == x[..., None])[..., None, :]  # (B, nx, 128, 1, Kx)
        return (labels_y & labels_x).flatten(3).flatten(0, 1).float()


@dataclass(frozen=True)
class GaussianTarget:
    """A Gaussian of `sigma` cells around the target position `(B, h, w, 2)`, cut off at the window (Eqs. 3 and 4)."""

    positions: torch.Tensor
    sigma: float

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        positions = tiling.queries(tiling.pad_queries(self.positions), row)
        x, y = positions.unflatten(0, (-1, tiling.columns)).unbind(-1)
        labels_y = self._along(row.key_y - y[..., None])[..., None]  # (B, nx, 128, Ky, 1)
        labels_x = self._along(row.key_x[:, None] - x[..., None])[..., None, :]  # (B, nx, 128, 1, Kx)
        labels = (labels_y * labels_x).flatten(3) * row.allowed
        return (labels / labels.sum(-1, keepdim=True).clamp_min(1e-12)).flatten(0, 1)

    def _along(self, distance: torch.Tensor) -> torch.Tensor:
        """The Gaussian at the cells along one axis, 1 at the nearest: where all are many sigmas away, none would be above 0."""
        squared = distance.square()
        return ((squared.amin(-1, keepdim=True) - squared) / (2 * self.sigma**2)).exp()


@dataclass(frozen=True)
class SoftTarget:
    """The map of a teacher that looks for its own feature at the target position (Eq. 5).

    Args:
        warped (`torch.Tensor` of shape `(B, h, w, C)`): The teacher's features of the key frame, at the target positions.
        teacher (`torch.Tensor` of shape `(B, h, w, C)`): The teacher's features of the key frame.
        scale (`float`): Factor on their products before the softmax.
    """

    warped: torch.Tensor
    teacher: torch.Tensor
    scale: float

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        q = tiling.queries(tiling.pad_queries(self.warped), row)
        return window_scores(q, tiling.keys(tiling.pad_keys(self.teacher), row), self.scale, row).softmax(-1)


def kernel_label(target: Target):
    """The target as the Triton kernels take it: a [`fgvc_hf.kernels.window_losses_triton.Label`].

    Raises:
        `ValueError`: the kernels do not compute this kind of target.
    """
    from ..kernels.window_losses_triton import Label  # Triton may be missing

    if isinstance(target, DiracTarget):
        return Label("dirac", 1.0, positions=target.positions.float().round().contiguous())
    if isinstance(target, GaussianTarget):
        return Label("gaussian", 0.5 / target.sigma**2, positions=target.positions.float().contiguous())
    if isinstance(target, SoftTarget):
        return Label("soft", target.scale, warped=target.warped, teacher=target.teacher)
    raise ValueError(f"Triton's losses know dirac, gaussian and soft targets, got {type(target).__name__}.")
