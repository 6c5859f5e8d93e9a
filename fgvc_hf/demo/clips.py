"""The clips of all sessions: copied from an upload once they are checked, and kept for a limited time."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..io.video import VideoFile
from .check import check_clip
from .limits import MAX_SECONDS_OF_WORK


MAX_CLIPS = 24


class Cancelled(Exception):
    """The user asked to stop."""


@dataclass
class Clip:
    """
    A clip of one session, in a folder of its own that holds its results as well.

    Args:
        video (`VideoFile`): The clip.
        name (`str`): File name as the user knows it.
        session (`str`, *optional*): Whose it is.
        cancelled (`bool`): Whether work on it is to stop.
    """

    video: VideoFile
    name: str
    session: str | None = None
    cancelled: bool = field(default=False, compare=False)

    @property
    def num_frames(self) -> int:
        return self.video.num_frames

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.video.height, self.video.width

    def frame(self, t: int) -> np.ndarray:
        """Frame t (H, W, 3), uint8.

        Raises:
            `ValueError`: the clip has been put away meanwhile.
        """
        if not self.video.path.is_file():
            raise ValueError("This clip was put away to make room for others; please upload it again.")
        return next(self.video.frames(t, t + 1))

    def results(self, kind: str) -> Path:
        """An empty folder for results; those of the same kind that were there before are removed."""
        folder = self.video.path.parent / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def discard(self) -> None:
        """Remove the clip and its results; work on it stops."""
        self.cancelled = True
        shutil.rmtree(self.video.path.parent, ignore_errors=True)


class Shelf:
    """A folder of at most `capacity` clips: the oldest is removed for the newest. Removed when the server stops."""

    def __init__(self, folder: Path, capacity: int = MAX_CLIPS):
        self.folder, self.capacity = folder, capacity
        self._clips: list[Clip] = []
        self.lock = threading.Lock()

    def take(self, upload: Path, session: str | None = None) -> Clip:
        """
        A checked copy of an uploaded file. Gradio keeps the upload for a while, because other sessions may have sent the same file; a
        refused upload is removed at once.

        Raises:
            `ValueError`: the file is not there any more, or what [`check_clip`] says.
        """
        if not upload.is_file():
            raise ValueError(f"{upload.name}: is not there any more; please upload it again.")
        try:
            check_clip(upload, upload.name)
        except ValueError:
            upload.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder that was made for it, unless there is something else in it
                upload.parent.rmdir()
            raise
        return self.copy(upload, upload.name, session)

    def copy(self, path: Path, name: str, session: str | None = None) -> Clip:
        """A copy of a clip that needs no check, such as an example."""
        own = self._place(path.suffix)
        shutil.copyfile(path, own)
        return self._put(Clip(VideoFile(own), name, session))

    def cancel(self, session: str | None) -> None:
        """Stop work on the clips of a session."""
        with self.lock:
            for clip in self._clips:
                clip.cancelled |= clip.session == session

    def _place(self, suffix: str) -> Path:
        """Where a clip goes: its name is the server's, whatever the user's is."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / f"clip{suffix[:8]}"

    def _put(self, clip: Clip) -> Clip:
        with self.lock:
            self._clips = [kept for kept in self._clips if kept.video.path.is_file()]
            while len(self._clips) >= self.capacity:
                self._clips.pop(0).discard()
            self._clips.append(clip)
        return clip


class WatchedVideo:
    """
    A clip as a frame source for the tracker, which reports progress and can be cancelled.

    Args:
        clip ([`Clip`]): The clip, open as any frame source.
        expected (`int`): Frames that will be read in all.
        report (callable): Called with the share that has been read, in [0, 1].

    Raises:
        [`Cancelled`]: while frames are read, after the clip was cancelled.
        `ValueError`: while frames are read, when the work has taken longer than the demo grants.
    """

    def __init__(self, clip: Clip, expected: int, report: Callable[[float], None]):
        self._clip, self._expected, self._report, self._read = clip, max(expected, 1), report, 0
        self._end = time.monotonic() + MAX_SECONDS_OF_WORK
        video = clip.video
        self.name, self.fps, self.num_frames, self.time = video.name, video.fps, video.num_frames, video.time
        self.height, self.width = clip.size

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        for frame in self._clip.video.frames(start, stop, reverse):
            if self._clip.cancelled:
                raise Cancelled
            if time.monotonic() > self._end:
                raise ValueError(
                    "This took longer than the demo grants; please try a shorter clip or a faster preset."
                )
            yield frame
            self._read += 1
            self._report(min(1.0, self._read / self._expected))
