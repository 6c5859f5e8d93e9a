"""The engine on Ray Data: actors that hold a tracker each, on one machine or on a cluster. Needs the extra `ray`.

Ray Data gets the names of clips, and gives rows of tracks back; videos and frames never enter its object store. It restarts actors and repeats the tasks of
nodes that are lost. A clip that ends the process of its actor again and again, by a fault of a decoder for instance, is tried once more by itself,
and then becomes a row with an error.
"""

import logging
import os
import warnings
from collections.abc import Generator, Iterator, Sequence

import pyarrow

from ...io.json_files import reason_of
from ...io.text_files import one_line
from .clip_errors import LostDevice
from .clip_sources import Clip
from .row_forms import FORMS
from .run_options import Actors
from .track_job import TrackJob


TASKS = 10_000  # at most, for Ray Data follows each of them
CLIPS_PER_TASK = 8  # at least, where there are enough: what is lost with a process
ATTEMPTS = 3  # processes that a task may end before its clips are tried one by one
STOPPED = "stop: "  # begins the error of a row that ends the run


class ClipActor:
    """Tracks clips, with a tracker that is loaded once."""

    def __init__(self, job: TrackJob, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.job, self.tracker, self.fault = job, None, None
        try:
            self.tracker = job.load_tracker()
        except Exception as error:  # of a checkpoint that this machine lacks: without end, Ray would begin anew
            self.fault = f"{job.checkpoint}: cannot be loaded on a machine of the cluster ({reason_of(error)})."

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        clips, rows = [Clip.from_json(text) for text in batch["clip"].to_pylist()], []
        features = FORMS[self.job.prompts.kind].features()
        try:
            if self.tracker is None:
                raise OSError(self.fault)
            rows.extend(self.job.rows(clips, self.tracker))
        except LostDevice:
            os._exit(1)  # Ray starts another process in its place
        except OSError as error:
            rows.append(dict.fromkeys(features) | {"id": "", "error": f"{STOPPED}{error}"})
        return pyarrow.Table.from_pylist(rows, features.arrow_schema)


def load_ray():
    """Ray, connected to the cluster of `RAY_ADDRESS`, or to one of its own on this machine.

    Raises:
        `ImportError`: it is not installed.
        `OSError`: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError("--engine ray needs Ray: pip install 'fgvc-hf[ray]'") from None
    if not ray.is_initialized():
        dashboard = None if os.environ.get("RAY_ADDRESS") else False
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=dashboard)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise OSError(f"the Ray cluster cannot be reached ({one_line(error)}).") from None
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.max_errored_blocks = -1  # a task that fails for good leaves its clips out, and they are tried again
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


def check_cluster(actors: Actors) -> None:
    """Check that there is a cluster with room for an actor, before anything is written.

    Raises:
        `ImportError`: Ray is not installed.
        `OSError`: the cluster cannot be reached.
        `ValueError`: it has no room.
    """
    actors_of(load_ray(), actors)


def track_on_ray(job: TrackJob, clips: Sequence[Clip], actors: Actors) -> Generator[dict]:
    """
    The row of each clip, in any order.

    Raises:
        `OSError`: the source has changed or cannot be reached, or Ray ends.
    """
    ray = load_ray()
    left = {job.name(clip): clip for clip in clips}
    per_task = max(1, min(CLIPS_PER_TASK, len(clips) // (4 * actors_of(ray, actors)[0])), -(-len(clips) // TASKS))
    for size in (per_task, 1):
        for row in _pass(ray, job, list(left.values()), actors, size):
            if left.pop(row["id"], None) is not None:
                yield row
        if not left:
            return
    names = {"model": job.options.model, "revision": job.options.revision, "preset": job.options.preset}
    for name, clip in left.items():
        reason = f"tracker: the process that tracked it ended, {ATTEMPTS + 1} times."
        yield (
            dict.fromkeys(FORMS[job.prompts.kind].features())
            | names
            | {"id": name, "source": clip.source, "error": reason}
        )


def _pass(ray, job: TrackJob, clips: list[Clip], actors: Actors, size: int) -> Iterator[dict]:
    """Rows of the clips, so many in a task."""
    most, gpus = actors_of(ray, actors)
    parts = [clips[start : start + size] for start in range(0, len(clips), size)]
    tables = [pyarrow.table({"clip": [clip.to_json() for clip in part]}) for part in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without max_task_retries, a clip that ends its process would do so for ever
        rows = ray.data.from_arrow(tables).map_batches(
            ClipActor,
            batch_size=None,  # a table as it is
            batch_format="pyarrow",
            fn_constructor_args=(job, actors.threads),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(parts))),
            num_cpus=actors.threads,
            num_gpus=gpus,
            max_task_retries=ATTEMPTS,
        )
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if (row["error"] or "").startswith(STOPPED):
                    raise OSError(row["error"].removeprefix(STOPPED))
                yield row
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray ended the run ({one_line(error)[:300]}); the same command goes on.") from None


def actors_of(ray, actors: Actors) -> tuple[int, float]:
    """Actors at most, and GPUs of each.

    Raises:
        `ValueError`: the cluster has no room for one.
    """
    there = ray.cluster_resources()
    gpus = (1.0 if there.get("GPU") else 0.0) if actors.gpus is None else actors.gpus
    room = int(there.get("CPU", 0) // actors.threads)
    room = min(room, int(there.get("GPU", 0) / gpus)) if gpus else room
    if room < 1:
        raise ValueError(
            f"the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, an actor asks for {actors.threads} and {gpus:g}."
        )
    return (room if actors.most is None else min(room, actors.most)), gpus


__all__ = ["ClipActor", "check_cluster", "load_ray", "track_on_ray"]
