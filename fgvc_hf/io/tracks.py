"""Point files: prompts to read, tracks to write and read. One schema in CSV, JSON and NPZ, in pixels of the original video; and the formats of
other tools, of `formats/`.

| format | prompts                         | tracks                                                                             |
|--------|---------------------------------|------------------------------------------------------------------------------------|
| CSV    | header `t,x,y` or `id,t,x,y`, a row per label | header `point,t,x,y,visible,confidence,uncertainty,outside`, a row per point and frame |
| JSON   | `{"queries": [[t, x, y], ...]}`, and `"ids": [...]` if points have several labels | an object with the arrays below as nested lists                                    |
| NPZ    | `queries` (N, 3), and `ids` (N,) if points have several labels | the arrays below                                                                   |

Arrays: `queries` (N, 3) as (t, x, y), `tracks` (N, T, 2) as (x, y), `visible`, `confidence`, `uncertainty` and `outside` (N, T), `size`
(height, width), `object_ids` (N,), and where there are, `labels` (L, 4) as (id, t, x, y). Read as prompts, they are the points by `object_ids`, with all
`labels`. On frames on which a point was not tracked, its position and uncertainty are NaN in NPZ, null in JSON, empty in CSV.
"""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tracking.box_results import BoxTracks
from ..tracking.point_grid import grid_points
from ..tracking.prompts import MAX_POINTS, whole_number
from ..tracking.results import PointTracks
from .array_files import read_npz, write_npz
from .files import atomic_write, local_path
from .formats.point_labels import PointLabels, PointName
from .formats.table import OWN, check_options, existing, find_format, read_foreign, write_foreign, write_foreign_boxes
from .text_files import cut as _cut
from .text_files import read_text as _read_text
from .text_numbers import number_in, whole_in


LARGEST = 1e9  # frame number and position, beyond any video
HEADERS = (["t", "x", "y"], ["id", "t", "x", "y"])  # of CSV files
OF_TRACKS = ["point", "t", "x", "y", "visible", "confidence", "uncertainty", "outside"]
FLAGS = ("visible", "outside")  # of tracks
ARRAYS = ("queries", "tracks", "visible", "confidence", "uncertainty", "outside")


def check_format(path: str | Path, format: str | None = None) -> Path:
    """The path of tracks to write, checked to end as the format wants it.

    Raises:
        `ValueError`: it has another suffix, or there is no such format.
    """
    path = local_path(path, "written")
    find_format(path, format, "write")
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
    path = local_path(path)
    if path.suffix.lower() not in OWN:
        raise ValueError(f"{path}: the name must end in .csv, .json or .npz.")
    path = existing(path)
    reader = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}[path.suffix.lower()]
    ids, points = reader(path)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"{path}: holds no points; it must hold (t, x, y) for one point or more.")
    if len(points) > MAX_POINTS:
        raise ValueError(f"{path}: holds {len(points)} points, at most {MAX_POINTS} are followed at a time.")
    if ids is not None and (sought := np.isnan(points[:, 1:]).all(axis=1)).any():
        raise ValueError(
            f"{path}: point {ids[sought.argmax()]} has no position, as points that were looked for by what they look like."
        )
    wrong = ~(np.abs(points) < LARGEST).all(axis=1) | (points[:, 0] < 0) | (points[:, 0] != np.floor(points[:, 0]))
    if wrong.any():
        t, x, y = points[wrong.argmax()]
        raise ValueError(
            f"{path}: point {wrong.argmax()} must be a frame number t of 0 or more and a finite position, got ({t:g}, {x:g}, {y:g})."
        )
    if ids is None:
        return points
    try:
        rows: dict[int, list[int]] = {}
        for row, obj_id in enumerate(ids):
            rows.setdefault(whole_number("ids", obj_id), []).append(row)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return {obj_id: points[of] for obj_id, of in rows.items()}


Read = tuple[list[Any] | None, np.ndarray]  # ids, if there are, and what should be points (N, 3), float64


