"""Where a pixel of one frame is in another: the probabilistic map of the paper (Eq. 1) for a single query, over the whole frame."""

import numpy as np
import torch
import torch.nn.functional as F

from .coordinates_fgvc import point_to_cell, rescale_points
from .modeling_fgvc import FgvcModel
from .processing_fgvc import FgvcProcessor
from .propagation_fgvc import read_masks
from .templates_fgvc import sample_patches


@torch.inference_mode()
def probability_map(
    model: FgvcModel,
    frame_0: np.ndarray,
    frame_1: np.ndarray,
    point: tuple[float, float],
    processor: FgvcProcessor | None = None,
    temperature: float | None = None,
) -> np.ndarray:
    """
    The probabilistic map of one point (Eq. 1 of the paper; its Figure 3), over all of the other frame instead of a window.

    Args:
        model ([`FgvcModel`]): Gives the features.
        frame_0, frame_1 (`numpy.ndarray` of shape `(H, W, 3)`, uint8): Frame of the point, and where it is looked for; of one size.
        point (`tuple[float, float]`): (x, y) in pixels of frame 0.
        processor ([`FgvcProcessor`], *optional*): As of [`FgvcModel.track`].
        temperature (`float`, *optional*): Of the softmax; `config.temperature` if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W)`, float32: at each pixel the probability of a feature cell there, bilinear between the cells.
        The probabilities of the cells sum to 1.

    Raises:
        `ValueError`: the frames differ in size, the point is not inside the frame, or the temperature is not positive.
    """
    height, width = frame_0.shape[:2]
    x, y = point
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"point must lie inside the frame of {height}x{width}, got ({x}, {y}).")
    temperature = model.config.temperature if temperature is None else temperature
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    session = (processor or model._own_processor()).init_video_session()
    query, keys = (
        model.normalized_features(session.preprocess(frame).to(model.device))[0].float()
        for frame in (frame_0, frame_1)
    )  # (h, w, C)
    stride, origin = model.config.output_stride, model.config.cell_origin
    at_input = rescale_points(torch.tensor([[x, y]], dtype=torch.float32, device=keys.device), *session.sizes)
    feature = sample_patches(query, point_to_cell(at_input, stride, origin), radius=0)[0, 0]  # (C,)
    if model.config.similarity == "cosine":
        feature = F.normalize(feature, dim=0)
    probability = torch.softmax((keys @ feature).flatten() / temperature, dim=0).view(1, *keys.shape[:2])
    original_size, input_size = session.sizes
    return read_masks(probability, input_size, original_size, stride, origin)[0].cpu().numpy()


__all__ = ["probability_map"]
