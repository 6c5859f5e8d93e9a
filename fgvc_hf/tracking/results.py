"""Results: where targets are on one frame, and tracks over a whole video.

Trackers read their state out in pixels of the model's input, as readouts. A session turns these into an [`FgvcVideoOutput`] in
pixels of the original video, and a [`TrackTable`] turns the outputs of many frames into [`PointTracks`].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from .track_objects import track_frame, track_key_points


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
        occluded (`numpy.ndarray` of shape `(H, W)`, bool): Pixels that are not seen on the other frame.
        uncertainty (`numpy.ndarray` of shape `(H, W)`, float32): Pixels by which the matches there and back did not cancel out: the
            larger, the less certain is the flow.
    """

    flow: np.ndarray = GIVEN
    occluded: np.ndarray = GIVEN
    uncertainty: np.ndarray = GIVEN

    @classmethod
    def of(cls, found) -> "FgvcFlowOutput":
        """In NumPy's arrays, of tensors on any device: a [`DenseFlow`], or anything with the same fields."""
        return cls(*(of.cpu().numpy() for of in (found.flow, found.occluded, found.uncertainty)))


@dataclass(frozen=True)
class LabelDisagreement:
    """
    Two neighbouring labels of a point that may be of two points: followed from either of them, it arrived far from the other. Else it was lost
    between them, and needs another label there.

    Args:
        object_id (`int`): Id of the point.
        first_frame, last_frame (`int`): Frames of the two labels.
        forward_error, backward_error (`float`): Pixels of the video from where the forward pass arrived to the later label, and from where
            the backward pass arrived to the earlier one.
    """

    object_id: int
    first_frame: int
    last_frame: int
    forward_error: float
    backward_error: float


@dataclass
class PointTracks:
    """
    Tracks of N points over the T frames of a video, in pixels of the original video.

    Args:
        object_ids (`list[int]`): Ids of the points.
        queries (`numpy.ndarray` of shape `(N, 3)`, float32):
            First prompts (t, x, y). Of a point that was looked for, the frame from which on, and NaN.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`, float32):
            (x, y); NaN on frames that were not processed for a point, and before one that is looked for was found.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Whether the confidence reaches the threshold; always on the
            frame of the prompt, never on frames that were not processed.
        confidence (`numpy.ndarray` of shape `(N, T)`, float32): Probability in [0, 1] that the point is visible.
        uncertainty (`numpy.ndarray` of shape `(N, T)`, float32): Expected error in pixels where the point is visible; NaN on
            frames that were not processed for it.
        outside (`numpy.ndarray` of shape `(N, T)`, bool): Whether the point is not visible because it left the frame.
        size (`tuple[int, int]`): (height, width) of the original video.
        labels (`numpy.ndarray` of shape `(L, 4)`, float64, *optional*): All labels (id, t, x, y) that the tracks go through, point by
            point; nothing if only `queries` is known.
        disagreements (`list[LabelDisagreement]`): Neighbouring labels of a point that may be of two points.
    """

    object_ids: list[int]
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    outside: np.ndarray
    size: tuple[int, int]
    labels: np.ndarray | None = None
    disagreements: list[LabelDisagreement] = field(default_factory=list)

    @property
    def prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """
        The labels that the tracks go through, else the first prompts.

        Returns:
            The row (L,), int64, of the point of each, and (t, x, y) `(L, 3)`, float64; (x, y) are NaN of points that were looked for. Labels of
            points that are not among the tracks are left out.
        """
        if self.labels is None:
            return np.arange(len(self.queries)), self.queries.astype(np.float64)
        number = {float(obj_id): row for row, obj_id in enumerate(self.object_ids)}
        kept = np.array([obj_id in number for obj_id in self.labels[:, 0].tolist()], dtype=bool)
        rows = np.array([number[obj_id] for obj_id in self.labels[kept, 0].tolist()], dtype=np.int64)
        return rows, self.labels[kept, 1:].astype(np.float64)

    def to_frame(self, names: Mapping[int, object] | None = None) -> Any:
        """
        The tracks as a table of pandas, a row for each point and frame, point by point.

        Args:
            names (`dict`, *optional*): What the points are called, by id; adds a column.

        Returns:
            `pandas.DataFrame` with the columns `point` (id), `name` if names are given, `t`, `x`, `y`, `visible`, `confidence`,
            `uncertainty` and `outside`.

        Raises:
            `ImportError`: pandas is not installed (`pip install "fgvc-hf[formats]"`).
        """
        return track_frame(self, names)

    def to_supervision(self) -> list[Any]:
        """
        The tracks as supervision takes them, for its annotators.

        Returns:
            `list[supervision.KeyPoints]`, one for each frame: one instance with N key points, in the order of `object_ids`, with their
            confidence and whether they are visible. Where a point was not tracked it is not visible, at (0, 0). Positions need no
            conversion: supervision draws what is at x on pixel floor(x).

        Raises:
            `ImportError`: supervision is not installed (`pip install "fgvc-hf[formats]"`).
        """
        return track_key_points(self)


