"""Intersection over union of boxes, and the shares of OTB."""

from collections.abc import Mapping, Sequence

import numpy as np


THRESHOLDS = np.linspace(0, 1, 21)  # of OTB's success plot, whose area is the success


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Sides (x0, y0, x1, y1) of the least box around a mask (H, W) that is not empty, in pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(inner.clip(0).prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def aggregate_boxes(videos: Mapping[str, Mapping[int | str, Sequence[float | None]]]) -> dict[str, float]:
    """Means over objects, each a mean over the frames that show it: the mean overlap (`IoU`), the share of frames with an overlap above one
    half (`IoU>0.5`), and the area under the curve of such shares over all thresholds (`success`, as of OTB)."""
    rows = []
    for objects in videos.values():
        for overlaps in objects.values():
            seen = np.array([overlap for overlap in overlaps if overlap is not None])
            if seen.size:
                curve = (seen[:, None] > THRESHOLDS).mean(axis=0)
                rows.append((seen.mean(), (seen > 0.5).mean(), curve.mean()))
    means = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
    return dict(zip(("IoU", "IoU>0.5", "success"), map(float, means), strict=True))
