"""DeepLabCut: CSV and H5 of labels (`CollectedData_*.csv`) and of predictions, of one animal or several.

A file is a table. Its columns have the levels scorer, (individuals,) bodyparts, coords, with x, y and, in predictions, likelihood. Its index
is a frame number, or an image as `labeled-data/clip/img0012.png`, whose number is that of the frame; DeepLabCut from version 2.2 on splits that
name into three columns. An H5 file is the same table, as pandas stores it under `df_with_missing`.

DeepLabCut writes H5 in two layouts, with names in arrays or in a pickle of text. Both are read here with h5py, and the pickle without running
what it may ask for. Writing uses pandas, as DeepLabCut does.
"""

import csv
import io
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...tracking.results import PointTracks
from ..hdf5_files import check_hdf5
from ..optional_libraries import load_library
from ..text_files import cut, read_rows
from ..text_numbers import frame_in, image_path, number_in
from .point_labels import Label, PointName, owners_of


KEY = "df_with_missing"
SCORER = "fgvc_hf"
UNIQUE = "single"  # what DeepLabCut calls the owner of body parts that belong to no individual
MISSING = -1  # what DeepLabCut 3 writes as x, y and likelihood of what it did not find
LEVELS = (["scorer", "bodyparts", "coords"], ["scorer", "individuals", "bodyparts", "coords"])


class Table:
    """Columns (individual, part, coord), the index as text, and values (rows, columns), float64."""

    def __init__(self, columns: list[tuple[str, str, str]], index: list[str], values: np.ndarray):
        self.columns, self.index, self.values = columns, index, values


def read(path: Path) -> tuple[list[Label], list[PointName], None]:
    """Labels of a file, names in its order, and no size."""
    table = _read_h5(path) if path.suffix.lower() == ".h5" else _read_csv(path)
    at = {column: i for i, column in enumerate(table.columns)}
    names = {
        (individual, part): PointName(part, "" if individual == UNIQUE else individual) for individual, part, _ in at
    }
    if len(at) != len(table.columns):
        twice = next(column for column in table.columns if table.columns.count(column) > 1)
        raise ValueError(f"{path}: the column of {cut(' '.join(twice))} is there twice.")
    if strange := {coord for *_, coord in table.columns} - {"x", "y", "likelihood"}:
        raise ValueError(f"{path}: coords must be x, y and likelihood, found {cut(min(strange))!r}.")
    for individual, part in names:
        if (individual, part, "x") not in at or (individual, part, "y") not in at:
            raise ValueError(f"{path}: {cut(part)!r} must have the columns x and y.")
    rows = []
    for index, values in zip(table.index, table.values, strict=True):
        clip, t = _frame(index, path)
        for (individual, part), name in names.items():
            x, y = (float(values[at[individual, part, coord]]) for coord in "xy")
            certain = at.get((individual, part, "likelihood"))
            confidence = 1.0 if certain is None else float(values[certain])
            if x == y == confidence == MISSING:
                x = y = np.nan
            rows.append(Label(name, t, x, y, True, confidence, clip))
    return rows, list(names.values()), None


def _frame(index: str, path: Path) -> tuple[str, int]:
    """Folder and frame number of `labeled-data/clip/img0012.png`, or of a number."""
    t = frame_in(index)
    if t is None:
        raise ValueError(
            f"{path}: {cut(index)!r} is neither a frame number nor the name of an image that ends in one."
        )
    return image_path(index).rpartition("/")[0], t


def _read_csv(path: Path) -> Table:
    rows = read_rows(path)
    heads = [row[0].strip() for _, row in rows[:4]]
    levels = next((names for names in LEVELS if heads[: len(names)] == names), None)
    if levels is None:
        found = cut(", ".join(heads)) or "nothing"
        raise ValueError(
            f"{path}: is not a file of DeepLabCut, whose rows begin with {', '.join(LEVELS[0])}; found {found}."
        )
    header, body = [row for _, row in rows[: len(levels)]], rows[len(levels) :]
    width = len(header[0])
    given = next((i for i, cell in enumerate(header[-1][1:], 1) if cell.strip()), width)  # columns of the index
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: has {len(row)} cells, but the header has {width}.")
    if (
        body
        and frame_in("/".join(body[0][1][:given])) is None
        and not any(cell.strip() for cell in body[0][1][given:])
    ):
        body = body[1:]  # names of the index, which pandas writes below those of the columns
    cells = [[cell.strip() for cell in row[given:]] for row in header[1:]]
    parts, coords = cells[-2:]
    columns = list(zip(cells[0] if len(cells) == 3 else [""] * len(parts), parts, coords, strict=True))
    index = ["/".join(cell.strip() for cell in row[:given]) for _, row in body]
    values = np.empty((len(body), len(columns)))
    for i, (line, row) in enumerate(body):
        try:
            values[i] = [number_in(cell) if cell.strip() else np.nan for cell in row[given:]]
        except ValueError:
            raise ValueError(f"{path}, line {line}: must hold numbers, found {cut(','.join(row))}.") from None
    return Table(columns, index, values)


