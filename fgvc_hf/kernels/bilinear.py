"""Maps read between their cells, in torch, for any device."""

import torch
import torch.nn.functional as F

from .constants import constant_like


def read_bilinear(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values of maps at fractional cells, constant beyond the border.

    Places are brought inside first: `padding_mode="border"` of `grid_sample` does the same, and Apple's GPUs have it since torch 2.13 only.

    Args:
        maps (`torch.Tensor` of shape `(C, h, w)`): In the type of the places.
        places (`torch.Tensor` of shape `(..., 2)`): (x, y), 0 at the centre of the first cell.

    Returns:
        `torch.Tensor` of shape `(C, ...)`.
    """
    last = constant_like((maps.shape[2] - 1, maps.shape[1] - 1), places)
    places = places.clamp_min(0).minimum(last)
    grid = (2 * places / last.clamp_min(1) - 1).reshape(1, 1, -1, 2)
    values = F.grid_sample(maps[None], grid, align_corners=True)
    return values.view(len(maps), *places.shape[:-1])


__all__ = ["read_bilinear"]
