"""End-point error (EPE) and outlier rate (Fl of KITTI) of optical flow."""

import numpy as np


def end_point_error(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, float]:
    """Mean end-point error and outlier rate.

    Args:
        flow, truth (`numpy.ndarray` of shape `(..., 2)`): Displacements in pixels.
        valid (`numpy.ndarray` of shape `(...)`, bool, *optional*): Vectors that are scored; all if not given.

    Returns:
        `dict`: `"EPE"`, the mean distance in pixels, and `"F1"`, the fraction of vectors (KITTI's Fl) that are off by more than 3
        pixels and by more than 5 % of their true length; NaN if no vector is scored.

    Raises:
        `ValueError`: the shapes do not match.
    """
    if flow.shape != truth.shape or flow.shape[-1] != 2 or (valid is not None and valid.shape != flow.shape[:-1]):
        raise ValueError(f"flow and truth must both be (..., 2), got {flow.shape} and {truth.shape}.")
    error, length = np.linalg.norm(flow - truth, axis=-1), np.linalg.norm(truth, axis=-1)
    if valid is not None:
        error, length = error[valid], length[valid]
    if not error.size:
        return {"EPE": float("nan"), "F1": float("nan")}
    return {"EPE": float(error.mean()), "F1": float(((error > 3) & (error > 0.05 * length)).mean())}
