"""Intersection over union (IoU) of boxes, and the success score of the OTB benchmark."""

from collections.abc import Mapping, Sequence

import numpy as np


THRESHOLDS = np.linspace(0, 1, 21)  # IoU thresholds of OTB's success plot; the success score is the area under it


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Sides (x0, y0, x1, y1), in pixels, of the bounding box of a mask (H, W), which must not be empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, in [0, 1], of two boxes (x0, y0, x1, y1)."""
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(inner.clip(0).prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def aggregate_boxes(videos: Mapping[str, Mapping[int | str, Sequence[float | None]]]) -> dict[str, float]:
    """Scores averaged over the frames of each object, then over objects.

    Args:
        videos (`Mapping`): Video name -> object id -> IoU per frame, `None` on frames that do not show the object.

    Returns:
        `dict`: fractions `"IoU"` (mean), `"IoU>0.5"` (share of frames above 0.5) and `"success"` (area under OTB's success plot); NaN if no
        frame shows an object.
    """
    rows = []
    for objects in videos.values():
        for overlaps in objects.values():
            seen = np.array([overlap for overlap in overlaps if overlap is not None])
            if seen.size:
                curve = (seen[:, None] > THRESHOLDS).mean(axis=0)
                rows.append((seen.mean(), (seen > 0.5).mean(), curve.mean()))
    means = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
    return dict(zip(("IoU", "IoU>0.5", "success"), map(float, means), strict=True))
