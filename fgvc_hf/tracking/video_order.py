"""The order in which the frames of a video are processed."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .prompts import whole_number


@dataclass
class OrderedFrames:
    """Frames start..stop-1 of a video with their numbers, forward or in reverse; `stop` is `None` where it is unknown."""

    video: Any
    start: int
    stop: int | None
    reverse: bool = False

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("the length of this source is not known before its end")
        return self.stop - self.start

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        numbers = range(len(self))[::-1] if self.reverse else itertools.count()
        for i, frame in zip(numbers, self.video.frames(self.start, self.stop, self.reverse), strict=False):
            yield self.start + i, frame


def ordered_frames(
    video: Any,
    prompted: Sequence[int],
    start_frame_idx: int | None,
    max_frame_num_to_track: int | None,
    reverse: bool,
) -> OrderedFrames:
    """The frames to process, in order.

    Args:
        video (frame source, *optional*): As [`open_video`] gives.
        prompted (sequence of `int`): Frames with prompts.
        start_frame_idx (`int`, *optional*): First frame; the earliest with a prompt if not given (the latest, in reverse).
        max_frame_num_to_track (`int`, *optional*): Frames after the first; all if not given.
        reverse (`bool`): Whether the video is processed backwards.

    Raises:
        `ValueError`: there is no video, no prompt and no start, or a number is outside the video.
    """
    if video is None:
        raise ValueError("inference_session has no video; pass frames one by one to model.step.")
    if start_frame_idx is None:
        if not prompted:
            raise ValueError("inference_session has no targets; add them, or give start_frame_idx.")
        start_frame_idx = max(prompted) if reverse else min(prompted)
    start_frame_idx, num_frames, limit = whole_number("start_frame_idx", start_frame_idx), video.num_frames, None
    if max_frame_num_to_track is not None:
        limit = whole_number("max_frame_num_to_track", max_frame_num_to_track)
    if start_frame_idx < 0 or (num_frames is not None and start_frame_idx >= num_frames):
        raise ValueError(
            f"start_frame_idx must be a frame of the video, which has {num_frames}, got {start_frame_idx}."
        )
    if limit is not None and limit < 0:
        raise ValueError(f"max_frame_num_to_track must be 0 or more, got {limit}.")
    if reverse:
        first = 0 if limit is None else max(0, start_frame_idx - limit)
        return OrderedFrames(video, first, start_frame_idx + 1, reverse=True)
    ends = [num_frames, None if limit is None else start_frame_idx + limit + 1]
    return OrderedFrames(video, start_frame_idx, min((end for end in ends if end is not None), default=None))


__all__ = ["OrderedFrames", "ordered_frames"]
