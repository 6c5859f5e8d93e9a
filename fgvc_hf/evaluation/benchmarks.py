"""The benchmarks: for each, how it is loaded, measured, averaged and drawn."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.drawing import draw_boxes, draw_masks, panel_scale
from ..io.overlays import drawn_tracks
from ..io.video import open_video
from ..metrics import average_jaccard, box_overlap, end_point_error, mean_iou, pck, region_contour
from ..tracking.results import FgvcFlowOutput, PointTracks
from .badja import BadjaVideo, follow_joints, load_badja
from .box_following import follow_boxes
from .davis import DavisVideo, load_davis, segment
from .flow_layouts import describe_flow, load_flow
from .flow_pairs import FlowPair, draw_pair, measure_flow
from .jhmdb import JhmdbVideo, follow_people, load_jhmdb
from .sequence_folders import sequence_of
from .tapvid import load_tapvid, track_queries
from .vip import VipVideo, label_parts, load_vip


Counts = dict[str, Any]  # of one video, as JSON
Metrics = dict[str, dict[str, float]]  # by aggregation and metric: in [0, 1], or in pixels for those of `IN_PIXELS`


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. Every average is derived from the counts of the videos.

    Args:
        load (callable): (root folder, split or `None`) to videos with a `name`; frames are read when a video is measured.
        measure (callable): (tracker, video, options by name) to the prediction and its counts.
        draw (callable): (video, prediction) to the frames with the prediction drawn over them.
        metrics (callable): Counts by video name to the metrics over all these videos.
        headline (`tuple[str, str]`): Aggregation and metric that videos are ranked by.
        parts (callable): Counts of a video to the metrics of each of its parts by name, for the table; empty if it has just one.
        describe (callable): (root folder, split or `None`) to what a result states of the data beside these; empty if nothing.
        lower_is_better (`bool`): Whether the headline metric is an error.
    """

    load: Callable[[Path, str | None], Iterable[Any]]
    measure: Callable[..., tuple[Any, Counts]]
    draw: Callable[[Any, Any], Iterable[np.ndarray]]
    metrics: Callable[[dict[str, Counts]], Metrics]
    headline: tuple[str, str]
    parts: Callable[[Counts], Metrics] = lambda counts: {}
    describe: Callable[[Path, str | None], dict[str, str]] = lambda root, split: {}
    lower_is_better: bool = False

    def score(self, counts: Counts) -> float:
        """The headline metric of one video."""
        aggregation, metric = self.headline
        return self.metrics({"": counts})[aggregation][metric]


# ---- points -------------------------------------------------------------------------------------------------------


def _measure_tapvid(tracker, video, query_mode: str = "first") -> tuple[PointTracks, Counts]:
    tracks, counts = track_queries(tracker, video, query_mode)
    return tracks, counts.to_lists()


def _tapvid_metrics(videos: dict[str, Counts]) -> Metrics:
    return average_jaccard.aggregate(
        {name: average_jaccard.TapVidCounts.from_lists(lists) for name, lists in videos.items()}
    )


def _measure_badja(tracker, video: BadjaVideo) -> tuple[PointTracks, Counts]:
    tracks, counts = follow_joints(tracker, video)
    return tracks, counts.to_lists()


def _draw_joints(video: BadjaVideo | JhmdbVideo, tracks: PointTracks) -> Iterator[np.ndarray]:
    return _draw_points(sequence_of(video.frames).frames(), tracks)


def _badja_metrics(videos: dict[str, Counts]) -> Metrics:
    return pck.aggregate_badja({name: pck.BadjaCounts.from_lists(lists) for name, lists in videos.items()})


def _measure_jhmdb(tracker, video: JhmdbVideo) -> tuple[PointTracks, Counts]:
    tracks, counts = follow_people(tracker, video)
    return tracks, counts.to_lists()


def _jhmdb_metrics(videos: dict[str, Counts]) -> Metrics:
    counts = [pck.JhmdbCounts.from_lists(lists) for lists in videos.values()]
    return {
        "with_first": pck.aggregate_jhmdb(counts),
        "without_first": pck.aggregate_jhmdb(counts, first_frame=False),
    }


def _draw_points(frames: Iterable[np.ndarray], tracks: PointTracks) -> Iterator[np.ndarray]:
    draw = drawn_tracks({"": tracks})
    return (draw(t, frame, _drawn_scale(frame)) for t, frame in enumerate(frames))


