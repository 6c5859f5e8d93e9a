"""What a folder of shards holds: a manifest, written last, says that it is whole.

While shards are written, `.unfinished.json` says so; `shards.json`, which lists every shard with its rows and bytes, takes its place at the end.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..io.files import atomic_write, is_temporary
from ..io.json_files import understanding
from ..io.names import check_name


MANIFEST, UNFINISHED = "shards.json", ".unfinished.json"


def shard_files(folder: Path) -> list[Path]:
    """The shards of a whole folder, in order.

    Raises:
        `OSError`: the folder holds none, is not finished, or a shard is missing or of another size than it was.
    """
    if not (folder / MANIFEST).is_file():
        if next((path for path in folder.glob("*.parquet") if not path.name.startswith(".")), None) is None:
            raise FileNotFoundError(f"{folder}: holds no shards (*.parquet).")
        raise FileNotFoundError(
            f"{folder}: has no {MANIFEST}, so it may be part of a data set; finish it by scripts/prepare.py with --resume, or write it anew."
        )
    listed = _read(folder / MANIFEST)
    for name, shard in listed.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            problem = "is of another size than it was" if file.is_file() else "is missing"
            raise OSError(f"{file}: {problem}; {MANIFEST} lists it.")
    return [folder / name for name in listed]


def place_of_row(source: str | Path, number: int) -> str:
    """Where a row of shards is, for messages: its file and its number there, as far as a manifest says."""
    place = number
    try:
        for name, shard in _read(Path(source) / MANIFEST).items():
            if place < shard["rows"]:
                return f"{Path(source) / name}, row {place}"
            place -= shard["rows"]
    except (OSError, ValueError, KeyError, TypeError):  # no folder, or a manifest of anybody
        pass
    return f"{source}, row {number}"


@contextmanager
def begun(folder: Path, rows_per_shard: int, resume: bool) -> Generator[list[Path]]:
    """A context in which shards are written to a folder, as of [`begin`]. An error before the first of them leaves nothing behind."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    held = begin(folder, rows_per_shard, resume)
    try:
        yield held
    except Exception:
        if next(folder.glob("*.parquet"), None) is None:
            (folder / UNFINISHED).unlink(missing_ok=True)
            for path in made:
                if not any(path.iterdir()):
                    path.rmdir()
        raise


def begin(folder: Path, rows_per_shard: int, resume: bool) -> list[Path]:
    """Prepare a folder for shards, and remove what a process that was ended left over.

    Returns:
        The shards that are there already.

    Raises:
        `OSError`: the folder holds shards and is not to be resumed, or these are not of an unfinished run with as many rows per shard.
        `ValueError`: what the run was begun with is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; shards are written to a folder.")
    held = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    marker = folder / UNFINISHED
    if held and not resume:
        hint = "; continue with --resume (resume=True)" if marker.is_file() else ""
        raise FileExistsError(f"{folder}: holds shards already{hint}; choose another folder, or remove them.")
    if held and not marker.is_file():
        raise FileExistsError(f"{folder}: holds shards that no unfinished run left; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if marker.is_file() and held:
        with understanding(marker, "the number of rows per shard of an unfinished run"):
            before = int(json.loads(marker.read_text(encoding="utf-8"))["rows_per_shard"])
        if before != rows_per_shard:
            raise FileExistsError(f"{folder}: was begun with {before} rows per shard, not {rows_per_shard}.")
    with atomic_write(marker) as temporary:
        temporary.write_text(json.dumps({"rows_per_shard": rows_per_shard}), encoding="utf-8")
    for path in folder.iterdir():
        if is_temporary(path):
            path.unlink()
    return held


def finish(folder: Path, shards: dict[Path, int]) -> None:
    """Write the manifest of the shards and their numbers of rows."""
    listed = {path.name: {"rows": rows, "bytes": path.stat().st_size} for path, rows in shards.items()}
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps({"format": 1, "shards": listed}, indent=1) + "\n", encoding="utf-8")
    (folder / UNFINISHED).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["shards"]
        whole = all(shard["bytes"] > 0 for shard in listed.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        listed, whole = {}, False
    if not listed or not whole:
        raise OSError(f"{path}: is damaged; it must list the shards of its folder.")
    return {check_name(name, path): shard for name, shard in listed.items()}


__all__ = ["MANIFEST", "UNFINISHED", "begun", "finish", "place_of_row", "shard_files"]
