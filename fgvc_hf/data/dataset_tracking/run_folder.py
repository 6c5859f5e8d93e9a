"""The destination of a run: what it was begun with, its finished rows, and at the end its shards.

.fgvc-hf-run.json            what the run was begun with
.fgvc-hf-clips.jsonl         name and digest of each clip
.fgvc-hf-rows/000000.parquet finished rows, until all are in shards
data-00000-of-00003.parquet  shards, in the order of the source
SHA256SUMS                   their checksums, as `sha256sum --check` reads them
README.md                    dataset card
shards.json                  manifest, written last
"""

import itertools
import json
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pyarrow.parquet import ParquetFile

from ...io.files import atomic_write, check_outputs, check_place_of_folder, is_temporary, local_path, same_place
from ...io.json_files import read_json, reason_of, understanding
from ...io.text_files import printable
from ..dataset_card import shards_in, write_card
from ..shard_manifest import MANIFEST, finish, shard_files
from .finished_rows import FinishedRows, may_pass, read_rows
from .row_forms import form_of
from .run_options import prompts_of
from .shard_writer import write_track_shards
from .stored_files import is_remote


if TYPE_CHECKING:
    from datasets import Features


RUN, CLIPS, ROWS, LOCK = ".fgvc-hf-run.json", ".fgvc-hf-clips.jsonl", ".fgvc-hf-rows", ".fgvc-hf-lock"


def check_destination(path: str | os.PathLike, source: str) -> Path:
    """The absolute path of a folder that is new, empty, or of a run. PyArrow would take a relative one such as `tracks:v2` for a URL.

    Raises:
        `ValueError`: it is the source, or in it, or its name is not in UTF-8.
        `OSError`: it holds something else, or cannot be written.
    """
    path = local_path(path, "written").absolute()
    try:
        str(path).encode()  # PyArrow has paths in UTF-8
    except UnicodeEncodeError:
        raise ValueError(f"{path}: cannot be written, its name is not in UTF-8; give another folder.") from None
    check_place_of_folder(path)
    check_outputs([path], [None if is_remote(source) else source])
    begun = (LOCK, CLIPS)  # what there is before a run is noted
    others = path.is_dir() and any(child.name not in begun and not is_temporary(child) for child in path.iterdir())
    if others and not (path / RUN).is_file():
        raise FileExistsError(
            f"{path}: holds something else than tracks of a data set; give a new or an empty folder."
        )
    return path


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """A context in which no other run writes to a folder, which is made if needed, and removed if it stays empty. The lock ends with the process.

    Raises:
        `OSError`: another run is writing, or the file system has no locks.
    """
    existed = folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror}).") from None
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(f"{folder}: another run is writing to it; wait for its end, or choose another folder.") from None
    except (OSError, NotImplementedError) as error:
        remove_lock(folder, existed)
        raise OSError(f"{folder}: cannot be locked ({reason_of(error)}); choose a folder on another disk.") from None
    try:
        yield
    finally:
        remove_lock(folder, existed)
        lock.release()


def remove_lock(folder: Path, existed: bool) -> None:
    """Remove the file of a lock, and the folder if it was made for it and holds nothing else."""
    (folder / LOCK).unlink(missing_ok=True)
    if not existed and not any(folder.iterdir()):
        folder.rmdir()


def is_whole(folder: Path) -> bool:
    """Whether all rows are in shards."""
    return (folder / MANIFEST).is_file()


def check_shards(folder: Path, number: int | None) -> None:
    """An `OSError` if a whole folder has another number of shards than is asked for."""
    there = len(shard_files(folder))
    if number not in (None, there):
        raise FileExistsError(
            f"{folder}: is finished, in another number of shards: --num-shards was {there}, now {number}; give the same, or choose another folder."
        )


def reopen(folder: Path, features: "Features") -> None:
    """Make a whole folder one of finished rows again, if a row has an error that may pass. Whatever ends this, no row is lost."""
    shards = shard_files(folder)
    errors = (read_rows(shard, ["error"])["error"].to_pylist() for shard in shards)
    if not any(may_pass(error) for of_shard in errors for error in of_shard):
        return
    shutil.rmtree(folder / ROWS, ignore_errors=True)
    rows = FinishedRows(folder / ROWS, features)
    for shard in shards:
        with ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                rows.keep(file.read_row_group(group).cast(rows.schema))
    note_run(folder, read_run(folder) | {"shards": len(shards)})
    (folder / MANIFEST).unlink()


