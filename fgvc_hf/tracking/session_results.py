"""What a session gives back of a frame: the readouts of its trackers, in pixels of the original video."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import rescale_points
from .label_maps import object_ids
from .prompts import BoxTarget, MaskTarget, PointTarget, Target
from .results import BoxReadout, MaskReadout, PointReadout


BORDER = 0.02  # of the mean side of the frame: a point last seen as close to the border has left the frame

Sizes = tuple[tuple[int, int], tuple[int, int]]  # (height, width) of the original video, and of the model's input


def read_points(
    readouts: Sequence[PointReadout],
    points: Mapping[int, PointTarget],
    here: Mapping[int, Target],
    sizes: Sizes,
    config: FgvcConfig,
) -> dict[str, Any]:
    """Fields of [`FgvcVideoOutput`] of points.

    Args:
        readouts (sequence of [`PointReadout`]): Of all trackers.
        points (`dict`): The first prompt of every point by id, in the order in which they were added.
        here (`dict`): Prompts on this frame.
        sizes: Of the original video and of the model's input.
        config ([`FgvcConfig`]): Of the session.
    """
    original_size, input_size = sizes
    row = {obj_id: i for i, obj_id in enumerate(obj_id for readout in readouts for obj_id in readout.ids)}
    ids = [obj_id for obj_id in points if obj_id in row]
    order = [row[obj_id] for obj_id in ids]
    found, confidence, uncertainty, expected = (
        np.concatenate([getattr(readout, name).cpu().numpy() for readout in readouts])[order]
        for name in ("points", "confidence", "uncertainty", "expected")
    )
    found = rescale_points(found, input_size, original_size).clip(0, original_size[::-1])  # the last bit may lead out
    for i, obj_id in enumerate(ids):
        if isinstance(prompt := here.get(obj_id), PointTarget) and not prompt.sought:
            found[i] = prompt.point  # exactly
    visible = (confidence >= config.visibility_threshold) & ~np.isnan(found[:, 0])
    at_border = _at_border(expected, input_size)
    return {
        "ids": ids,
        "queries": np.array([(points[i].frame_idx, *points[i].point) for i in ids], dtype=np.float64).reshape(-1, 3),
        "points": found,
        "visible": visible,
        "confidence": confidence,
        "uncertainty": uncertainty * np.float32(math.sqrt(math.prod(original_size) / math.prod(input_size))),
        "at_border": at_border,
        "outside": at_border & ~visible,
    }


def _at_border(expected: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Whether points (N, 2) are next to the border of the frame or across it."""
    (height, width), (x, y) = input_size, expected.T
    margin = BORDER * math.sqrt(height * width)
    return (x < margin) | (y < margin) | (x > width - margin) | (y > height - margin)


def read_boxes(readout: BoxReadout, order: Sequence[int], here: Mapping[int, Target], sizes: Sizes) -> dict[str, Any]:
    """Fields of [`FgvcVideoOutput`] of boxes, in the order of all ids; `here` and `sizes` as of [`read_points`]."""
    row = {obj_id: i for i, obj_id in enumerate(readout.ids)}
    ids = [obj_id for obj_id in order if obj_id in row]
    rows = [row[obj_id] for obj_id in ids]
    original_size, input_size = sizes
    corners = rescale_points(readout.corners.cpu().numpy()[rows], input_size, original_size)
    for i, obj_id in enumerate(ids):
        if isinstance(prompt := here.get(obj_id), BoxTarget):
            corners[i] = prompt.corners  # exactly
    return {"box_ids": ids, "boxes": corners, "box_confidence": readout.confidence.cpu().numpy()[rows]}


def read_masks(
    readouts: Sequence[MaskReadout],
    order: Sequence[int] | Mapping[int, Any],
    here: Mapping[int, Target],
    sizes: Sizes,
    config: FgvcConfig,
) -> np.ndarray | None:
    """Object ids (H, W), where there are masks, of the ids in `order`; the others as of [`read_points`]."""
    maps = {obj_id: one for readout in readouts for obj_id, one in zip(readout.ids, readout.maps, strict=True)}
    ids = [obj_id for obj_id in order if obj_id in maps]
    if not ids:
        return None
    original_size, input_size = sizes
    stacked = torch.stack([maps[obj_id] for obj_id in ids])
    result = object_ids(stacked, ids, input_size, original_size, config.output_stride, config.cell_origin)
    for obj_id in ids:  # on the frame of its prompt an object is exactly where that says
        if isinstance(prompt := here.get(obj_id), MaskTarget):
            result[(result == obj_id) & ~prompt.mask] = 0
            result[prompt.mask] = obj_id
    return result


__all__ = ["read_boxes", "read_masks", "read_points"]
