"""The work on one clip: a row of a source in, a row of tracks out. What fails becomes a row that says why."""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...io.tracks import grid_points
from ...io.video import open_video
from ...tracker import Tracker
from .row_encoding import BINARY, encode_tracks
from .row_names import clip_id


EMPTY = dict.fromkeys(("num_frames", "width", "height", "fps", "queries", *BINARY))


class ClipError(Exception):
    """Why a clip has no tracks: a kind, `video`, `points`, `time` or `tracker`, and a sentence."""

    def __init__(self, kind: str, reason: object):
        super().__init__(f"{kind}: {' '.join(str(reason).split())}")


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
            * `frames` (*optional*): first frame, and the one after the last;
            * `id`, `source`, `model`, `revision`, `preset` (*optional*): what the columns of these names will hold.
        tracker ([`Tracker`]): What tracks.
        time_limit (`float`, *optional*): Seconds for a clip. It is looked at after each frame.

    Yields:
        A row for each, in order, with the columns of [`track_features`]. Where a clip cannot be tracked, `error` says why, as `kind: sentence`:

            * `video`: it cannot be read;
            * `points`: there are none, or they are not in the video;
            * `time`: it took longer than the limit;
            * `tracker`: anything else.
    """
    for row in rows:
        video = row["video"]
        name = video if isinstance(video, str | Path) else "clip"
        source = str(row.get("source", name))
        names = {key: row.get(key) for key in ("model", "revision", "preset")}
        points = row["points"] if isinstance(row["points"], str) else "column"
        ids = {"id": row.get("id") or clip_id((source, 0, 0), {"points": points} | names), "source": source}
        try:
            with tempfile.TemporaryDirectory(prefix="fgvc-hf-clip-") as folder:
                found = _tracked(row, tracker, time_limit, Path(folder), source)
        except ClipError as error:
            found = EMPTY | {"error": str(error)}
        yield ids | found | names


def _tracked(
    row: Mapping[str, Any], tracker: Tracker, time_limit: float | None, folder: Path, source: str
) -> dict[str, Any]:
    """The columns of a row that are found by tracking it."""
    video = on_disk(row["video"], folder)
    if video is None:
        raise ClipError("video", "the row has no video.")
    named = (
        str(video) if isinstance(video, str | Path) else None
    )  # what messages call it; in the row it has the name of the source
    try:
        frames = ClipFrames(open_video(video), row.get("frames") or (0, None), time_limit)
    except (OSError, ValueError) as error:
        raise ClipError("video", _renamed(error, named, source)) from None
    try:
        tracks = tracker.track(frames, _queries(row["points"], frames.height, frames.width))
    except ClipError:
        raise
    except ValueError as error:
        raise ClipError("points", error) from None
    except OSError as error:
        raise ClipError("video", _renamed(error, named, source)) from None
    except Exception as error:  # out of memory on a GPU, or a fault of a library: the other clips go on
        raise ClipError("tracker", f"{type(error).__name__}: {error}") from None
    return encode_tracks(tracks) | {"fps": frames.fps, "error": None}


def on_disk(video: Any, folder: Path) -> Any:
    """The bytes of a video as a file in a folder; anything else as it is."""
    if not isinstance(video, bytes | bytearray | memoryview):
        return video
    path = folder / "clip"
    path.write_bytes(video)
    return path


def _renamed(error: Exception, path: str | None, source: str) -> str:
    """The message of an error, with a clip called by the name of its source."""
    return str(error) if path is None else str(error).replace(path, source)


def _queries(points: Any, height: int, width: int) -> np.ndarray:
    """Queries (N, 3) of the points of a row."""
    if points is None:
        raise ClipError("points", "the row has no points.")
    if isinstance(points, str):
        return grid_points(parse_grid(points), height, width)
    try:
        array = np.array([list(point) for point in points], dtype=np.float64)
    except (ValueError, TypeError):
        raise ClipError("points", "they must be (t, x, y) each, or (x, y) on the first frame.") from None
    if array.ndim == 2 and array.shape[1] == 2:
        array = np.column_stack([np.zeros(len(array)), array])
    if array.ndim != 2 or array.shape[1] != 3:
        raise ClipError("points", "they must be one or more, (t, x, y) each, or (x, y) on the first frame.")
    return array


def parse_grid(points: str) -> tuple[int, int]:
    """Rows and columns of `"grid:N"` or `"grid:ROWSxCOLUMNS"`.

    Raises:
        `ValueError`: it is something else.
    """
    kind, _, size = points.partition(":")
    sides = size.split("x")
    if kind != "grid" or len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise ValueError(f"points must be grid:N, grid:ROWSxCOLUMNS or column:NAME, got {points!r}.")
    return int(sides[0]), int(sides[-1])


__all__ = ["ClipFrames", "parse_grid", "track_rows"]
