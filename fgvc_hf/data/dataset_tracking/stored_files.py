"""Files of a source: on this machine, or in a repository of the Hub as `hf://datasets/USER/NAME/...`."""

import errno
import hashlib
import os
import posixpath
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ...io.image_files import IMAGE_SUFFIXES
from ...io.json_files import reason_of
from ...io.text_files import printable
from .clip_errors import OF_MACHINE
from .row_names import digest


HUB = "hf://"
BLOCK = 1 << 20  # bytes that are copied at a time
ENDS = 64 << 10  # bytes at the start and at the end of a file by which it is told from another
ABSENT = (-1, 0)  # stamp of a file that is not there
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)  # of a link in a circle, or to where nobody may look


def is_remote(path: str) -> bool:
    """Whether a path is one of the Hub."""
    return path.startswith(HUB)


def hub_files() -> Any:
    """The file system of the Hub."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def pinned(path: str) -> str:
    """The path with the commit that its repository is at now, so that all machines read the same; local paths as they are, absolute.
    Links stay, for another machine may have the place elsewhere, and relative paths in a table are beside the name that was given.

    Raises:
        `OSError`: there is nothing at this path.
    """
    if not is_remote(path):
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: there is no such file or folder.")
        absolute = os.path.abspath(path)
        if not (os.path.exists(absolute) and os.path.samefile(absolute, path)):  # with `..` after a link
            folder, name = os.path.split(path)  # a link to a file keeps its name
            whole = os.path.isdir(path) or name in ("", ".", "..")
            absolute = os.path.realpath(path) if whole else os.path.join(os.path.realpath(folder), name)
        return absolute
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


def without_link(path: str) -> str:
    """The path of the file that a link leads to, whose name its clips have, unless that has another ending or is in a hidden folder: a blob in
    the cache of the Hub or an object of git-annex."""
    while os.path.islink(path):
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        blob = os.path.splitext(target)[1].lower() != os.path.splitext(path)[1].lower()
        if blob or any(part.strip(".") and part.startswith(".") for part in os.readlink(path).split(os.sep)):
            break
        path = target
    return path


def real_place(path: str) -> str:
    """The one name of a source, by whatever links it is reached."""
    if is_remote(path):
        return path
    if os.path.isdir(path):
        return os.path.realpath(path)
    path = without_link(path)
    return join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def join(folder: str, name: str) -> str:
    """A name below a folder."""
    return posixpath.join(folder, name) if is_remote(folder) else os.path.join(folder, name)


@contextmanager
def understood(path: str, kind: str) -> Generator[None]:
    """
    A context in which what a file holds is used: whatever goes wrong is taken for a fault of the file.

    Args:
        path (`str`): The file.
        kind (`str`): What it must be, such as `"Parquet file"`.

    Raises:
        `OSError`: something went wrong. Errors of the system, and sentences that begin with the path, stay as they are.
    """
    try:
        yield
    except Exception as error:
        of_system = isinstance(error, OSError) and error.errno is not None
        if of_system or (isinstance(error, OSError | ValueError) and str(error).startswith((path, printable(path)))):
            raise
        raise OSError(f"{printable(path)}: is no {kind}, or is damaged ({reason_of(error)}).") from None


@contextmanager
def reached(path: str) -> Generator[None]:
    """A context of work with the Hub: an `OSError` that names the path, for errors of the network and the client, of many classes."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{printable(path)}: there is no such file or folder on the Hub.") from None
    except Exception as error:
        raise OSError(f"{printable(path)}: cannot be read from the Hub ({reason_of(error)}).") from None


def is_folder(path: str) -> bool:
    """Whether there is a folder at a path."""
    if not is_remote(path):
        return os.path.isdir(path)
    with reached(path):
        return hub_files().isdir(path)


def files_below(folder: str) -> list[str]:
    """Names of all files below a folder, relative to it with forward slashes, in name order; hidden ones are left out.

    Raises:
        `OSError`: a folder cannot be read.
    """
    if not is_remote(folder):
        return sorted(local_files(folder))
    root = folder.removeprefix(HUB).rstrip("/") + "/"
    with reached(folder):
        names = [path.removeprefix(root) for path in hub_files().find(folder)]
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def local_files(folder: str) -> Iterator[str]:
    """Names of the files below a folder of this machine, links followed, but not to a folder above; a link that leads nowhere is a file."""
    left: list[tuple[str, frozenset]] = [("", frozenset())]
    while left:
        name, above = left.pop()
        with os.scandir(os.path.join(folder, name)) as entries:
            found = os.stat(os.path.join(folder, name))
            if (place := (found.st_dev, found.st_ino)) in above:
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = posixpath.join(name, entry.name)
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    left.append((path, above | {place}))
                elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or dangling(entry):
                    yield path


