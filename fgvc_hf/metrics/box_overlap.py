"""Intersection over union (IoU) of boxes, and the success score of the OTB benchmark."""

from collections.abc import Mapping, Sequence

import numpy as np

from .inputs import flags, numbers


THRESHOLDS = np.linspace(0, 1, 21)  # IoU thresholds of OTB's success plot; the success score is the area under it


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Sides (x0, y0, x1, y1), in pixels, of the bounding box of a mask (H, W); a `ValueError` if that is empty."""
    mask = flags("mask", mask)
    if mask.ndim != 2 or not mask.any():
        raise ValueError(
            f"mask must be (H, W) and show something, got {mask.shape} with {np.count_nonzero(mask)} pixels."
        )
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union, in [0, 1], of two boxes (x0, y0, x1, y1); 0 if both are empty.

    Raises:
        `ValueError`: a box is not four finite numbers, or its sides are in another order.
    """
    a, b = (numbers("a box", box).astype(np.float64) for box in (a, b))
    for box in (a, b):
        if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] < box[:2]).any():
            raise ValueError(
                f"a box must be four numbers x0 <= x1, y0 <= y1, as (x0, y0, x1, y1), got {box.tolist()}."
            )
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(inner.clip(0).prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)
    return shared / union if union else 0.0


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