class TrackTable:
    """
    Tracks that grow with the outputs of single frames, in any order: 17 bytes for each point and frame, so that a long video does not
    need an output object for every frame.
    """

    def __init__(self):
        self._rows: dict[int, int] = {}  # by id
        self._queries: dict[int, tuple[float, float, float]] = {}
        self._length = 0  # frames up to the last one added
        # x, y, confidence and uncertainty of each point and frame
        self._values = np.empty((4, 0, 0), dtype=np.float32)
        self._at_border = np.empty((0, 0), dtype=bool)

    def add(self, output: FgvcVideoOutput) -> None:
        """Keep the points of a frame."""
        for obj_id, query in zip(output.ids, output.queries, strict=True):
            self._rows.setdefault(obj_id, len(self._rows))
            self._queries.setdefault(obj_id, tuple(query))
        self._length = max(self._length, output.frame_idx + 1)
        self._grow(len(self._rows), self._length)
        rows, t = [self._rows[obj_id] for obj_id in output.ids], output.frame_idx
        self._values[:2, rows, t] = output.points.T
        self._values[2, rows, t], self._values[3, rows, t] = output.confidence, output.uncertainty
        self._at_border[rows, t] = output.at_border

    def _grow(self, rows: int, frames: int) -> None:
        """Make room, by a half more at a time."""
        before = self._at_border.shape
        if rows <= before[0] and frames <= before[1]:
            return
        wanted = tuple(
            old if new <= old else max(new, old + old // 2) for old, new in zip(before, (rows, frames), strict=True)
        )
        values, at_border = np.full((4, *wanted), np.nan, dtype=np.float32), np.zeros(wanted, dtype=bool)
        values[2] = 0
        values[:, : before[0], : before[1]], at_border[: before[0], : before[1]] = self._values, self._at_border
        self._values, self._at_border = values, at_border

    def tracks(
        self,
        queries: dict[int, tuple[float, float, float]],
        num_frames: int | None,
        size: tuple[int, int],
        threshold: float,
    ) -> PointTracks:
        """
        The tracks over a video.

        Args:
            queries (`dict[int, tuple]`): Id and first prompt (t, x, y) of the points that a session has now. Points that were only in
                the outputs, because they were removed since, come after these.
            num_frames (`int`, *optional*): Length of the video; up to the last frame that was added if not given.
            size (`tuple[int, int]`): (height, width) of the video.
            threshold (`float`): Confidence from which a point counts as visible.
        """
        queries = queries | {obj_id: query for obj_id, query in self._queries.items() if obj_id not in queries}
        length = self._length if num_frames is None else num_frames
        for obj_id in queries:
            self._rows.setdefault(obj_id, len(self._rows))
        self._grow(len(self._rows), length)
        rows = [self._rows[obj_id] for obj_id in queries]
        x, y, confidence, uncertainty = (values[rows, :length] for values in self._values)
        visible = (confidence >= threshold) & ~np.isnan(x)
        outside = self._at_border[rows, :length] & ~visible
        prompts = np.array(list(queries.values()), dtype=np.float64).reshape(-1, 3)
        tracks = np.stack([x, y], axis=-1)
        return PointTracks(list(queries), prompts, tracks, visible, confidence, uncertainty, outside, size)


__all__ = [
    "BoxReadout",
    "FgvcFlowOutput",
    "FgvcVideoOutput",
    "LabelDisagreement",
    "MaskReadout",
    "PointReadout",
    "PointTracks",
    "TrackTable",
]
