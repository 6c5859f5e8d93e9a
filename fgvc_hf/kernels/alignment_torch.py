"""Alignment of image patches in torch, for any device: Lucas–Kanade by the inverse compositional algorithm.

Baker & Matthews, Lucas–Kanade 20 years on (IJCV 2004), with an affine warp and a gain; means are subtracted, so that light may change.
[`fgvc_hf.kernels.alignment_numba.NumbaAlignment`] has the same functions for a CPU.
"""

import torch

from .bilinear import read_bilinear


PARAMETERS = 7  # of a warp: shift along x and y, the four numbers of a linear map, and the gain
LARGEST_STEP = 3.0  # pixels that one iteration may move a patch
SMALLEST_STEP = 0.05  # pixels below which a patch is moved no more
DAMPING = 0.01  # share of its diagonal that is added to the matrix of the normal equations
TINY = 1e-12  # relative to squared brightness, above errors of rounding; added to variances, so that without texture nothing moves
GAIN = 1 / 3, 3.0  # least and largest contrast of a patch relative to the one it is compared with


class TorchAlignment:
    """M square patches of S = 2 * radius + 3 pixels: the outermost serve for the slopes of the P = (2 * radius + 1)^2 others alone."""

    @staticmethod
    def sample(image: torch.Tensor, points: torch.Tensor, radius: int) -> torch.Tensor:
        """Patches of an image.

        Args:
            image (`torch.Tensor` of shape `(H, W)`, float32): Read bilinearly, constant beyond its border.
            points (`torch.Tensor` of shape `(M, 2)`, float32): Centres (x, y) in pixels.
            radius (`int`): Pixels.

        Returns:
            `torch.Tensor` of shape `(M, S, S)`.
        """
        return _read(image, points[:, None] + _offsets(radius + 1, points)).unflatten(1, (2 * radius + 3, -1))

    @staticmethod
    def align(
        image: torch.Tensor, patches: torch.Tensor, weights: torch.Tensor, points: torch.Tensor, iterations: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find patches on an image by Gauss–Newton steps from a place near theirs.

        Args:
            image (`torch.Tensor` of shape `(H, W)`): As of [`sample`].
            patches (`torch.Tensor` of shape `(M, S, S)`, float32): By [`sample`], from another image.
            weights (`torch.Tensor` of shape `(P,)`, float32): How much each pixel counts; their sum is 1.
            points (`torch.Tensor` of shape `(M, 2)`, float32): Where the search begins.
            iterations (`int`): Most steps.

        Returns:
            Centres (M, 2); by how many times the area of each patch has grown (M,); and its weighted normalised cross-correlation (M,).
        """
        offsets = _offsets((patches.shape[1] - 3) // 2, points)  # (P, 2)
        template, columns = _prepared(patches, weights, offsets)  # (M, P), (M, 7, P)
        normal = _product(columns * weights, columns.mT)  # (M, 7, 7)
        floor = TINY * (1 + patches[:, 0, 0] ** 2)  # (M,)
        normal = normal + torch.diag_embed(DAMPING * normal.diagonal(dim1=1, dim2=2) + floor[:, None])
        gradient = _product(torch.linalg.inv_ex(normal).inverse, columns * weights)  # (M, 7, P)
        energy = (weights * template**2).sum(dim=-1) + floor
        linear = torch.eye(2, dtype=points.dtype, device=points.device).repeat(len(points), 1, 1)
        moving = torch.ones_like(points[:, :1])
        for _ in range(iterations):
            found = _centred(_read(image, points[:, None] + _product(offsets, linear.mT)), weights)  # (M, P)
            gain = ((weights * found * template).sum(dim=-1) / energy).clamp(*GAIN)
            step = (gradient * (found / gain[:, None] - template)[:, None]).sum(dim=-1)  # (M, 7)
            length = step[:, :2].norm(dim=1, keepdim=True)
            step = step * (moving * LARGEST_STEP / length.clamp_min(LARGEST_STEP))
            linear = _product(linear, _inverse(1 + step[:, 2], step[:, 3], step[:, 4], 1 + step[:, 5]))
            points = points - _product(linear, step[:, :2, None])[..., 0]
            moving = moving * (length >= SMALLEST_STEP)
        found = _centred(_read(image, points[:, None] + _product(offsets, linear.mT)), weights)
        both = (((weights * found**2).sum(dim=-1) + floor) * energy).sqrt()
        growth = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
        return points, growth, (weights * found * template).sum(dim=-1) / both


def _prepared(
    patches: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches (M, P) less their means, and how they change with each parameter of a warp (M, 7, P)."""
    inner = patches[:, 1:-1, 1:-1].flatten(1)
    x = (patches[:, 1:-1, 2:] - patches[:, 1:-1, :-2]).flatten(1) / 2
    y = (patches[:, 2:, 1:-1] - patches[:, :-2, 1:-1]).flatten(1) / 2
    dx, dy = offsets.unbind(dim=-1)
    columns = torch.stack([x, y, x * dx, x * dy, y * dx, y * dy, inner], dim=1)
    return _centred(inner, weights), _centred(columns, weights)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of small matrices (..., I, K) and (..., K, J), each the same whatever is beside it: in BLAS the order of a sum depends on the
    number of matrices and on where they are in memory."""
    return (a[..., None] * b[..., None, :, :]).sum(dim=-2)


def _centred(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Values (..., P) less their weighted means; exactly 0 where all are the same."""
    values = values - values[..., :1]
    return values - (values * weights).sum(dim=-1, keepdim=True)


def _inverse(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Inverses (M, 2, 2) of the matrices [[a, b], [c, d]], numbers (M,)."""
    return torch.stack([d, -b, -c, a], dim=1).unflatten(1, (2, 2)) / (a * d - b * c)[:, None, None]


def _offsets(radius: int, like: torch.Tensor) -> torch.Tensor:
    """(dx, dy) of the pixels of a patch, row by row."""
    axis = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(axis, axis).flip(-1)


def _read(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values (...) of an image (H, W) at points (..., 2) in pixels."""
    return read_bilinear(image[None], points - 0.5)[0]


__all__ = [
    "DAMPING",
    "GAIN",
    "LARGEST_STEP",
    "PARAMETERS",
    "SMALLEST_STEP",
    "TINY",
    "TorchAlignment",
]
