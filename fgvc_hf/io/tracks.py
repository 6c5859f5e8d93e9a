"""Point files: prompts to read, tracks to write and read. One schema in CSV, JSON and NPZ, in pixels of the original video.

| format | prompts                         | tracks                                                                             |
|--------|---------------------------------|------------------------------------------------------------------------------------|
| CSV    | header `t,x,y` or `id,t,x,y`, a row per label | header `point,t,x,y,visible,confidence,uncertainty,outside`, a row per point and frame |
| JSON   | `{"queries": [[t, x, y], ...]}`, and `"ids": [...]` if points have several labels | an object with the arrays below as nested lists                                    |
| NPZ    | `queries` (N, 3), and `ids` (N,) if points have several labels | the arrays below                                                                   |

Arrays: `queries` (N, 3) as (t, x, y), `tracks` (N, T, 2) as (x, y), `visible`, `confidence`, `uncertainty` and `outside` (N, T), `size`
(height, width), `object_ids` (N,), and where there are, `labels` (L, 4) as (id, t, x, y). On frames on which a point was not tracked, its position and uncertainty are NaN in NPZ, null in JSON, empty in CSV.
"""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..tracking.results import PointTracks
from .array_files import read_npz, write_npz
from .files import atomic_write, local_path


MAX_TEXT = 64 * 2**20  # bytes of a file of prompts
LARGEST = 1e9  # frame number and position, beyond any video
HEADERS = (["t", "x", "y"], ["id", "t", "x", "y"])  # of CSV files
FORMATS = (".csv", ".json", ".npz")
ARRAYS = ("queries", "tracks", "visible", "confidence", "uncertainty", "outside")


def check_format(path: str | Path) -> Path:
    """The path, checked to end in .csv, .json or .npz.

    Raises:
        `ValueError`: it has another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the name must end in .csv, .json or .npz.")
    return path


def read_points_file(path: str | Path) -> np.ndarray | dict[int, np.ndarray]:
    """
    Read point prompts.

    Args:
        path: A .csv, .json or .npz file, as described above.

    Returns:
        `numpy.ndarray` of shape `(N, 3)`, float64: (t, x, y), a frame number and a position in pixels. Of a file with ids, a `dict` from id to
        the labels of that point, `(K, 3)`. [`Tracker.track`] takes either.

    Raises:
        `OSError`, `ValueError`: the file is missing or malformed; a CSV error names the line.
    """
    path = check_format(local_path(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such points file.")
    reader = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}[path.suffix.lower()]
    points = reader(path)
    ids = points[:, 0] if points.ndim == 2 and points.shape[1] == 4 else None
    points = points if ids is None else points[:, 1:]
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"{path}: holds no points; it must hold (t, x, y) for one point or more.")
    wrong = ~(np.abs(points) < LARGEST).all(axis=1) | (points[:, 0] < 0) | (points[:, 0] != np.floor(points[:, 0]))
    if wrong.any():
        t, x, y = points[wrong.argmax()]
        raise ValueError(
            f"{path}: point {wrong.argmax()} must be a frame number t of 0 or more and a finite position, got ({t:g}, {x:g}, {y:g})."
        )
    if ids is None:
        return points
    if not ((np.abs(ids) < LARGEST) & (ids == np.floor(ids))).all():
        raise ValueError(f"{path}: ids must be whole numbers, below {LARGEST:g}.")
    return {int(obj_id): points[ids == obj_id] for obj_id in dict.fromkeys(ids.tolist())}


def grid_points(grid: int | tuple[int, int], height: int, width: int) -> np.ndarray:
    """
    Prompts spread evenly over the first frame: the centres of a grid of equal cells, row by row.

    Args:
        grid (`int` or `tuple[int, int]`): Rows and columns of the grid; one number N stands for N rows of N points.
        height, width (`int`): Size of the frame in pixels.

    Returns:
        `numpy.ndarray` of shape `(rows * columns, 3)`, float64: (t, x, y) with t = 0, in pixels of the frame.

    Raises:
        `ValueError`: `grid` is not one or two integers of 1 or more, or finer than the pixels.
    """
    counts = tuple(grid) if isinstance(grid, list | tuple) else (grid, grid)
    whole = all(isinstance(count, int | np.integer) and not isinstance(count, bool) for count in counts)
    if len(counts) != 2 or not whole or min(counts) < 1:
        raise ValueError(f"grid must be an integer of 1 or more, or a pair (rows, columns) of such, got {grid!r}.")
    rows, columns = counts
    if rows > height or columns > width:
        raise ValueError(f"grid must not have more points than the frame has pixels, {height}x{width}, got {grid!r}.")
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    return np.stack([np.zeros(x.size), x / columns * width, y / rows * height], axis=1)


def _read_text(path: Path) -> str:
    """The text of a file in UTF-8, with a byte order mark or without one.

    Raises:
        `ValueError`: it is of another encoding, or larger than any file of prompts.
    """
    kind = path.suffix[1:].upper()
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path}: is larger than {MAX_TEXT >> 20} MiB, the limit for points.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a {kind} text file in UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{path}: is not a {kind} text file in UTF-8.")
    return text


def _read_csv(path: Path) -> np.ndarray:
    points = []
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if header not in HEADERS:
            found = _cut(",".join(header)) or "nothing"
            raise ValueError(f"{path}, line 1: the header must be t,x,y or id,t,x,y, found {found}.")
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            try:
                points.append([float(cell) for cell in row])
            except ValueError:
                points.append([])
            if len(points[-1]) != len(header):
                line, found, wanted = rows.line_num, _cut(",".join(row)), ",".join(header)
                number = {3: "three", 4: "four"}[len(header)]
                raise ValueError(f"{path}, line {line}: expected {number} numbers {wanted}, found {found}.")
    except csv.Error:
        raise ValueError(f"{path}: is not a CSV text file.") from None
    return np.array(points, dtype=np.float64).reshape(-1, len(header))


def _cut(text: str) -> str:
    """Text that a message can hold."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_json(path: Path) -> np.ndarray:
    wanted = f'{path}: must hold {{"queries": [[t, x, y], ...]}} with numbers.'
    try:
        content = json.loads(_read_text(path))
        queries = content["queries"]
        if content.get("ids") is not None:
            queries = [[obj_id, *point] for obj_id, point in zip(content["ids"], queries, strict=True)]
        numbers = all(type(value) in (int, float) for point in queries for value in point)
        points = np.array(queries, dtype=np.float64)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not valid JSON ({error.msg}).") from None
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(wanted) from None
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else ValueError(wanted) from None
    if not numbers:
        raise ValueError(wanted)
    return points