class _TextOnly(pickle._Unpickler):  # the one in Python: that in C reserves memory for any number of a memo
    """Reads lists, tuples, numbers and text; a pickle that names anything else is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def _read_h5(path: Path) -> Table:
    check_hdf5(path, "reading H5 of DeepLabCut", "an H5 file of DeepLabCut")
    h5py = load_library("h5py", "reading H5 of DeepLabCut", "formats")
    try:
        with h5py.File(path, "r") as file:
            group = file[KEY] if KEY in file else file[only(list(file))]
            return _read_appendable(group) if "table" in group else _read_fixed(group)
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError):
        raise ValueError(f"{path}: is not an H5 file of DeepLabCut, or a damaged one.") from None


def only(keys: list[str]) -> str:
    """The key of the one table of a file; napari-deeplabcut and others give it a name of their own."""
    if len(keys) != 1:
        raise KeyError(KEY)
    return keys[0]


def _read_fixed(group) -> Table:
    """The layout of labels: names in arrays, each with its distinct values and the number of each column's."""
    columns = [_level(group, "axis0", i) for i in range(int(group.attrs["axis0_nlevels"]))]
    if "shape" in group["block0_values"].attrs:  # by which pandas marks what is empty
        return Table([_column(name) for name in zip(*columns, strict=True)], [], np.empty((0, len(columns[0]))))
    if "axis1" in group:
        index = _texts(group["axis1"][()])
    else:
        index = ["/".join(row) for row in zip(*(_level(group, "axis1", i) for i in range(3)), strict=True)]
    values = np.full((len(index), len(columns[0])), np.nan)
    names = list(zip(*columns, strict=True))
    for block in range(int(group.attrs["nblocks"])):  # one for each type of numbers
        held = [_level(group, f"block{block}_items", i) for i in range(len(columns))]
        values[:, [names.index(name) for name in zip(*held, strict=True)]] = group[f"block{block}_values"][()]
    return Table([_column(name) for name in names], index, values)


def _level(group, axis: str, level: int) -> list[str]:
    distinct = _texts(group[f"{axis}_level{level}"][()])
    return [distinct[code] for code in group[f"{axis}_label{level}"][()]]


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]


def _read_appendable(group) -> Table:
    """The layout of predictions: a table of one row for each frame, with the names of its columns in a pickle of text."""
    table = group["table"]
    names = _TextOnly(io.BytesIO(bytes(table.attrs["values_block_0_kind"]))).load()
    values = np.asarray(table["values_block_0"], dtype=np.float64)
    return Table([_column(name) for name in names], _texts(table["index"]), values.reshape(len(table), len(names)))


def _column(name) -> tuple[str, str, str]:
    """(individual, part, coord) of the levels of a column."""
    if not all(isinstance(level, str | int | float) for level in name):
        raise TypeError("a level of a column must be text")
    scorer, *individual, part, coord = (str(level) for level in name)
    return (individual[0] if individual else "", part, coord)


def named(names: list[PointName]) -> list[str]:
    """The individual of each point."""
    return owners_of(names, UNIQUE)


def write(tracks: PointTracks, path: Path, names: list[PointName], images: str | None = None) -> None:
    """
    Write tracks as DeepLabCut writes predictions: a row for every frame, with the confidence as likelihood.

    Args:
        images (`str`, *optional*): Write labels of a project instead: the folder of the images, `labeled-data/clip`. A row for every frame
            on which a point is visible, named as DeepLabCut names images, without likelihood; hidden points are not labelled.
    """
    several = any(name.individual for name in names)
    coords = ("x", "y") if images else ("x", "y", "likelihood")
    columns = [
        (SCORER, *((owner,) if several else ()), name.part, coord)
        for name, owner in zip(names, named(names), strict=True)
        for coord in coords
    ]
    xy = np.where(tracks.visible[..., None], tracks.tracks, np.nan) if images else tracks.tracks  # (N, T, 2)
    values = xy if images else np.concatenate([xy, tracks.confidence[..., None]], axis=-1)
    values = values.transpose(1, 0, 2).reshape(values.shape[1], -1)  # (T, N * coords)
    frames = np.flatnonzero(tracks.visible.any(axis=0)) if images else np.arange(len(values))
    digits = len(str(max(len(values) - 1, 0)))
    index = [(*PurePosixPath(images).parts, f"img{t:0{digits}}.png") if images else (int(t),) for t in frames]
    if path.suffix.lower() == ".h5":
        _write_h5(path, columns, index, values[frames], LEVELS[several])
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        padding = [""] * ((len(index[0]) if index else 1) - 1)
        writer.writerows([level, *padding, *cells] for level, *cells in zip(LEVELS[several], *columns, strict=True))
        for at, row in zip(index, values[frames], strict=True):
            writer.writerow([*at, *("" if np.isnan(value) else f"{value:.4f}" for value in row)])


def check_target(target: Path, length: int) -> None:
    """An `ImportError` if a library that writes the file is not installed."""
    if target.suffix.lower() == ".h5":
        _load_pandas()


def _load_pandas() -> Any:
    """pandas, with the library by which it writes HDF5."""
    load_library("tables", "writing H5 of DeepLabCut", "formats")
    return load_library("pandas", "writing H5 of DeepLabCut", "formats")


def _write_h5(path: Path, columns: list[tuple], index: list[tuple], values: np.ndarray, levels: list[str]) -> None:
    pandas = _load_pandas()
    rows = pandas.MultiIndex.from_tuples(index) if index and len(index[0]) > 1 else [row[0] for row in index]
    frame = pandas.DataFrame(values, index=rows, columns=pandas.MultiIndex.from_tuples(columns, names=levels))
    frame.astype("float64").to_hdf(path, key=KEY, mode="w")
