"""Files of a source: on this machine, or in a repository of the Hub as `hf://datasets/USER/NAME/...`."""

import os
import posixpath
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO


HUB = "hf://"


def is_remote(path: str) -> bool:
    """Whether a path is one of the Hub."""
    return path.startswith(HUB)


def hub_files() -> Any:
    """The file system of the Hub."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def pinned(path: str) -> str:
    """The path with the commit that its repository is at now, so that all machines read the same; local paths as they are, absolute.

    Raises:
        `OSError`: there is nothing at this path.
    """
    if not is_remote(path):
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: there is no such file or folder.")
        return os.path.abspath(path)
    from huggingface_hub import HfApi

    files = hub_files()
    try:
        place = files.resolve_path(path)
        commit = HfApi().repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision).sha
        place = replace(place, revision=commit, _raw_revision=None)
        if not files.exists(place.unresolve()):
            raise FileNotFoundError("no such file or folder")
    except Exception as error:  # of the network, the Hub and its client, of many classes
        raise FileNotFoundError(f"{path}: cannot be read from the Hub ({error}).") from None
    return HUB + place.unresolve()


def join(folder: str, name: str) -> str:
    """A name below a folder."""
    return posixpath.join(folder, name) if is_remote(folder) else os.path.join(folder, name)


def is_folder(path: str) -> bool:
    """Whether there is a folder at a path."""
    return hub_files().isdir(path) if is_remote(path) else os.path.isdir(path)


def files_below(folder: str) -> list[str]:
    """Names of all files below a folder, relative to it with forward slashes, in name order; hidden ones are left out."""
    if is_remote(folder):
        root = folder.removeprefix(HUB).rstrip("/") + "/"
        names = [path.removeprefix(root) for path in hub_files().find(folder)]
    else:
        names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def open_file(path: str) -> BinaryIO:
    """A file opened to read bytes, with seeking."""
    return hub_files().open(path, "rb") if is_remote(path) else open(path, "rb")


def stamp_of(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, by which a change is seen; a commit of the Hub does not change."""
    if is_remote(path):
        return int(hub_files().info(path)["size"] or 0), 0
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def local_copy(path: str, folder: Path) -> Path:
    """The path of a local file, or of a copy of a remote one in a folder."""
    if not is_remote(path):
        return Path(path)
    copy = folder / f"clip{posixpath.splitext(path)[1]}"
    with open_file(path) as file, copy.open("wb") as output:
        shutil.copyfileobj(file, output, 1 << 20)
    return copy


__all__ = ["files_below", "is_folder", "is_remote", "join", "local_copy", "open_file", "pinned", "stamp_of"]
