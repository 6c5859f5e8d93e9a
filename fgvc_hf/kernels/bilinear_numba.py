"""An image read between its pixels, for the JIT kernels."""

import numpy as np

from .numba_runtime import jit


@jit
def read_bilinear(image, x, y):
    """Value of an image (h, w) at (x, y), 0 at the centre of the first pixel; constant beyond the border.

    The place must be finite: a NaN would lead outside the image's memory.
    """
    h, w = image.shape
    last_x, last_y = np.int32(w - 1), np.int32(h - 1)
    x = min(max(x, np.float32(0)), np.float32(last_x))
    y = min(max(y, np.float32(0)), np.float32(last_y))
    left, top = np.int32(x), np.int32(y)
    fx, fy = x - np.float32(left), y - np.float32(top)
    x0, y0 = np.uint32(left), np.uint32(top)
    x1, y1 = np.uint32(min(left + np.int32(1), last_x)), np.uint32(min(top + np.int32(1), last_y))
    upper = image[y0, x0] + fx * (image[y0, x1] - image[y0, x0])
    lower = image[y1, x0] + fx * (image[y1, x1] - image[y1, x0])
    return upper + fy * (lower - upper)


__all__ = ["read_bilinear"]
