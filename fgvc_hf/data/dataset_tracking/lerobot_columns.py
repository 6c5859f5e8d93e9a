"""A copy of a LeRobotDataset v3 with tracks as columns of its frames.

Each camera gets two features: `tracks.CAMERA`, (N, 2) float32, (x, y) in pixels, NaN where a point was not tracked; and `tracks.CAMERA.visible`, (N,) bool.
Videos are hard links where the file system has them, for they are not changed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

from ...io.files import atomic_folder, check_new_folder, check_outputs
from .clip_sources import Clip, ClipSource
from .lerobot_source import EPISODES, INFO, LeRobotSource, read_info
from .row_encoding import load_tracks
from .stored_files import files_below, is_remote, understood


def check_append(
    source: ClipSource, clips: Sequence[Clip], destination: str | os.PathLike, output: str | os.PathLike
) -> None:
    """Check that a source can be copied with the tracks of its clips.

    Raises:
        `ValueError`: it is no LeRobotDataset on this machine, has such columns already, or episodes differ in their number of points; or the
            output lies in it or in the destination of the tracks.
        `OSError`: the output exists, or the frames of the source are damaged.
    """
    if not isinstance(source, LeRobotSource) or is_remote(source.root):
        raise ValueError(f"--append-to needs a LeRobotDataset on this machine as source, not {source.root}.")
    check_new_folder(output)
    check_outputs([output, destination], [source.root])
    counts = {len(points) for clip in clips if (points := clip.place[1])}
    if len(counts) > 1:
        raise ValueError(unequal(counts))
    columns = {f"tracks.{camera}{part}" for camera in source.cameras for part in ("", ".visible")}
    there = columns & set(read_info(source.root)["features"])
    lengths = {clip.row: (clip.stop or 0) - clip.start for clip in clips}
    for path in data_files(source.root):
        with understood(str(path), "Parquet file"), pyarrow.parquet.ParquetFile(path) as file:
            there |= columns & set(file.schema_arrow.names)
            check_frames(file.read(["episode_index", "frame_index"]), lengths)
    if there:
        raise ValueError(f"{source.root}: has a column {min(there)} already; give the data set without tracks.")


def data_files(root: str) -> list[Path]:
    """The tables of frames of a data set."""
    return [Path(root, name) for name in files_below(root) if name.startswith("data/") and name.endswith(".parquet")]


def check_frames(table: pyarrow.Table, lengths: Mapping[int, int]) -> None:
    """A `ValueError` if a row is not of a frame of an episode, whose lengths are given."""
    for name in table.column_names:
        if table[name].null_count or not pyarrow.types.is_integer(table[name].type):
            raise ValueError(f"{name} must be whole numbers, none null")
    episodes, frames = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
    for episode in np.unique(episodes).tolist():
        here, length = frames[episodes == episode], lengths.get(episode)
        if length is None:
            raise ValueError(f"episode_index {episode} is not in {EPISODES}")
        if here.min() < 0 or here.max() >= length:
            raise ValueError(f"frame_index of episode {episode} must be from 0 to {length - 1}")


def append_tracks(
    source: ClipSource, shards: list[Path], named: Mapping[str, Clip], output: str | os.PathLike
) -> None:
    """
    Write a copy of a data set with the tracks of its episodes.

    Args:
        source ([`LeRobotSource`]): The data set, as of [`check_append`].
        shards (list of `Path`): Rows of its clips.
        named (mapping): Id of a row -> its clip, an episode of a camera.
        output: A folder that does not exist yet.

    Raises:
        `ValueError`: episodes differ in their number of points.
        `OSError`: a file is damaged, or cannot be written.
    """
    assert isinstance(source, LeRobotSource)
    rows = pyarrow.dataset.dataset([str(shard) for shard in shards])
    number = points_of(rows)
    names = {(clip.row, clip.place[0]): name for name, clip in named.items()}
    with atomic_folder(output) as folder:
        for file in files_below(source.root):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.startswith("data/") and file.endswith(".parquet"):
                table = pyarrow.parquet.read_table(Path(source.root, file))
                for camera in source.cameras:
                    table = with_tracks(table, rows, camera, number, names)
                pyarrow.parquet.write_table(table, path)
            elif file.startswith("videos/"):
                link(Path(source.root, file), path)
            else:
                shutil.copyfile(Path(source.root, file), path)
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        for camera in source.cameras:
            shapes = {"": ("float32", [number, 2]), ".visible": ("bool", [number])}
            info["features"] |= {
                f"tracks.{camera}{part}": {"dtype": dtype, "shape": shape, "names": None}
                for part, (dtype, shape) in shapes.items()
            }
        (folder / INFO).write_text(json.dumps(info, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def points_of(rows: pyarrow.dataset.Dataset) -> int:
    """The number of points that all rows without an error have."""
    counts: set[int] = set()
    for batch in rows.to_batches(columns=["queries"]):
        counts |= {len(queries) for queries in batch["queries"].to_pylist() if queries is not None}
    if len(counts) != 1:
        raise ValueError(unequal(counts))
    return counts.pop()


def unequal(counts: set[int]) -> str:
    """Why tracks of so many points cannot be columns."""
    found = f"they have {min(counts)} to {max(counts)}" if counts else "there are no tracks"
    return f"--append-to needs as many points in every episode: {found}."


def with_tracks(
    table: pyarrow.Table, rows: pyarrow.dataset.Dataset, camera: str, number: int, names: Mapping[tuple, str]
) -> pyarrow.Table:
    """A table of frames with the tracks of one camera; NaN where an episode has none."""
    episodes, frames = (table[column].to_numpy() for column in ("episode_index", "frame_index"))
    positions = np.full((len(table), number, 2), np.nan, np.float32)
    visible = np.zeros((len(table), number), bool)
    ids = {names[int(episode), camera]: episode for episode in np.unique(episodes)}
    for row in _rows(rows, list(ids)):
        if row["error"] is None:
            found, here = load_tracks(row), episodes == ids[row["id"]]
            positions[here], visible[here] = (
                values.swapaxes(0, 1)[frames[here]] for values in (found.tracks, found.visible)
            )
    columns = {f"tracks.{camera}": lists(lists_of(positions.reshape(-1), 2), number)}
    # LeRobot has a feature of one value as that value, not as a list of it
    columns[f"tracks.{camera}.visible"] = (
        pyarrow.array(visible[:, 0]) if number == 1 else lists_of(visible.reshape(-1), number)
    )
    features = None
    if b"huggingface" in (table.schema.metadata or {}):
        features = datasets.Features.from_arrow_schema(table.schema)
        flag = datasets.Value("bool")
        features[f"tracks.{camera}"] = datasets.Array2D((number, 2), "float32")
        features[f"tracks.{camera}.visible"] = flag if number == 1 else datasets.List(flag, length=number)
    for column, values in columns.items():
        table = table.append_column(column, values)
    return table if features is None else table.replace_schema_metadata(features.arrow_schema.metadata)


def _rows(rows: pyarrow.dataset.Dataset, ids: list[str]) -> Iterator[dict]:
    for batch in rows.to_batches(filter=pyarrow.dataset.field("id").isin(ids), batch_size=8):
        yield from batch.to_pylist()


def lists_of(values: np.ndarray, size: int) -> pyarrow.Array:
    """Values one after the other as lists of a size."""
    return lists(pyarrow.array(values), size)


def lists(values: pyarrow.Array, size: int) -> pyarrow.Array:
    """Elements of an array in lists of a size."""
    return pyarrow.ListArray.from_arrays(pyarrow.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), values)


def link(source: Path, path: Path) -> None:
    """A hard link to a file, or a copy where there can be none."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


__all__ = ["append_tracks", "check_append"]
