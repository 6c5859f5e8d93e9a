"""Labels: positions of points on frames, several of one point on different frames if need be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .prompts import numbers_of, whole_number
from .results import PointTracks


@dataclass(frozen=True, eq=False)
class Labels:
    """
    L labels of N points, point by point, those of each in the order of their frames.

    Args:
        object_ids (`list[int]`): Ids of the N points, in the order in which they were given.
        rows (`numpy.ndarray` of shape `(L,)`, int64): Which point each label is of.
        positions (`numpy.ndarray` of shape `(L, 3)`, float64): (t, x, y): frame number, and pixels of the video.
    """

    object_ids: list[int]
    rows: np.ndarray
    positions: np.ndarray

    @property
    def several(self) -> bool:
        """Whether a point has more than one."""
        return len(self.rows) > len(self.object_ids)

    @property
    def table(self) -> np.ndarray:
        """(L, 4), float64: (id, t, x, y)."""
        return np.column_stack([np.array(self.object_ids, dtype=np.float64)[self.rows], self.positions])

    @property
    def ids(self) -> list[int]:
        """The id of the point of each label."""
        return [self.object_ids[row] for row in self.rows]

    @property
    def first(self) -> dict[int, tuple[float, float, float]]:
        """The first label (t, x, y) of each point by its id."""
        of_points = np.unique(self.rows, return_index=True)[1]
        return {self.ids[label]: tuple(self.positions[label].tolist()) for label in of_points}

    def beside(self, label: int) -> list[int]:
        """The labels of the same point before and after a label."""
        return [b for b in (label - 1, label + 1) if 0 <= b < len(self.rows) and self.rows[b] == self.rows[label]]

    def ends(self, reverse: bool) -> np.ndarray:
        """Frames (L,) on which the next label of the same point takes over, in the direction of a pass; infinite of the last."""
        ends = np.full(len(self.rows), np.inf)
        same = np.flatnonzero(self.rows[1:] == self.rows[:-1])  # labels with one after them
        if reverse:
            ends[same + 1] = self.positions[same, 0]
        else:
            ends[same] = self.positions[same + 1, 0]
        return ends


@dataclass(frozen=True, eq=False)
class LabelPass:
    """
    What one pass over a video found.

    Args:
        tracks ([`PointTracks`]): From every label up to the next one of its point, in the direction of the pass.
        arrivals (`numpy.ndarray` of shape `(L, 2)`): Where the point of each label arrived on the frame of the next label, of which it
            knows no position: (x, y) in pixels of the video; NaN of the last label.
    """

    tracks: PointTracks
    arrivals: np.ndarray


def labels_of(points: Any, ids: Any = None) -> Labels:
    """
    Labels of what a user gives.

    Args:
        points: An array `(L, 3)` of (t, x, y); or a `dict` from id to (t, x, y), or to several of them.
        ids (sequence of `int`, *optional*): Beside an array, which point each row is of; 0 to L-1 if not given.

    Raises:
        `ValueError`: they have another form, a frame number is not whole, or a point has two labels on one frame.
    """
    if isinstance(points, Mapping):
        if ids is not None:
            raise ValueError("ids are given beside an array of points; the keys of a dict are ids themselves.")
        several = [_positions(given, one=True) for given in points.values()]
        names = [whole_number("obj_ids", name) for name, given in zip(points, several, strict=True) for _ in given]
        positions = np.concatenate([np.empty((0, 3)), *several])
    else:
        positions = _positions(points)
        names = list(range(len(positions))) if ids is None else _names(ids, len(positions))
    if not len(positions):
        raise ValueError(f"points must be an array (N, 3) of (t, x, y), got shape {positions.shape}.")
    if not (np.isfinite(positions[:, 0]) & (positions[:, 0] == np.round(positions[:, 0]))).all():
        raise ValueError("points must have whole frame numbers t in (t, x, y).")
    object_ids = list(dict.fromkeys(names))
    number = {name: row for row, name in enumerate(object_ids)}
    rows = np.array([number[name] for name in names])
    order = np.lexsort((positions[:, 0], rows))
    rows, positions = rows[order], positions[order]
    twice = (rows[1:] == rows[:-1]) & (positions[1:, 0] == positions[:-1, 0])
    if twice.any():
        first = int(twice.argmax())
        raise ValueError(f"points: id {object_ids[rows[first]]} has two positions on frame {positions[first, 0]:.0f}.")
    return Labels(object_ids, rows, positions)


def _positions(points: Any, one: bool = False) -> np.ndarray:
    """Positions (N, 3), float64; of `one` point, also (3,)."""
    positions = numbers_of(points)
    if positions is None:
        raise ValueError("points must be an array (N, 3) of (t, x, y), or a dict from id to (t, x, y).")
    if one and positions.ndim == 1:
        positions = positions[None]
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0:
        raise ValueError(f"points must be an array (N, 3) of (t, x, y), got shape {positions.shape}.")
    return positions


def _names(ids: Any, number: int) -> list[int]:
    """An id for each of a number of rows."""
    given = ids.tolist() if hasattr(ids, "tolist") else ids  # of an array or a tensor
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != number:
        raise ValueError(f"ids must hold a whole number for each of {number} points, got {given!r:.60}.")
    return [whole_number("ids", one) for one in given]


__all__ = ["LabelPass", "Labels", "labels_of"]
