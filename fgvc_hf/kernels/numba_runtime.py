"""What our machine code for CPUs shares: how numba compiles it, bfloat16, and threads.

numba compiles a function at its first use, in a second or two, and keeps the result on disk.
"""

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch


try:  # where this code is loaded from the Hub, what a `try` imports may be missing
    from numba import njit
except ImportError as error:
    raise ImportError(f"machine code needs numba: pip install numba ({error})") from error


# bfloat16, which numpy does not know, is the upper half of float32: bits of either become a number by a shift
BITS = {torch.bfloat16: (torch.uint16, 16), torch.float32: (torch.uint32, 0)}
ARITHMETIC = {"nnan", "nsz", "reassoc", "contract"}  # sums in any order; infinities count


def compiled(function: Callable) -> Callable:
    """The function as machine code, kept on disk where there is a place for it."""
    try:
        return njit(nogil=True, cache=True, fastmath=ARITHMETIC)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        return njit(nogil=True, fastmath=ARITHMETIC)(function)


@compiled
def widen(bits, shift, weight, numbers):
    """The numbers (C,) that bits (C,) stand for, times a weight, in float32."""
    for c in range(len(bits)):
        numbers[c] = np.uint32(np.uint32(bits[c]) << shift).view(np.float32) * weight


@compiled
def narrow(numbers, shift, bits):
    """The bits (C,) of numbers (C,) in float32, or in bfloat16 as torch rounds them: to the nearest, of two alike to the even one."""
    wide = numbers.view(np.uint32)
    if shift:
        for c in range(len(bits)):
            bits[c] = (wide[c] + np.uint32(0x7FFF) + ((wide[c] >> shift) & np.uint32(1))) >> shift
    else:
        for c in range(len(bits)):
            bits[c] = wide[c]


def bits_of(values: torch.Tensor) -> tuple[np.ndarray, np.uint32]:
    """Numbers as integers, and by how many bits these are to be shifted to be those of float32."""
    values = values if values.dtype in BITS else values.float()  # memory may be kept in another type than queries
    kind, shift = BITS[values.dtype]
    return values.contiguous().view(kind).numpy(), np.uint32(shift)


def in_parts(work: Callable[[int, int], None], count: int) -> None:
    """Do some work from a first to a last of its items on as many threads as torch uses, this one among them; kernels hold no lock."""
    threads = torch.get_num_threads()
    if threads == 1:
        return work(0, count)
    parts = list(pairwise(count * part // threads for part in range(threads + 1)))
    waiting, errors = iter(parts), []  # each thread takes the next part

    def take(_) -> None:
        for first, last in waiting:
            try:
                work(first, last)
            except BaseException as error:  # else it would end here, in a thread that is not Python's
                errors.append(error)

    if run := torch_threads():
        run(take)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(take, parts))
    if errors:
        raise errors[0]
    return None


@cache
def torch_threads() -> Callable[[Callable], None] | None:
    """Runs a function on torch's own threads, where these are of GNU's OpenMP.

    Between two operations they wait in a busy loop, for milliseconds, on the processors that other threads would need; and they begin at once.
    """
    if not sys.platform.startswith("linux") or not hasattr(library := ctypes.CDLL(None), "GOMP_parallel"):
        return None
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return lambda function: library.GOMP_parallel(kind(function), None, torch.get_num_threads(), 0)
