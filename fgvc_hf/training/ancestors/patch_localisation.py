"""Patch localisation of UVC and TimeCycle: the affinity of two frames, the place of a patch by it, and the crop there. All differentiable.

Positions are (x, y) in cells of a feature map, whose first cell is (0, 0). A patch is a map of its own; a [`Place`] is the similarity transform
that puts its cells on the frame's map.
"""

from dataclasses import dataclass

import torch

from ..objectives import sample_cells


Size = tuple[int, ...]  # rows and columns


@dataclass
class Place:
    """The places of B patches on maps.

    Args:
        centre (`torch.Tensor` of shape `(B, 2)`): (x, y) in cells.
        scale (`torch.Tensor` of shape `(B, 2)`): Cells of the map per cell of the patch, along x and y.
        angle (`torch.Tensor` of shape `(B,)`): Rotation from x towards y, in radians.
    """

    centre: torch.Tensor
    scale: torch.Tensor
    angle: torch.Tensor

    @classmethod
    def at(cls, centre: torch.Tensor, angle: torch.Tensor | None = None) -> "Place":
        """Patches at the scale of the frame."""
        return cls(centre, torch.ones_like(centre), centre.new_zeros(len(centre)) if angle is None else angle)

    def positions(self, size: Size, step: int = 1) -> torch.Tensor:
        """Positions `(B, h * step, w * step, 2)` on the map of `step` samples per cell and axis of patches of `size` (h, w).

        The first sample of a cell is at its centre. A cell is centred on the first of its pixels, so with the stride as `step` the samples are
        the pixels of the patch; times the stride they are positions in pixels of the frame.
        """
        y, x = (
            torch.arange(n * step, device=self.centre.device, dtype=self.centre.dtype) / step - (n - 1) / 2
            for n in size
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        along, down = self.scale[:, 0, None, None] * x, self.scale[:, 1, None, None] * y  # (B, h, w)
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        return self.centre[:, None, None] + torch.stack([cos * along - sin * down, sin * along + cos * down], dim=-1)

    def corners(self, size: Size) -> torch.Tensor:
        """The corners `(B, 4, 2)` of patches of `size`, clockwise, at the outer edges of their cells."""
        scale = self.scale * self.scale.new_tensor([size[1], size[0]])
        found = Place(self.centre, scale, self.angle).positions((2, 2)).flatten(1, 2)
        return found[:, [0, 1, 3, 2]]


def crop(values: torch.Tensor, place: Place, size: Size) -> torch.Tensor:
    """The patches `(B, h, w, C)` of maps `(B, H, W, C)` at a place, by a spatial transformer; 0 outside the maps."""
    return sample_cells(values, place.positions(size))


def crop_image(images: torch.Tensor, place: Place, size: Size, stride: int) -> torch.Tensor:
    """The images `(B, C, h * stride, w * stride)` of the patches, out of `(B, C, H, W)`; 0 outside them."""
    return sample_cells(images.movedim(1, -1), stride * place.positions(size, stride)).movedim(-1, 1)


def products(reference: torch.Tensor, target: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The affinity `(B, N, M)` before the softmax: products of all N cells of the reference with all M of the target, both `(B, h, w, C)`."""
    return scale * _product(reference.flatten(1, 2), target.flatten(1, 2).mT)


def carry(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Averages `(B, N, C)` of values `(B, h, w, C)`, with weights `(B, N, h * w)`."""
    return _product(weights, values.flatten(1, 2))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A matrix product in float32, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def transported(affinity: torch.Tensor, grid: torch.Tensor, size: Size | None = None) -> torch.Tensor:
    """Expected positions `(B, h, w, 2)` of the N cells of one map on another: the softmax of the affinity over the cells of the latter.

    Args:
        affinity (`torch.Tensor` of shape `(B, N, M)`): Of the cells of both maps.
        grid (`torch.Tensor` of shape `(H, W, 2)`): Positions of the M cells.
        size (`tuple[int, int]`, *optional*): Rows and columns of the N cells; those of the grid if not given.
    """
    positions = carry(affinity.softmax(-1), grid[None].expand(len(affinity), -1, -1, -1))
    return positions.unflatten(1, size or grid.shape[:2])


def localise(positions: torch.Tensor, turns: bool = False, scales: bool = True) -> Place:
    """The place of a patch by the matched positions of its cells (UVC, section 3.1).

    The centre is their mean. The scale is their mean absolute deviation along each axis, divided by that of the patch's own cells; it has no
    gradient, as in the released code, because a growing patch always lowers the loss. The angle is that of the least-squares rotation.

    Args:
        positions (`torch.Tensor` of shape `(B, h, w, 2)`): (x, y) in cells of the map.
        turns (`bool`): Whether to estimate the angle, as TimeCycle does.
        scales (`bool`): Whether to estimate the scale, as UVC does.
    """
    batch, h, w, _ = positions.shape
    centre = positions.mean((1, 2))
    own = Place.at(torch.zeros_like(centre)).positions((h, w))
    moved = positions - centre[:, None, None]
    angle = centre.new_zeros(batch)
    if turns:
        across = (own[..., 0] * moved[..., 1] - own[..., 1] * moved[..., 0]).sum((1, 2))
        angle = torch.atan2(across, (own * moved).sum((1, 2, 3)) + 1e-6)
    scale = torch.ones_like(centre)
    if scales:
        scale = (moved.abs().mean((1, 2)) / own.abs().mean((1, 2))).detach()
    return Place(centre, scale, angle)


def keep_inside(place: Place, size: Size, frame: Size) -> Place:
    """Patches of `size` (h, w) without rotation, shrunk and moved to lie inside maps of the size `frame`."""
    cells = place.centre.new_tensor([size[1] - 1, size[0] - 1]).clamp_min(1)
    last = place.centre.new_tensor([frame[1] - 1, frame[0] - 1])
    scale = place.scale.minimum(last / cells)
    half = scale * cells / 2
    return Place(place.centre.maximum(half).minimum(last - half), scale, place.angle)
