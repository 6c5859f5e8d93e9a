"""The clips of all sessions: taken over from an upload once they are checked, each in a folder of its own with its results."""

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.video import VideoFile
from .check import Unchecked, check_clip
from .jobs import checkpoint


KEPT_VERDICTS = 1000
ATTEMPTS = 100
PUT_AWAY = "This clip was put away, because it had not been used for a while; please upload it again."


@dataclass
class Clip:
    """
    A clip, in a folder of its own that holds its results as well.

    Args:
        video (`VideoFile`): The clip.
        name (`str`): File name as the user knows it.
    """

    video: VideoFile
    name: str

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
            raise ValueError(PUT_AWAY)
        return next(self.video.frames(t, t + 1))

    def results(self, kind: str) -> Path:
        """An empty folder for results; those of the same kind that were there before are removed."""
        folder = self.video.path.parent / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def discard(self) -> None:
        """Remove the clip and its results."""
        shutil.rmtree(self.video.path.parent, ignore_errors=True)


class ClipStore:
    """
    The folder of all clips. A file that was uploaded is held at once, by a link, and opened when it has been checked.

    Uploads lie at a path that is made of their content, so what was said of a file holds for all who send the same.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._verdicts: OrderedDict[Path, str | None] = OrderedDict()

    def hold(self, path: Path) -> Path:
        """A link to a file, or a copy, in a folder of its own under a name that is the server's.

        Raises:
            `ValueError`: the file is not there any more; where it was refused before, why.
        """
        suffix = "".join(c for c in path.suffix[1:9] if c.isascii() and c.isalnum())
        own = Path(tempfile.mkdtemp(dir=self.folder)) / f"clip.{suffix}"
        try:
            link_or_copy(path, own)
        except FileNotFoundError:
            own.parent.rmdir()
            gone = f"{path.name}: is not there any more; please upload it again."
            raise ValueError(self._verdicts.get(path) or gone) from None
        return own

    def open(self, own: Path, upload: Path) -> Clip:
        """
        The clip of an upload that is held, checked. A refused upload is removed.

        Raises:
            `ValueError`: what [`check_clip`] says.
        """
        try:
            problem = self._verdict(own, upload)
        except BaseException:
            self.drop(own)
            raise
        if problem is not None:
            self.drop(own)
            upload.unlink(missing_ok=True)  # its folder stays for now: another may be sending the same file into it
            raise ValueError(problem)
        return Clip(VideoFile(own), upload.name)

    def take(self, upload: Path) -> Clip:
        """Hold an upload and open it; errors as of both."""
        return self.open(self.hold(upload), upload)

    def copy(self, path: Path, name: str) -> Clip:
        """A clip that needs no check, such as an example."""
        return Clip(VideoFile(self.hold(path)), name)

    def drop(self, own: Path) -> None:
        """Remove what is held, if it is."""
        shutil.rmtree(own.parent, ignore_errors=True)

    def _verdict(self, own: Path, upload: Path) -> str | None:
        """What is wrong with an upload, found out once; but a check that came to no end is made again."""
        if upload not in self._verdicts:
            try:
                check_clip(own, upload.name)
                problem = None
            except Unchecked:
                raise
            except ValueError as error:
                problem = str(error)
            self._verdicts[upload] = problem
            while len(self._verdicts) > KEPT_VERDICTS:
                self._verdicts.popitem(last=False)
            return problem
        return self._verdicts[upload]


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, which takes no room; a copy where the file system has none.

    Raises:
        `FileNotFoundError`: the source is not there.
    """
    for attempt in range(ATTEMPTS):
        try:
            os.link(source, target)
            return
        except FileNotFoundError:  # gone; or the same file came once more, and took its place during the call
            if attempt == ATTEMPTS - 1 or not source.exists():
                raise
        except OSError:
            shutil.copyfile(source, target)
            return


class WatchedVideo:
    """
    A clip as a frame source for the tracker: it reports progress, and every frame is a checkpoint.

    Args:
        clip ([`Clip`]): The clip, open as any frame source.
        expected (`int`): Frames that will be read in all.
        report (callable): Called with the share that has been read, in [0, 1].

    Raises:
        as [`checkpoint`], while frames are read.
    """

    def __init__(self, clip: Clip, expected: int, report: Callable[[float], None]):
        self._clip, self._expected, self._report, self._read = clip, max(expected, 1), report, 0
        video = clip.video
        self.name, self.fps, self.num_frames, self.time = video.name, video.fps, video.num_frames, video.time
        self.height, self.width, self.pixel_aspect = *clip.size, video.pixel_aspect

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        for frame in self._clip.video.frames(start, stop, reverse):
            checkpoint()
            yield frame
            self._read += 1
            self._report(min(1.0, self._read / self._expected))