def _read_npz(path: Path) -> np.ndarray:
    contents = "an NPZ file with an array queries (N, 3) of (t, x, y)"
    arrays = read_npz(path, ("queries",), contents, optional=("ids",))
    queries, ids = arrays["queries"], arrays.get("ids")
    if queries.dtype.kind not in "iuf":
        raise ValueError(f"{path}: must be {contents}, got {queries.dtype}.")
    if ids is not None and (ids.dtype.kind not in "iu" or ids.shape != queries.shape[:1] or queries.ndim != 2):
        raise ValueError(f"{path}: ids must be whole numbers, one for each query, got {ids.dtype} of {ids.shape}.")
    queries = queries.astype(np.float64)
    return queries if ids is None else np.column_stack([ids, queries])


def save_tracks(tracks: PointTracks, path: str | Path) -> None:
    """
    Write tracks. On failure no file is left behind.

    Args:
        tracks ([`PointTracks`]): As [`Tracker.track`] returns them.
        path: A .csv, .json or .npz file, as described above.

    Raises:
        `ValueError`: it has another suffix.
        `OSError`: the file cannot be written.
    """
    path = check_format(path)
    arrays = {name: getattr(tracks, name) for name in ARRAYS} | {
        "size": np.array(tracks.size, dtype=np.int64),
        "object_ids": np.array(tracks.object_ids, dtype=np.int64),
    }
    if tracks.labels is not None:
        arrays["labels"] = tracks.labels
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".npz":
            write_npz(temporary, **arrays)
        elif path.suffix.lower() == ".json":
            content = {name: array.tolist() for name, array in arrays.items()}
            content["tracks"] = [[None if np.isnan(p).any() else p.tolist() for p in row] for row in tracks.tracks]
            content["queries"] = [[None if np.isnan(v) else v for v in row] for row in content["queries"]]
            content["uncertainty"] = [[None if np.isnan(u) else float(u) for u in row] for row in tracks.uncertainty]
            Path(temporary).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        else:
            _write_csv(tracks, temporary)


def read_tracks(path: str | os.PathLike) -> PointTracks:
    """
    Read tracks from an NPZ file of [`save_tracks`]. Points of a file without ids, of version 0.2 or before, are numbered from 0.

    Returns:
        [`PointTracks`] in pixels of the original video.

    Raises:
        `OSError`, `ValueError`: the file is missing or malformed.
    """
    contents = f"an NPZ file with the arrays {', '.join(ARRAYS)} and size"
    try:
        arrays = read_npz(path, (*ARRAYS, "size"), contents, optional=("object_ids", "labels"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file of tracks.") from None
    number, length = arrays["tracks"].shape[:2] if arrays["tracks"].ndim == 3 else (0, 0)
    ids, labels = arrays.pop("object_ids", np.arange(number)), arrays.pop("labels", None)
    shapes = {"tracks": (number, length, 2), "queries": (number, 3), "size": (2,), "object_ids": (number,)}
    for name, array in (arrays | {"object_ids": ids}).items():
        shape = shapes.get(name, (number, length))
        if array.shape != shape or array.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} must be numbers of shape {shape}, got {array.dtype} of {array.shape}.")
    if ids.dtype.kind not in "iu" or len(set(ids.tolist())) != number:
        raise ValueError(f"{path}: object_ids must be integers, each once.")
    if labels is not None and (labels.ndim != 2 or labels.shape[1:] != (4,) or labels.dtype.kind != "f"):
        raise ValueError(f"{path}: labels must be numbers (L, 4), got {labels.dtype} of {labels.shape}.")
    height, width = arrays.pop("size").tolist()
    fields: dict[str, Any] = arrays
    return PointTracks(object_ids=ids.tolist(), size=(height, width), labels=labels, **fields)


def _write_csv(tracks: PointTracks, path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["point", "t", "x", "y", "visible", "confidence", "uncertainty", "outside"])
        for n, obj_id in enumerate(tracks.object_ids):
            for t, (x, y) in enumerate(tracks.tracks[n]):
                position = ("", "") if np.isnan(x) else (f"{x:.3f}", f"{y:.3f}")
                uncertainty = "" if np.isnan(tracks.uncertainty[n, t]) else f"{tracks.uncertainty[n, t]:.3f}"
                seen = int(tracks.visible[n, t]), f"{tracks.confidence[n, t]:.4f}"
                writer.writerow([obj_id, t, *position, *seen, uncertainty, int(tracks.outside[n, t])])
