"""Tracks and label files of a small clip, for tests of formats."""

from dataclasses import replace

import numpy as np

from fgvc_hf import PointTracks


SIZE = (48, 64)  # (height, width)
NAMES = {4: "nose", 11: "tail tip"}


def example_tracks() -> PointTracks:
    """Two points over four frames: the first is hidden on frame 2, the second begins on frame 1 and has left on frame 3."""
    nan = np.nan
    positions = [[[1.5, 2.25], [3, 4], [5.125, 6], [7, 8]], [[nan, nan], [7, 8], [9.5, 10.5], [0.25, 47]]]
    return PointTracks(
        object_ids=[4, 11],
        queries=np.array([[0, 1.5, 2.25], [1, 7, 8]], np.float32),
        tracks=np.array(positions, np.float32),
        visible=np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool),
        confidence=np.array([[1, 0.75, 0.25, 0.5], [0, 1, 0.625, 0.125]], np.float32),
        uncertainty=np.array([[0, 0.5, 9, 1], [nan, 0, 1, 20]], np.float32),
        outside=np.array([[0, 0, 0, 0], [0, 0, 0, 1]], bool),
        size=SIZE,
    )


def two_animals() -> tuple[PointTracks, dict[int, tuple[str, str]]]:
    """The same with two points of two animals each, and their names (part, individual)."""
    one = example_tracks()
    shifted = replace(one, tracks=one.tracks + 10)
    arrays = {name: np.concatenate([getattr(one, name), getattr(shifted, name)]) for name in
              ("queries", "tracks", "visible", "confidence", "uncertainty", "outside")}  # fmt: skip
    names = {1: ("nose", "mouse1"), 2: ("tail", "mouse1"), 3: ("nose", "mouse2"), 4: ("tail", "mouse2")}
    return PointTracks(object_ids=[1, 2, 3, 4], size=SIZE, **arrays), names


def positions_of(labels, name: str) -> dict[int, tuple[float, float]]:
    """Frame and (x, y) of the labels of a point."""
    (obj_id,) = [i for i, of in labels.names.items() if str(of) == name]
    return {int(t): (x, y) for t, x, y in labels.points[labels.ids == obj_id].tolist()}


def tracked(tracks, row: int, frames=None) -> dict[int, tuple[float, float]]:
    """The same of a row of tracks, on the frames on which there is a position, or on those given."""
    there = np.flatnonzero(~np.isnan(tracks.tracks[row, :, 0])) if frames is None else frames
    return {int(t): tuple(tracks.tracks[row, t].tolist()) for t in there}
