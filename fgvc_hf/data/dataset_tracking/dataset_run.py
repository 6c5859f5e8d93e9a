"""A run over a whole data set: check, list, track what is missing, and write the shards when all rows are there."""

import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ... import __version__
from ...io.checkpoints import resolve_checkpoint
from ...io.text_files import printable
from ...tracker import Tracker
from ..shard_manifest import shard_files
from .clip_sources import Clip, ClipSource
from .finished_rows import FinishedRows
from .lerobot_columns import append_tracks, check_append
from .ray_engine import check_cluster, track_on_ray
from .row_forms import form_of
from .run_folder import (
    ROWS,
    begin_run,
    check_destination,
    check_shards,
    complete,
    errors_in,
    is_whole,
    locked,
    read_run,
    reopen,
)
from .run_options import TIME_LIMIT, Actors, Prompts, check_options, prompts_of
from .source_kinds import open_source
from .track_job import Options, TrackJob, described, revision_of, settings_of


ACCEPTED = (
    "videos, folders of images, rows of Parquet, samples in .tar files that are not compressed, or a LeRobotDataset v3"
)
GRID = "grid:16"
LOADING = {"preset", "device", "dtype", "revision"}


@dataclass(frozen=True)
class Summary:
    """What a destination holds: rows, those with an error, and those that this run has added."""

    rows: int
    errors: int
    added: int


def track_dataset(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    points: str | None = None,
    masks: str | None = None,
    *,
    video: str | None = None,
    engine: str = "local",
    actors: Actors | None = None,
    num_shards: int | None = None,
    time_limit: float = TIME_LIMIT,
    append_to: str | os.PathLike | None = None,
    retry_errors: bool = False,
    progress: bool = False,
    checkpoint: str | None = None,
    **loading,
) -> Summary:
    """
    Track the clips of a data set, and write a data set of their tracks. The same call again does what is missing.

    Args:
        source: A folder of videos, Parquet files, WebDataset tar files, or a LeRobotDataset v3, on this machine or `hf://datasets/USER/NAME`.
        destination: Folder of the tracks; made if needed.
        points (`str`, defaults to `"grid:16"` without masks): `"grid:N"` or `"grid:ROWSxCOLUMNS"` on the first frame, or `"column:NAME"`.
        masks (`str`, *optional*): Objects instead of points, as `"column:NAME"`: images of their ids on the first frame, as of [`read_mask`].
        video (`str`, *optional*): The column, extension or camera of videos; found by itself where only one can be meant.
        engine (`str`, defaults to `"local"`), actors ([`Actors`], *optional*): `"local"`, this process, or `"ray"`, Ray Data in such actors.
        num_shards (`int`, *optional*): Files of the result; such that each has about 256 MB before compression if not given.
        time_limit (`float`, defaults to 3600): Seconds for a clip.
        append_to (*optional*): A new folder, for a copy of a LeRobotDataset with the tracks as columns.
        retry_errors (`bool`, defaults to `False`): Also track the clips again whose error may pass: `source`, `time` and `tracker`.
        progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.
        checkpoint (`str`, *optional*): As of [`Tracker.from_pretrained`].
        loading: `preset`, `device`, `dtype` and `revision`, as of [`Tracker.from_pretrained`].

    Returns:
        [`Summary`].

    Raises:
        `ValueError`: an option is not among those accepted, or the source holds no clips.
        `OSError`: something cannot be read or written, the source has changed, or the destination is of another run.
    """
    check_options(engine, actors, num_shards, time_limit)
    prompts = prompts_of(GRID if points is None and masks is None else points, masks)
    opened, folder = open_source(source, video, prompts), check_destination(destination, os.fspath(source))
    clips = list_clips(opened, num_shards, progress)
    if append_to is not None:
        check_append(opened, clips, folder, append_to)
    if engine == "ray" and (retry_errors or not is_whole(folder)):
        check_cluster(actors or Actors())
    tracker = load_tracker(checkpoint, loading, engine)
    job = make_job(opened, prompts, checkpoint, loading, tracker, time_limit)
    named = {job.name(clip): clip for clip in clips}
    rows_of = partial(job.rows, tracker=tracker), partial(track_on_ray, job, actors=actors or Actors())
    with locked(folder):
        begin_run(folder, *(run := described(clips, opened, job.options, video)), retry_errors)
        added = finish_run(folder, named, rows_of[engine == "ray"], num_shards, retry_errors, run[0], progress)
        if append_to is not None:
            append_tracks(opened, shard_files(folder), named, append_to)
        return Summary(len(named), errors_in(folder), added)


