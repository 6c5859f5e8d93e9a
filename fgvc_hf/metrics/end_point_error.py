"""End-point error of optical flow."""

import numpy as np


def end_point_error(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, float]:
    """Mean distance of flow vectors from the truth, and the share of outliers as KITTI counts them.

    Args:
        flow, truth (`numpy.ndarray` of shape `(..., 2)`): Displacements in pixels.
        valid (`numpy.ndarray` of shape `(...)`, bool, *optional*): The vectors that count.

    Returns:
        `dict`: `"EPE"` in pixels, and `"F1"`, the share of vectors off by more than 3 pixels and 5 % of their true length; NaN where
        nothing counts.

    Raises:
        ValueError: the shapes do not fit one another.
    """
    if flow.shape != truth.shape or flow.shape[-1] != 2 or (valid is not None and valid.shape != flow.shape[:-1]):
        raise ValueError(f"flow and truth must both be (..., 2), got {flow.shape} and {truth.shape}.")
    error, length = np.linalg.norm(flow - truth, axis=-1), np.linalg.norm(truth, axis=-1)
    if valid is not None:
        error, length = error[valid], length[valid]
    if not error.size:
        return {"EPE": float("nan"), "F1": float("nan")}
    return {"EPE": float(error.mean()), "F1": float(((error > 3) & (error > 0.05 * length)).mean())}
