"""Winograd convolution F(4x4, 3x3): a quarter of the products (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016).

A tile of 4 x 4 outputs takes 36 products for each pair of channels instead of 144. The interpolation points are 0, ±sqrt(1/2), ±sqrt(2) and
infinity: with the paper's 0, ±1, ±2 and infinity, the error in bfloat16 is twice as large.

The transforms are JIT kernels, the products torch's batched matrix product.
"""

from itertools import product

import numpy as np
import torch

from .numba_runtime import array_of, bits_of, in_parallel, jit, narrow, widen


POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))  # and infinity
OUTPUTS, TAPS = 4, 3
STEPS = OUTPUTS + TAPS - 1  # inputs along a side of a tile
TILE_BYTES = 5 * 2**19  # transformed tiles held at a time, so that they stay in the cache


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Toom-Cook matrices A (4, 6), B (6, 6) and G (6, 3): outputs y = A ((G g) * (B d)) of six inputs d and three weights g."""
    points = np.array(POINTS)
    powers = np.vander(points, STEPS, increasing=True)  # (5, 6)
    others = [np.delete(points, i) for i in range(len(points))]
    outputs, inputs, weights = np.zeros((OUTPUTS, STEPS)), np.zeros((STEPS, STEPS)), np.zeros((STEPS, TAPS))
    outputs[:, :-1] = powers[:, :OUTPUTS].T
    for i, rest in enumerate(others):
        inputs[i, :-1] = np.poly(rest)[::-1]
        weights[i] = powers[i, :TAPS] / np.prod(points[i] - rest)
    outputs[-1, -1] = weights[-1, -1] = 1  # the point at infinity
    inputs[-1] = np.poly(points)[::-1]
    return outputs, inputs, weights


@jit
def _mix(factors, values, mixed):
    """Sums (C,) of six values (6, C) times their factors (6,)."""
    f0, f1, f2, f3, f4, f5 = factors[0], factors[1], factors[2], factors[3], factors[4], factors[5]
    v0, v1, v2, v3, v4, v5 = values[0], values[1], values[2], values[3], values[4], values[5]
    for c in range(len(mixed)):
        mixed[c] = f0 * v0[c] + f1 * v1[c] + f2 * v2[c] + f3 * v3[c] + f4 * v4[c] + f5 * v5[c]


@jit
def _transform(image, shift, matrix, columns, start, first, last, tiles):
    """Write the transformed tiles `first` to `last` (36, tiles, C) of an image (h, w, C), counted from its tile `start`; padding is 0."""
    h, w, channels = image.shape
    column, mixed = np.empty((6, channels), np.float32), np.empty(channels, np.float32)
    half = np.empty((6, 6, channels), np.float32)  # transformed along y
    for tile in range(first, last):
        top, left = 4 * ((start + tile) // columns) - 1, 4 * ((start + tile) % columns) - 1
        for j in range(6):
            if j < 2 and left > 0 and tile > first:  # the last two columns of the tile before
                for i in range(6):
                    for c in range(channels):
                        half[i, j, c] = half[i, j + 4, c]
                continue
            for i in range(6):
                if 0 <= top + i < h and 0 <= left + j < w:
                    widen(image[top + i, left + j], shift, np.float32(1), column[i])
                else:
                    for c in range(channels):
                        column[i, c] = 0
            for i in range(6):
                _mix(matrix[i], column, half[i, j])
        for i in range(6):
            for j in range(6):
                _mix(matrix[j], half[i], mixed)
                narrow(mixed, shift, tiles[6 * i + j, tile])


@jit
def _restore(tiles, shift, matrix, bias, residual, has_residual, least, columns, start, first, last, image):
    """Write the outputs of tiles `first` to `last` (36, tiles, C) into an image (h, w, C): plus bias and residual (h, w, C), at least `least`."""
    h, w, channels = image.shape
    column, mixed = np.empty((6, channels), np.float32), np.empty(channels, np.float32)
    half, added = np.empty((4, 6, channels), np.float32), np.zeros(channels, np.float32)
    for tile in range(first, last):
        top, left = 4 * ((start + tile) // columns), 4 * ((start + tile) % columns)
        for j in range(6):
            for i in range(6):
                widen(tiles[6 * i + j, tile], shift, np.float32(1), column[i])
            for i in range(4):
                _mix(matrix[i], column, half[i, j])
        for y in range(top, min(top + 4, h)):
            for x in range(left, min(left + 4, w)):
                _mix(matrix[x - left], half[y - top], mixed)
                if has_residual:
                    widen(residual[y, x], shift, np.float32(1), added)
                for c in range(channels):
                    mixed[c] = max(mixed[c] + bias[c] + added[c], least)
                narrow(mixed, shift, image[y, x])


class WinogradConvolution:
    """A convolution with weights (O, C, 3, 3), stride 1 and padding 1, plus a bias (O,); it computes in the type of the bias."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        outputs, inputs, weights = transforms()
        self.outputs, self.inputs = outputs.astype(np.float32), inputs.astype(np.float32)
        along = torch.from_numpy(weights)
        mixed = torch.einsum("ia,jb,ocab->ijco", along, along, weight.double())
        self.weight, self.bias = mixed.flatten(0, 1).to(bias.dtype).contiguous(), array_of(bias.float())

    def __call__(self, images: torch.Tensor, residual: torch.Tensor | None = None, relu: bool = True) -> torch.Tensor:
        """Images (N, C, H, W), fastest in channels-last order, to (N, O, H, W); with a residual (N, O, H, W) and a ReLU, if asked for."""
        n, _, h, w = images.shape
        _, channels, width = self.weight.shape
        found = images.new_empty((n, h, w, width))
        columns = -(-w // OUTPUTS)
        count = -(-h // OUTPUTS) * columns
        each = len(self.weight) * max(channels, width) * images.element_size()
        at_once = min(count, max(1, TILE_BYTES // each))
        tiles = images.new_zeros((len(self.weight), at_once, channels))
        products = images.new_empty((len(self.weight), at_once, width))
        (given, shift), (written, _), (into, _), (multiplied, _) = map(
            bits_of, (images.permute(0, 2, 3, 1), found, tiles, products)
        )
        added = given if residual is None else bits_of(residual.permute(0, 2, 3, 1))[0]
        least = np.float32(0 if relu else -np.inf)
        for image, start in product(range(n), range(0, count, at_once)):
            part = min(at_once, count - start)
            before = given[image], shift, self.inputs, columns, start
            after = (
                multiplied,
                shift,
                self.outputs,
                self.bias,
                added[image],
                residual is not None,
                least,
                columns,
                start,
            )
            in_parallel(lambda first, last: _transform(*before, first, last, into), part)
            torch.bmm(tiles, self.weight, out=products)
            in_parallel(lambda first, last: _restore(*after, first, last, written[image]), part)
        return found.permute(0, 3, 1, 2)
