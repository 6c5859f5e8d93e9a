"""Settings of the whole process that our own commands make, and that a program of one's own may make."""

import ctypes
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
