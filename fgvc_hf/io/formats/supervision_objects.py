"""Key points and detections of supervision, as labels to follow."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .point_labels import BoxLabel, BoxLabels, Label, PointLabels, PointName, gather_boxes, gather_points


def points_from_supervision(frames: Iterable[Any], size: tuple[int, int] | None = None) -> PointLabels:
    """
    Labels of key points that a pose model found.

    Args:
        frames (iterable of `supervision.KeyPoints`): One for each frame, from the first of the clip on; the instances of a frame must be the
            same in number and order on all frames that have any.
        size (`tuple[int, int]`, *optional*): (height, width) of the video.

    Returns:
        [`PointLabels`] of the key points that are visible, with their confidence. They are named by their number, and by that of their
        instance if there are several.

    Raises:
        `ValueError`: there is no key point, or frames differ in the number of instances.
    """
    frames = list(frames)
    counts = {len(frame.xy) for frame in frames} - {0}
    if len(counts) > 1:
        raise ValueError(f"key points must be of the same instances on every frame, got {sorted(counts)} instances.")
    rows = []
    for t, frame in enumerate(frames):
        for i, points in enumerate(frame.xy):
            for k, (x, y) in enumerate(points):
                seen = (frame.visible is None or frame.visible[i, k]) and (x, y) != (0, 0)
                certain = 1.0 if frame.keypoint_confidence is None else float(frame.keypoint_confidence[i, k])
                if seen and np.isfinite((x, y)).all():
                    rows.append(Label(_name(i, k, counts), t, float(x), float(y), True, certain))
    names = list(dict.fromkeys(row.name for row in rows))
    return gather_points(
        rows, sorted(names, key=lambda name: (name.individual, int(name.part))), "key points", size, None
    )


def _name(instance: int, point: int, counts: set[int]) -> PointName:
    return PointName(str(point), f"instance{instance}" if counts != {1} else "")


def boxes_from_supervision(frames: Iterable[Any]) -> BoxLabels:
    """
    Labels of boxes that a detector found and a tracker numbered.

    Args:
        frames (iterable of `supervision.Detections`): One for each frame, from the first of the clip on, with `tracker_id`. Boxes whose `tracker_id` is below 0 are of no
            track yet and are left out.

    Raises:
        `ValueError`: there is no box, or boxes have no `tracker_id`.
    """
    rows = []
    for t, frame in enumerate(frames):
        if len(frame) and frame.tracker_id is None:
            raise ValueError(
                f"detections of frame {t} have no tracker_id, which says what is the same on every frame."
            )
        rows += [
            BoxLabel(int(frame.tracker_id[i]), t, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))
            for i, box in enumerate(frame.xyxy)
            if frame.tracker_id[i] >= 0
        ]
    return gather_boxes(rows, "detections")


__all__ = ["boxes_from_supervision", "points_from_supervision"]
