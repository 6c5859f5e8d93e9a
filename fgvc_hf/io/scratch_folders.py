"""Temporary folders that do not stay for ever where a process was killed."""

import os
import platform
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "fgvc-hf-scratch-"
OWNER = ".fgvc-hf-owner"  # a file in a folder, locked by the process whose folder it is


@contextmanager
def scratch_folder() -> Generator[Path]:
    """
    A context manager: a temporary folder, deleted at the end. Those that killed processes of this user left on this machine are deleted at the
    beginning: those whose file of an owner names this machine and is no longer locked. It is named after it was locked, and the system ends a
    lock with its process; a folder without such a file is somebody else's, however old.

    Yields:
        The folder.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, gone, or of another user
            _remove_left_over(path)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, ExitStack() as stack:
        with suppress(OSError):  # without locks here, nobody takes it for left over either
            lock = stack.enter_context(locked(Path(name, OWNER), os.O_RDWR | os.O_CREAT))
            os.write(lock, _machine())
        yield Path(name)


def _remove_left_over(path: Path) -> None:
    if path.is_symlink():
        return
    with locked(path / OWNER, os.O_RDWR) as lock:
        found = os.fstat(lock)
        if found.st_uid == os.getuid() and os.read(lock, 1024) == _machine():
            shutil.rmtree(path)


def _machine() -> bytes:
    """This machine, for other machines may have the same temporary folder, and not see the locks."""
    return platform.node().encode() + b"\n"


@contextmanager
def locked(file: Path, flags: int) -> Generator[int]:
    """A context in which a file is open and locked. An `OSError` if it is already, or cannot be."""
    if fcntl is None:
        raise OSError("there are no locks of files here")
    lock = os.open(file, flags | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)


__all__ = ["locked", "scratch_folder"]
