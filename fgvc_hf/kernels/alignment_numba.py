"""Alignment of image patches by JIT kernels for a CPU, in float32."""

import numpy as np
import torch

from .alignment_torch import DAMPING, GAIN, LARGEST_STEP, PARAMETERS, SMALLEST_STEP, TINY
from .bilinear_numba import read_bilinear
from .numba_runtime import array_of, in_parallel, jit


ONE, ZERO = np.float32(1), np.float32(0)
FARTHEST = np.float32(1e6)  # pixels; places beyond, and such as are no numbers, are brought inside
LEAST_DETERMINANT = np.float32(1e-3)  # of the linear part of a step
HALF = np.float32(0.5)  # coordinate in pixels of the centre of the first pixel


@jit
def _sample(image, points, radius, first, last, patches):
    side = 2 * radius + 3
    for n in range(first, last):
        for i in range(side):
            for j in range(side):
                x, y = np.float32(j - radius - 1) - HALF, np.float32(i - radius - 1) - HALF
                patches[n, i, j] = read_bilinear(image, points[n, 0] + x, points[n, 1] + y)


@jit
def _centre(values, weights):
    """Subtract the weighted mean of values (P,) in place; exactly 0 remains where all are the same."""
    first, mean = values[0], ZERO
    for p in range(len(values)):
        values[p] -= first
        mean += weights[p] * values[p]
    for p in range(len(values)):
        values[p] -= mean


@jit
def _prepare(patch, weights, columns, template):
    """Write the patch (S, S) less its mean (P,), and how it changes with each parameter of a warp (7, P), means included."""
    side = patch.shape[0] - 2
    radius = side // 2
    for row in range(side):
        i, dy = row + 1, np.float32(row - radius)
        for column in range(side):
            p, j, dx = row * side + column, column + 1, np.float32(column - radius)
            x, y = (patch[i, j + 1] - patch[i, j - 1]) * HALF, (patch[i + 1, j] - patch[i - 1, j]) * HALF
            columns[0, p], columns[1, p] = x, y
            columns[2, p], columns[3, p], columns[4, p], columns[5, p] = x * dx, x * dy, y * dx, y * dy
            columns[6, p] = patch[i, j]
    _centre(columns[6], weights)
    for p in range(side * side):
        template[p] = columns[6, p]


@jit
def _factorise(columns, weights, damping, floor, weighted, means, factor):
    """Write the Cholesky factor (7, 7) of the matrix of the normal equations of weighted columns (7, P) less their means.

    `weighted` (P,) and `means` (7,) are room to work in.
    """
    count = len(columns)
    for a in range(count):
        total = ZERO
        for p in range(len(weights)):
            weighted[p] = weights[p] * columns[a, p]
            total += weighted[p]
        means[a] = total
        for b in range(a + 1):
            total = ZERO
            for p in range(len(weights)):
                total += weighted[p] * columns[b, p]
            factor[a, b] = total - means[a] * means[b]
        factor[a, a] += damping * factor[a, a] + floor
    for a in range(count):
        for b in range(a + 1):
            total = factor[a, b]
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            factor[a, b] = np.sqrt(max(total, floor)) if a == b else total / factor[b, b]


@jit
def _solve(factor, step):
    """Solve the normal equations in place, with their right side as the step (7,)."""
    count = len(step)
    for a in range(count):
        for b in range(a):
            step[a] -= factor[a, b] * step[b]
        step[a] /= factor[a, a]
    for a in range(count - 1, -1, -1):
        for b in range(a + 1, count):
            step[a] -= factor[b, a] * step[b]
        step[a] /= factor[a, a]


@jit
def _warp(image, side, weights, x, y, linear, found):
    """Write the values (P,) of an image where a warp leads, less their mean."""
    radius = side // 2
    a, b, c, d = linear
    for row in range(side):
        dy = np.float32(row - radius)
        for column in range(side):
            dx = np.float32(column - radius)
            found[row * side + column] = read_bilinear(image, x + a * dx + b * dy - HALF, y + c * dx + d * dy - HALF)
    _centre(found, weights)


