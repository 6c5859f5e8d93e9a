"""Boxes over a whole video."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .track_objects import box_detections


@dataclass
class BoxTracks:
    """
    Tracks of M boxes over the T frames of a video, in pixels of the original video.

    Args:
        object_ids (`list[int]`): Ids of the boxes.
        corners (`numpy.ndarray` of shape `(M, T, 4, 2)`, float32): Corners (x, y), one after the other; NaN on frames that were not
            processed for a box.
        visible (`numpy.ndarray` of shape `(M, T)`, bool): Whether the confidence reaches the threshold.
        confidence (`numpy.ndarray` of shape `(M, T)`, float32): Share of the points in the box that are seen and agree.
        size (`tuple[int, int]`): (height, width) of the original video.
    """

    object_ids: list[int]
    corners: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    size: tuple[int, int]

    @property
    def sides(self) -> np.ndarray:
        """The upright boxes around them, `(M, T, 4)`: x0, y0, x1, y1."""
        return np.concatenate([self.corners.min(axis=2), self.corners.max(axis=2)], axis=-1)

    def to_supervision(self) -> list[Any]:
        """
        The boxes as supervision takes them, for its annotators.

        Returns:
            `list[supervision.Detections]`, one for each frame, of the boxes that are visible on it, with their confidence and their ids
            as `tracker_id`.

        Raises:
            `ImportError`: supervision is not installed (`pip install "fgvc-hf[formats]"`).
        """
        return box_detections(self)


__all__ = ["BoxTracks"]
