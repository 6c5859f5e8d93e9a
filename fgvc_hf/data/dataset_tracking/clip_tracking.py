"""The work on one clip: a row of a source in, a row of tracks out. What fails becomes a row that says why."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...io.scratch_folders import scratch_folder
from ...io.video import open_video
from ...tracker import Tracker
from .clip_errors import ClipError, check_device, error_text
from .row_forms import FORMS, RowForm
from .row_names import clip_id


class ClipFrames:
    """Frames `start` to `stop` of a video as a frame source that ends with an error at a time of the clock.

    Args:
        video: As of [`open_video`].
        frames (`tuple[int, int | None]`): `start` and `stop`.
        time_limit (`float`, *optional*): Seconds from now.
    """

    def __init__(self, video: Any, frames: tuple[int, int | None] = (0, None), time_limit: float | None = None):
        self._video, (self._start, stop) = video, frames
        stop = video.num_frames if stop is None else stop
        if not 0 <= self._start < stop <= video.num_frames:
            raise ValueError(f"has {video.num_frames} frames, but frames {self._start} to {stop - 1} are wanted.")
        self.num_frames, self.height, self.width = stop - self._start, video.height, video.width
        self.fps, self.name = video.fps, video.name
        self._limit = time_limit
        self._end = None if time_limit is None else time.monotonic() + time_limit

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        stop = self.num_frames if stop is None else stop
        for frame in self._video.frames(self._start + start, self._start + stop, reverse):
            if self._end is not None and time.monotonic() > self._end:
                raise ClipError("time", f"the clip was not finished within {self._limit:g} seconds.")
            yield frame

    def time(self, index: int) -> float:
        return self._video.time(self._start + index) - self._video.time(self._start)


def track_rows(rows: Iterable[Mapping[str, Any]], tracker: Tracker, time_limit: float | None = None) -> Iterator[dict]:
    """
    Track the clip of each row. Frames are decoded one by one and tracked as they come; none is kept.

    Args:
        rows (iterable of mappings): With these values:

            * `video`: what [`open_video`] takes, or the bytes of a video file;
            * `points`: (t, x, y) of N points, or (x, y) on the first frame; or `"grid:N"` or `"grid:ROWSxCOLUMNS"`;
            * `masks`, instead of `points`: object ids (H, W) on the first frame, 0 for the background, or an image of them, as its path, its bytes,
              the mapping of both that `datasets` has, or a picture of Pillow;
            * `frames` (*optional*): first frame, and the one after the last;
            * `id`, `source`, `model`, `revision`, `preset` (*optional*): what the columns of these names will hold, as text.
        tracker ([`Tracker`]): What tracks.
        time_limit (`float`, *optional*): Seconds for a clip. It is looked at after each frame.

    Yields:
        A row for each, in order, with the columns of [`track_features`], or those of [`mask_features`] for masks. Where a clip cannot be tracked, `error` says why, as `kind: sentence`:

            * `source`: its row or its file cannot be read: it is missing, damaged, or cannot be reached;
            * `video`: there is none, or it cannot be decoded;
            * `points`: there are none, or they are not in the video;
            * `masks`: there are none, or they are not of its size;
            * `time`: it took longer than the limit;
            * `tracker`: anything else.

    Raises:
        `OSError`: the machine is full, or its accelerator is lost.
    """
    for row in rows:
        given = row if hasattr(row, "get") else {}
        kind = "points" if given.get("masks") is None else "masks"
        video, prompts = given.get("video"), given.get(kind)
        names = {key: text_of(given.get(key)) for key in ("model", "revision", "preset")}
        source = text_of(given.get("source")) or (text_of(video) if isinstance(video, str | Path) else None) or "clip"
        options = {kind: prompts if kind == "points" and isinstance(prompts, str) else "column"} | names
        ids = {"id": text_of(given.get("id")) or clip_id((source, 0, 0), options), "source": source}
        yield ids | track_clip(lambda _, row=row: row, tracker, time_limit, source, kind) | names


def text_of(value: Any) -> str | None:
    """A value as text that UTF-8 can encode, as a column of text needs it."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def frames_of(value: Any) -> tuple[int, int | None]:
    """The first frame of a clip, and the one after the last, as a row has them; all if it has none."""
    if value is None:
        return 0, None
    try:
        start, stop = value
        return operator.index(start), None if stop is None else operator.index(stop)
    except (TypeError, ValueError):
        reason = f"frames must be the first one and the one after the last, as whole numbers, got {str(value)[:50]}."
        raise ClipError("source", reason) from None


def track_clip(
    read: Callable[[Path], Mapping[str, Any]], tracker: Tracker, time_limit: float | None, source: str, kind: str
) -> dict[str, Any]:
    """
    The columns that are found by tracking a clip, or why there are none.

    Args:
        read (callable): Gives a row as of [`track_rows`], read from its source; it may write to the folder that it gets.
        tracker, time_limit: As of [`track_rows`].
        source (`str`): What messages call the video.
        kind (`str`): `"points"` or `"masks"`.

    Raises:
        `OSError`: the machine is full, or its accelerator is lost.
    """
    form = FORMS[kind]
    with scratch_folder() as folder:
        stage, named = "source", None
        try:
            row = read(folder)
            if not hasattr(row, "get"):
                raise ClipError(stage, f"a row must be a mapping, got {type(row).__name__}.")
            if row.get("points") is not None and row.get("masks") is not None:
                raise ClipError(kind, "the row has points and masks; give one of them.")
            video, given = on_disk(row.get("video"), folder), row.get(kind)
            span = frames_of(row.get("frames"))
            named = str(video) if isinstance(video, str | Path) else None
            stage = "video"
            if video is None:
                raise ClipError(stage, "the row has no video.")
            frames = ClipFrames(open_video(video), span, time_limit)
            stage = kind
            prompts = form.read(given, frames.height, frames.width)
            stage = "tracker"
            return followed(form, tracker, frames, prompts) | {"fps": frames.fps, "error": None}
        except Exception as error:
            text = error_text(error, stage, named, source)
    if text.startswith("tracker"):
        check_device(tracker)
    return dict.fromkeys(form.found) | {"error": text}


def followed(form: RowForm, tracker: Tracker, frames: ClipFrames, prompts: Any) -> dict[str, Any]:
    """The columns that are found in a video. What a tracker refuses are prompts: frames are as they were decoded."""
    try:
        return form.follow(tracker, frames, prompts)
    except ValueError as error:
        raise ClipError(form.kind, error) from None


def on_disk(video: Any, folder: Path) -> Any:
    """The bytes of a video as a file in a folder; anything else as it is."""
    if not isinstance(video, bytes | bytearray | memoryview):
        return video
    path = folder / "clip"
    path.write_bytes(video)
    return path


__all__ = ["ClipFrames", "on_disk", "track_clip", "track_rows"]
