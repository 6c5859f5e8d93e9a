"""Points of a clip: of a grid, or of a value in any of the forms of a source."""

import io
import json
from typing import Any

import numpy as np

from ...io.array_files import read_npy
from ...io.tracks import grid_points
from ...tracking.frames import host_array
from ...tracking.prompts import MAX_POINTS
from .clip_errors import ClipError


MAX_BYTES = 64 << 20  # of points in JSON or NPY
FORM = "(t, x, y) each, or (x, y) on the first frame"


def parse_grid(points: str) -> tuple[int, int]:
    """Rows and columns of `"grid:N"` or `"grid:ROWSxCOLUMNS"`.

    Raises:
        `ValueError`: it is something else, or has more than 100,000 points.
    """
    kind, _, size = points.partition(":")
    sides = size.split("x")
    digits = all(side.isascii() and side.isdigit() and len(side) < 10 and int(side) for side in sides)
    if kind != "grid" or len(sides) > 2 or not digits:
        raise ValueError(f"points must be grid:N, grid:ROWSxCOLUMNS or column:NAME, got {points[:50]!r}.")
    rows, columns = int(sides[0]), int(sides[-1])
    if rows * columns > MAX_POINTS:
        raise ValueError(f"points must be at most {MAX_POINTS}, got {points!r}.")
    return rows, columns


def points_name(points: str) -> str:
    """The one name of grids that are equal, such as `"grid:2"` of `"grid:2x2"` and `"grid:02"`."""
    rows, columns = parse_grid(points)
    return f"grid:{rows}" if rows == columns else f"grid:{rows}x{columns}"


def queries_of(points: Any, height: int, width: int) -> np.ndarray:
    """
    Queries (N, 3), float64, of the points of a row.

    Args:
        points: `"grid:..."`, bytes of a file in JSON or NPY, or (N, 3) or (N, 2) values of any type.
        height, width (`int`): Size of the video.

    Raises:
        [`ClipError`]: there are none, too many, or they have another form.
    """
    if points is None:
        raise ClipError("points", "the row has no points.")
    if isinstance(points, str):
        return grid_points(parse_grid(points), height, width)
    if isinstance(points, bytes | bytearray | memoryview):
        points = read_points(bytes(points))
    if hasattr(points, "__len__") and len(points) > MAX_POINTS:
        raise ClipError("points", f"there are {len(points)}, at most {MAX_POINTS} are followed.")
    array = rows_of_numbers(points)
    if array is None or array.shape[1] not in (2, 3):
        raise ClipError("points", f"they must be one or more, {FORM}.")
    return np.column_stack([np.zeros(len(array)), array]) if array.shape[1] == 2 else array


def rows_of_numbers(values: Any) -> np.ndarray | None:
    """Rows of real numbers, all of one length, as an array (N, C), float64; `None` for anything else, such as text, complex numbers and bools."""
    try:
        array = host_array([np.asarray(host_array(row)) for row in values])  # pandas has rows as an array of arrays
    except (TypeError, ValueError):
        return None
    if array is None or array.ndim != 2 or not len(array) or array.dtype.kind not in "iuf":
        return None
    return array.astype(np.float64)


def read_points(data: bytes) -> Any:
    """Points of a file in JSON, or of an array of NumPy; what is raised otherwise is of any type."""
    if len(data) > MAX_BYTES:
        raise ClipError("points", f"their file is larger than {MAX_BYTES >> 20} MiB.")
    if data.startswith(b"\x93NUMPY"):
        return read_npy(io.BytesIO(data), len(data), "the array")
    try:
        points = json.loads(data)
    except RecursionError:
        raise ClipError("points", "their JSON is nested too deeply.") from None
    except ValueError:
        raise ClipError("points", "their file is neither JSON nor NPY.") from None
    if not isinstance(points, dict) or "queries" not in points:
        return points
    ids = points.get("ids")
    if isinstance(ids, list) and len({str(obj_id) for obj_id in ids}) < len(ids):
        raise ClipError("points", "their file has several labels of one point; here every point has one.")
    return points["queries"]


__all__ = ["MAX_BYTES", "parse_grid", "points_name", "queries_of", "rows_of_numbers"]
