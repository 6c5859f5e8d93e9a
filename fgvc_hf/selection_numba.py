"""The selection of keys as machine code: one pass over the products of each query, in as many threads as torch uses.

numba compiles it at the first use, in about a second, and keeps the result on disk.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit


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
def _select(bits, shift, half_widths, first, last, values, places):
    """Queries `first` to `last` of products (n, tile, tile, F, Ky, Kx): a row of a window is looked through only if its maximum is among the
    best so far, which are kept in order."""
    _, rows, columns, frames, ky, kx = bits.shape
    reach, kept = len(half_widths) // 2, values.shape[2]
    for query in range(first, last):
        tile, cell = query // (rows * columns), query % (rows * columns)
        y, x = cell // columns, cell % columns
        best, where = values[tile, cell], places[tile, cell]
        best[:] = -np.inf
        where[:] = 0
        for frame in range(frames):
            for d in range(len(half_widths)):
                left, width = x + reach - half_widths[d], 2 * half_widths[d] + 1
                row = bits[tile, y, x, frame, y + d, left : left + width]
                largest = np.float32(-np.inf)
                for i in range(width):
                    largest = max(largest, np.uint32(np.uint32(row[i]) << shift).view(np.float32))
                if largest <= best[kept - 1]:
                    continue
                start = (frame * ky + y + d) * kx + left
                for i in range(width):
                    value = np.uint32(np.uint32(row[i]) << shift).view(np.float32)
                    if value > best[kept - 1]:
                        j = kept - 1
                        while j > 0 and best[j - 1] < value:
                            best[j] = best[j - 1]
                            where[j] = where[j - 1]
                            j -= 1
                        best[j] = value
                        where[j] = start + i


@compiled
def _score(queries, keys, shift, places, first, last, scores):
    """Products of queries `first` to `last` of (n, cells, C) with their keys of (n, K, C)."""
    _, cells, channels = queries.shape
    own = np.empty(channels, np.float32)
    for query in range(first, last):
        tile, cell = query // cells, query % cells
        for c in range(channels):
            own[c] = np.uint32(np.uint32(queries[tile, cell, c]) << shift).view(np.float32)
        for i in range(places.shape[2]):
            key = keys[tile, places[tile, cell, i]]
            total = np.float32(0)
            for c in range(channels):
                total += own[c] * np.uint32(np.uint32(key[c]) << shift).view(np.float32)
            scores[tile, cell, i] = total


class CompiledSelection:
    """[`TorchSelection`] on a CPU, for float32 and bfloat16."""

    @staticmethod
    def select(products: torch.Tensor, half_widths: list[int], topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        n, rows, columns, *_ = products.shape
        values = torch.empty(n, rows * columns, topk)
        places = torch.empty(values.shape, dtype=torch.long)
        bits, shift = _bits(products)
        _in_parts(_select, n * rows * columns, (bits, shift, np.array(half_widths)), (values.numpy(), places.numpy()))
        return values, places

    @staticmethod
    def score(queries: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        scores = torch.empty(places.shape)
        (queries_bits, shift), (keys_bits, _) = _bits(queries), _bits(keys)
        inputs = (queries_bits, keys_bits, shift, places.numpy())
        _in_parts(_score, places.shape[0] * places.shape[1], inputs, (scores.numpy(),))
        return scores


def _bits(values: torch.Tensor) -> tuple[np.ndarray, np.uint32]:
    kind, shift = BITS[values.dtype]
    return values.view(kind).numpy(), np.uint32(shift)


def _in_parts(kernel: Callable, queries: int, inputs: tuple, outputs: tuple) -> None:
    """Run a kernel on as many threads as torch uses, each on a part of the queries. They hold no lock of Python's."""
    parts = torch.get_num_threads()
    bounds = [queries * part // parts for part in range(parts + 1)]
    if parts == 1:
        return kernel(*inputs, 0, queries, *outputs)
    with ThreadPoolExecutor(parts) as threads:
        for done in [threads.submit(kernel, *inputs, a, b, *outputs) for a, b in zip(bounds, bounds[1:])]:
            done.result()
    return None
