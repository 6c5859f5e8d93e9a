"""Sources of clips: what a data set holds, listed without reading any video, and one clip read at a time, on any machine.

A source has `clips()`, which yields a [`Clip`] for each video in the order of the data set, and `read(clip, folder)`, which gives the video and its
prompts, points or masks. Sources can be pickled: actors get one each.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ...io.image_files import IMAGE_SUFFIXES
from ...io.text_files import printable
from .run_options import Prompts
from .stored_files import files_below, is_folder, is_remote, join, local_copy, stamp_of, without_link


VIDEO_FILES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv", ".gif")


@dataclass(frozen=True)
class Clip:
    """Where a clip is.

    Args:
        source (`str`): Its name, which no other clip of the source has.
        file (`str`): The file that holds it, relative to the root of the source.
        row (`int`): Number of its row, member or episode.
        start (`int`), stop (`int`, *optional*): Its frames in the video; all if there is no `stop`.
        stamp (`tuple[int, int]`): Size and time of the file when it was listed, as of [`stamp_of`].
        place (`tuple`): What the source needs besides to find or to track it.
    """

    source: str
    file: str
    stamp: tuple[int, int]
    row: int = 0
    start: int = 0
    stop: int | None = None
    place: tuple = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Clip":
        fields = json.loads(text)
        return cls(**fields | {"stamp": tuple(fields["stamp"]), "place": tuple(fields["place"])})


@dataclass
class Content:
    """What [`ClipSource.read`] gives.

    Args:
        video: A local path, or the bytes of a file; `None` where the row has none.
        prompts: Of points, values of their column (N, 3) or (N, 2), of any type, or the bytes of a file of them; of masks, a local path, or the
            bytes of a file. `None` where the row has none.
    """

    video: Path | bytes | None
    prompts: Any = None


class ClipSource(Protocol):
    """A source: what was opened, and the folder below which its clips are."""

    path: str
    root: str

    def clips(self) -> Iterator[Clip]: ...

    def read(self, clip: Clip, folder: Path) -> Content: ...


def label(name: str) -> str:
    """A name as text that UTF-8 can encode; a file may have any bytes in its name."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class FolderSource:
    """Videos in a folder and its subfolders: files, and folders of images.

    Args:
        root (`str`): The folder, or one file.
        video, prompts (*optional*): Must not name a column: files have none.
    """

    def __init__(self, root: str, video: str | None = None, prompts: Prompts | None = None):
        columns = [f"--{prompts.kind} {prompts.place}"] if prompts is not None and prompts.column else []
        columns += [f"--video {video}"] if video is not None else []
        if columns:
            raise ValueError(f"{root}: is a folder of videos, which has no columns; {columns[0]} needs a data set.")
        self.path = self.root = root

    def clips(self) -> Iterator[Clip]:
        for name in video_names(self.root):
            yield Clip(label(name), name, stamp_of(join(self.root, name)))

    def read(self, clip: Clip, folder: Path) -> Content:
        return Content(local_copy(join(self.root, clip.file), folder))


def video_names(root: str) -> list[str]:
    """Names of the video files below a folder, and of its folders of images if it is on this machine, in name order."""
    names = files_below(root)
    found = {name for name in names if name.lower().endswith(VIDEO_FILES)}
    if not is_remote(root):
        found |= {name.rpartition("/")[0] or "." for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    return sorted(found)


def file_names(root: str, suffix: str) -> tuple[str, list[str]]:
    """Folder, and names below it, of the files with a suffix: all below a root that is a folder, or the one that it is."""
    if not is_folder(root):
        folder, _, name = root.replace(os.sep, "/").rpartition("/")
        return folder or "/", [name]
    return root, [name for name in files_below(root) if name.lower().endswith(suffix)]


def file_label(root: str, name: str) -> str:
    """[`label`] of a file of a source, by which its clips are named; of a root that is a link to a file, of the name that it leads to."""
    return label(name if is_folder(root) or is_remote(root) else os.path.basename(without_link(root)))


def candidates(columns: list[str]) -> str:
    """The columns, for a message."""
    return f"it has {printable(', '.join(columns))}" if columns else "it has none"


__all__ = ["Clip", "ClipSource", "Content", "FolderSource"]
