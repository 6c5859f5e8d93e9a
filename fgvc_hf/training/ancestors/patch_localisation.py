"""What UVC and TimeCycle share: the affinity of two frames, a patch localised by it, and the crop there. All is differentiable.

Positions are (x, y) in cells of a feature map, whose first cell is (0, 0). A patch is a map of its own; its cells lie on the frame's map
where a [`Place`] puts them.
"""

from dataclasses import dataclass

import torch

from ..objectives import sample_cells


Size = tuple[int, ...]  # rows and columns


@dataclass
class Place:
    """Where patches lie on maps: `centre` (B, 2), `scale` (B, 2) along x and y, and the `angle` (B,) that x turns towards y by."""

    centre: torch.Tensor
    scale: torch.Tensor
    angle: torch.Tensor

    @classmethod
    def at(cls, centre: torch.Tensor, angle: torch.Tensor | None = None) -> "Place":
        """Patches of the frame's own scale."""
        return cls(centre, torch.ones_like(centre), centre.new_zeros(len(centre)) if angle is None else angle)

    def positions(self, size: Size, step: int = 1) -> torch.Tensor:
        """Where `step` samples per cell and axis, the first of each in its centre, of patches of `size` (h, w) lie: `(B, h * step, w * step, 2)`.

        A cell is centred on the first of its `step` pixels, so with the stride as `step` these are the patch's pixels; times the stride
        they are positions on the frame's.
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
        """The corners `(B, 4, 2)` of patches of `size`, one after the other, at the outer edges of their cells."""
        scale = self.scale * self.scale.new_tensor([size[1], size[0]])
        found = Place(self.centre, scale, self.angle).positions((2, 2)).flatten(1, 2)
        return found[:, [0, 1, 3, 2]]


def crop(values: torch.Tensor, place: Place, size: Size) -> torch.Tensor:
    """The patches (B, h, w, C) of maps (B, H, W, C) at a place: the spatial transformer. 0 outside the maps."""
    return sample_cells(values, place.positions(size))


def crop_image(images: torch.Tensor, place: Place, size: Size, stride: int) -> torch.Tensor:
    """The images `(B, C, h * stride, w * stride)` of the patches, out of `(B, C, H, W)`; 0 outside them."""
    return sample_cells(images.movedim(1, -1), stride * place.positions(size, stride)).movedim(-1, 1)


def products(reference: torch.Tensor, target: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The inter-frame affinity `(B, N, M)` before any softmax: of all N cells of the reference with all M of the target (B, h, w, C)."""
    return scale * _product(reference.flatten(1, 2), target.flatten(1, 2).transpose(1, 2))


def carry(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values `(B, N, C)` that cells get from others (B, h, w, C), by weights `(B, N, h * w)`."""
    return _product(weights, values.flatten(1, 2))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A product of matrices in float32, whatever else is computed in."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def transported(affinity: torch.Tensor, grid: torch.Tensor, size: Size | None = None) -> torch.Tensor:
    """Where the N cells of one map, of `size` (that of the grid if not given), are on another: `(B, h, w, 2)`, by the softmax of the
    affinity (B, N, M) over the latter's cells, which lie on the grid (H, W, 2)."""
    positions = carry(affinity.softmax(-1), grid[None].expand(len(affinity), -1, -1, -1))
    return positions.unflatten(1, size or grid.shape[:2])


def localise(positions: torch.Tensor, turns: bool = False, scales: bool = True) -> Place:
    """Where a patch is whose cells were found at `positions` `(B, h, w, 2)` (UVC, Sec. 3.1: the mean, and the mean distance from it).

    The scale is the mean deviation along each axis over that of the patch's own cells; no gradient goes through it, as in the released
    code, for a patch could always be matched better by growing. The angle is that of the least-squares rotation.

    Args:
        turns (`bool`): Whether the patch may have turned; TimeCycle's do.
        scales (`bool`): Whether its size may have changed; UVC's do.
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
    """Upright patches of `size` (h, w), moved into maps of the size `frame` and not larger than these."""
    cells = place.centre.new_tensor([size[1] - 1, size[0] - 1]).clamp_min(1)
    last = place.centre.new_tensor([frame[1] - 1, frame[0] - 1])
    scale = place.scale.minimum(last / cells)
    half = scale * cells / 2
    return Place(place.centre.maximum(half).minimum(last - half), scale, place.angle)
