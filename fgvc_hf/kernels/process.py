"""Settings of the whole process that our own commands make, and that a program of one's own may make."""

import ctypes
import os
import sys


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30  # bytes; what is larger is asked from the system each time, as without this


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of large tensors instead of giving it back, and asking for it again on the next frame.

    glibc hands out blocks over 32 MiB as fresh pages, which the system fills with zeros one by one: at 480x640 that is up to a third of
    the encoder's time. The command line, training and the benchmarks call this; a program of one's own may, or be started with
    `MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824`, which is the same.

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
    """Have torch's threads rest soon after their work, before they wait for more in a busy loop for milliseconds.

    Other programs then find a processor that is free, and so do decoders and writers of videos: two runs of
    `scripts/profile_track.py --checkpoint fgvc-coarse --frames 60` side by side on two cores made 8.5 frames/s each, and 1.8 without this.
    The library of threads reads this when torch is loaded; `GOMP_SPINCOUNT=10000` from the shell is the same, and another value there is kept.

    Returns:
        Whether it is in time: torch has not been imported yet.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    return "torch" not in sys.modules
