"""The one coordinate convention, and every conversion between its rasters.

A point is (x, y) in pixels. (0, 0) is the outer corner of the first pixel, whose centre is (0.5, 0.5), as in TAP-Vid.
A raster of another size shows the same rectangle, so coordinates scale by the ratio of the sizes, with no offset.

A convolution of stride s with symmetric padding centres cell (i, j) on pixel index s*(i, j), that is on coordinate
s*(i, j) + 0.5, and not on the middle s*(i, j) + s/2 of the s x s block. Treating the cell as that block moves every point
by (s - 1)/2 pixels: nothing at stride 1, half a pixel at stride 2, 3.5 pixels at stride 8. Networks that cut the image into
patches do centre cells on that block; the coordinate of the centre of cell 0, their origin, is s/2 then.
"""

import numpy as np
import torch


def rescale_points(points, from_size: tuple[int, int], to_size: tuple[int, int]):
    """Carry points from a raster of one size to a raster of another that shows the same rectangle.

    Args:
        points (`numpy.ndarray` or `torch.Tensor` of shape `(..., 2)`): (x, y) in pixels of the first raster.
        from_size, to_size (`tuple[int, int]`): (height, width) of the two rasters.

    Returns:
        The points in pixels of the second raster, of the same kind and shape; integers become floats.
    """
    scale = (to_size[1] / from_size[1], to_size[0] / from_size[0])
    if isinstance(points, np.ndarray):
        return points * np.asarray(scale, dtype=np.result_type(points, np.float32))
    return points * torch.tensor(scale, dtype=torch.result_type(points, 1.0), device=points.device)


ORIGIN = 0.5  # coordinate of the centre of cell 0 of a network of convolutions


def cell_to_point(cell, stride: int, origin: float = ORIGIN):
    """Coordinate of the centre of a feature cell; works on x and y alike, fractional cells included."""
    return stride * cell + origin


def point_to_cell(point, stride: int, origin: float = ORIGIN):
    """Fractional feature cell that a coordinate falls on: the inverse of [`cell_to_point`]."""
    return (point - origin) / stride


def feature_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """(rows, columns) of the feature map of an image: each halving rounds up, so any size is accepted."""
    return -(-height // stride), -(-width // stride)
