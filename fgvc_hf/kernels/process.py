"""Settings of the whole process: the command line makes them, and other programs may."""

import atexit
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30  # bytes; larger blocks are requested from the system each time, as without the setting
HOMELESS = "~"  # what expanduser leaves as it is where neither HOME nor the list of users names a home
# What ends a process that does not handle them, without its clean-up. Windows has no SIGHUP
ENDING = ("SIGTERM", "SIGHUP")


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed memory of large tensors for the next frame instead of returning it to the system.

    glibc serves blocks over 32 MiB with fresh pages, which the kernel zeroes one by one: at 480x640 up to a third of the encoder's time.
    The command line, training and the benchmarks call this; starting a program with
    `MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824` has the same effect.

    Returns:
        Whether there is such a setting here: with glibc on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def rest_soon() -> bool:
    """Have torch's OpenMP threads sleep soon after their work instead of spinning for milliseconds.

    That leaves the cores to other programs, and to decoders and encoders of video: two runs of
    `scripts/profile_track.py --checkpoint fgvc-coarse --frames 60` side by side on two cores reached 8.5 frames/s each, and 1.8 without this.
    OpenMP reads GOMP_SPINCOUNT when torch is loaded; a value that is set already is kept.

    Returns:
        Whether this was in time: torch has not been imported yet.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    return "torch" not in sys.modules


def has_home() -> bool:
    """Whether the user has a home folder. Caches of libraries end up in a folder named "~" without one."""
    return os.path.expanduser(HOMELESS) != HOMELESS


def give_home() -> bool:
    """Have a temporary folder, deleted at the end, for a home where there is none. Call it before libraries are loaded.

    Returns:
        Whether there was none.
    """
    if has_home():
        return False
    os.environ["HOME"] = tempfile.mkdtemp(prefix="fgvc-hf-home-")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    return True


@contextmanager
def clean_end() -> Generator[None]:
    """A context in which signals that end the process raise `SystemExit(128 + number)` in the main thread, so that files are cleaned up."""

    before = {}

    def leave(number: int, _) -> None:
        for other in before:  # a second one would interrupt the clean-up
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
        # What was ignored, by nohup for instance, stays ignored; what has a handler keeps it
        before |= {n: signal.signal(n, leave) for n in numbers if signal.getsignal(n) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
