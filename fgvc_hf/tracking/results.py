"""Results: where targets are on one frame, and tracks over a whole video.

Trackers read their state out in pixels of the model's input, as readouts. A session turns these into an [`FgvcVideoOutput`] in
pixels of the original video, and [`collect_tracks`] turns the outputs of many frames into [`PointTracks`].
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput


GIVEN: Any = None  # of fields that always have a value: a ModelOutput needs a default for all but its first


@dataclass
class PointReadout:
    """N points on the frame that was processed last, in pixels of the model's input.

    Args:
        ids (`list[int]`): Their ids.
        points (`torch.Tensor` of shape `(N, 2)`, float64): (x, y).
        confidence (`torch.Tensor` of shape `(N,)`, float32): Probability that a point is visible.
        uncertainty (`torch.Tensor` of shape `(N,)`, float32): Expected error in pixels where the point is visible.
        expected (`torch.Tensor` of shape `(N, 2)`, float64):
            Position one frame after the point was last seen, by constant velocity; tells points that left the frame.
    """

    ids: list[int]
    points: torch.Tensor
    confidence: torch.Tensor
    uncertainty: torch.Tensor
    expected: torch.Tensor


@dataclass
class MaskReadout:
    """M objects on the frame that was processed last.

    Args:
        ids (`list[int]`): Their ids.
        maps (`torch.Tensor` of shape `(M, h, w)`, float32): Share of each feature cell that belongs to the object.
    """

    ids: list[int]
    maps: torch.Tensor


@dataclass
class BoxReadout:
    """M boxes on the frame that was processed last, in pixels of the model's input.

    Args:
        ids (`list[int]`): Their ids.
        corners (`torch.Tensor` of shape `(M, 4, 2)`, float64): Corners (x, y), one after the other.
        confidence (`torch.Tensor` of shape `(M,)`, float32): Share of the points in the box that are seen and agree.
    """

    ids: list[int]
    corners: torch.Tensor
    confidence: torch.Tensor


@dataclass
class FgvcVideoOutput(ModelOutput):
    """
    Where the targets are on one frame, in pixels of the original video. Its cost does not depend on how many frames came before.

    Args:
        frame_idx (`int`): The frame.
        ids (`list[int]`): Ids of the N points that were prompted on this frame or on one processed before, in the order in which
            they were added.
        queries (`numpy.ndarray` of shape `(N, 3)`, float64): First prompt (t, x, y) of each.
        points (`numpy.ndarray` of shape `(N, 2)`, float64): (x, y). On the frame of a prompt, exactly the prompt.
        visible (`numpy.ndarray` of shape `(N,)`, bool): Whether the confidence is at least `config.visibility_threshold`.
        confidence (`numpy.ndarray` of shape `(N,)`, float32): Probability in [0, 1] that the point is visible.
        uncertainty (`numpy.ndarray` of shape `(N,)`, float32): Expected error in pixels where the point is visible.
        at_border (`numpy.ndarray` of shape `(N,)`, bool): Whether the point was about to leave the frame when it was last seen.
        outside (`numpy.ndarray` of shape `(N,)`, bool): Whether it is not visible because it left the frame: `at_border` and not
            `visible`.
        masks (`numpy.ndarray` of shape `(H, W)`, int32, *optional*): Object ids, 0 for the background; `None` without masks. On the
            frame of its prompt, an object is exactly where the prompt says.
        box_ids (`list[int]`): Ids of the M boxes.
        boxes (`numpy.ndarray` of shape `(M, 4, 2)`, float64): Their corners (x, y), one after the other.
        box_confidence (`numpy.ndarray` of shape `(M,)`, float32): Share of the points in each that are seen and agree.
    """

    frame_idx: int = GIVEN
    ids: list[int] = GIVEN
    queries: np.ndarray = GIVEN
    points: np.ndarray = GIVEN
    visible: np.ndarray = GIVEN
    confidence: np.ndarray = GIVEN
    uncertainty: np.ndarray = GIVEN
    at_border: np.ndarray = GIVEN
    outside: np.ndarray = GIVEN
    masks: np.ndarray | None = None
    box_ids: list[int] = GIVEN
    boxes: np.ndarray = GIVEN
    box_confidence: np.ndarray = GIVEN


@dataclass
class FgvcFlowOutput(ModelOutput):
    """
    Dense flow from one frame to another.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`, float32): Displacement (x, y) of every pixel, in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool): Pixels that fail the forward-backward check.
    """

    flow: np.ndarray = GIVEN
    occluded: np.ndarray = GIVEN


@dataclass
class PointTracks:
    """
    Tracks of N points over the T frames of a video, in pixels of the original video.

    Args:
        object_ids (`list[int]`): Ids of the points.
        queries (`numpy.ndarray` of shape `(N, 3)`, float32): Prompts (t, x, y).
        tracks (`numpy.ndarray` of shape `(N, T, 2)`, float32): (x, y); NaN on frames that were not processed for a point.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Whether the confidence reaches the threshold; always on the
            frame of the prompt, never on frames that were not processed.
        confidence (`numpy.ndarray` of shape `(N, T)`, float32): Probability in [0, 1] that the point is visible.
        uncertainty (`numpy.ndarray` of shape `(N, T)`, float32): Expected error in pixels where the point is visible; NaN on
            frames that were not processed for it.
        outside (`numpy.ndarray` of shape `(N, T)`, bool): Whether the point is not visible because it left the frame.
        size (`tuple[int, int]`): (height, width) of the original video.
    """

    object_ids: list[int]
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    outside: np.ndarray
    size: tuple[int, int]


def collect_tracks(
    outputs: Iterable[FgvcVideoOutput],
    queries: dict[int, tuple[float, float, float]],
    num_frames: int | None,
    size: tuple[int, int],
    threshold: float,
) -> PointTracks:
    """
    Tracks from the outputs of single frames, in any order.

    Args:
        outputs (iterable of [`FgvcVideoOutput`]): Frames.
        queries (`dict[int, tuple]`): Id and first prompt (t, x, y) of the points that a session has now. Points that are only in
            the outputs, because they were removed since, come after these.
        num_frames (`int`, *optional*): Length of the video; up to the last frame of the outputs if not given.
        size (`tuple[int, int]`): (height, width) of the video.
        threshold (`float`): Confidence from which a point counts as visible.
    """
    outputs, queries = list(outputs), dict(queries)
    for output in outputs:
        for obj_id, query in zip(output.ids, output.queries, strict=True):
            queries.setdefault(obj_id, tuple(query))
    if num_frames is None:
        num_frames = 1 + max((output.frame_idx for output in outputs), default=-1)
    row = {obj_id: i for i, obj_id in enumerate(queries)}
    tracks = np.full((len(row), num_frames, 2), np.nan, dtype=np.float32)
    confidence = np.zeros((len(row), num_frames), dtype=np.float32)
    uncertainty = np.full_like(confidence, np.nan)
    at_border = np.zeros(confidence.shape, dtype=bool)
    for output in outputs:
        rows, t = [row[obj_id] for obj_id in output.ids], output.frame_idx
        tracks[rows, t], confidence[rows, t] = output.points, output.confidence
        uncertainty[rows, t], at_border[rows, t] = output.uncertainty, output.at_border
    visible = (confidence >= threshold) & ~np.isnan(tracks[..., 0])
    prompts = np.array(list(queries.values()), dtype=np.float32).reshape(-1, 3)
    return PointTracks(list(row), prompts, tracks, visible, confidence, uncertainty, at_border & ~visible, size)


__all__ = ["BoxReadout", "FgvcFlowOutput", "FgvcVideoOutput", "MaskReadout", "PointReadout", "PointTracks"]
