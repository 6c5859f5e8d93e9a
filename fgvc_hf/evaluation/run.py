"""Run a benchmark: every video is measured by itself, and every average is derived from the counts of the videos.

The counts of a video are written as soon as they are known, so that an interrupted run can be resumed. Several processes share the
videos: process r of n measures every n-th one, from r on. The result is the same JSON in all cases, except for its timings.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..io.files import atomic_write
from ..io.json_files import read_json, understanding
from ..io.names import check_names
from ..io.scratch_folders import locked
from ..metrics.end_point_error import IN_PIXELS
from ..tracker import Tracker
from .baselines import ChainedTracker
from .benchmarks import BENCHMARKS, Benchmark
from .flow_baselines import FlowBaseline
from .visuals import keep_extremes, write_visual


SETTINGS, PART = "the settings of an interrupted run", "the counts of a video; delete it to measure the video again"
PACKAGES = ("fgvc-hf", "torch", "transformers", "numpy", "pillow")  # a result states their versions


@dataclass(frozen=True)
class Task:
    """What is measured.

    Args:
        benchmark (`str`): `"tapvid"`, `"davis"`, `"boxes"`, `"badja"`, `"jhmdb"`, `"vip"` or `"flow"`.
        data (`str` or `Path`): Root folder of the data; or `"rendered"`, for the pairs of `"flow"` that need none.
        split (`str`, *optional*): Split of the data; the default of the benchmark if not given.
        sequences (`list[str]`, *optional*): Only these videos, in this order; the whole split if not given.
        query_mode (`str`, defaults to `"first"`): `"first"`, or `"strided"` for `"tapvid"`; see [`track_queries`].

    Raises:
        `ValueError`: there is no such benchmark, or it has no such query mode.
    """

    benchmark: str
    data: str | Path
    split: str | None = None
    sequences: Sequence[str] | None = None
    query_mode: str = "first"

    def __post_init__(self):
        name, mode = self.benchmark, self.query_mode
        if name not in BENCHMARKS:
            raise ValueError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {name!r}.")
        if mode not in ("first", "strided") or (name != "tapvid" and mode != "first"):
            raise ValueError(f"query_mode must be 'first', or 'strided' for tapvid, got {mode!r} for {name}.")

    @property
    def options(self) -> dict[str, str]:
        """What the benchmark's `measure` is given beside the tracker and a video."""
        return {"query_mode": self.query_mode} if self.benchmark == "tapvid" else {}

    def load(self) -> Iterator[Any]:
        """Go through all videos of the split, one at a time.

        Raises:
            `OSError`, `ValueError`: the data is of another layout or damaged, or has no such split.
        """
        return iter(BENCHMARKS[self.benchmark].load(Path(self.data), self.split))

    def names(self) -> list[str]:
        """The names of the videos that are measured, found without decoding any.

        Raises:
            `OSError`, `ValueError`: as of [`~Task.load`], or there is no such video, or none at all, or one is given twice.
        """
        found = check_names((video.name for video in self.load()), self.data)  # each names files of its own
        unknown = sorted(set(self.sequences or ()) - set(found))
        if unknown:
            raise ValueError(f"there is no sequence {unknown[0]!r}; there are {', '.join(found)}.")
        names = found if self.sequences is None else check_names(self.sequences, "sequences")
        if not names:
            raise ValueError(f"{self.data}: there is no sequence to measure.")
        return names


def evaluate(
    tracker: Tracker | ChainedTracker | FlowBaseline,
    task: Task,
    output: str | Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    visuals: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """
    Measure a tracker on a benchmark, and write the result.

    Args:
        tracker ([`Tracker`], [`ChainedTracker`] or [`FlowBaseline`]): What is measured; baselines on benchmarks of points, and of flow.
        task ([`Task`]): What it is measured on.
        output (`str` or `Path`): File of the result, JSON.
        settings (`dict`): How the tracker was made, as JSON; the result states it beside the task.
        resume (`bool`, defaults to `False`): Continue an interrupted run of the same output and settings.
        visuals (`str` or `Path`, *optional*): Folder for overlays of the best and the worst videos.
        report (callable, *optional*): Takes a line for each video, and the table at the end; prints them if not given.

    Returns:
        `dict`: `metrics` over all videos; `videos`: counts and metrics of each; `settings`, `versions` and `seconds`; as written.
        `None` in all processes but the first.

    Raises:
        `ValueError`, `OSError`: the data is of another layout or damaged, a file cannot be written, another run is writing to the same output,
        or the interrupted run had other settings, data or versions.
    """
    benchmark, names, output = BENCHMARKS[task.benchmark], task.names(), Path(output)
    stated = {"benchmark": task.benchmark, "split": task.split, "sequences": names, **task.options, **settings}
    stated |= benchmark.describe(Path(task.data), task.split)
    parts = output.with_name(f"{output.name}.parts")
    with _processes() as (process, processes), ExitStack() as stack:
        if process == 0:
            stack.enter_context(_alone(parts))
            _prepare(parts, stated, _unstated(task), resume)
        _wait(processes)
        own = dict(list(zip(names, range(1, len(names) + 1), strict=True))[process::processes])
        for video in task.load():
            if video.name in own and not (file := parts / f"{video.name}.json").is_file():
                part = _measure(benchmark, tracker, video, task.options, visuals)
                _write_json(part, file)
                score = _shown(benchmark.headline[1], benchmark.score(part["counts"]))
                report(f"{own[video.name]:4d} / {len(names)}  {video.name:24s} {score:>6s}  {part['seconds']:.0f} s")
        _wait(processes)
        if process:
            return None
        result = _merge(benchmark, parts, stated)
        _write_json(result, output, indent=1)
    shutil.rmtree(parts)  # without its lock: file systems of a network keep what is open
    if visuals:
        sign = -1 if benchmark.lower_is_better else 1
        scores = {name: sign * benchmark.score(video["counts"]) for name, video in result["videos"].items()}
        keep_extremes(Path(visuals), scores)
    report(table(result, benchmark))
    return result


@contextmanager
def _alone(parts: Path) -> Generator[None]:
    """A context in which a folder is there and no other run writes to it, where the file system has locks; a `ValueError` if one does."""
    parts.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(parts / ".lock", os.O_RDWR | os.O_CREAT))
        except BlockingIOError:
            raise ValueError(
                f"{parts}: another run is writing there; wait for its end, or give another output."
            ) from None
        except OSError:  # no locks here
            pass
        yield