def dangling(entry: os.DirEntry) -> bool:
    """Whether an entry of a folder is a link that leads nowhere."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def open_file(path: str) -> BinaryIO:
    """A file opened to read bytes, with seeking."""
    if not is_remote(path):
        return open(path, "rb")
    with reached(path):
        return hub_files().open(path, "rb")


def stamp_of(path: str) -> tuple[int, int]:
    """
    Size in bytes and time of the last change in nanoseconds, by which a change is seen; a commit of the Hub does not change.

    Those of a folder are of the images in it, whose names, sizes and times are hashed in place of a time: other files are not read, and its
    own size and time tell of these too.
    """
    try:
        if is_remote(path):
            with reached(path):
                return int(hub_files().info(path)["size"] or 0), 0
        if not os.path.isdir(path):
            found = os.stat(path)
            return found.st_size, found.st_mtime_ns
        inside = {name: os.stat(os.path.join(path, name)) for name in images_in(path)}
        listed = [(os.fsencode(name).hex(), found.st_size, found.st_mtime_ns) for name, found in inside.items()]
        return sum(found.st_size for found in inside.values()), int(digest(listed)[:15], 16)
    except OSError as error:
        if error.errno in GONE or isinstance(error, FileNotFoundError):
            return ABSENT
        raise


def images_in(folder: str) -> list[str]:
    """Names of the images in a folder of this machine, in name order."""
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()]
    return sorted(name for name in found if not name.startswith("."))


def content_of(path: str) -> str | None:
    """
    A digest of what a file holds, or the images of a folder, to tell on a later run whether it is the same: of the size and the first and last
    64 KiB of each. A time would differ for a copy or a checkout of the same bytes, and to read all would take as long as to track. What differs
    in the middle alone, at the same size, is not seen; `""` for a commit of the Hub, which does not change, and `None` for what is not there, or
    cannot be read.
    """
    if is_remote(path):
        return ""
    try:
        if os.path.isdir(path):
            inside = [(os.fsencode(name).hex(), content_of(os.path.join(path, name))) for name in images_in(path)]
            return None if None in dict(inside).values() else digest(inside)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(ENDS)
            file.seek(max(len(head), size - ENDS))
            return digest([size, hashlib.sha256(head + file.read(ENDS)).hexdigest()])
    except OSError as error:
        if error.errno in OF_MACHINE:
            raise
        return None


def local_copy(path: str, folder: Path) -> Path:
    """The path of a local file or folder, or of a copy of a remote file in a folder.

    Raises:
        `OSError`: it is not there, or cannot be read.
    """
    if not is_remote(path):
        if not os.path.exists(path):
            raise FileNotFoundError(f"{printable(path)}: there is no such file.")
        if os.path.isfile(path):
            open(path, "rb").close()  # an error of the system here, for not every decoder tells it from damage
        return Path(path)
    copy = folder / f"clip{posixpath.splitext(path)[1]}"
    with open_file(path) as file, copy.open("wb") as output:
        copy_bytes(file, output, path)
    return copy


def copy_bytes(file: BinaryIO, output: BinaryIO, path: str, size: int | None = None) -> None:
    """Copy a file from where it is to its end, or so many bytes of it.

    Raises:
        `OSError`: it cannot be read, ends before, or the copy cannot be written.
    """
    left = size
    while left is None or left > 0:
        with reached(path) if is_remote(path) else nullcontext():
            block = file.read(BLOCK if left is None else min(BLOCK, left))
        if not block:
            break
        output.write(block)
        left = None if left is None else left - len(block)
    if left:
        raise OSError(f"{printable(path)}: ends {left} bytes before it should.")


__all__ = [
    "ABSENT",
    "content_of",
    "copy_bytes",
    "files_below",
    "is_folder",
    "is_remote",
    "join",
    "local_copy",
    "open_file",
    "pinned",
    "real_place",
    "stamp_of",
    "understood",
    "without_link",
]
