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


RIDGE = 0.01  # of the squared reach, added to the spread of the known pixels: where they lie on a line, motion is constant across it


def affine_flow(
    flow: torch.Tensor, known: torch.Tensor, image: torch.Tensor, reach: float, edges: float, rounds: int, scale: float
) -> torch.Tensor:
    """
    The locally affine motion of all pixels.

    Args:
        flow (`torch.Tensor` of shape `(h, w, 2)`), known (`torch.Tensor` of shape `(h, w)`, bool): In pixels, and where it counts.
        image (`torch.Tensor` of shape `(3, h, w)`): The frame that it starts from, in [0, 1].
        reach (`float`): Distance in pixels over which the weight of a known pixel falls to 1 / e.
        edges (`float`): By how many pixels a step of 1 of all three colours together lengthens a way.
        rounds (`int`): Fits, of which each but the first is weighted by the residuals of the one before.
        scale (`float`): Residual in pixels at which a known pixel counts one half.

    Returns:
        `torch.Tensor` of shape `(h, w, 2)`, float32.
    """
    kernels = flow_for(image)
    beside, below = ((image.diff(dim=dim).abs().sum(dim=0)) for dim in (2, 1))
    decay_x = exact(torch.exp(-(1 + edges * F.pad(beside, (1, 0))) / reach))
    decay_y = exact(torch.exp(-(1 + edges * F.pad(below, (0, 0, 1, 0))) / reach)).T.contiguous()
    x, y = exact(cells_of(flow)).unbind(-1)
    u, v = (exact(part) for part in flow.unbind(-1))
    terms = [torch.ones_like(x), x, y, x * x, x * y, y * y, u, u * x, u * y, v, v * x, v * y]
    weight, fitted = exact(known.float()), flow
    for number in range(rounds):
        sums = kernels.spread(weight * torch.stack(terms), decay_x)  # (12, h, w)
        sums = kernels.spread(sums.transpose(1, 2).contiguous(), decay_y).transpose(1, 2)
        fitted = _fit(sums, x, y, RIDGE * reach**2).to(flow.dtype)
        if number < rounds - 1:
            residual = length(flow - fitted)
            weight = exact(known / (1 + (residual / scale) ** 2))
    return fitted


def _fit(sums: torch.Tensor, x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """Values (h, w, 2) at (x, y) of the weighted least-squares fits with these sums (12, h, w)."""
    count = sums[0].clamp_min(torch.finfo(sums.dtype).tiny)
    mean_x, mean_y, xx, xy, yy = sums[1:6] / count
    xx, xy, yy = xx - mean_x**2 + ridge, xy - mean_x * mean_y, yy - mean_y**2 + ridge
    determinant, parts = xx * yy - xy**2, []
    for mean, with_x, with_y in (sums[6:9] / count, sums[9:12] / count):
        with_x, with_y = with_x - mean * mean_x, with_y - mean * mean_y
        slope_x = (yy * with_x - xy * with_y) / determinant
        slope_y = (xx * with_y - xy * with_x) / determinant
        parts.append(mean + slope_x * (x - mean_x) + slope_y * (y - mean_y))
    return torch.stack(parts, dim=-1)


__all__ = ["affine_flow"]
