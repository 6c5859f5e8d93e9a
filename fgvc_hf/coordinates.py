"""The coordinate convention, and all conversions between video pixels, model input pixels and feature cells.

A point is (x, y) in pixels. (0, 0) is the outer corner of the first pixel, whose centre is (0.5, 0.5), as in TAP-Vid.
A resized image covers the same rectangle, so coordinates scale by the ratio of the sizes, without an offset.

A convolution of stride s with symmetric padding centres cell i on pixel index s * i, which is coordinate s * i + 0.5. It is not
the centre s * i + s / 2 of a block of s pixels: with that, every point would move by (s - 1) / 2 pixels, half a pixel at stride
2 and 3.5 pixels at stride 8. Networks that cut the image into patches do centre cells on blocks. The coordinate of the centre
of cell 0, the origin, is therefore 0.5 for convolutions and s / 2 for patches.
"""

import numpy as np
import torch


def rescale_points(points, from_size: tuple[int, int], to_size: tuple[int, int]):
    """Convert points between two sizes of the same image.

    Args:
        points (`numpy.ndarray` or `torch.Tensor` of shape `(..., 2)`): (x, y) in pixels of the first size.
        from_size, to_size (`tuple[int, int]`): (height, width) of both.

    Returns:
        The points in pixels of the second size, of the same type and shape; integers become floats.
    """
    scale = (to_size[1] / from_size[1], to_size[0] / from_size[0])
    if isinstance(points, np.ndarray):
        return points * np.asarray(scale, dtype=np.result_type(points, np.float32))
    dtype = points.dtype if points.is_floating_point() else torch.float32
    return points * torch.tensor(scale, dtype=dtype, device=points.device)


WITHOUT_FLOAT64 = ("mps",)  # devices


def exact_dtype(device: torch.device) -> torch.dtype:
    """The type of positions on a device: float64, or float32 on Apple's GPUs, which have no other."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def exact(values: torch.Tensor) -> torch.Tensor:
    """Values in the type of positions on their device."""
    return values.to(exact_dtype(values.device))


ORIGIN = 0.5  # coordinate in pixels of the centre of cell 0 of a convolutional network


def cell_to_point(cell, stride: int, origin: float = ORIGIN):
    """Coordinate in pixels of the centre of a feature cell, for x and y alike; cells may be fractional."""
    return stride * cell + origin


def point_to_cell(point, stride: int, origin: float = ORIGIN):
    """Fractional feature cell of a coordinate in pixels: the inverse of [`cell_to_point`]."""
    return (point - origin) / stride


def feature_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """(rows, columns) of the feature map of an image of any size: every stride of 2 rounds up."""
    return -(-height // stride), -(-width // stride)
