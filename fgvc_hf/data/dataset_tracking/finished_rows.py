"""Rows that are finished, in small Parquet files that are whole or absent, so that a run can go on where it was ended.

They become shards when there are all. Rows are written every 30 seconds, or when there are 32 MB of them.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
import pyarrow.parquet

from ...io.files import atomic_write, is_temporary
from .clip_errors import PASSING
from .row_forms import encoded_bytes
from .stored_files import understood


if TYPE_CHECKING:
    from datasets import Features


PART_BYTES, PART_SECONDS = 32 << 20, 30.0
PARTS = f"{'[0-9]' * 6}.parquet"
HELD_PARTS = 8  # of which rows are looked for at a time; rows come almost in order


class FinishedRows:
    """
    The finished rows in a folder; of one id, the last.

    Args:
        folder (`Path`): Made if needed. What a process that was ended left half-written is removed.
        features (`datasets.Features`): The columns of the rows.
        seconds (`float`): At most so long a row waits before it is written.

    Raises:
        `OSError`: a file of them is damaged.
    """

    def __init__(self, folder: Path, features: "Features", seconds: float = PART_SECONDS):
        self.folder, self.schema, self.seconds = folder, features.arrow_schema, seconds
        if folder.exists() and not folder.is_dir():
            raise OSError(f"{folder}: is damaged; it must be a folder of finished rows.")
        folder.mkdir(exist_ok=True)
        self._places: dict[str, tuple[int, int]] = {}  # part and row of each id
        self.sizes: dict[str, int] = {}  # bytes of the arrays of each id
        self._passing: set[str] = set()  # ids with an error that may pass
        self._waiting: list[dict] = []
        self._bytes, self._since, self._next = 0, time.monotonic(), 0
        for path in folder.iterdir():
            if is_temporary(path):
                path.unlink()
        for path in sorted(folder.glob(PARTS)):
            self._index(int(path.stem), read_rows(path, ["id", "size", "error"]))
            self._next = int(path.stem) + 1

    def _index(self, part: int, table: pyarrow.Table) -> None:
        columns = (table[column].to_pylist() for column in ("id", "size", "error"))
        for number, (name, size, error) in enumerate(zip(*columns, strict=True)):
            self._places[name], self.sizes[name] = (part, number), size
            if may_pass(error):
                self._passing.add(name)
            else:
                self._passing.discard(name)

    def forget_passing(self) -> None:
        """Have the clips whose error may pass tracked again; their rows stay until others take their places."""
        for name in self._passing:
            del self._places[name]
        self._passing.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, row: dict) -> bool:
        """Keep a row; whether there was none of this id."""
        if row["id"] in self._places:
            return False
        self._places[row["id"]] = (-1, len(self._waiting))
        self._waiting.append(row)
        self._bytes += encoded_bytes(row)
        if self._bytes >= PART_BYTES or time.monotonic() - self._since >= self.seconds:
            self.write()
        return True

    def write(self) -> None:
        """Write the rows that wait. An `OSError` if they cannot be, for instance on a full disk: they wait on."""
        if self._waiting:
            self.keep(pyarrow.Table.from_pylist(self._waiting, self.schema))
            self._waiting = []
        self._bytes, self._since = 0, time.monotonic()

    def keep(self, table: pyarrow.Table) -> None:
        """Write rows that are a table already."""
        sizes = [encoded_bytes(row) for row in table.to_pylist()]
        table = table.append_column("size", pyarrow.array(sizes, pyarrow.int64()))
        with atomic_write(self._path(self._next)) as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd")
        self._index(self._next, table)
        self._next += 1

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"

    def read(self, names: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Rows in the order of their ids, as tables of one or more."""
        held: OrderedDict[int, pyarrow.Table] = OrderedDict()
        for part, group in itertools.groupby((self._places[name] for name in names), lambda place: place[0]):
            if part in held:
                held.move_to_end(part)
            else:
                held[part] = read_rows(self._path(part), self.schema.names).cast(self.schema)
            if len(held) > HELD_PARTS:
                held.popitem(last=False)
            yield held[part].take([number for _, number in group])


def read_rows(path: Path, columns: Sequence[str] | None = None, ids: set[str] | None = None) -> pyarrow.Table:
    """
    Rows of tracks in a Parquet file.

    Args:
        path (`Path`): The file.
        columns (sequence of `str`, *optional*): Which to read; all if not given.
        ids (set of `str`, *optional*): Of the rows to read; all if not given.

    Raises:
        `OSError`: it is damaged, or has no such columns.
    """
    with understood(str(path), "file of rows of tracks"):
        wanted = None if ids is None else [("id", "in", ids)]
        table = pyarrow.parquet.read_table(path.absolute(), columns=columns, filters=wanted, partitioning=None)
        if missing := [name for name in columns or () if name not in table.column_names]:
            raise ValueError(f"it has no column {missing[0]}")
        return table


def may_pass(error: str | None) -> bool:
    """Whether the error of a row is of a kind that another attempt may not meet."""
    return error is not None and error.partition(":")[0] in PASSING


__all__ = ["PARTS", "FinishedRows", "may_pass", "read_rows"]
