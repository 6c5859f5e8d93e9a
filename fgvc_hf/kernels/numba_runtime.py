"""What the JIT kernels for CPUs share: compilation by numba, bfloat16 as bits, one memory layout, and threads.

numba compiles a function at its first call, in a second or two, once for every memory layout of its arrays, and keeps the result on disk.
Sums are reassociated, so that machine code of one function compiled twice may give sums that differ in the last bit. Equal input gives equal output
all the same: every tensor enters a kernel as a C-contiguous array, by [`array_of`] or [`bits_of`], and the functions that a kernel calls are inlined. Calls
would go to whichever copy the linker finds, and that depends on what the process has compiled and what it has read from disk.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .process import has_home


try:  # transformers demands every import of code from the Hub that is outside a try
    from numba import njit
except ImportError as error:
    raise ImportError(f"JIT kernels need numba: pip install numba ({error})") from error


# numpy has no bfloat16: it is the upper half of float32, so the bits of either become a float32 by a shift
BITS = {torch.bfloat16: (torch.uint16, 16), torch.float32: (torch.uint32, 0)}
FAST_MATH = {"nnan", "nsz", "reassoc", "contract"}  # sums in any order; infinities stay, for scores of -inf count


def jit(function: Callable) -> Callable:
    """The function compiled by numba, without Python's lock, inlined into those that call it, and kept on disk where there is a folder for it."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "forceinline": True}
    beside = os.access(os.path.dirname(os.path.abspath(__file__)), os.W_OK)  # numba asks for the home folder second
    try:
        return njit(cache=beside or has_home(), **options)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        return njit(**options)(function)


@jit
def widen(bits, shift, weight, numbers):
    """Write the float32 numbers (C,) with these bits (C,), times a weight."""
    for c in range(len(bits)):
        numbers[c] = np.uint32(np.uint32(bits[c]) << shift).view(np.float32) * weight


@jit
def narrow(numbers, shift, bits):
    """Write the bits (C,) of float32 numbers (C,), or of bfloat16 rounded as torch does: to the nearest, ties to even."""
    wide = numbers.view(np.uint32)
    if shift:
        for c in range(len(bits)):
            bits[c] = (wide[c] + np.uint32(0x7FFF) + ((wide[c] >> shift) & np.uint32(1))) >> shift
    else:
        for c in range(len(bits)):
            bits[c] = wide[c]


def array_of(values: torch.Tensor) -> np.ndarray:
    """A tensor as a C-contiguous array, which shares its memory if the tensor is contiguous."""
    return values.contiguous().numpy()


def bits_of(values: torch.Tensor) -> tuple[np.ndarray, np.uint32]:
    """Features as a C-contiguous array of integers, and by how many bits these are shifted to be those of float32."""
    values = (
        values if values.dtype in BITS else values.float()
    )  # a session may keep its memory in another type than queries
    kind, shift = BITS[values.dtype]
    return array_of(values.contiguous().view(kind)), np.uint32(shift)


def in_parallel(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, last)` on as many parts of `count` items as torch uses threads, all at once; kernels hold no lock.

    Raises:
        What `work` raises first.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return work(0, count)
    errors: list[BaseException] = []
    parts = list(pairwise(count * part // threads for part in range(threads + 1)))
    waiting = iter(parts)  # each thread takes the next part

    def take(_) -> None:
        for first, last in waiting:
            try:
                work(first, last)
            except BaseException as error:  # it would be lost in a thread that is not Python's
                errors.append(error)

    if run := openmp_threads():
        with _kept(errors):
            run(take)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(take, parts))
    if errors:
        raise errors[0]
    return None


@contextmanager
def _kept(errors: list[BaseException]) -> Generator[None]:
    """A context in which exceptions of callbacks from C, which Python would print and forget, are added to a list.

    That is where Ctrl-C and other signals raise theirs if they come just before the callback's first instruction: in the main thread, the only
    one that handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook

    def keep(what) -> None:
        if what.exc_value is not None and "ctypes callback" in (what.err_msg or ""):
            errors.append(what.exc_value)
        else:
            before(what)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = before


@cache
def openmp_threads() -> Callable[[Callable], None] | None:
    """A function that runs another on all threads of torch's OpenMP pool; nothing where torch was built with another library than GNU's.

    Between two operations torch's threads spin for milliseconds on the cores that other threads would need. With a pool of our own a frame with
    30 points takes 1.3 to 1.8 times as long on CPUs without AMX, and up to 3 times where GOMP_SPINCOUNT is not lowered
    (`scripts/benchmark_kernels.py`). `GOMP_parallel` is the stable entry point that compilers emit calls to.
    """
    if not sys.platform.startswith("linux") or not hasattr(library := ctypes.CDLL(None), "GOMP_parallel"):
        return None
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return lambda function: library.GOMP_parallel(kind(function), None, torch.get_num_threads(), 0)
