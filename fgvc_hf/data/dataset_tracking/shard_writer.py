"""Shards of finished rows, and their checksums."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet

from ...io.files import atomic_write
from .finished_rows import FinishedRows


SHARD_BYTES = 256 << 20  # of encoded arrays, before Parquet compresses them
GROUP_BYTES = 16 << 20  # of a row group, which readers take at once
ROW_BYTES = 256  # of the columns without arrays, roughly
CHECKSUMS = "SHA256SUMS"


def write_track_shards(folder: Path, names: Sequence[str], rows: FinishedRows, number: int | None) -> dict[Path, int]:
    """Write the rows in the order of their ids.

    Args:
        folder (`Path`): Of the data set.
        names (sequence of `str`): Ids of all rows.
        rows ([`FinishedRows`]): Where they are.
        number (`int`, *optional*): Of shards; such that each has about 256 MB if not given.

    Returns:
        The shards, and the number of rows in each. The same rows give the same files, byte by byte.
    """
    number = number or parts_of(names, rows.sizes, SHARD_BYTES)
    written, sums = {}, []
    for shard, part in enumerate(split(names, rows.sizes, number)):
        path = folder / f"data-{shard:05d}-of-{number:05d}.parquet"
        with atomic_write(path) as temporary:
            _write_shard(temporary, part, rows)
        written[path] = len(part)
        with path.open("rb") as content:
            sums.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.name}\n")
    for path in set(folder.glob("data-*.parquet")) - set(written):
        path.unlink()  # of a run with another number of shards, which was ended before it had all of them
    with atomic_write(folder / CHECKSUMS) as temporary:
        temporary.write_text("".join(sums), encoding="utf-8")
    return written


def _write_shard(path: Path, names: Sequence[str], rows: FinishedRows) -> None:
    with pyarrow.parquet.ParquetWriter(path, rows.schema, compression="zstd") as file:
        for group in split(names, rows.sizes, parts_of(names, rows.sizes, GROUP_BYTES)):
            file.write_table(pyarrow.concat_tables(rows.read(group)).combine_chunks(), row_group_size=len(group))


def parts_of(names: Sequence[str], sizes: dict[str, int], most: int) -> int:
    """Parts such that each has about `most` bytes."""
    return max(1, min(len(names), -(-sum(sizes[name] for name in names) // most)))


def split(names: Sequence[str], sizes: dict[str, int], number: int) -> Iterator[Sequence[str]]:
    """A sequence of ids in `number` parts, none empty, of about as many bytes each; ids count by their bytes and those of the other columns."""
    weights = [sizes[name] + ROW_BYTES for name in names]
    total, done, start = sum(weights), 0, 0
    for part in range(number):
        most, stop = len(names) - (number - part - 1), start + 1
        done += weights[start]
        while stop < most and done + weights[stop] / 2 <= total * (part + 1) / number:
            done, stop = done + weights[stop], stop + 1
        stop = most if part == number - 1 else stop
        yield names[start:stop]
        start = stop


__all__ = ["CHECKSUMS", "write_track_shards"]
