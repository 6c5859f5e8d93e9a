"""Points spread evenly over a frame."""

import numpy as np

from .prompts import MAX_POINTS


def grid_points(grid: int | tuple[int, int], height: int, width: int) -> np.ndarray:
    """
    Prompts spread evenly over the first frame: the centres of a grid of equal cells, row by row.

    Args:
        grid (`int` or `tuple[int, int]`): Rows and columns of the grid; one number N stands for N rows of N points.
        height, width (`int`): Size of the frame in pixels.

    Returns:
        `numpy.ndarray` of shape `(rows * columns, 3)`, float64: (t, x, y) with t = 0, in pixels of the frame.

    Raises:
        `ValueError`: `grid` is not one or two integers of 1 or more, or has more points than there are pixels or 100,000.
    """
    counts = tuple(grid) if isinstance(grid, list | tuple) else (grid, grid)
    whole = all(isinstance(count, int | np.integer) and not isinstance(count, bool) for count in counts)
    if len(counts) != 2 or not whole or min(counts) < 1:
        raise ValueError(f"grid must be an integer of 1 or more, or a pair (rows, columns) of such, got {grid!r}.")
    rows, columns = counts
    if rows > height or columns > width:
        raise ValueError(f"grid must not have more points than the frame has pixels, {height}x{width}, got {grid!r}.")
    if rows * columns > MAX_POINTS:
        raise ValueError(f"grid must have at most {MAX_POINTS} points, got {grid!r}.")
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    return np.stack([np.zeros(x.size), x / columns * width, y / rows * height], axis=1)


__all__ = ["grid_points"]
