"""Baselines for dense optical flow: no motion, and DIS and Farneback flow of OpenCV, at the size of the frames."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..io.video import open_video
from ..tracking.results import FgvcFlowOutput


FARNEBACK = {  # the values of OpenCV's own examples
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}

DenseFlow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two frames (H, W, 3), uint8 -> flow (H, W, 2), float32


def opencv() -> Any:
    """OpenCV.

    Raises:
        `ImportError`: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError("this baseline needs OpenCV: pip install 'fgvc-hf[eval]'") from None
    return cv2


def zero(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Nothing moves."""
    return np.zeros((*first.shape[:2], 2), np.float32)


def dense_inverse_search(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dense inverse search (DIS), medium preset."""
    cv2 = opencv()
    grey = _grey(first, second)
    try:
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    except cv2.error:
        height, width = first.shape[:2]
        raise ValueError(
            f"the baseline dis finds no flow on frames of {height}x{width}, which are too small."
        ) from None


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Polynomial expansion (Farnebäck)."""
    return opencv().calcOpticalFlowFarneback(*_grey(first, second), None, **FARNEBACK)


def _grey(*frames: np.ndarray) -> list[np.ndarray]:
    cv2 = opencv()
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


FLOW_BASELINES: dict[str, DenseFlow] = {"dis": dense_inverse_search, "farneback": farneback, "zero": zero}


class FlowBaseline:
    """Dense flow of a baseline, by the method of [`Tracker.flow`]. No pixel is said to be occluded, and uncertainty is NaN.

    Args:
        name (`str`): `"dis"`, `"farneback"` or `"zero"`.

    Raises:
        `ValueError`: there is no such baseline.
    """

    def __init__(self, name: str):
        if name not in FLOW_BASELINES:
            raise ValueError(f"baseline must be one of {', '.join(FLOW_BASELINES)}, got {name!r}.")
        self.name = name

    def flow(self, frame_0: np.ndarray, frame_1: np.ndarray) -> FgvcFlowOutput:
        """Flow between two frames (H, W, 3), uint8, as [`FgvcFlowOutput`] at their size; a `ValueError` if they differ in size, or are too small."""
        flow = FLOW_BASELINES[self.name](*open_video([frame_0, frame_1]).frames())
        unknown = np.full(flow.shape[:2], np.nan, np.float32)
        return FgvcFlowOutput(flow, np.zeros(flow.shape[:2], bool), unknown)


__all__ = ["FLOW_BASELINES", "FlowBaseline", "dense_inverse_search", "opencv"]
