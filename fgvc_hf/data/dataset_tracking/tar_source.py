"""WebDataset: tar files whose members with one name before the first dot are one sample, such as `a/0001.mp4` and `a/0001.points.json`.

Only the headers are read to list the samples. A clip is read by its place in the file, in the process that tracks it.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from .clip_points import MAX_BYTES
from .clip_sources import VIDEO_FILES, Clip, Content, candidates, file_label, file_names, label
from .run_options import Prompts
from .stored_files import copy_bytes, join, open_file, stamp_of, understood


class TarSource:
    """
    Tar files, and their samples in order.

    Args:
        root (`str`): A folder, or one file.
        video (`str`, *optional*): Extension of the videos; the first one of a format of video if not given.
        prompts ([`Prompts`], *optional*): Extension of the points, such as `points.json` or `points.npy`: (t, x, y) each, or (x, y) on the first
            frame; or of the masks of the first frame, such as `mask.png`.
    """

    def __init__(self, root: str, video: str | None = None, prompts: Prompts | None = None):
        self.path, (self.root, self.files) = root, file_names(root, ".tar")
        self.video, self.prompts = video, prompts.column if prompts is not None else None

    def clips(self) -> Iterator[Clip]:
        for name in self.files:
            path, seen = join(self.root, name), set()
            stamp = stamp_of(path)
            for number, (key, members) in enumerate(samples(path)):
                seen |= set(members)
                place = (
                    *members.get(self._extension(members), (0, None)),
                    *members.get(self.prompts or "", (0, None)),
                )
                yield Clip(f"{file_label(self.path, name)}#{number}:{label(key)}", name, stamp, number, place=place)
            for wanted in (self.video, self.prompts):
                if wanted is not None and seen and wanted not in seen:
                    raise ValueError(f"{path}: has no members .{wanted}; {candidates(sorted(seen))}.")

    def _extension(self, members: dict[str, tuple[int, int]]) -> str:
        """The extension of the video of a sample, which is not that of prompts: a mask may be a GIF."""
        others = sorted(set(members) - {self.prompts})
        return self.video or next((one for one in others if f".{one}".lower().endswith(VIDEO_FILES)), "")

    def read(self, clip: Clip, folder: Path) -> Content:
        start, size, prompts_start, prompts_size = clip.place
        path, video, prompts = join(self.root, clip.file), None, None
        with open_file(path) as file:
            if size is not None:
                video = folder / "clip"
                with video.open("wb") as output:
                    file.seek(start)
                    copy_bytes(file, output, path, size)
            if prompts_size is not None:
                prompts = io.BytesIO()
                file.seek(prompts_start)
                copy_bytes(file, prompts, path, min(prompts_size, MAX_BYTES + 1))
        return Content(video, None if prompts is None else prompts.getvalue())


def samples(path: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key of each sample of a tar file, and its members by extension: where they start, and their size in bytes.

    Raises:
        `OSError`: it is no tar file, or is damaged.
    """
    key, members = "", {}
    with understood(path, "tar file"), open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            folder, slash, name = member.name.rpartition("/")
            stem, dot, extension = name.partition(".")
            if not member.isfile() or not stem or not dot:
                continue
            if members and (folder + slash + stem != key or extension in members):
                yield key, members
                members = {}
            key = folder + slash + stem
            members[extension] = (member.offset_data, member.size)
    if members:
        yield key, members


__all__ = ["TarSource"]
