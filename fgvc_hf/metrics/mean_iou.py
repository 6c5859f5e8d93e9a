"""Mean intersection over union (mIoU) of part labels as in VIP: from one confusion matrix over all frames of all videos."""

import numpy as np

from .inputs import numbers, whole_numbers
from .ratios import divide, mean_of_known


VIP_CLASSES = 20


def confusion(
    labels: np.ndarray, truth: np.ndarray, num_classes: int = VIP_CLASSES, ignore: int | None = None
) -> np.ndarray:
    """Confusion matrix in pixels. The matrices of frames can be added.

    Args:
        labels, truth (`numpy.ndarray` of one shape, integer): Predicted and annotated classes.
        num_classes (`int`, defaults to 20): Classes, background included; 20 in VIP.
        ignore (`int`, *optional*): Annotated value of pixels that are not scored.

    Returns:
        `numpy.ndarray` of shape `(num_classes, num_classes)`, int64: rows by annotated, columns by predicted class.

    Raises:
        `ValueError`: the shapes differ, or a scored value is not a class.
    """
    labels, truth = whole_numbers("labels", labels), numbers("truth", truth)
    if labels.shape != truth.shape:
        raise ValueError(f"labels and truth must have one shape, got {labels.shape} and {truth.shape}.")
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    rows, columns = whole_numbers("truth", truth[counted]).astype(np.int64), labels[counted].astype(np.int64)
    for name, values in (("truth", rows), ("labels", columns)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} must hold classes 0 to {num_classes - 1}, got {values.min()} to {values.max()}.")
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(matrix: np.ndarray) -> dict[str, float]:
    """`"mIoU"`, the mean over the classes that occur, and the IoU of each class as `"iou_0"` and so on; NaN if it does not occur."""
    hits = np.diag(matrix).astype(float)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    iou = divide(hits, union)
    return {"mIoU": float(mean_of_known(iou))} | {f"iou_{index}": float(value) for index, value in enumerate(iou)}