def _drawn_scale(frame: np.ndarray) -> float:
    """The scale at which results over a frame can be judged: small frames, as of TAP-Vid, are enlarged."""
    return max(1.0, panel_scale(*frame.shape[:2]))


# ---- masks, parts and boxes -----------------------------------------------------------------------------------------


def _load_davis(root: Path, split: str | None) -> list[DavisVideo]:
    return load_davis(root, split or "val")


def _measure_davis(tracker, video: DavisVideo) -> tuple[np.ndarray, Counts]:
    ids, scores = segment(tracker, video)
    return ids, {str(obj_id): score.to_lists() for obj_id, score in scores.items()}


def _davis_metrics(videos: dict[str, Counts]) -> Metrics:
    scores = {
        name: {int(obj_id): region_contour.ObjectScores.from_lists(lists) for obj_id, lists in objects.items()}
        for name, objects in videos.items()
    }
    return {"objects": region_contour.aggregate(scores)}


def _davis_objects(objects: Counts) -> Metrics:
    if len(objects) == 1:
        return {}
    return {f"object {obj_id}": _davis_metrics({"": {obj_id: lists}})["objects"] for obj_id, lists in objects.items()}


def _measure_vip(tracker, video: VipVideo) -> tuple[np.ndarray, Counts]:
    labels, matrix = label_parts(tracker, video)
    return labels, {"confusion": matrix.tolist()}


def _vip_metrics(videos: dict[str, Counts]) -> Metrics:
    matrices = np.array([counts["confusion"] for counts in videos.values()])
    return {"pixels": mean_iou.mean_iou(matrices.sum(axis=0))}


def _draw_ids(video: DavisVideo | VipVideo, found: np.ndarray) -> Iterator[np.ndarray]:
    frames = zip(open_video(video.frames).frames(), found, strict=True)
    return (draw_masks(frame, ids, scale=_drawn_scale(frame)) for frame, ids in frames)


def _measure_boxes(tracker, video: DavisVideo) -> tuple[dict[int, np.ndarray], Counts]:
    boxes, overlaps = follow_boxes(tracker, video)
    return boxes, {str(obj_id): values for obj_id, values in overlaps.items()}


def _boxes_metrics(videos: dict[str, Any]) -> Metrics:
    return {"objects": box_overlap.aggregate_boxes(videos)}


def _draw_boxes(video: DavisVideo, boxes: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    sides = np.stack(list(boxes.values()), axis=1)  # (T, objects, 4)
    frames = open_video(video.frames).frames(0, len(sides))
    return (draw_boxes(frame, now, list(boxes), _drawn_scale(frame)) for frame, now in zip(frames, sides, strict=True))


# ---- flow -----------------------------------------------------------------------------------------------------------


def _measure_flow(tracker, pair: FlowPair) -> tuple[FgvcFlowOutput, Counts]:
    found, counts = measure_flow(tracker, pair)
    return found, counts.to_lists()


def _flow_metrics(pairs: dict[str, Counts]) -> Metrics:
    return end_point_error.aggregate_flow(
        {name: end_point_error.FlowCounts.from_lists(lists) for name, lists in pairs.items()}
    )


BENCHMARKS = {
    "tapvid": Benchmark(
        load_tapvid,
        _measure_tapvid,
        lambda video, tracks: _draw_points(video.frames, tracks),
        _tapvid_metrics,
        ("tapvid", "delta_avg"),
    ),
    "davis": Benchmark(_load_davis, _measure_davis, _draw_ids, _davis_metrics, ("objects", "J&F"), _davis_objects),
    "boxes": Benchmark(_load_davis, _measure_boxes, _draw_boxes, _boxes_metrics, ("objects", "IoU")),
    "badja": Benchmark(load_badja, _measure_badja, _draw_joints, _badja_metrics, ("pips", "PCK@0.2")),
    "jhmdb": Benchmark(load_jhmdb, _measure_jhmdb, _draw_joints, _jhmdb_metrics, ("with_first", "PCK@0.1")),
    "vip": Benchmark(load_vip, _measure_vip, _draw_ids, _vip_metrics, ("pixels", "mIoU")),
    "flow": Benchmark(
        load_flow,
        _measure_flow,
        draw_pair,
        _flow_metrics,
        ("pixels", "EPE"),
        describe=describe_flow,
        lower_is_better=True,
    ),
}


__all__ = ["BENCHMARKS", "Benchmark"]
