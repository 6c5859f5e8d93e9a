"""Pictures of a model's matches in training: flow and window maps of labelled pairs beside their labels, and reconstructions of real pairs."""

import numpy as np
import torch
import torch.nn.functional as F

from ..data.augmentation import rgb_to_pixel_values
from ..data.synthetic_pairs import SyntheticPairs
from ..io.drawing import draw_flow
from ..matching.probability_map import probability_map
from .objectives import cell_grid, sample_cells, target_positions
from .recipes import Recipe
from .window_losses import window_argmax, window_average


@torch.no_grad()
def synthetic_picture(model, teacher, pairs: SyntheticPairs, recipe: Recipe) -> np.ndarray:
    """One row per pair `(B * H, 6 * W, 3)`: second frame, first frame, true flow, matched flow, label and student's map of the middle cell.

    The label is the teacher's map at the true target or, without a teacher, the target cell itself.
    """
    pixel_values = rgb_to_pixel_values(pairs.frames)
    features = encode(model, pixel_values)
    stride, radius, size = model.config.output_stride, recipe.radius, pairs.frames.shape[-1]
    positions, valid = target_positions(pairs.flow[:, 1], pairs.visible[:, 1], stride, radius)
    matched = (window_argmax(features[:, 1], features[:, 0], radius) - cell_grid(valid)) * stride
    labelled = encode(teacher, pixel_values) if teacher is not None else None
    rows = []
    for index in range(len(pairs.frames)):
        y, x = _middle(valid[index])
        target = positions[index : index + 1, y : y + 1, x : x + 1]
        student = _window_map(features[index, 1, y, x], features[index, 0], x, y, recipe)
        if labelled is None:
            label = _target_map(target[0, 0, 0], x, y, student)
        else:
            feature = sample_cells(labelled[index : index + 1, 0], target)[0, 0, 0]
            label = _window_map(F.normalize(feature, dim=-1), labelled[index, 0], x, y, recipe)
        flows = [_flow_picture(flow[index], size, radius * stride) for flow in (pairs.flow[:, 1], matched)]
        maps = [_heat(values, size) for values in (label, student)]
        frames = [_to_uint8(pairs.frames[index, t]) for t in (1, 0)]
        rows.append(np.concatenate([*frames, *flows, *maps], axis=1))
    return np.concatenate(rows)


@torch.no_grad()
def real_picture(model, frames: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """One row per pair `(B, 2, 3, H, W)`, uint8: first frame, second frame, and the second rebuilt from the first by matching."""
    rgb = frames.float() / 255
    features = encode(model, rgb_to_pixel_values(rgb))
    stride, size = model.config.output_stride, frames.shape[-1]
    values = rgb[:, 0, :, ::stride, ::stride].permute(0, 2, 3, 1)
    copy = window_average(features[:, 1], features[:, 0], values, recipe.radius, 1 / recipe.temperature)
    copy = F.interpolate(copy.permute(0, 3, 1, 2), (size, size), mode="bilinear")
    rows = [
        np.concatenate([_to_uint8(part) for part in (pair[0], pair[1], rebuilt)], axis=1)
        for pair, rebuilt in zip(rgb, copy, strict=True)
    ]
    return np.concatenate(rows)


def encode(model, pixel_values: torch.Tensor) -> torch.Tensor:
    """Features of unit length `(B, 2, h, w, C)`, float32."""
    return F.normalize(model(pixel_values, return_dict=True).features.float().movedim(2, -1), dim=-1)


def _middle(valid: torch.Tensor) -> tuple[int, int]:
    """The valid cell nearest to the middle of the map."""
    h, w = valid.shape
    distance = (cell_grid(valid[None]) - torch.tensor([w / 2, h / 2], dtype=torch.float32, device=valid.device)).norm(
        dim=-1
    )
    best = int(distance.masked_fill(~valid, 1e6).argmin())
    return best // w, best % w


def _window_map(feature: torch.Tensor, keys: torch.Tensor, x: int, y: int, recipe: Recipe) -> torch.Tensor:
    """Probabilities `(2r+1, 2r+1)` over the window of cell (x, y)."""
    r, top, left = recipe.radius, max(0, y - recipe.radius), max(0, x - recipe.radius)
    around = keys[top : y + r + 1, left : x + r + 1]  # of the other cells of the frame the map says nothing
    query = feature.expand_as(around)
    log_probs = probability_map(query[None], around[None], r, recipe.temperature)[0, y - top, x - left]
    return log_probs.exp().view(2 * r + 1, 2 * r + 1)


def _target_map(target: torch.Tensor, x: int, y: int, like: torch.Tensor) -> torch.Tensor:
    """1 at the cell nearest to the target (x, y) in the window of cell (x, y), 0 elsewhere."""
    radius = len(like) // 2
    column, row = (target - target.new_tensor([x, y]) + radius).round().long().tolist()
    label = torch.zeros_like(like)
    label[row, column] = 1
    return label


def _flow_picture(flow: torch.Tensor, size: int, reach: float) -> np.ndarray:
    """Flow `(h, w, 2)` in colour, enlarged to the frame."""
    enlarged = F.interpolate(flow.permute(2, 0, 1)[None], (size, size))[0].permute(1, 2, 0)
    return draw_flow(enlarged.cpu().numpy(), reach)


def _heat(values: torch.Tensor, size: int) -> np.ndarray:
    """A map as brightness, enlarged to the frame, its peak white."""
    enlarged = F.interpolate((values / values.max())[None, None].float(), (size, size))[0].expand(3, -1, -1)
    return _to_uint8(enlarged.sqrt())


def _to_uint8(image: torch.Tensor) -> np.ndarray:
    return (255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
