"""Settings of the whole process: the command line makes them, and other programs may."""

import ctypes
import os
import sys


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30  # bytes; larger blocks are requested from the system each time, as without the setting


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
