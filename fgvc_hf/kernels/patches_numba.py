"""Template matching by JIT kernels for a CPU: each feature is read once, and products are summed in registers.

Torch multiplies all cells of a template with all cells of its window, three times as many products as are needed, and writes them to memory.
Arithmetic is in float32, of features in float32 or bfloat16.
"""

import math
from typing import Any

import numpy as np
import torch

from .numba_runtime import BITS, array_of, bits_of, in_parallel, jit, narrow, widen


AT_ONCE = 7  # neighbouring cells of a window whose scores are accumulated together; a window of full resolution has 7 columns


@jit
def _add_products(patch, cells, channels, scores):
    """Add the products of a row of a patch (side * C,) with the rows of as many cells that begin at each of AT_ONCE cells (..., C)."""
    c = channels
    first, second, third, fourth, fifth = cells, cells[c:], cells[2 * c :], cells[3 * c :], cells[4 * c :]
    sixth, seventh = cells[5 * c :], cells[6 * c :]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = np.float32(0)
    for i in range(len(patch)):
        value = patch[i]
        s0 += value * first[i]
        s1 += value * second[i]
        s2 += value * third[i]
        s3 += value * fourth[i]
        s4 += value * fifth[i]
        s5 += value * sixth[i]
        s6 += value * seventh[i]
    scores[0] += s0
    scores[1] += s1
    scores[2] += s2
    scores[3] += s3
    scores[4] += s4
    scores[5] += s5
    scores[6] += s6


@jit
def _share(weights, side, left, top, h, w, share):
    """Sums of the weights (P,) of the cells inside the frame (D, D) for patches of which the first begins at cell (left, top)."""
    d, total = len(share), weights.sum()
    whole = left >= 0 and top >= 0 and left + d + side - 1 <= w and top + d + side - 1 <= h
    for y in range(d):
        for x in range(d):
            part = np.float32(0)
            if whole:
                part = total
            elif 0 <= top + y + side // 2 < h and 0 <= left + x + side // 2 < w:
                for p in range(side * side):
                    if 0 <= top + y + p // side < h and 0 <= left + x + p % side < w:
                        part += weights[p]
            share[y, x] = part


