"""Benchmarks from one command: videos one by one, counts first, every average derived from them.

The counts of each video are written as soon as they are known, so that a run can be resumed, and shared out over processes: process r
of n takes every n-th video. The result is the same JSON in all cases, but for its timings.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..io.drawing import draw_boxes, draw_masks, draw_tracks
from ..io.files import atomic_write
from ..io.video import VideoWriter, open_video
from ..metrics import average_jaccard as tap_vid_metrics
from ..metrics import box_overlap as box_metrics
from ..metrics import mean_iou as segmentation_metrics
from ..metrics import pck as keypoint_metrics
from ..metrics import region_contour as davis_metrics
from .badja import follow_joints, load_badja
from .box_following import follow_boxes
from .davis import load_davis, segment
from .jhmdb import follow_people, load_jhmdb
from .tapvid import load_tapvid, track_queries
from .vip import label_parts, load_vip


SHOWN = 2  # of the best and of the worst videos whose overlays are kept
FPS = 12  # of overlays


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, measured and averaged.

    Args:
        load (callable): (root, split or `None`) to videos with a `name`; files are read when they are measured.
        measure (callable): (model, processor, video, options by name) to counts as JSON, and a function that gives the frames of an overlay.
        metrics (callable): Counts as JSON by video name to aggregation, metric and value.
        headline (`tuple[str, str]`): Aggregation and metric that videos are ranked by.
        parts (callable): Counts of a video to the metrics of its parts by name, for the table; nothing where it has just one.
    """

    load: Callable[[Path, str | None], Iterable[Any]]
    measure: Callable[..., tuple[dict, Callable[[], Iterable[np.ndarray]]]]
    metrics: Callable[[dict[str, dict]], dict[str, dict[str, float]]]
    headline: tuple[str, str]
    parts: Callable[[dict], dict[str, dict[str, float]]] = lambda counts: {}


def _measure_tapvid(model, processor, video, query_mode="first"):
    tracks, counts = track_queries(model, processor, video, query_mode)
    return counts.to_lists(), lambda: _draw_points(video.frames, tracks)


def _tapvid_metrics(videos: dict[str, dict]) -> dict[str, dict[str, float]]:
    counts = {name: tap_vid_metrics.TapVidCounts.from_lists(lists) for name, lists in videos.items()}
    return tap_vid_metrics.aggregate(counts)


def _measure_davis(model, processor, video):
    found, scores = segment(model, processor, video)
    overlay = lambda: (draw_masks(f, ids) for f, ids in zip(open_video(video.frames).frames(), found, strict=True))  # noqa: E731
    return {str(obj_id): score.to_lists() for obj_id, score in scores.items()}, overlay


def _davis_metrics(videos: dict[str, dict]) -> dict[str, dict[str, float]]:
    scores = {
        name: {int(obj_id): davis_metrics.ObjectScores.from_lists(lists) for obj_id, lists in objects.items()}
        for name, objects in videos.items()
    }
    return {"objects": davis_metrics.aggregate(scores)}


def _davis_objects(objects: dict) -> dict[str, dict[str, float]]:
    if len(objects) == 1:
        return {}
    return {f"object {obj_id}": _davis_metrics({"": {obj_id: lists}})["objects"] for obj_id, lists in objects.items()}


def _measure_boxes(model, processor, video):
    found, overlaps = follow_boxes(model, processor, video)
    sides = np.stack(list(found.values()), axis=1)  # (T, objects, 4)
    frames = lambda: zip(open_video(video.frames).frames(0, len(sides)), sides, strict=True)  # noqa: E731
    overlay = lambda: (draw_boxes(frame, boxes, list(found)) for frame, boxes in frames())  # noqa: E731
    return {str(obj_id): values for obj_id, values in overlaps.items()}, overlay


def _measure_badja(model, processor, video):
    tracks, counts = follow_joints(model, processor, video)
    first = int(video.numbers.min())
    frames = lambda: open_video(video.frames).frames(first, first + tracks.tracks.shape[1])  # noqa: E731
    return counts.to_lists(), lambda: _draw_points(frames(), tracks)


def _badja_metrics(videos: dict[str, dict]) -> dict[str, dict[str, float]]:
    counts = {name: keypoint_metrics.BadjaCounts.from_lists(lists) for name, lists in videos.items()}
    return keypoint_metrics.aggregate_badja(counts)


