"""Where a pixel of one frame may be in another: one row of the probabilistic map (Figure 3 of the paper), over a whole frame."""

import numpy as np
import torch
import torch.nn.functional as F

from ..coordinates import point_to_cell, rescale_points
from ..matching.patches import patch_weights, sample_patches, similarity_inside
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor
from ..tracking.label_maps import read_masks


@torch.inference_mode()
def match_heat_map(model: FgvcModel, processor: FgvcProcessor, frame_a, frame_b, point) -> np.ndarray:
    """
    The probability of every pixel of a frame to show what a point of another frame shows.

    The softmax over all cells of frame B of similarity / `config.temperature`: Eq. 1 of the paper without its window, so the two frames
    may be far apart in time, of different size, or of different scenes. What is compared are the patches by which points are
    followed, or single cells with `config.point_matching="labels"`.

    Args:
        model ([`FgvcModel`]), processor ([`FgvcProcessor`]): Give the features of the frames.
        frame_a, frame_b (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frames, RGB.
        point (sequence of 2 `float`): (x, y) in pixels of frame A.

    Returns:
        `numpy.ndarray` of shape `(H, W)`, float32: one value for each pixel of frame B; together they are 1. [`draw_heat_map`] shows them.

    Raises:
        `ValueError`: the point is not a finite position inside frame A.
    """
    config, sessions = model.config, [processor.init_video_session() for _ in "ab"]
    features_a, features_b = (
        model.normalized_features(session.preprocess(frame, model.device))[0]  # (h, w, C)
        for session, frame in zip(sessions, (frame_a, frame_b), strict=True)
    )
    (size_a, input_a), (size_b, input_b) = (session.sizes for session in sessions)
    pixels = rescale_points(_as_point(point, size_a), size_a, input_a)  # (1, 2)
    cells = torch.from_numpy(point_to_cell(pixels, config.output_stride, config.cell_origin)).float()  # (1, 2)
    radius = config.template_radius if config.point_matching == "templates" else 0
    patch = sample_patches(features_a, cells.to(features_a.device), radius)  # (1, P, C)
    logits = patch_similarity(features_b, patch, radius) / config.temperature
    probability = torch.softmax(logits.flatten(), dim=0).view(1, *logits.shape)  # (1, h, w)
    pixels = read_masks(probability, input_b, size_b, config.output_stride, config.cell_origin)[0]
    return (pixels / pixels.sum()).cpu().numpy()


def patch_similarity(features: torch.Tensor, patch: torch.Tensor, radius: int) -> torch.Tensor:
    """Weighted mean similarity (h, w), float32, of a patch (1, P, C) with that around every cell of features (h, w, C)."""
    weights, sides = patch_weights(radius, patch.device), (2 * radius + 1, 2 * radius + 1)
    kernel = (patch.float() * weights[:, None]).unflatten(1, sides).permute(0, 3, 1, 2)  # (1, C, 2r+1, 2r+1)
    similarity = F.conv2d(features.permute(2, 0, 1)[None].float(), kernel, padding=radius)
    share = F.conv2d(torch.ones_like(similarity), weights.view(1, 1, *sides), padding=radius)
    return similarity_inside(similarity, share)[0, 0]


def _as_point(point, size: tuple[int, int]) -> np.ndarray:
    """A point as an array (1, 2), float64, if it lies inside a frame of a size (height, width)."""
    try:
        array = np.asarray(point, dtype=np.float64)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.shape != (2,) or not (np.isfinite(array) & (array >= 0) & (array <= size[::-1])).all():
        raise ValueError(f"point must be (x, y) inside frame A, x in 0..{size[1]} and y in 0..{size[0]}, got {point}.")
    return array[None]


__all__ = ["match_heat_map"]
