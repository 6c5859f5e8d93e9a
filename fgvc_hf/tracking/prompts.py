"""What is followed through a video: prompts."""

from dataclasses import dataclass

import numpy as np


@dataclass
class PointTarget:
    """A prompt: point (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    point: tuple[float, float]


@dataclass
class MaskTarget:
    """A prompt: mask (H, W), bool, at the size of the original video, on a frame."""

    frame_idx: int
    mask: np.ndarray


@dataclass
class BoxTarget:
    """A prompt: corners (4, 2) of a box one after the other, (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    corners: np.ndarray
    turns: bool  # given by its corners, not by its sides: it may turn


Target = PointTarget | MaskTarget | BoxTarget


def check_fits(obj_id: int, target: Target, size: tuple[int, int]) -> None:
    """A `ValueError` if a prompt does not fit frames of a size (height, width)."""
    height, width = size
    if isinstance(target, MaskTarget):
        if target.mask.shape != size:
            shape = "x".join(map(str, target.mask.shape))
            raise ValueError(
                f"input_masks must be {height}x{width} like the video, but that of target {obj_id} is {shape}."
            )
        return
    if isinstance(target, BoxTarget):
        middle = target.corners.mean(axis=0)
        if not (0 <= middle[0] <= width and 0 <= middle[1] <= height):
            raise ValueError(
                f"input_boxes must have their middle inside the frame, {height}x{width}, but that of target {obj_id} is "
                f"({middle[0]:g}, {middle[1]:g})."
            )
        return
    x, y = target.point
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"input_points must lie inside the frame, x in 0..{width} and y in 0..{height}, "
            f"got ({x:g}, {y:g}) for target {obj_id}."
        )


__all__ = ["BoxTarget", "MaskTarget", "PointTarget", "Target"]
