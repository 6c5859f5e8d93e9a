"""Targets followed through frames as they come."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .prompts import masks_of_ids
from .results import FgvcVideoOutput


class LiveTracker:
    """
    Targets followed through frames as they come, from a camera for instance. The results are the same as offline, and each frame
    costs the same however many came before.

    A prompt is for the frame that [`~LiveTracker.step`] was given last, the one that a user has before them; before the first frame,
    for the first.

    Made by [`Tracker.stream`].
    """

    def __init__(self, tracker: Any):
        self.tracker, self.session = tracker, tracker.processor.init_video_session()

    def add_points(self, points: Mapping[int, tuple[float, float]]) -> None:
        """
        Follow points, or correct points that are followed already.

        Args:
            points (`dict[int, tuple[float, float]]`): Id and position (x, y) in pixels of the frame.

        Raises:
            `ValueError`: a position is outside the frame, or an id has a prompt on this frame or is of another kind of target. Nothing
            is added then. Before the first frame its size is not known: the first `step` raises it, until the point is removed.
        """
        if not isinstance(points, Mapping):
            raise ValueError(f"points must be a dict from id to (x, y), got {type(points).__name__}.")
        self._add(list(points), input_points=list(points.values()))

    def add_boxes(self, boxes: Mapping[int, Any]) -> None:
        """
        Follow boxes.

        Args:
            boxes (`dict`): Id and sides (x0, y0, x1, y1), or corners (4, 2) one after the other if the boxes may turn, in pixels.

        Raises:
            `ValueError`: as of [`~LiveTracker.add_points`], or a box has no area.
        """
        if not isinstance(boxes, Mapping):
            raise ValueError(f"boxes must be a dict from id to (x0, y0, x1, y1), got {type(boxes).__name__}.")
        self._add(list(boxes), input_boxes=list(boxes.values()))

    def add_masks(self, masks: np.ndarray) -> None:
        """
        Follow objects by their masks.

        Args:
            masks (`numpy.ndarray` of shape `(H, W)`, integer): Object ids at the size of the frame, 0 for the background.

        Raises:
            `ValueError`: as of [`~LiveTracker.add_points`], or `masks` is of another size or holds no object.
        """
        ids, separate = masks_of_ids(masks)
        self._add(ids, input_masks=separate)

    def add_queries(self, queries: Any) -> None:
        """
        Look for points that were described in another image, on the frame seen last and on those that come, and follow each as soon as it
        is found. Until then its position is NaN, and it is not visible.

        Args:
            queries ([`PointQueries`]): As [`Tracker.describe`] gives them.

        Raises:
            `ValueError`: they are of another checkpoint or working resolution, or an id has a prompt on this frame or is of another kind
            of target. Nothing is added then.
        """
        self.tracker.add_queries(self.session, queries, self.session.last_frame_idx or 0)

    def _add(self, ids: list[int], **prompts) -> None:
        if ids:
            frame_idx = self.session.last_frame_idx or 0
            self.tracker.processor.add_inputs_to_inference_session(self.session, frame_idx, ids, **prompts)

    def remove(self, obj_id: int) -> None:
        """Stop following a target. The others go on as if it had never been there.

        Raises:
            `ValueError`: there is no such target.
        """
        self.session.remove(obj_id)

    def step(self, frame) -> FgvcVideoOutput:
        """
        Find all targets on the next frame.

        Args:
            frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frame, RGB.

        Returns:
            [`FgvcVideoOutput`] in pixels of the frame.

        Raises:
            `ValueError`: the frame is of another size than those before.
        """
        return self.tracker.model.step(self.session, frame)


__all__ = ["LiveTracker"]
