"""Temporary folders that do not stay for ever where a process was killed."""

import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "fgvc-hf-scratch-"
SETTLED = 60.0  # seconds after which a folder that is in use is locked for sure


@contextmanager
def scratch_folder() -> Generator[Path]:
    """
    A context manager: a temporary folder, deleted at the end. Those that killed processes of this user left on this machine are deleted at the
    beginning: a folder is locked as long as it is in use, and the system ends a lock with its process.

    Yields:
        The folder.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, gone, or of another user
            _remove_left_over(path)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, ExitStack() as stack:
        with suppress(OSError):  # without locks here, nobody takes it for left over either
            stack.enter_context(_locked(Path(name)))
        yield Path(name)


def _remove_left_over(path: Path) -> None:
    if fcntl is not None and time.time() - path.lstat().st_mtime > SETTLED:
        with _locked(path):
            shutil.rmtree(path)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """A context in which a folder is locked. An `OSError` if it is already, or cannot be."""
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


__all__ = ["scratch_folder"]