def _measure_jhmdb(model, processor, video):
    tracks, counts = follow_people(model, processor, video)
    frames = lambda: open_video(video.frames).frames(0, tracks.tracks.shape[1])  # noqa: E731
    return counts.to_lists(), lambda: _draw_points(frames(), tracks)


def _jhmdb_metrics(videos: dict[str, dict]) -> dict[str, dict[str, float]]:
    counts = [keypoint_metrics.JhmdbCounts.from_lists(lists) for lists in videos.values()]
    return {
        "with_first": keypoint_metrics.aggregate_jhmdb(counts),
        "without_first": keypoint_metrics.aggregate_jhmdb(counts, first_frame=False),
    }


def _measure_vip(model, processor, video):
    found, matrix = label_parts(model, processor, video)
    overlay = lambda: (draw_masks(f, ids) for f, ids in zip(open_video(video.frames).frames(), found, strict=True))  # noqa: E731
    return {"confusion": matrix.tolist()}, overlay


def _vip_metrics(videos: dict[str, dict]) -> dict[str, dict[str, float]]:
    matrices = np.array([counts["confusion"] for counts in videos.values()])
    return {"pixels": segmentation_metrics.mean_iou(matrices.sum(axis=0))}


def _draw_points(frames: Iterable[np.ndarray], tracks) -> Iterable[np.ndarray]:
    return (draw_tracks(frame, tracks.tracks, tracks.visible, t) for t, frame in enumerate(frames))


BENCHMARKS = {
    "tapvid": Benchmark(load_tapvid, _measure_tapvid, _tapvid_metrics, ("tapvid", "delta_avg")),
    "davis": Benchmark(
        lambda root, split: load_davis(root, split or "val"),
        _measure_davis,
        _davis_metrics,
        ("objects", "J&F"),
        _davis_objects,
    ),
    "boxes": Benchmark(
        lambda root, split: load_davis(root, split or "val"),
        _measure_boxes,
        lambda videos: {"objects": box_metrics.aggregate_boxes(videos)},
        ("objects", "IoU"),
    ),
    "badja": Benchmark(load_badja, _measure_badja, _badja_metrics, ("pips", "PCK@0.2")),
    "jhmdb": Benchmark(load_jhmdb, _measure_jhmdb, _jhmdb_metrics, ("with_first", "PCK@0.1")),
    "vip": Benchmark(load_vip, _measure_vip, _vip_metrics, ("pixels", "mIoU")),
}