def begin_run(folder: Path, run: dict[str, Any], listed: dict[str, str], retry_errors: bool = False) -> None:
    """Note what a run is begun with, and a digest of each clip, or compare it with what is noted; and remove what a run that was killed left
    half-written. With `retry_errors`, clips that could not be read then may be readable now.

    Raises:
        `OSError`: the folder was begun with something else; the message names it.
    """
    for path in filter(is_temporary, list(folder.iterdir())):
        path.unlink()
    if not (folder / RUN).is_file():
        note(folder, run, listed)
        return
    before = read_run(folder)
    if same_place(Path(before["source"]), Path(run["source"])):
        before["source"] = run["source"]
    if all(before.get(name) == run[name] for name in run):
        return
    differing = [name for name in run if name not in ("clips", "listing") and before.get(name) != run[name]]
    if not differing:
        change = first_change(noted_clips(folder), listed)
        if change is None and retry_errors:
            note(folder, before | run, listed)
            return
        if change is None:
            raise FileExistsError(
                f"{folder}: clips of the source that could not be read when it was begun can be read now; give --retry-errors, or choose another folder."
            )
        counts = "" if before["clips"] == run["clips"] else f"clips was {before['clips']}, now {run['clips']}; "
        raise FileExistsError(
            f"{folder}: the clips of the source have changed since it was begun: {counts}{change}; choose another folder."
        )
    gone = not is_remote(run["source"]) and not os.path.lexists(before["source"])
    if differing == ["source"] and before.get("listing") == run["listing"] and gone:
        raise FileExistsError(
            f"{folder}: was begun with the source at {before['source']}, and the same clips are now at {run['source']}, but paths in them may lead "
            f"elsewhere from there; make {before['source']} a link to {run['source']}, or choose another folder."
        )
    shown = "; ".join(f"{name} was {before.get(name)}, now {run[name]}" for name in differing)
    raise FileExistsError(f"{folder}: was begun with other options: {shown}; give the same, or choose another folder.")


def note(folder: Path, run: dict[str, Any], listed: dict[str, str]) -> None:
    """Write what a run is begun with, whose clips may be there already; it has begun when `RUN` is there."""
    with atomic_write(folder / CLIPS) as temporary:
        lines = (json.dumps(clip) + "\n" for clip in listed.items())
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    note_run(folder, run)


def note_run(folder: Path, run: dict[str, Any]) -> None:
    with atomic_write(folder / RUN) as temporary:
        temporary.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def noted_clips(folder: Path) -> dict[str, str]:
    """The clips that a run was begun with."""
    with understanding(folder / CLIPS, "the clips that a run was begun with"):
        with (folder / CLIPS).open(encoding="utf-8") as file:
            return dict(json.loads(line) for line in file)


def first_change(before: dict[str, str], listed: dict[str, str]) -> str | None:
    """The first clip that differs from those that a run was begun with; `None` if those alone differ that could not be read then."""
    for name in itertools.chain(before, listed):
        if name not in listed:
            return f"{printable(name)} is gone"
        if name not in before:
            return f"{printable(name)} is new"
        if before[name] not in ("", listed[name]):
            return f"{printable(name)} {'has other content' if listed[name] else 'cannot be read'}"
    return None if list(before) == list(listed) else "they are in another order"


def read_run(folder: Path) -> dict[str, Any]:
    """What a run was begun with.

    Raises:
        `OSError`: the folder is not one of a run.
        `ValueError`: it is damaged.
    """
    if not (folder / RUN).is_file():
        raise FileNotFoundError(f"{folder}: holds no tracks of a data set.")
    contents = "what a run was begun with"
    with understanding(folder / RUN, contents):
        run = {"masks": None, "shards": None} | read_json(folder / RUN, contents)  # which not every run notes
        for name, kind in {"source": str, "video": str | None, "clips": int, "shards": int | None}.items():
            if not isinstance(run[name], kind):
                raise ValueError(f"{name} is {run[name]!r}")
        form_of(run)
    return run


def complete(folder: Path, names: Sequence[str], rows: FinishedRows, number: int | None, run: dict[str, Any]) -> None:
    """Write shards, card and manifest of all rows, and remove what the run needed."""
    shards = write_track_shards(folder, names, rows, number)
    write_card(folder, card_text(folder, run))
    finish(folder, shards)
    shutil.rmtree(folder / ROWS)


def errors_in(folder: Path) -> int:
    """Rows with an error in the shards of a folder."""
    errors = (read_rows(file, ["error"])["error"] for file in shard_files(folder))
    return sum(len(column) - column.null_count for column in errors)


def card_text(folder: Path, run: dict[str, Any]) -> str:
    """The text of the dataset card."""
    _, _, count, size = shards_in(folder)
    preset = f", preset `{run['preset']}`" if run["preset"] else ""
    prompts, form = prompts_of(run["points"], run["masks"]), form_of(run)
    return f"""# {form.title} of {count} clips

{prompts.kind.capitalize()} `{prompts.place}` of the clips of `{printable(os.path.basename(run["source"].rstrip("/")))}`, followed by
[fgvc_hf](https://arxiv.org/abs/2308.03040) {run["package"]} with `{run["model"]}` at revision `{run["revision"]}`{preset}. {size / 2**20:.1f} MiB.

    from datasets import load_dataset
    from fgvc_hf import load_{form.name}

    rows = load_dataset("THIS_REPOSITORY", split="train")
    {form.example}

A row is a clip. Where it could not be tracked, `error` says why, and the other columns are null.

{form.table}
"""


__all__ = [
    "begin_run",
    "check_destination",
    "check_shards",
    "complete",
    "errors_in",
    "is_whole",
    "locked",
    "read_run",
    "reopen",
]
