"""Where a pixel of one frame may be in another: one row of the probabilistic map (Figure 3 of the paper), over a whole frame."""

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration_fgvc import FgvcConfig
from ..coordinates import point_to_cell, rescale_points
from ..matching.patches import patch_weights, sample_patches, similarity_inside
from .label_maps import read_masks
from .prompts import numbers_of
from .template_constants import TemplateConstants


Sizes = tuple[tuple[int, int], tuple[int, int]]  # (height, width) of a frame, and of the model's input


def match_cells(
    features_0: torch.Tensor, features_1: torch.Tensor, point, sizes_0: Sizes, sizes_1: Sizes, config: FgvcConfig
) -> np.ndarray:
    """
    The probability of every pixel of frame 1 to show what a point of frame 0 shows: Eq. 1 over the whole frame.

    Args:
        features_0, features_1 (`torch.Tensor` of shape `(h, w, C)`): Normalised features; the frames may differ in size.
        point (sequence of 2 `float`): (x, y) in pixels of frame 0.
        sizes_0, sizes_1: Sizes of the frames and of the model's inputs.
        config ([`FgvcConfig`]): Temperature; templates are compared, or single cells with `point_matching="labels"`.

    Returns:
        `numpy.ndarray` of shape `(H, W)`, float32: one value for each pixel of frame 1; their sum is 1.

    Raises:
        `ValueError`: the point is not a finite position inside frame 0.
    """
    pixels = rescale_points(_as_point(point, sizes_0[0]), *sizes_0)  # (1, 2)
    cells = torch.from_numpy(point_to_cell(pixels, config.output_stride, config.cell_origin)).float()  # (1, 2)
    radius = config.template_radius if config.point_matching == "templates" else 0
    patch = sample_patches(features_0, cells.to(features_0.device), radius)  # (1, P, C)
    logits = patch_similarity(features_1, patch, radius) / config.temperature
    probability = torch.softmax(logits.flatten(), dim=0).view(1, *logits.shape)  # (1, h, w)
    size_1, input_1 = sizes_1
    pixels = read_masks(probability, input_1, size_1, config.output_stride, config.cell_origin)[0]
    return (pixels / pixels.sum()).cpu().numpy()


def patch_similarity(features: torch.Tensor, patch: torch.Tensor, radius: int) -> torch.Tensor:
    """Weighted mean similarity (h, w), float32, of a patch (1, P, C) with that around every cell of features (h, w, C)."""
    weights, sides = patch_weights(radius, patch.device), (2 * radius + 1, 2 * radius + 1)
    kernel = (patch.float() * weights[:, None]).unflatten(1, sides).permute(0, 3, 1, 2)  # (1, C, 2r+1, 2r+1)
    similarity = F.conv2d(features.permute(2, 0, 1)[None].float(), kernel, padding=radius)
    share = F.conv2d(torch.ones_like(similarity), weights.view(1, 1, *sides), padding=radius)
    return similarity_inside(similarity, share, TemplateConstants().least_share)[0, 0]


def _as_point(point, size: tuple[int, int]) -> np.ndarray:
    """A point as an array (1, 2), float64, if it lies inside a frame of a size (height, width)."""
    array = numbers_of(point)
    if array is None or array.shape != (2,) or not (np.isfinite(array) & (array >= 0) & (array <= size[::-1])).all():
        raise ValueError(f"point must be (x, y) inside frame 0, x in 0..{size[1]} and y in 0..{size[0]}, got {point}.")
    return array[None]


__all__ = ["match_cells"]
