"""Atomic writing: a file or folder appears complete, or not at all."""

import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def check_writable(path: str | Path) -> Path:
    """The path, checked to be writable, so that a long computation does not end in an error.

    Raises:
        `OSError`: its folder does not exist or is not writable, or the path is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: cannot be written, the folder {path.parent} does not exist.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written, it is a folder.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: cannot be written, the folder {path.parent} is not writable.")
    return path


@contextmanager
def atomic_write(path: str | Path) -> Generator[Path]:
    """
    A context manager: a temporary file beside `path` replaces it on success, and is deleted on an error.

    Yields:
        The temporary path to write to, with the suffix of `path`.

    Raises:
        `OSError`: the file cannot be written, for instance on a full disk.
    """
    path = check_writable(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:  # not from the system: a sentence about another file that was read meanwhile
            raise
        raise OSError(f"{path}: cannot be written ({error.strerror}).") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Generator[Path]:
    """
    A context manager: a temporary folder becomes `path` on success, and is deleted on an error.

    Yields:
        The temporary folder to write to.

    Raises:
        `OSError`: `path` exists and is not an empty folder, or cannot be created.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: exists already; give a new or an empty folder.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: cannot be written, the folder {path.parent} does not exist.")
    temporary = path.absolute().with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"{path}: cannot be written ({error.strerror}).") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
