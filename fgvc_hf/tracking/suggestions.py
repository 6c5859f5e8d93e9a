"""Which frames to label next: those on which tracks are least certain, spread over the video and over the points."""

import math
from dataclasses import dataclass

import numpy as np

from .prompts import whole_number
from .results import PointTracks


LARGEST_ERROR = 1 / 8  # of the mean side of the frame: a point that is off by more is simply lost
NAMED_BEFORE = 0.5  # what a point counts each time after it was named
FEW = 4  # frames within which a second suggestion adds nothing
SHARE = 0.5  # of the largest gain on a frame, or of a point near it: points that gain as much are named, or served by a label on it


@dataclass(frozen=True)
class Suggestion:
    """
    A frame on which labels would help.

    Args:
        frame_idx (`int`): The frame.
        object_ids (`list[int]`): Ids of the points that need a label there, the least certain first.
        score (`float`): Expected error in pixels of the video, summed over all points, by which the frame was chosen.
    """

    frame_idx: int
    object_ids: list[int]
    score: float


def suggest_frames(tracks: PointTracks, n: int = 5) -> list[Suggestion]:
    """
    The frames on which labels would help most.

    A label is worth the expected error of its point there ([`PointTracks`]' `uncertainty`, which contains how far the passes from two labels are
    apart), and less next to a frame that has a label. Frames next to one that was suggested are passed over for the points that were named on it, and for all
    that a label on it would help about as much; a point whose error is next to it and not on it keeps its own frame. A point that was named is expected to be labelled: its error then
    grows from there as it did from the labels it has, and it counts half, so that others get their turn. Points that left the frame count nothing.

    Args:
        tracks ([`PointTracks`]): As [`Tracker.track`] returns them.
        n (`int`, defaults to 5): Frames at most.

    Returns:
        `list[Suggestion]`: the best first; fewer than `n` where no other frame would gain, or all that would are near one of these.

    Raises:
        `ValueError`: `n` is below 1.
    """
    if whole_number("n", n) < 1:
        raise ValueError(f"n must be 1 or more, got {n}.")
    largest = LARGEST_ERROR * math.sqrt(math.prod(tracks.size))
    errors = np.where(tracks.outside, 0, np.nan_to_num(tracks.uncertainty).clip(0, largest))  # (N, T)
    number, length = errors.shape
    reach = max(FEW, length / (2 * n))  # frames within which a label makes another one worth less
    before = _distances(tracks, number, length)
    near, away = np.minimum(1, before / reach), before.copy()  # (N, T)
    suggestions: list[Suggestion] = []
    while len(suggestions) < n:
        gains = errors * near * away / before.clip(min=1)  # (N, T)
        scores = gains.sum(axis=0)
        if not scores.size or scores.max() <= 0:
            break
        t = int(scores.argmax())
        named = [i for i in np.argsort(-gains[:, t], kind="stable") if gains[i, t] >= SHARE * gains[:, t].max()]
        suggestions.append(Suggestion(t, [tracks.object_ids[i] for i in named], float(scores[t])))
        from_here = np.abs(np.arange(length) - t)
        close = from_here < reach
        served = gains[:, t] >= SHARE * gains[:, close].max(axis=1)
        served[named] = True
        near[np.ix_(served, close)] = 0
        near[:, t] = 0
        away[named] = np.minimum(away[named], from_here)
        errors[named] *= NAMED_BEFORE
    return suggestions


def _distances(tracks: PointTracks, number: int, length: int) -> np.ndarray:
    """Frames (N, T) from each frame to the nearest label of each point; of one without labels as many as there are."""
    away, frames = np.full((number, length), float(length)), np.arange(length)
    for row, (t, x, _) in zip(*tracks.prompts, strict=True):
        if not np.isnan(x):
            away[row] = np.minimum(away[row], np.abs(frames - t))
    return away


__all__ = ["Suggestion", "suggest_frames"]
