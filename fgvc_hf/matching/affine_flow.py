"""Flow that is affine around every pixel, from what is known of it: occluded and plain parts move as the surface that they belong to.

As in EpicFlow (Revaud et al., Edge-preserving interpolation of correspondences for optical flow, CVPR 2015), an affine motion is fitted
around each pixel to the known ones, which count less the farther they are on a way that avoids edges of the image. The ways run along rows
and then columns (Gastal and Oliveira, Domain transform for edge-aware image and video processing, SIGGRAPH 2011), so that all sums are
recursive filters. The fit is repeated with weights that lower what contradicts it.
"""

import torch
import torch.nn.functional as F

from ..coordinates import exact
from ..kernels.dispatch import flow_for
from .flow_fields import cells_of, length


RIDGE = 25.0  # squared pixels, added to the spread of the known pixels: where they lie on a line, motion is constant across it


class EdgeAwareSums:
    """
    Sums of maps around every pixel, in which a pixel counts less the farther it is on a way that avoids edges of an image.

    Args:
        image (`torch.Tensor` of shape `(3, h, w)`): In [0, 1].
        reach (`float`): Distance in pixels over which the weight of a pixel falls to 1 / e.
        edges (`float`): By how many pixels a step of 1 of all three colours together lengthens a way.
    """

    def __init__(self, image: torch.Tensor, reach: float, edges: float):
        self.kernels = flow_for(image)
        beside, below = ((image.diff(dim=dim).abs().sum(dim=0)) for dim in (2, 1))
        self.decay_x = exact(torch.exp(-(1 + edges * F.pad(beside, (1, 0))) / reach))
        self.decay_y = exact(torch.exp(-(1 + edges * F.pad(below, (0, 0, 1, 0))) / reach)).T.contiguous()

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Sums (K, h, w) of maps (K, h, w), in their type."""
        along_rows = self.kernels.spread(maps.contiguous(), self.decay_x)
        return self.kernels.spread(along_rows.transpose(1, 2).contiguous(), self.decay_y).transpose(1, 2)


def affine_flow(
    flow: torch.Tensor, known: torch.Tensor, sums: EdgeAwareSums, rounds: int, scale: float
) -> torch.Tensor:
    """
    The locally affine motion of all pixels.

    Args:
        flow (`torch.Tensor` of shape `(h, w, 2)`), known (`torch.Tensor` of shape `(h, w)`, bool): In pixels, and where it counts.
        sums ([`EdgeAwareSums`]): Of the frame that it starts from.
        rounds (`int`): Fits, of which each but the first is weighted by the residuals of the one before.
        scale (`float`): Residual in pixels at which a known pixel counts one half.

    Returns:
        `torch.Tensor` of shape `(h, w, 2)`, float32.
    """
    x, y = exact(cells_of(flow)).unbind(-1)
    u, v = (exact(part) for part in flow.unbind(-1))
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y, u, u * x, u * y, v, v * x, v * y])
    weight, fitted = exact(known.float()), flow
    for number in range(rounds):
        fitted = _fit(sums(weight * terms), x, y).to(flow.dtype)
        if number < rounds - 1:
            residual = length(flow - fitted)
            weight = exact(known / (1 + (residual / scale) ** 2))
    return fitted


def _fit(sums: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Values (h, w, 2) at (x, y) of the weighted least-squares fits with these sums (12, h, w)."""
    count = sums[0].clamp_min(torch.finfo(sums.dtype).tiny)
    mean_x, mean_y, xx, xy, yy = sums[1:6] / count
    xx, xy, yy = xx - mean_x**2 + RIDGE, xy - mean_x * mean_y, yy - mean_y**2 + RIDGE
    determinant, parts = xx * yy - xy**2, []
    for mean, with_x, with_y in (sums[6:9] / count, sums[9:12] / count):
        with_x, with_y = with_x - mean * mean_x, with_y - mean * mean_y
        slope_x = (yy * with_x - xy * with_y) / determinant
        slope_y = (xx * with_y - xy * with_x) / determinant
        parts.append(mean + slope_x * (x - mean_x) + slope_y * (y - mean_y))
    return torch.stack(parts, dim=-1)


__all__ = ["EdgeAwareSums", "affine_flow"]