def _read_csv(path: Path) -> Read:
    ids, points = [], []
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if header not in HEADERS:
            if header == OF_TRACKS:
                raise ValueError(f"{path}: holds tracks; those in .json and .npz are read as points, with all labels.")
            found = _cut(",".join(header)) or "nothing"
            raise ValueError(
                f"{path}, line 1: the header must be t,x,y or id,t,x,y, found {found}; labels of another tool need --format, or format=."
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            try:
                point = [number_in(cell) for cell in row[-3:]]
            except ValueError:
                point = []
            if not point or len(row) != len(header):
                line, found, wanted = rows.line_num, _cut(",".join(row)), ",".join(header)
                number = {3: "three", 4: "four"}[len(header)]
                raise ValueError(f"{path}, line {line}: expected {number} numbers {wanted}, found {found}.")
            ids += [cell if whole_in(cell) is None else whole_in(cell) for cell in row[:-3]]
            points.append(point)
    except csv.Error:
        raise ValueError(f"{path}: is not a CSV text file.") from None
    return ids or None, np.array(points, dtype=np.float64).reshape(-1, 3)


def _read_json(path: Path) -> Read:
    wanted = f'{path}: must hold {{"queries": [[t, x, y], ...]}} with numbers.'
    try:
        content = json.loads(_read_text(path))
        queries, ids = content["queries"], content.get("ids", content.get("object_ids"))
        if "object_ids" in content and content.get("labels") is not None:  # of tracks
            queries, ids = [label[1:] for label in content["labels"]], [label[0] for label in content["labels"]]
        if ids is not None and len(ids) != len(queries):
            raise ValueError
        known = (int, float, type(None)) if "object_ids" in content else (int, float)  # null: was looked for
        numbers = all(type(value) in known for point in (ids or (), *queries) for value in point)
        ids = None if ids is None else [_whole_of(obj_id) for obj_id in ids]
        points = np.array(queries, dtype=np.float64)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not valid JSON ({error.msg}).") from None
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(wanted) from None
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else ValueError(wanted) from None
    if not numbers:
        raise ValueError(wanted)
    return ids, points


def _whole_of(number: Any) -> Any:
    """The `int` that a whole `float` is; anything else as it is, for [`whole_number`] to refuse."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _read_npz(path: Path) -> Read:
    contents = "an NPZ file with an array queries (N, 3) of (t, x, y)"
    arrays = read_npz(path, ("queries",), contents, optional=("ids", "object_ids", "labels"))
    queries, ids = arrays["queries"], arrays.get("ids", arrays.get("object_ids"))
    labels = arrays.get("labels") if "object_ids" in arrays else None  # of tracks
    if labels is not None:
        if labels.ndim != 2 or labels.shape[1:] != (4,) or labels.dtype.kind != "f":
            raise ValueError(f"{path}: labels must be numbers (L, 4), got {labels.dtype} of {labels.shape}.")
        return [_whole_of(obj_id) for obj_id in labels[:, 0].tolist()], labels[:, 1:].astype(np.float64)
    if queries.dtype.kind not in "iuf":
        raise ValueError(f"{path}: must be {contents}, got {queries.dtype}.")
    if ids is not None and (ids.dtype.kind not in "iu" or ids.shape != queries.shape[:1] or queries.ndim != 2):
        raise ValueError(f"{path}: ids must be whole numbers, one for each query, got {ids.dtype} of {ids.shape}.")
    return None if ids is None else ids.tolist(), queries.astype(np.float64)


def read_labels(path: str | os.PathLike, format: str | None = None, clip: str | None = None) -> PointLabels:
    """
    Read labelled points, of an annotation tool or of this package's own prompts.

    Args:
        path: A file of DeepLabCut (.csv, .h5), SLEAP (.h5, .slp), COCO keypoints or PoseMark (.json), CVAT for video (.xml), or prompts as
            described above.
        format (`str`, *optional*): `"dlc"`, `"sleap"`, `"coco"`, `"posemark"` or `"cvat"`; if it is not given, .csv, .json and .npz are
            prompts, and other suffixes decide where they can.
        clip (`str`, *optional*): Which clip, of a file that holds labels of several: the folder of its images in DeepLabCut, the name of
            the video in SLEAP, the name of the task in a project of CVAT.

    Returns:
        [`PointLabels`] in pixels of the video, whose `prompts()` [`Tracker.track`] takes.

    Raises:
        `OSError`, `ValueError`: the file is missing, malformed or of another format, or a point is labelled twice on a frame.
        `ImportError`: a library that reads the format is not installed.
    """
    path = local_path(path)
    name = find_format(path, format, "read")
    if name is not None:
        return read_foreign(existing(path), name, clip)
    if clip is not None:
        raise ValueError(
            f"{path}: clip is of labels of another tool, which need format=; these points are of one clip."
        )
    points = read_points_file(path)
    labelled = points if isinstance(points, dict) else dict(enumerate(points[:, None]))  # (K, 3) by id
    labelled = {obj_id: labelled[obj_id][labelled[obj_id][:, 0].argsort(kind="stable")] for obj_id in sorted(labelled)}
    for obj_id, rows in labelled.items():
        if (again := rows[1:, 0][np.diff(rows[:, 0]) == 0]).size:
            raise ValueError(f"{path}: {obj_id} is labelled twice on frame {again[0]:.0f}.")
    rows = np.concatenate(list(labelled.values()))
    ids = np.repeat(np.array(list(labelled), dtype=np.int64), [len(one) for one in labelled.values()])
    names = {obj_id: PointName(str(obj_id)) for obj_id in labelled}
    return PointLabels(ids, rows, np.ones(len(rows), bool), np.ones(len(rows)), names)


def save_tracks(
    tracks: PointTracks,
    path: str | Path,
    format: str | None = None,
    *,
    names: Mapping[int, PointName | str] | None = None,
    fps: float | None = None,
    first_frame: int | None = None,
    images: str | None = None,
    video: str | os.PathLike | None = None,
) -> None:
    """
    Write tracks. On failure no file is left behind.

    Args:
        tracks ([`PointTracks`]): As [`Tracker.track`] returns them.
        path: A .csv, .json or .npz file, as described above, or one in a format of another tool.
        format (`str`, *optional*): `"dlc"`, `"sleap"`, `"coco"`, `"posemark"`, `"cvat"`, `"nuke"`, `"blender"` or `"after-effects"`; if
            it is not given, .csv, .json and .npz are this package's own, and other suffixes decide where they can.
        names (`dict`, *optional*): What the points are called, by id: a `str`, or a [`PointName`] of an individual; `labels.names` of
            [`read_labels`] for instance. `point0` and so on if not given. The own formats have ids only.
        fps (`float`, *optional*): Of After Effects, which needs it: frames per second of the composition.
        first_frame (`int`, *optional*): Of Nuke and Blender: the number of the clip's first frame there; 1 if not given.
        images (`str`, *optional*): Of DeepLabCut: write labels of a project, of images in this folder (`labeled-data/clip`), in the place
            of predictions.
        video (`str`, *optional*): Of SLEAP: the video to open with them.

    Raises:
        `ValueError`: it has another suffix, a name is missing or there twice, or an argument is not one of the format.
        `OSError`: the file cannot be written.
        `ImportError`: a library that writes the format is not installed.
    """
    path = local_path(path, "written")
    name = find_format(path, format, "write")
    options = {"fps": fps, "first_frame": first_frame, "images": images, "video": video}
    options = check_options(name, options)
    with atomic_write(path) as temporary:
        if name is None:
            _write_own(tracks, temporary)
        else:
            write_foreign(tracks, temporary, path, name, names, options)


def save_boxes(
    tracks: BoxTracks, path: str | Path, format: str | None = None, *, names: Mapping[int, str] | None = None
) -> None:
    """
    Write boxes. On failure no file is left behind.

    Args:
        tracks ([`BoxTracks`]): As [`track_boxes`] returns them.
        path: A file of MOTChallenge (.txt, .csv) or CVAT for video (.xml).
        format (`str`, *optional*): `"mot"` or `"cvat"`; by the suffix if it is not given.
        names (`dict[int, str]`, *optional*): What the objects are called, by id; of CVAT.

    Raises:
        `ValueError`: it has another suffix, or there is no such format.
        `OSError`: the file cannot be written.
    """
    path = local_path(path, "written")
    name = find_format(path, format, "write_boxes")
    with atomic_write(path) as temporary:
        write_foreign_boxes(tracks, temporary, str(name), names or {})


def _write_own(tracks: PointTracks, path: Path) -> None:
    arrays = {name: getattr(tracks, name) for name in ARRAYS} | {
        "size": np.array(tracks.size, dtype=np.int64),
        "object_ids": np.array(tracks.object_ids, dtype=np.int64),
    }
    if tracks.labels is not None:
        arrays["labels"] = tracks.labels
    if path.suffix.lower() == ".npz":
        write_npz(path, **arrays)
    elif path.suffix.lower() == ".json":
        content = {name: array.tolist() for name, array in arrays.items()}
        content["tracks"] = [[None if np.isnan(p).any() else p.tolist() for p in row] for row in tracks.tracks]
        content["queries"] = [[None if np.isnan(v) else v for v in row] for row in content["queries"]]
        content["uncertainty"] = [[None if np.isnan(u) else float(u) for u in row] for row in tracks.uncertainty]
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    else:
        _write_csv(tracks, path)


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
    for name in FLAGS:
        if not ((arrays[name] == 0) | (arrays[name] == 1)).all():
            raise ValueError(f"{path}: {name} must be 0 or 1.")
    try:
        height, width = (whole_number("size", side) for side in arrays.pop("size").tolist())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    kinds = {name: bool if name in FLAGS else np.result_type(array, np.float16) for name, array in arrays.items()}
    fields: dict[str, Any] = {name: array.astype(kinds[name]) for name, array in arrays.items()}
    return PointTracks(object_ids=ids.tolist(), size=(height, width), labels=labels, **fields)


def _write_csv(tracks: PointTracks, path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(OF_TRACKS)
        for n, obj_id in enumerate(tracks.object_ids):
            for t, (x, y) in enumerate(tracks.tracks[n]):
                position = ("", "") if np.isnan(x) else (f"{x:.3f}", f"{y:.3f}")
                uncertainty = "" if np.isnan(tracks.uncertainty[n, t]) else f"{tracks.uncertainty[n, t]:.3f}"
                seen = int(tracks.visible[n, t]), f"{tracks.confidence[n, t]:.4f}"
                writer.writerow([obj_id, t, *position, *seen, uncertainty, int(tracks.outside[n, t])])


__all__ = [
    "check_format",
    "grid_points",
    "read_labels",
    "read_points_file",
    "read_tracks",
    "save_boxes",
    "save_tracks",
]
