"""Rows that are finished, in small Parquet files that are whole or absent, so that a run can go on where it was ended.

They become shards when there are all. Rows are written every 30 seconds, or when there are 32 MB of them.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from ...io.files import atomic_write
from .row_encoding import encoded_bytes, track_features


PART_BYTES, PART_SECONDS = 32 << 20, 30.0
HELD_PARTS = 8  # of which rows are looked for at a time; rows come almost in order


class FinishedRows:
    """
    The finished rows in a folder.

    Args:
        folder (`Path`): Made if needed. What a process that was ended left half-written is removed.
        seconds (`float`): At most so long a row waits before it is written.
    """

    def __init__(self, folder: Path, seconds: float = PART_SECONDS):
        self.folder, self.schema, self.seconds = folder, track_features().arrow_schema, seconds
        folder.mkdir(exist_ok=True)
        self._places: dict[str, tuple[int, int]] = {}  # part and row of each id
        self.sizes: dict[str, int] = {}  # bytes of the arrays of each id
        self._waiting: list[dict] = []
        self._bytes, self._since = 0, time.monotonic()
        for path in folder.iterdir():
            if path.name.startswith("."):
                path.unlink()
        for path in sorted(folder.glob("*.parquet")):
            self._index(int(path.stem), pyarrow.parquet.read_table(path, columns=["id", "size"]))
        self._next = 1 + max((part for part, _ in self._places.values()), default=-1)

    def _index(self, part: int, table: pyarrow.Table) -> None:
        for number, (name, size) in enumerate(
            zip(*(table[column].to_pylist() for column in ("id", "size")), strict=True)
        ):
            self._places[name], self.sizes[name] = (part, number), size

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
            rows = [row | {"size": encoded_bytes(row)} for row in self._waiting]
            table = pyarrow.Table.from_pylist(rows, self.schema.append(pyarrow.field("size", pyarrow.int64())))
            with atomic_write(self._path(self._next)) as temporary:
                pyarrow.parquet.write_table(table, temporary, compression="zstd")
            self._index(self._next, table)
            self._next, self._waiting = self._next + 1, []
        self._bytes, self._since = 0, time.monotonic()

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"

    def read(self, names: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Rows in the order of their ids, as tables of one or more."""
        held: OrderedDict[int, pyarrow.Table] = OrderedDict()
        for part, group in itertools.groupby((self._places[name] for name in names), lambda place: place[0]):
            if part in held:
                held.move_to_end(part)
            else:
                held[part] = pyarrow.parquet.read_table(self._path(part)).drop_columns(["size"]).cast(self.schema)
            if len(held) > HELD_PARTS:
                held.popitem(last=False)
            yield held[part].take([number for _, number in group])


__all__ = ["FinishedRows"]
