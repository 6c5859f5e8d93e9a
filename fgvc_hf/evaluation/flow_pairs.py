"""Optical flow: pairs of frames with the true flow between them, and how well a tracker or a baseline finds it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..io.drawing import draw_flow, side_by_side
from ..metrics.end_point_error import FlowCounts, count_flow
from ..tracker import Tracker
from ..tracking.results import FgvcFlowOutput
from .flow_baselines import FlowBaseline


@dataclass(frozen=True, eq=False)
class FlowSample:
    """The pixels and the truth of a pair.

    Args:
        frames (`tuple` of two `numpy.ndarray` of shape `(H, W, 3)`, uint8): RGB.
        flow (`numpy.ndarray` of shape `(H, W, 2)`, float32): True displacement (x, y) from frame 0 to frame 1, in pixels; 0 where not valid.
        valid (`numpy.ndarray` of shape `(H, W)`, bool): Pixels that are scored.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool, *optional*): Pixels of frame 0 that frame 1 does not show; `None` if not known.
    """

    frames: tuple[np.ndarray, np.ndarray]
    flow: np.ndarray
    valid: np.ndarray
    occluded: np.ndarray | None


@dataclass(frozen=True)
class FlowPair:
    """One pair: its name, and a function that reads its [`FlowSample`] whenever it is called."""

    name: str
    read: Callable[[], FlowSample]


def measure_flow(tracker: Tracker | FlowBaseline, pair: FlowPair) -> tuple[FgvcFlowOutput, FlowCounts]:
    """Find the flow of a pair, and compare it with the truth.

    Returns:
        Flow and occlusion at the size of the frames, and the counts.

    Raises:
        `OSError`, `ValueError`: a file is missing or damaged, sizes differ, or no pixel is valid.
    """
    sample = pair.read()
    found = tracker.flow(*sample.frames)
    return found, count_flow(found.flow, sample.flow, sample.valid, found.occluded, sample.occluded)


def draw_pair(pair: FlowPair, found: FgvcFlowOutput) -> Iterator[np.ndarray]:
    """Both frames in turn, each beside the flow that was found and the true one, in the same colours; black where it is not known."""
    sample = pair.read()
    longest = max(float(np.linalg.norm(sample.flow, axis=-1).max()), 1.0)
    truth = draw_flow(sample.flow, longest) * sample.valid[..., None]
    flows = [draw_flow(found.flow, longest), truth]
    for number, frame in enumerate(sample.frames):
        yield side_by_side([frame, *flows], [f"frame {number}", "flow", "true flow"])


__all__ = ["FlowPair", "FlowSample", "draw_pair", "measure_flow"]
