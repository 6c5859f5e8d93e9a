"""Which kind a source is of: a folder of videos, Parquet, WebDataset or a LeRobotDataset."""

import os
import warnings

from ...io.files import local_path
from ...io.image_files import IMAGE_SUFFIXES
from ...io.text_files import printable
from .clip_sources import VIDEO_FILES, ClipSource, FolderSource
from .lerobot_source import INFO, LeRobotSource
from .parquet_source import ParquetSource
from .run_options import Prompts
from .stored_files import files_below, is_folder, is_remote, pinned
from .tar_source import TarSource


FILES = {".parquet": ParquetSource, ".tar": TarSource}
COMPRESSED = tuple(
    ".tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .tar.zst .tzst .tar.lz4 .tar.lzma .tar.z".split()
)  # no place to read a clip from


def open_source(path: str | os.PathLike, video: str | None = None, prompts: Prompts | None = None) -> ClipSource:
    """
    Open a source.

    Args:
        path: A folder, or a file in Parquet or tar; on this machine, or `hf://datasets/USER/NAME[@REVISION][/PATH]`.
        video (`str`, *optional*): The column, extension or camera of videos.
        prompts ([`Prompts`], *optional*): What is followed; it may be in a column of the source, or have an extension in it.

    Raises:
        `OSError`: there is no such folder or file, or it is damaged.
        `ValueError`: it holds none of the kinds, or several of them, or `video` is not in it.
    """
    root = pinned(os.fspath(path)) if is_remote(os.fspath(path)) else pinned(str(local_path(path)))
    if not is_folder(root):
        kind = next((kind for suffix, kind in FILES.items() if root.lower().endswith(suffix)), None)
        if kind is None:
            raise ValueError(
                f"{path}: must be a folder, or a file that ends in {' or '.join(FILES)} and is not compressed."
            )
        return kind(root, video, prompts)
    names = files_below(root)
    if INFO in names:
        return LeRobotSource(root, video, prompts)
    held = [suffix for suffix in FILES if any(name.lower().endswith(suffix) for name in names)]
    if ".tar" in held and (packed := [name for name in names if name.lower().endswith(COMPRESSED)]):
        raise ValueError(f"{path}: holds {packed[0]} beside .tar; only .tar that is not compressed is read.")
    videos = any(name.lower().endswith(VIDEO_FILES) for name in names)
    if len(held) > 1 or (videos and ".tar" in held):  # beside Parquet, videos may be those of its paths
        kinds = " and ".join([*held, *["videos"] * videos])
        raise ValueError(f"{path}: holds {kinds}; give the folder or the file of one kind.")
    warn_of_others(path, names, held)
    return FILES[held[0]](root, video, prompts) if held else FolderSource(root, video, prompts)


def warn_of_others(path: str | os.PathLike, names: list[str], held: list[str]) -> None:
    """Say once what may hold clips and is passed over: archives in a folder of videos, images beside .tar. Beside Parquet they may be those of its
    paths."""
    what, endings = {"": ("archives", (*COMPRESSED, ".zip")), ".tar": ("images", IMAGE_SUFFIXES)}.get(
        "".join(held), ("", ())
    )
    left = [name for name in names if name.lower().endswith(endings)]
    if left and (held or len(left) < len(names)):  # a folder of archives alone holds no clips, which is an error
        warnings.warn(
            f"{path}: {len(left)} {what} are passed over, such as {printable(left[0])}; give them as a source of their own, archives unpacked.",
            stacklevel=2,
        )


__all__ = ["open_source"]