def finish_run(
    folder: Path,
    named: Mapping[str, Clip],
    engine: Callable[[list[Clip]], Generator[dict]],
    num_shards: int | None,
    retry_errors: bool,
    run: dict[str, Any],
    progress: bool,
) -> int:
    """Track the clips that have no row yet, or one with an error to try again, and write the shards. Returns the number of new rows."""
    if is_whole(folder):
        check_shards(folder, num_shards)
        if retry_errors:
            reopen(folder, form_of(run).features())
    if is_whole(folder):
        shutil.rmtree(folder / ROWS, ignore_errors=True)  # of a run that was killed before it had removed them
        return 0
    num_shards = num_shards or read_run(folder)["shards"]  # of a finished folder that was reopened
    rows = FinishedRows(folder / ROWS, form_of(run).features())
    if retry_errors:
        rows.forget_passing()
    left = [clip for name, clip in named.items() if name not in rows]
    added = collect(engine(left), rows, len(named), progress) if left else 0
    complete(folder, list(named), rows, num_shards, run)
    return added


def list_clips(source: ClipSource, num_shards: int | None, progress: bool) -> list[Clip]:
    """The clips of a source; a `ValueError` if there are none, fewer than shards are to be written, or two of one name."""
    clips = list(tqdm(source.clips(), desc="listing", unit=" clips", disable=None if progress else True))
    if not clips:
        raise ValueError(f"{source.path}: holds no clips; a source holds {ACCEPTED}.")
    if num_shards is not None and num_shards > len(clips):
        raise ValueError(f"--num-shards must be at most the number of clips, {len(clips)}, got {num_shards}.")
    names: set[str] = set()
    for clip in clips:
        if clip.source in names:
            raise ValueError(f"{source.path}: holds two clips of the name {printable(clip.source)}.")
        names.add(clip.source)
    return clips


def load_tracker(checkpoint: str | None, loading: Mapping[str, Any], engine: str) -> Tracker:
    """The tracker; a `ValueError` for an argument that loading does not take."""
    if wrong := set(loading) - LOADING:
        raise ValueError(f"arguments must be among {', '.join(sorted(LOADING))}, got {', '.join(sorted(wrong))}.")
    # The driver of a cluster needs the weights only to name them
    return Tracker.from_pretrained(checkpoint, **dict(loading) | ({"device": "cpu"} if engine == "ray" else {}))


def collect(found: Generator[dict], rows: FinishedRows, total: int, progress: bool) -> int:
    """Keep the rows that an engine finds; whatever ends it, those that are there are written. Returns their number."""
    before = len(rows)
    with (
        closing(found),
        tqdm(total=total, initial=before, desc="tracking", unit=" clips", disable=None if progress else True) as bar,
    ):
        try:
            for row in found:
                bar.update(rows.add(row))
        finally:
            rows.write()
    return len(rows) - before


def make_job(
    source: ClipSource,
    prompts: Prompts,
    checkpoint: str | None,
    loading: Mapping[str, Any],
    tracker: Tracker,
    time_limit: float,
) -> TrackJob:
    """The job of tracking the clips of a source with what was loaded."""
    place = resolve_checkpoint(checkpoint)
    local, revision = os.path.isdir(place), revision_of(tracker)
    place = os.path.abspath(place) if local else place
    options = Options(
        points=prompts.place if prompts.kind == "points" else None,
        masks=prompts.place if prompts.kind == "masks" else None,
        model=os.path.basename(place) if local else place,
        revision=revision,
        settings=settings_of(tracker),
        preset=loading.get("preset"),
        dtype=None if loading.get("dtype") is None else str(loading["dtype"]).removeprefix("torch."),
        package=__version__,
    )
    return TrackJob(source, options, place, None if local else revision, loading.get("device"), time_limit)


__all__ = ["Summary", "track_dataset"]