def _unstated(task: Task) -> dict[str, Any]:
    """What a run that is resumed must share beside the settings of its result."""
    data = Path(task.data).resolve() if Path(task.data).exists() else task.data
    return {"data": str(data), "versions": _versions()}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


@contextmanager
def _processes() -> Generator[tuple[int, int]]:
    """Number of this process, and how many there are, as `torchrun` says; they are connected within, by the caller's group if there is one."""
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = processes > 1 and not torch.distributed.is_initialized()
    if own:
        torch.distributed.init_process_group("gloo")
    try:
        yield process, processes
    finally:
        if own:
            torch.distributed.destroy_process_group()


def _wait(processes: int) -> None:
    """Wait until every process is here."""
    if processes > 1:
        torch.distributed.barrier()


def _prepare(parts: Path, stated: dict[str, Any], unstated: dict[str, Any], resume: bool) -> None:
    """Make the folder ready for finished videos: it is that of the interrupted run, or has none.

    Raises:
        `ValueError`: there is an interrupted run that is not to be resumed, or it had other settings.
    """
    file, wanted = parts / ".settings.json", json.loads(json.dumps(stated | unstated))
    if resume and file.is_file():
        with understanding(file, SETTINGS):
            before = unstated | dict(read_json(file, SETTINGS))  # earlier versions did not write them
        different = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
        if different:
            raise ValueError(f"{parts}: the interrupted run had other settings ({', '.join(different)}).")
        return
    if any(path != file for path in parts.glob("*.json")):
        raise ValueError(f"{parts} holds an interrupted run: continue it by resume (--resume), or delete the folder.")
    _write_json(wanted, file)


@contextmanager
def _naming(video: str) -> Generator[None]:
    """A context in which the message of an error says in which video it was."""
    try:
        yield
    except (ValueError, OSError) as error:
        if video in str(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise (OSError if isinstance(error, OSError) else ValueError)(f"{video}: {error}") from None


def _measure(benchmark: Benchmark, tracker, video, options: dict[str, str], visuals) -> dict[str, Any]:
    """Counts of one video, and the seconds that it took; an overlay is written if there is a folder `visuals`."""
    start = time.perf_counter()
    with _naming(video.name):
        found, counts = benchmark.measure(tracker, video, **options)
    part = {"counts": counts, "seconds": time.perf_counter() - start}
    if visuals:
        write_visual(Path(visuals), video.name, benchmark.draw(video, found))
    return part


def _write_json(content: dict[str, Any], path: Path, indent: int | None = None) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def _merge(benchmark: Benchmark, parts: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The result, from the files of all videos."""
    counts, metrics, seconds = {}, {}, {}
    for name in settings["sequences"]:
        with understanding(file := parts / f"{name}.json", PART):
            part = read_json(file, PART)
            counts[name], seconds[name] = part["counts"], float(part["seconds"])
            metrics[name] = benchmark.metrics({name: counts[name]})
    with understanding(parts, "the finished videos of one run"):
        average = benchmark.metrics(counts)
    return {
        "metrics": average,
        "videos": {name: {"counts": counts[name], "metrics": metrics[name]} for name in counts},
        "settings": settings,
        "versions": _versions(),
        "seconds": seconds,
    }


def table(result: dict[str, Any], benchmark: Benchmark) -> str:
    """A row for each video, for each of its parts if it has several, and for each average; in per cent, or in pixels."""
    aggregation = benchmark.headline[0]
    columns = [name for name in result["metrics"][aggregation] if not name.startswith("iou_")]
    rows = {}
    for name, video in result["videos"].items():
        rows[name] = video["metrics"][aggregation]
        rows |= {f"{name}, {part}": values for part, values in benchmark.parts(video["counts"]).items()}
    rows |= {f"mean, {name}": values for name, values in result["metrics"].items()}
    lines = [f"{'':28s}" + "".join(f"{column:>10s}" for column in columns)]
    lines += [f"{name:28s}" + "".join(f"{_shown(c, row[c]):>10s}" for c in columns) for name, row in rows.items()]
    return "\n".join(lines)


def _shown(metric: str, value: float) -> str:
    """A value in pixels, or in per cent."""
    return f"{value:.2f}" if metric in IN_PIXELS else f"{100 * value:.1f}"


__all__ = ["Task", "evaluate", "table"]
