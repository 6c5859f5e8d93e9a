"""What a data set of tracks holds: counts, errors by kind, and overlays of a sample."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any

from ...io.overlays import write_sheet
from ...io.scratch_folders import scratch_folder
from ...io.text_files import printable
from ...io.video import open_video
from ..shard_manifest import shard_files
from .clip_errors import error_text
from .clip_sources import Clip
from .clip_tracking import ClipFrames, on_disk
from .finished_rows import PARTS, read_rows
from .row_forms import FORMS, form_of
from .run_folder import ROWS, is_whole, read_run
from .run_options import prompts_of
from .source_kinds import open_source
from .track_job import Options, TrackJob


OVERLAYS = "overlays"  # folder in the data set


def inspect_tracks(folder: str | os.PathLike, sample: int = 4) -> Iterator[str]:
    """
    Lines about a data set of tracks, whole or not; and a sheet of six frames with tracks for each of a sample of its clips, in `overlays/`.

    Args:
        folder: Written by [`track_dataset`].
        sample (`int`, defaults to 4): Clips that are drawn, spread evenly; none for 0.

    Raises:
        `OSError`: it is no such folder, or is damaged.
    """
    yield from map(printable, _lines(Path(folder), sample))


def _lines(folder: Path, sample: int) -> Iterator[str]:
    run = read_run(folder)
    whole = is_whole(folder)
    files = shard_files(folder) if whole else sorted((folder / ROWS).glob(PARTS))
    columns = ["id", "source", "num_frames", "error"]
    rows = list({row["id"]: row for file in files for row in checked_rows(file, columns)}.values())
    state = "whole" if whole else f"unfinished, {run['clips'] - len(rows)} clips are missing"
    size = sum(file.stat().st_size for file in files)
    yield f"{folder}: {len(rows)} rows in {len(files)} files, {size / 2**20:.1f} MiB; {state}"
    good = [row for row in rows if row["error"] is None]
    yield f"  {len(good)} with {form_of(run).name}, of {sum(row['num_frames'] for row in good)} frames"
    for kind, found in errors_by_kind(rows):
        yield f"  {len(found)} with an error: {kind}; the first: {found[0]['source']}: {found[0]['error'].partition(': ')[2]}"
    yield from draw_sample(folder, files, run, spread(good, sample))


def checked_rows(file: Path, columns: list[str]) -> list[dict]:
    """The rows of a file of tracks, of anybody: `id` becomes the name of a file.

    Raises:
        `OSError`: one is not as rows are written.
    """
    rows = read_rows(file, columns).to_pylist()
    for row in rows:
        fine = (
            isinstance(row["id"], str) and re.fullmatch("[0-9a-f]{32}", row["id"]) and isinstance(row["source"], str)
        )
        tracked = row["error"] is None and isinstance(row["num_frames"], int) and row["num_frames"] >= 0
        if not (fine and (tracked or isinstance(row["error"], str))):
            raise OSError(
                f"{file}: holds a row that is damaged: {shorten(repr(row['id']), 60)} of {shorten(repr(row['source']), 60)}."
            )
    return rows


def errors_by_kind(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """The rows with errors by their kind, the most frequent first."""
    wrong = [row for row in rows if row["error"] is not None]
    kinds = Counter(row["error"].partition(":")[0] for row in wrong)
    return [
        (kind, [row for row in wrong if row["error"].partition(":")[0] == kind]) for kind, _ in kinds.most_common()
    ]


def spread(rows: list[dict], number: int) -> set[str]:
    """Ids of so many rows, spread evenly, or of all if there are fewer."""
    number = min(number, len(rows))
    return {rows[i * len(rows) // number]["id"] for i in range(number)}


def draw_sample(folder: Path, files: list[Path], run: dict, wanted: set[str]) -> Iterator[str]:
    """Draw the clips of some rows; a line for each file written, or one that says why there are none."""
    try:
        source = open_source(run["source"], run["video"], prompts_of(run["points"], run["masks"]))
    except (OSError, ValueError) as error:
        yield f"  no overlays: {error}"
        return
    rows = itertools.chain.from_iterable(read_rows(file, ids=wanted).to_pylist() for file in files)
    chosen = {row["source"]: row for row in rows} if wanted else {}
    if (folder / OVERLAYS).exists() and not (folder / OVERLAYS).is_dir():
        raise FileExistsError(f"{folder / OVERLAYS}: is a file; overlays need a folder of this name.")
    if not chosen:
        return
    try:
        (folder / OVERLAYS).mkdir(exist_ok=True)
    except OSError as error:
        yield f"  no overlays: {folder / OVERLAYS}: {error.strerror}."
        return
    options: dict[str, Any] = {field.name: run.get(field.name) for field in fields(Options)}
    job = TrackJob(source, Options(**options), "")
    for clip in source.clips():
        if row := chosen.pop(clip.source, None):
            path = folder / OVERLAYS / f"{row['id']}.png"
            yield (
                f"  {path}: {clip.source}"
                if (reason := draw(job, clip, row, path)) is None
                else f"  no overlay of {clip.source}: {reason}"
            )
    for name in chosen:
        yield f"  no overlay of {name}: it is no longer in the source."


def draw(job: TrackJob, clip: Clip, row: dict, path: Path) -> str | None:
    """Draw what was found in a clip; why not, if it can no longer be read, or is another than was tracked."""
    form = FORMS[job.prompts.kind]
    with scratch_folder() as folder:
        try:
            video = on_disk(job.source.read(clip, folder).video, folder)
            frames = ClipFrames(open_video(video), (clip.start, clip.stop))
            if job.name(clip) != row["id"]:
                return "it is another than the one that was tracked."
            write_sheet(frames, form.drawn(form.load(row)), path)
        except Exception as error:
            return error_text(error, "video")
    return None


__all__ = ["inspect_tracks"]