@jit
def _compose(linear, step):
    """Write the linear part (4,) of a warp, row by row, after the inverse of that of a step."""
    a, b, c, d = ONE + step[2], step[3], step[4], ONE + step[5]
    scale = ONE / (a * d - b * c)
    l0, l1, l2, l3 = linear[0], linear[1], linear[2], linear[3]
    linear[0], linear[1] = (l0 * d - l1 * c) * scale, (l1 * a - l0 * b) * scale
    linear[2], linear[3] = (l2 * d - l3 * c) * scale, (l3 * a - l2 * b) * scale


@jit
def _align(image, patches, weights, points, iterations, numbers, first, last, moved, growth, similarity):
    damping, tiny, largest, smallest, least_gain, largest_gain = numbers
    side = patches.shape[1] - 2
    columns, template = np.empty((PARAMETERS, side * side), np.float32), np.empty(side * side, np.float32)
    factor, step = np.zeros((PARAMETERS, PARAMETERS), np.float32), np.empty(PARAMETERS, np.float32)
    found, linear = np.empty(side * side, np.float32), np.empty(4, np.float32)
    for n in range(first, last):
        _prepare(patches[n], weights, columns, template)
        floor = tiny * (ONE + patches[n, 0, 0] * patches[n, 0, 0])
        _factorise(columns, weights, damping, floor, found, step, factor)
        energy = floor
        for p in range(side * side):
            energy += weights[p] * template[p] * template[p]
        x, y = points[n, 0], points[n, 1]
        linear[:] = ZERO
        linear[0] = linear[3] = ONE
        for _ in range(iterations):
            _warp(image, side, weights, x, y, linear, found)
            gain = ZERO
            for p in range(side * side):
                gain += weights[p] * found[p] * template[p]
            gain = min(max(gain / energy, least_gain), largest_gain)
            for p in range(side * side):
                found[p] = weights[p] * (found[p] / gain - template[p])
            for k in range(PARAMETERS):
                total = ZERO
                for p in range(side * side):
                    total += columns[k, p] * found[p]
                step[k] = total
            _solve(factor, step)
            length = np.sqrt(step[0] * step[0] + step[1] * step[1])
            determinant = (ONE + step[2]) * (ONE + step[5]) - step[3] * step[4]
            if length > FARTHEST or abs(determinant) < LEAST_DETERMINANT:
                break  # it diverges
            if length > largest:
                step *= largest / length
            _compose(linear, step)
            x -= linear[0] * step[0] + linear[1] * step[1]
            y -= linear[2] * step[0] + linear[3] * step[1]
            if length < smallest:
                break
        _warp(image, side, weights, x, y, linear, found)
        product, own = ZERO, floor
        for p in range(side * side):
            product += weights[p] * found[p] * template[p]
            own += weights[p] * found[p] * found[p]
        moved[n, 0], moved[n, 1] = x, y
        growth[n] = linear[0] * linear[3] - linear[1] * linear[2]
        similarity[n] = product / np.sqrt(own * energy)


class NumbaAlignment:
    """[`fgvc_hf.kernels.alignment_torch.TorchAlignment`] on a CPU."""

    @staticmethod
    def sample(image, points, radius: int) -> torch.Tensor:
        patches = torch.empty((len(points), 2 * radius + 3, 2 * radius + 3), dtype=torch.float32, device="cpu")
        inputs, output = (array_of(image), array_of(_finite(points)), radius), patches.numpy()
        in_parallel(lambda first, last: _sample(*inputs, first, last, output), len(points))
        return patches

    @staticmethod
    def align(image, patches, weights, points, iterations: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        moved = torch.empty(points.shape, dtype=torch.float32, device="cpu")
        growth, similarity = (torch.empty(len(points), dtype=torch.float32, device="cpu") for _ in range(2))
        numbers = tuple(np.float32(n) for n in (DAMPING, TINY, LARGEST_STEP, SMALLEST_STEP, *GAIN))
        inputs = *(array_of(of) for of in (image, patches, weights, _finite(points))), iterations, numbers
        outputs = [of.numpy() for of in (moved, growth, similarity)]
        in_parallel(lambda first, last: _align(*inputs, first, last, *outputs), len(points))
        return moved, growth, similarity


def _finite(points: torch.Tensor) -> torch.Tensor:
    """Points (M, 2) that a kernel may read an image at."""
    return points.nan_to_num(nan=0.0).clamp(-float(FARTHEST), float(FARTHEST))


__all__ = ["NumbaAlignment"]
