"""The operations of dense flow by JIT kernels for a CPU. Arithmetic is in float32, of features in float32 or bfloat16."""

import numpy as np
import torch

from .bilinear_numba import read_bilinear
from .flow_torch import LARGEST_STEP, OUTSIDE
from .numba_runtime import array_of, bits_of, in_parallel, jit, widen


@jit
def _similarity(query, shift, key, key_shift, flow, outside, first, last, scores):
    """Products (K, h, w) of the rows `first` to `last`."""
    candidates, h, w, _ = flow.shape
    channels = query.shape[2]
    cell, other = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for y in range(first, last):
        for x in range(w):
            widen(query[y, x], shift, np.float32(1), cell)
            for k in range(candidates):
                there_x, there_y = x + flow[k, y, x, 0], y + flow[k, y, x, 1]
                if there_x < 0 or there_x >= w or there_y < 0 or there_y >= h:
                    scores[k, y, x] = outside
                    continue
                widen(key[there_y, there_x], key_shift, np.float32(1), other)
                total = np.float32(0)
                for c in range(channels):
                    total += cell[c] * other[c]
                scores[k, y, x] = total


@jit
def _read(image, patch, side, left, top, difference):
    """Write the difference (P,) between an image where a patch begins at (left, top) and the patch, less the mean of the image there."""
    total = np.float32(0)
    for row in range(side):
        for column in range(side):
            value = read_bilinear(image, left + np.float32(column), top + np.float32(row))
            difference[row * side + column] = value
            total += value
    mean = total / np.float32(side * side)
    for p in range(side * side):
        difference[p] -= mean + patch[p]


@jit
def _difference(image, patches, corner, flow, side, first, last, result):
    for n in range(first, last):
        _read(image, patches[n], side, corner[n, 0] + flow[n, 0], corner[n, 1] + flow[n, 1], result[n])


@jit
def _search(image, patches, slopes, inverse, corner, flow, side, iterations, largest, first, last, result):
    difference = np.empty(side * side, np.float32)
    for n in range(first, last):
        u, v = flow[n, 0], flow[n, 1]
        for _ in range(iterations):
            _read(image, patches[n], side, corner[n, 0] + u, corner[n, 1] + v, difference)
            x = y = np.float32(0)
            for p in range(side * side):
                x += slopes[0, n, p] * difference[p]
                y += slopes[1, n, p] * difference[p]
            u -= min(max(inverse[n, 0] * x + inverse[n, 1] * y, -largest), largest)
            v -= min(max(inverse[n, 1] * x + inverse[n, 2] * y, -largest), largest)
        result[n, 0], result[n, 1] = u, v


@jit
def _spread(values, decay, first, last, result):
    channels, _, w = values.shape
    for y in range(first, last):
        for c in range(channels):
            total = values[c, y, 0] * 0
            for x in range(w):
                total = total * decay[y, x] + values[c, y, x]
                result[c, y, x] = total
            total = values[c, y, 0] * 0
            for x in range(w - 2, -1, -1):
                total = decay[y, x + 1] * (total + values[c, y, x + 1])
                result[c, y, x] += total


class NumbaFlow:
    """[`fgvc_hf.kernels.flow_torch.TorchFlow`] on a CPU, for float32 and bfloat16."""

    @staticmethod
    def similarity(query, key, flow) -> torch.Tensor:
        scores = torch.empty(flow.shape[:3], dtype=torch.float32, device="cpu")
        inputs, output = (*bits_of(query), *bits_of(key), array_of(flow), np.float32(OUTSIDE)), scores.numpy()
        in_parallel(lambda first, last: _similarity(*inputs, first, last, output), flow.shape[1])
        return scores

    @staticmethod
    def difference(image, patches, corner, flow) -> torch.Tensor:
        result = torch.empty(patches.shape, dtype=torch.float32, device="cpu")
        inputs, side = [array_of(of) for of in (image, patches, corner, flow)], round(patches.shape[1] ** 0.5)
        output = result.numpy()
        in_parallel(lambda first, last: _difference(*inputs, side, first, last, output), len(patches))
        return result

    @staticmethod
    def search(image, patches, slopes, inverse, corner, flow, iterations: int) -> torch.Tensor:
        result = torch.empty(flow.shape, dtype=torch.float32, device="cpu")
        inputs = [array_of(of) for of in (image, patches, slopes, inverse, corner, flow)]
        numbers, output = (round(patches.shape[1] ** 0.5), iterations, np.float32(LARGEST_STEP)), result.numpy()
        in_parallel(lambda first, last: _search(*inputs, *numbers, first, last, output), len(flow))
        return result

    @staticmethod
    def spread(values, decay) -> torch.Tensor:
        result = torch.empty(values.shape, dtype=values.dtype, device="cpu")
        inputs, output = [array_of(of) for of in (values, decay)], result.numpy()
        in_parallel(lambda first, last: _spread(*inputs, first, last, output), values.shape[1])
        return result


__all__ = ["NumbaFlow"]
