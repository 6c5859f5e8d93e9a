"""Labels of a tracker for its own training: tracks of real videos that a forward and a backward pass agree on.

What a chain of templates follows over many frames, a student learns to find in one step. Points that one of the passes loses end elsewhere, and
are no labels.
"""

import numpy as np

from ..tracker import Tracker
from ..tracking.results import PointTracks


def agreed_tracks(
    tracker: Tracker,
    frames: np.ndarray,
    length: int = 25,
    windows: int = 4,
    grid: int = 16,
    tolerance: float = 1.5,
    least_confidence: float = 0.9,
) -> PointTracks:
    """Follow a grid of points forward through parts of a video, and back from where they end.

    Args:
        tracker ([`Tracker`]): Whose tracks are the labels.
        frames (`numpy.ndarray` of shape `(T, H, W, 3)`, uint8): The video.
        length (`int`): Frames of a part: few enough that many points stay in the frame.
        windows (`int`): Parts at most, spread over the video.
        grid (`int`): Points along each side of the frame.
        tolerance (`float`): Pixels of these frames between both passes, on the frame itself and on the first one, up to which they agree.
        least_confidence (`float`): That both need to have; that of [`VideosWithTracks`], which reads them.

    Returns:
        [`PointTracks`] of `grid * grid` points of each part: the mean of both passes, visible where they agree, and not processed outside
        the part.

    Raises:
        `ValueError`: the video has fewer than two frames.
    """
    total, height, width = frames.shape[:3]
    if total < 2:
        raise ValueError(f"tracks need two or more frames, got {total}.")
    length = min(length, total)
    starts = np.unique(np.linspace(0, total - length, min(windows, total // length)).round().astype(int))
    count = grid * grid
    queries = np.zeros((len(starts) * count, 3), np.float32)
    tracks = np.full((len(queries), total, 2), np.nan, np.float32)
    uncertainty = np.full(tracks.shape[:2], np.nan, np.float32)
    confidence, visible = np.zeros(tracks.shape[:2], np.float32), np.zeros(tracks.shape[:2], bool)
    for number, start in enumerate(starts.tolist()):
        part = frames[start : start + length]
        rows, times = slice(number * count, (number + 1) * count), slice(start, start + length)
        forward = tracker.track(part, grid=grid)
        ends = forward.tracks[:, -1].clip(0, (width, height))
        backward = tracker.track(part, np.column_stack([np.full(count, length - 1), ends]), direction="backward")
        apart = np.linalg.norm(forward.tracks - backward.tracks, axis=2)  # (N, length)
        sure = np.minimum(forward.confidence, backward.confidence)
        visible[rows, times] = (apart <= tolerance) & (apart[:, :1] <= tolerance) & (sure >= least_confidence)
        tracks[rows, times] = (forward.tracks + backward.tracks) / 2
        confidence[rows, times], uncertainty[rows, times] = sure, np.maximum(forward.uncertainty, backward.uncertainty)
        queries[rows] = forward.queries + np.array([start, 0, 0], np.float32)
    outside = np.zeros_like(visible)
    return PointTracks(
        list(range(len(queries))), queries, tracks, visible, confidence, uncertainty, outside, (height, width)
    )


__all__ = ["agreed_tracks"]