@jit
def _correlate(features, shift, corner, templates, template_shift, weights, side, first, last, scores, share):
    """Scores (N, D, columns) and shares (N, D, D) of windows `first` to `last`; the columns, a multiple of AT_ONCE, are at least D."""
    h, w, channels = features.shape
    _, d, columns = scores.shape
    patch = np.empty((side, side * channels), np.float32)
    line = np.zeros((columns + side - 1) * channels, np.float32)  # a row of the cells that the window's patches cover
    for n in range(first, last):
        for p in range(side * side):
            start = p % side * channels
            widen(templates[n, p], template_shift, weights[n, p], patch[p // side, start : start + channels])
        left, top = corner[n, 0] - side // 2, corner[n, 1] - side // 2
        for y in range(d):
            for x in range(columns):
                scores[n, y, x] = 0
        for row in range(d + side - 1):
            if not 0 <= top + row < h:
                continue
            for i in range(d + side - 1):
                cell = line[i * channels : (i + 1) * channels]
                if 0 <= left + i < w:
                    widen(features[top + row, left + i], shift, np.float32(1), cell)
                else:
                    for c in range(channels):
                        cell[c] = 0
            for dy in range(max(0, row - d + 1), min(side, row + 1)):
                for x in range(0, columns, AT_ONCE):
                    _add_products(patch[dy], line[x * channels :], channels, scores[n, row - dy, x : x + AT_ONCE])
        _share(weights[n], side, left, top, h, w, share[n])


@jit
def _average(anchor, shift, share, recent, trusted, first, last, mean):
    """Means (N, P, C) of the patches `first` to `last`, and of those (N, slots, P, C) of earlier frames that are trusted (N, slots)."""
    _, cells, channels = anchor.shape
    one, total = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(first, last):
        count = np.float32(share)
        for slot in range(trusted.shape[1]):
            count += np.float32(trusted[n, slot])
        for p in range(cells):
            widen(anchor[n, p], shift, np.float32(share), total)
            for slot in range(trusted.shape[1]):
                if trusted[n, slot]:
                    widen(recent[n, slot, p], shift, np.float32(1), one)
                    for c in range(channels):
                        total[c] += one[c]
            for c in range(channels):
                total[c] /= count
            narrow(total, shift, mean[n, p])


@jit
def _take(
    features, shift, cells, side, mean, mean_shift, trusted, slots, first, last, recent, recent_shift, similarity
):
    """Patches around the cells `first` to `last` (N, 2), 0 if not trusted, into slots (N, slots, P, C), and their cosine similarity (N, P) with others."""
    h, w, channels = features.shape
    corners = np.empty((4, channels), np.float32)
    found, other = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(first, last):
        left, top = math.floor(cells[n, 0]), math.floor(cells[n, 1])
        fx, fy = cells[n, 0] - np.float32(left), cells[n, 1] - np.float32(top)
        for p in range(side * side):
            for corner in range(4):
                y = min(max(top + p // side - side // 2 + corner // 2, 0), h - 1)
                x = min(max(left + p % side - side // 2 + corner % 2, 0), w - 1)
                widen(features[y, x], shift, np.float32(1), corners[corner])
            for c in range(channels):
                above = corners[0, c] + fx * (corners[1, c] - corners[0, c])
                below = corners[2, c] + fx * (corners[3, c] - corners[2, c])
                found[c] = above + fy * (below - above)
            widen(mean[n, p], mean_shift, np.float32(1), other)
            product = own = theirs = np.float32(0)
            for c in range(channels):
                product += found[c] * other[c]
                own += found[c] * found[c]
                theirs += other[c] * other[c]
            similarity[n, p] = product / max(np.sqrt(own * theirs), np.float32(1e-8))
            if trusted[n]:
                narrow(found, recent_shift, recent[n, slots[n], p])
            else:
                recent[n, slots[n], p] = 0


class NumbaPatches:
    """[`fgvc_hf.kernels.patches_torch.TorchPatches`] on a CPU, for float32 and bfloat16."""

    @staticmethod
    def correlate(features, corner, templates, weights, search: int) -> tuple[torch.Tensor, torch.Tensor]:
        n, d = len(templates), 2 * search + 1
        of: Any = {"dtype": torch.float32, "device": "cpu"}
        scores, share = torch.empty((n, d, -(-d // AT_ONCE) * AT_ONCE), **of), torch.empty((n, d, d), **of)
        inputs = *bits_of(features), array_of(corner), *bits_of(templates), array_of(weights)
        side, outputs = math.isqrt(templates.shape[1]), (scores.numpy(), share.numpy())
        in_parallel(lambda first, last: _correlate(*inputs, side, first, last, *outputs), n)
        return scores[:, :, :d], share

    @staticmethod
    def mean(anchor, share: float, recent, trusted) -> torch.Tensor:
        mean = torch.empty(anchor.shape, dtype=anchor.dtype, device="cpu")
        inputs, output = (*bits_of(anchor), share, bits_of(recent)[0], array_of(trusted)), bits_of(mean)[0]
        in_parallel(lambda first, last: _average(*inputs, first, last, output), len(mean))
        return mean

    @staticmethod
    def take(features, cells, mean, trusted, recent, slots) -> torch.Tensor:
        similarity = torch.empty(mean.shape[:2], dtype=torch.float32, device="cpu")
        written = recent.contiguous() if recent.dtype in BITS else recent.float()
        inputs = *bits_of(features), array_of(cells), math.isqrt(mean.shape[1]), *bits_of(mean)
        chosen, outputs = (array_of(trusted), array_of(slots)), (*bits_of(written), similarity.numpy())
        in_parallel(lambda first, last: _take(*inputs, *chosen, first, last, *outputs), len(cells))
        if written is not recent:
            recent.copy_(written)
        return similarity


__all__ = ["NumbaPatches"]
