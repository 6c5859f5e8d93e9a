"""Dense flow: the best match of every cell of one frame in a window of another, and a forward-backward check."""

import numpy as np
import torch

from ..configuration_fgvc import FgvcConfig
from ..matching.block_search import best_keys
from ..matching.patches import search_cells
from .label_maps import read_masks


AROUND = 1.5  # cells around the best match that are averaged for the fraction of a cell
RETURN = 1.5, 0.05  # cells that flow and backward flow may differ by, and the same per cell of their length


def dense_flow(
    features_0: torch.Tensor, features_1: torch.Tensor, config: FgvcConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow from one frame to another, and where it fails the forward-backward check.

    Args:
        features_0, features_1 (`torch.Tensor` of shape `(h, w, C)`): Normalised features.

    Returns:
        `flow` (h, w, 2), (x, y) in cells; `occluded` (h, w), bool: the flow there and the flow back do not cancel out.
    """
    forward, backward = _one_way(features_0, features_1, config), _one_way(features_1, features_0, config)
    h, w = forward.shape[:2]
    y, x = torch.meshgrid(*(torch.arange(n, device=forward.device) for n in (h, w)), indexing="ij")
    x1 = (x + forward[..., 0]).round().long().clamp(0, w - 1)
    y1 = (y + forward[..., 1]).round().long().clamp(0, h - 1)
    back = backward[y1, x1]
    allowed = RETURN[0] + RETURN[1] * (forward.norm(dim=-1) + back.norm(dim=-1))
    return forward, (forward + back).norm(dim=-1) > allowed


def _one_way(query: torch.Tensor, key: torch.Tensor, config: FgvcConfig) -> torch.Tensor:
    """The best match of every cell, and the mean of the good ones right beside it."""
    h, w = query.shape[:2]
    radius, margin = search_cells(h, w, config.search_radius), config.refine_radius if config.fine_size else 0
    scores, indices = best_keys(query, [key], radius, "square", config.propagation_topk, refine_radius=margin)
    x, y = indices % w, indices // w  # (h*w, topk)
    beside = ((x - x[:, :1]) ** 2 + (y - y[:, :1]) ** 2 <= AROUND**2) & torch.isfinite(scores)
    weights = torch.softmax((scores / config.temperature).masked_fill(~beside, -torch.inf), dim=1)
    cell = torch.arange(h * w, device=query.device)
    flow = torch.stack([(weights * x).sum(dim=1) - cell % w, (weights * y).sum(dim=1) - cell // w], dim=1)
    return flow.view(h, w, 2)


def at_video_size(
    maps: torch.Tensor, original_size: tuple[int, int], input_size: tuple[int, int], config: FgvcConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Flow and occlusion (3, h, w), in cells, at the size of the video: flow (H, W, 2) in its pixels, float32, and occlusion (H, W), bool."""
    stride = config.output_stride
    x, y, hidden = read_masks(maps, input_size, original_size, stride, config.cell_origin).cpu().numpy()
    scale = stride * np.array(original_size[::-1]) / np.array(input_size[::-1])
    return np.stack([x, y], axis=-1) * scale.astype(np.float32), hidden >= 0.5


__all__ = ["dense_flow"]
