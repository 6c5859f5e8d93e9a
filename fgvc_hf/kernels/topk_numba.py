"""Top-k of matching scores by JIT kernels for a CPU: one pass over the products of each query, in as many threads as torch uses."""

from collections.abc import Sequence

import numpy as np
import torch

from .numba_runtime import array_of, bits_of, in_parallel, jit


@jit
def _insert(best, where, value, place):
    """Insert a value into those kept, which are in descending order; the last is dropped."""
    j = len(best) - 1
    while j > 0 and best[j - 1] < value:
        best[j] = best[j - 1]
        where[j] = where[j - 1]
        j -= 1
    best[j] = value
    where[j] = place


@jit
def _select(bits, shift, half_widths, order, first, last, values, places):
    """Top-k of queries `first` to `last` of products (n, tile, tile, F, Ky, Kx): a row of a window is scanned only if its maximum exceeds
    the least value kept so far."""
    _, rows, columns, frames, ky, kx = bits.shape
    reach, kept = len(half_widths) // 2, values.shape[2]
    for query in range(first, last):
        tile, cell = query // (rows * columns), query % (rows * columns)
        y, x = cell // columns, cell % columns
        best, where = values[tile, cell], places[tile, cell]
        best[:] = -np.inf
        where[:] = 0
        for frame in range(frames):
            for d in order:
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
                        _insert(best, where, value, start + i)


@jit
def _score(queries, shift, keys, key_shift, places, first, last, scores):
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
                total += own[c] * np.uint32(np.uint32(key[c]) << key_shift).view(np.float32)
            scores[tile, cell, i] = total


@jit
def _multiply(queries, keys, products):
    """All products (K, Q) of queries (Q, C) and keys (K, C)."""
    for i in range(len(keys)):
        key = keys[i]
        for q in range(len(queries)):
            query, total = queries[q], np.float32(0)
            for c in range(len(key)):
                total += query[c] * key[c]
            products[i, q] = total


@jit
def _refine(queries, shift, key, key_shift, corners, order, columns, offset, first, last, scores, places):
    """Top-k of blocks `first` to `last` of queries (n, Q, C) among one area of a key frame (h, w, C), merged with those kept so far."""
    _, per_block, channels = queries.shape
    width, kept = key.shape[1], scores.shape[2]
    own, others = np.empty((per_block, channels), np.float32), np.empty((len(order) * columns, channels), np.float32)
    products = np.empty((len(order) * columns, per_block), np.float32)
    for block in range(first, last):
        for q in range(per_block):
            for c in range(channels):
                own[q, c] = np.uint32(np.uint32(queries[block, q, c]) << shift).view(np.float32)
        top, left = corners[block, 0], corners[block, 1]
        for row in range(len(order)):
            for x in range(columns):
                there = key[top + order[row], left + x]
                for c in range(channels):
                    others[row * columns + x, c] = np.uint32(np.uint32(there[c]) << key_shift).view(np.float32)
        _multiply(own, others, products)
        for q in range(per_block):
            best, where = scores[block, q], places[block, q]
            least = best[kept - 1]
            for i in range(len(products)):
                if products[i, q] > least:
                    place = offset + (top + order[i // columns]) * width + left + i % columns
                    _insert(best, where, products[i, q], place)
                    least = best[kept - 1]


class NumbaTopk:
    """[`fgvc_hf.kernels.topk_torch.TorchTopk`] on a CPU, for float32 and bfloat16."""

    @staticmethod
    def select(products: torch.Tensor, half_widths: Sequence[int], topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        n, rows, columns, *_ = products.shape
        values = torch.empty((n, rows * columns, topk), dtype=torch.float32, device="cpu")
        places = torch.empty(values.shape, dtype=torch.long, device="cpu")
        inputs, outputs = (
            (*bits_of(products), np.array(half_widths), _outwards(len(half_widths))),
            (values.numpy(), places.numpy()),
        )
        in_parallel(lambda first, last: _select(*inputs, first, last, *outputs), n * rows * columns)
        return values, places

    @staticmethod
    def score(queries: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        scores = torch.empty(places.shape, dtype=torch.float32, device="cpu")
        inputs = (*bits_of(queries), *bits_of(keys), array_of(places))
        output = scores.numpy()
        in_parallel(lambda first, last: _score(*inputs, first, last, output), places.shape[0] * places.shape[1])
        return scores

    @staticmethod
    def refine(queries, keys, corners, size: tuple[int, int], topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        n, per_block, _ = queries.shape
        scores = torch.full((n, per_block, topk), -torch.inf, dtype=torch.float32, device="cpu")
        places = torch.zeros(scores.shape, dtype=torch.long, device="cpu")
        own, outputs = bits_of(queries), (scores.numpy(), places.numpy())
        frames = [
            (
                *own,
                *bits_of(key),
                array_of(corners[:, f]),
                _outwards(size[0]),
                size[1],
                f * key.shape[0] * key.shape[1],
            )
            for f, key in enumerate(keys)
        ]

        def refine(first: int, last: int) -> None:
            for inputs in frames:
                _refine(*inputs, first, last, *outputs)

        in_parallel(refine, n)
        return scores, places


def _outwards(rows: int) -> np.ndarray:
    """Rows of a window from the middle outwards: the best keys are mostly there, and rows without one are skipped."""
    step = np.arange(rows)
    return (rows - 1) // 2 + (step + 1) // 2 * np.where(step % 2, 1, -1)
