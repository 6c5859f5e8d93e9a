"""Point files: prompts to read, tracks to write and read. One schema in CSV, JSON and NPZ, in pixels of the original video.

| format | prompts                         | tracks                                                                             |
|--------|---------------------------------|------------------------------------------------------------------------------------|
| CSV    | header `t,x,y`, a row per point | header `point,t,x,y,visible,confidence,uncertainty,outside`, a row per point and frame |
| JSON   | `{"queries": [[t, x, y], ...]}` | an object with the arrays below as nested lists                                    |
| NPZ    | `queries` (N, 3)                | the arrays below                                                                   |

Arrays: `queries` (N, 3) as (t, x, y), `tracks` (N, T, 2) as (x, y), `visible`, `confidence`, `uncertainty` and `outside` (N, T), `size`
(height, width). On frames on which a point was not tracked, its position and uncertainty are NaN in NPZ, null in JSON, empty in CSV.
"""

import csv
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..tracking.results import PointTracks
from .files import atomic_write


UNREADABLE_NPZ = (  # what NumPy and zipfile raise on a damaged file, or on one of another format
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
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


def read_points_file(path: str | Path) -> np.ndarray:
    """
    Read point prompts.

    Args:
        path: A .csv, .json or .npz file, as described above.

    Returns:
        `numpy.ndarray` of shape `(N, 3)`, float64: (t, x, y), a frame number and a position in pixels.

    Raises:
        `OSError`, `ValueError`: the file is missing or malformed; a CSV error names the line.
    """
    path = check_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such points file.")
    reader = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}[path.suffix.lower()]
    points = reader(path)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"{path}: holds no points; it must hold (t, x, y) for one point or more.")
    return points


def grid_points(grid: int | tuple[int, int], height: int, width: int) -> np.ndarray:
    """
    Prompts spread evenly over the first frame: the centres of a grid of equal cells, row by row.

    Args:
        grid (`int` or `tuple[int, int]`): Rows and columns of the grid; one number N stands for N rows of N points.
        height, width (`int`): Size of the frame in pixels.

    Returns:
        `numpy.ndarray` of shape `(rows * columns, 3)`, float64: (t, x, y) with t = 0, in pixels of the frame.

    Raises:
        `ValueError`: `grid` is not one or two integers of 1 or more.
    """
    counts = tuple(grid) if isinstance(grid, list | tuple) else (grid, grid)
    whole = all(isinstance(count, int | np.integer) and not isinstance(count, bool) for count in counts)
    if len(counts) != 2 or not whole or min(counts) < 1:
        raise ValueError(f"grid must be an integer of 1 or more, or a pair (rows, columns) of such, got {grid!r}.")
    rows, columns = counts
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
    return np.stack([np.zeros(x.size), x / columns * width, y / rows * height], axis=1)


def _read_csv(path: Path) -> np.ndarray:
    points = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        try:
            header = [cell.strip().lower() for cell in next(rows, [])]
            if header != ["t", "x", "y"]:
                raise ValueError(f"{path}, line 1: the header must be t,x,y, found {','.join(header) or 'nothing'}.")
            for row in rows:
                if not row:
                    continue
                try:
                    t, x, y = (float(cell) for cell in row)
                except ValueError:
                    line, found = rows.line_num, ",".join(row)
                    raise ValueError(f"{path}, line {line}: expected three numbers t,x,y, found {found}.") from None
                points.append((t, x, y))
        except (UnicodeDecodeError, csv.Error):
            raise ValueError(f"{path}: is not a CSV text file.") from None
    return np.array(points, dtype=np.float64).reshape(-1, 3)


def _read_json(path: Path) -> np.ndarray:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not valid JSON ({error.msg}).") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a JSON text file.") from None
    try:
        return np.array(content["queries"], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f'{path}: must hold {{"queries": [[t, x, y], ...]}}.') from None


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content["queries"], dtype=np.float64)
    except UNREADABLE_NPZ:
        raise ValueError(f"{path}: must be an NPZ file with an array queries (N, 3) of (t, x, y).") from None


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
    arrays = {name: getattr(tracks, name) for name in ARRAYS} | {"size": np.array(tracks.size, dtype=np.int64)}
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".npz":
            with open(temporary, "wb") as file:  # given a name, NumPy would append .npz to "x.NPZ"
                np.savez_compressed(file, allow_pickle=False, **arrays)
        elif path.suffix.lower() == ".json":
            content = {name: array.tolist() for name, array in arrays.items()}
            content["tracks"] = [[None if np.isnan(p).any() else p.tolist() for p in row] for row in tracks.tracks]
            content["uncertainty"] = [[None if np.isnan(u) else float(u) for u in row] for row in tracks.uncertainty]
            Path(temporary).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        else:
            _write_csv(tracks, temporary)


def read_tracks(path: str | Path) -> PointTracks:
    """
    Read tracks from an NPZ file of [`save_tracks`]. The file has no ids, so points are numbered from 0.

    Returns:
        [`PointTracks`] in pixels of the original video.

    Raises:
        `OSError`, `ValueError`: the file is missing or malformed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file of tracks.")
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ARRAYS}
            height, width = content["size"].tolist()
        points, frames, _ = arrays["tracks"].shape
    except UNREADABLE_NPZ:
        raise ValueError(f"{path}: must be an NPZ file with the arrays {', '.join(ARRAYS)} and size.") from None
    for name in ("visible", "confidence", "uncertainty", "outside"):
        if arrays[name].shape != (points, frames):
            raise ValueError(f"{path}: {name} must have the shape {(points, frames)}, got {arrays[name].shape}.")
    return PointTracks(object_ids=list(range(points)), size=(height, width), **arrays)


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
