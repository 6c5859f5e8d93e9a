"""Parquet files with a column of videos: their bytes, or their paths, on this machine or on the Hub.

Only the footers are read to list the rows. A clip is read by itself, in the process that tracks it, so that the bytes of videos never pass through another.
"""

import posixpath
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from .clip_sources import Clip, Content, candidates, file_label, file_names
from .run_options import Prompts
from .stored_files import is_remote, join, local_copy, open_file, stamp_of, understood


PATH_COLUMNS = ("video", "path", "file", "file_name", "video_path")


def holds_bytes(kind: pyarrow.DataType) -> bool:
    """Whether a column holds the bytes of files: as binary, or as the struct of `datasets`, whose bytes may be null beside a path."""
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and (
            pyarrow.types.is_null(field := kind.field("bytes").type) or holds_bytes(field)
        )
    return is_a(plain(kind), "binary", "large_binary", "binary_view")


def holds_paths(kind: pyarrow.DataType) -> bool:
    """Whether a column holds text."""
    return is_a(plain(kind), "string", "large_string", "string_view")


def plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type of the values of a column, which a dictionary may hold, as that of a category of pandas does."""
    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind


def is_a(kind: pyarrow.DataType, *names: str) -> bool:
    """Whether a type is one of those of PyArrow's names."""
    return any(getattr(pyarrow.types, f"is_{name}")(kind) for name in names)


def video_column(schema: pyarrow.Schema, wanted: str | None, prompts: str | None, path: str) -> str:
    """The column of videos: the one that is asked for, or else the only one with bytes, or else the only one with a usual name of paths; not
    that of prompts, which may be images.

    Raises:
        `ValueError`: there is no such column, several may be meant, or it holds something else.
    """
    if wanted is None:
        others = [field for field in schema if field.name != prompts]
        binary = [field.name for field in others if holds_bytes(field.type)]
        found = binary or [field.name for field in others if field.name in PATH_COLUMNS and holds_paths(field.type)]
        if len(found) != 1:
            raise ValueError(f"{path}: name the column of videos by --video; {candidates(schema.names)}.")
        return found[0]
    check_column(schema, wanted, "videos", path)
    return wanted


def check_column(schema: pyarrow.Schema, name: str, files: str | None, path: str) -> None:
    """A `ValueError` if there is no such column, or it must hold files, such as `"videos"`, and holds something else."""
    if name not in schema.names:
        raise ValueError(f"{path}: has no column {name}; {candidates(schema.names)}.")
    kind = schema.field(name).type
    # Where all values are null, or there are none, writers do not know the type
    if files is not None and not (holds_bytes(kind) or holds_paths(kind) or pyarrow.types.is_null(kind)):
        raise ValueError(f"{path}: column {name} must hold the bytes or the paths of {files}, it holds {kind}.")


class ParquetSource:
    """
    Parquet files, and their rows in order.

    Args:
        root (`str`): A folder, or one file.
        video (`str`, *optional*): Name of the column of videos; the only one that holds some if not given.
        prompts ([`Prompts`], *optional*): A column of points, lists of (t, x, y), or of (x, y) on the first frame; or of masks of the first frame,
            bytes or paths of images.
    """

    def __init__(self, root: str, video: str | None = None, prompts: Prompts | None = None):
        self.path, (self.root, self.files) = root, file_names(root, ".parquet")
        self.video, self.column = video, prompts.column if prompts is not None else None
        self._masks = prompts is not None and prompts.kind == "masks"
        self._reader: RowReader | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None}

    def clips(self) -> Iterator[Clip]:
        for name in self.files:
            path, number = join(self.root, name), 0
            stamp = stamp_of(path)
            with understood(path, "Parquet file"), open_file(path) as file:
                table = pyarrow.parquet.ParquetFile(file)
                self.video = video_column(table.schema_arrow, self.video, self.column, path)
                if self.column is not None:
                    check_column(table.schema_arrow, self.column, "images" if self._masks else None, path)
                sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            for group, size in enumerate(sizes):
                for index in range(size):
                    yield Clip(
                        f"{file_label(self.path, name)}#{number}",
                        name,
                        stamp,
                        number,
                        place=(group, index, self.video),
                    )
                    number += 1

    def read(self, clip: Clip, folder: Path) -> Content:
        path, (group, index, video) = join(self.root, clip.file), clip.place
        if self._reader is None or not self._reader.reaches(path, group, index):
            if self._reader is not None:
                self._reader.close()
            self._reader = RowReader(path, group, [name for name in (video, self.column) if name])
        row = self._reader.row(index)
        prompts = None if self.column is None else row[self.column]
        if self._masks:
            (folder / "mask").mkdir()  # a copy of a remote one gets the name of the copy of the video
            prompts = self._file(prompts, path, folder / "mask")
        return Content(self._file(row[video], path, folder), prompts)

    def _file(self, value: Any, file: str, folder: Path) -> Path | bytes | None:
        """Bytes or path of a video or mask. A relative path is one beside the Parquet file, and one of a data set of the Hub stays in it."""
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value.get("path")
        if not isinstance(value, str):
            return value
        if not value:  # as tables of text have what is missing; as a path it would be the folder of the table
            return None
        if is_remote(file) and not is_remote(value):
            value = posixpath.normpath("/" + value).lstrip("/")
        return local_copy(value if is_remote(value) else join(posixpath.dirname(file), value), folder)


class RowReader:
    """
    One row after the other of a row group, of some columns; the row group is read as far as it is needed.

    Where it is damaged, neither this row nor any after it can be read.
    """

    def __init__(self, path: str, group: int, columns: list[str]):
        self.path, self.group, self._columns, self._next = path, group, columns, 0
        self._file, self._batches, self._damage = open_file(path), None, None

    def reaches(self, path: str, group: int, index: int) -> bool:
        """Whether a row is still to come."""
        return (path, group) == (self.path, self.group) and index >= self._next

    def row(self, index: int) -> dict[str, Any]:
        """A row by its number in the group.

        Raises:
            `OSError`: it cannot be read.
        """
        if self._damage is not None:
            raise OSError(self._damage)
        try:
            with understood(self.path, "Parquet file"):
                batch = self._read_to(index)
        except OSError as error:
            if is_remote(self.path):
                self._next = sys.maxsize  # the network may be back for another reader
            else:
                self._damage = str(error)
            raise
        return batch.to_pylist()[0]

    def _read_to(self, index: int) -> pyarrow.RecordBatch:
        if self._batches is None:
            table = pyarrow.parquet.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20)
            self._batches = table.iter_batches(batch_size=1, row_groups=[self.group], columns=self._columns)
        while self._next < index:
            next(self._batches)
            self._next += 1
        batch = next(self._batches)
        self._next += 1
        return batch

    def close(self) -> None:
        self._file.close()


__all__ = ["ParquetSource"]