def evaluate(
    name: str,
    data: str | Path,
    model,
    processor,
    output: str | Path,
    settings: dict,
    split: str | None = None,
    sequences: Iterable[str] | None = None,
    resume: bool = False,
    visuals: str | Path | None = None,
    query_mode: str = "first",
    report: Callable[[str], None] = print,
) -> dict | None:
    """Measure a model on a benchmark, and write the result.

    Args:
        name (`str`): One of `BENCHMARKS`.
        data, split: Root folder and split.
        model ([`FgvcModel`]), processor ([`FgvcProcessor`]): What is measured.
        output: JSON file of the result.
        settings (`dict`): What the result says of how it was made, as JSON; a resumed run must agree.
        sequences (*optional*): Only these videos.
        resume (`bool`): Go on with an interrupted run of the same output.
        query_mode (`str`, defaults to `"first"`): Or `"strided"`; of tapvid alone.
        visuals (*optional*): Folder for overlays of the best and the worst videos.
        report (callable): Takes lines of progress, and the table at the end.

    Returns:
        `dict`: what was written; `None` in all processes but the first.

    Raises:
        `ValueError`, `OSError`: unknown benchmark, other layout, damaged data, a file that cannot be written, or a run to be resumed that
        had other settings.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {name!r}.")
    if query_mode not in ("first", "strided") or (name != "tapvid" and query_mode != "first"):
        raise ValueError(f"query_mode must be 'first', or 'strided' for tapvid, got {query_mode!r} for {name}.")
    benchmark, output = BENCHMARKS[name], Path(output)
    options = {"query_mode": query_mode} if name == "tapvid" else {}
    chosen = _choose(list(benchmark.load(Path(data), split)), sequences)
    settings = {
        "benchmark": name,
        "split": split,
        "sequences": [video.name for video in chosen],
        **options,
        **settings,
    }
    process, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    parts = output.with_name(f"{output.name}.parts")
    if process == 0:
        _prepare(parts, settings, resume)
    _wait(processes)
    for number, video in enumerate(chosen):
        file = parts / f"{video.name}.json"
        if number % processes != process or file.is_file():
            continue
        start = time.perf_counter()
        counts, draw = benchmark.measure(model, processor, video, **options)
        part = {"counts": counts, "seconds": time.perf_counter() - start}
        if visuals:
            _write_overlay(Path(visuals) / f"{video.name}.mp4", draw())
        with atomic_write(file) as path:
            path.write_text(json.dumps(part), encoding="utf-8")
        score = benchmark.metrics({video.name: counts})[benchmark.headline[0]][benchmark.headline[1]]
        report(f"{number + 1:4d} / {len(chosen)}  {video.name:24s} {100 * score:6.1f}  {part['seconds']:.0f} s")
    _wait(processes)
    if process:
        return None
    result = _merge(benchmark, parts, settings)
    with atomic_write(output) as path:
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    shutil.rmtree(parts)
    if visuals:
        _keep_extremes(Path(visuals), benchmark, result)
    report(table(result, benchmark))
    return result


def _choose(videos: list, sequences: Iterable[str] | None) -> list:
    if sequences is None:
        return videos
    by_name = {video.name: video for video in videos}
    unknown = sorted(set(sequences) - set(by_name))
    if unknown:
        raise ValueError(f"there is no sequence {unknown[0]!r}; there are {', '.join(by_name)}.")
    return [by_name[name] for name in sequences]


def _prepare(parts: Path, settings: dict, resume: bool) -> None:
    """The folder of finished videos: that of the interrupted run, or an empty one."""
    file, wanted = parts / ".settings.json", json.loads(json.dumps(settings))
    if resume and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        different = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
        if different:
            raise ValueError(f"{parts}: the interrupted run had other settings ({', '.join(different)}).")
        return
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    file.write_text(json.dumps(settings), encoding="utf-8")


def _wait(processes: int) -> None:
    if processes > 1:
        torch.distributed.barrier()


def _merge(benchmark: Benchmark, parts: Path, settings: dict) -> dict:
    read = {name: json.loads((parts / f"{name}.json").read_text(encoding="utf-8")) for name in settings["sequences"]}
    counts = {name: part["counts"] for name, part in read.items()}
    packages = ("fgvc-hf", "torch", "transformers", "numpy", "pillow")
    return {
        "metrics": benchmark.metrics(counts),
        "videos": {name: {"counts": c, "metrics": benchmark.metrics({name: c})} for name, c in counts.items()},
        "settings": settings,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "seconds": {name: part["seconds"] for name, part in read.items()},
    }


def _write_overlay(path: Path, frames: Iterable[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = iter(frames)
    first = next(frames)
    with VideoWriter(path, FPS, *first.shape[:2]) as writer:
        writer.write(first)
        for frame in frames:
            writer.write(frame)


def _keep_extremes(folder: Path, benchmark: Benchmark, result: dict) -> None:
    """Of the overlays, keep those of the best and the worst videos, and name them so."""
    group, metric = benchmark.headline
    ranked = sorted(result["videos"], key=lambda name: result["videos"][name]["metrics"][group][metric])
    worst, best = ranked[:SHOWN], ranked[::-1][:SHOWN]
    for name in ranked:
        file = folder / f"{name}.mp4"
        if not file.is_file():  # measured before the interruption of a resumed run
            continue
        kinds = [("worst", worst), ("best", best)]
        kind = next(((kind, names.index(name) + 1) for kind, names in kinds if name in names), None)
        if kind is None:
            file.unlink()
        else:
            file.rename(folder / f"{kind[0]}-{kind[1]}-{name}.mp4")


def table(result: dict, benchmark: Benchmark) -> str:
    """Per video, and part of it where there are several, and on average; in per cent."""
    group = benchmark.headline[0]
    columns = [name for name in result["metrics"][group] if not name.startswith("iou_")]
    rows = {}
    for name, video in result["videos"].items():
        rows[name] = video["metrics"][group]
        rows |= {f"{name}, {part}": values for part, values in benchmark.parts(video["counts"]).items()}
    rows |= {f"mean, {name}": values for name, values in result["metrics"].items()}
    lines = [f"{'':28s}" + "".join(f"{column:>10s}" for column in columns)]
    lines += [f"{name:28s}" + "".join(f"{100 * row[c]:10.1f}" for c in columns) for name, row in rows.items()]
    return "\n".join(lines)
