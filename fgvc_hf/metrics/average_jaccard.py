"""TAP-Vid scores: position accuracy (delta), occlusion accuracy (OA) and average Jaccard (AJ) of tracked points.

Definitions as in TAP-Vid (Doersch et al., 2022; `compute_tapvid_metrics` in google-deepmind/tapnet). Points are (x, y) in
pixels of a video resized to 256 x 256, regardless of the size that the tracker worked at; so are the thresholds.

[`count_tapvid`] reduces one video to counts per query, and [`aggregate`] turns the counts of many videos into scores.
All three averages in use are computed from the same counts, so stored counts are enough for any of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from .inputs import flags, numbers, whole_numbers
from .ratios import divide, mean_of_known


RASTER_SIZE = (256, 256)  # (height, width)
THRESHOLDS = (1, 2, 4, 8, 16)  # pixels at that size; a hit is strictly closer
STRIDE = 5  # frames between queries in strided mode


@dataclass(frozen=True, eq=False)
class TapVidCounts:
    """Counts of one video, one row per query; column k of the (Q, 5) arrays is for `THRESHOLDS[k]`.

    Args:
        evaluated (`numpy.ndarray` of shape `(Q,)`): Frames that are scored.
        visible (`numpy.ndarray` of shape `(Q,)`): Scored frames in which the point is visible in the ground truth.
        agreement (`numpy.ndarray` of shape `(Q,)`): Scored frames in which predicted and true visibility agree.
        hits (`numpy.ndarray` of shape `(Q, 5)`): Visible frames in which the prediction is within the threshold.
        true_positives (`numpy.ndarray` of shape `(Q, 5)`): Hits that are also predicted visible.
        false_positives (`numpy.ndarray` of shape `(Q, 5)`): Frames predicted visible in which the point is hidden, or
            not within the threshold. A visible point predicted too far off is both a false positive and not a true
            positive: TAP-Vid penalises it twice on purpose.
    """

    evaluated: np.ndarray
    visible: np.ndarray
    agreement: np.ndarray
    hits: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """The counts as lists of integers, ready for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "TapVidCounts":
        """The inverse of [`to_lists`]."""
        counts = {name: np.asarray(rows, dtype=np.int64) for name, rows in lists.items()}
        # The lists of a video without queries are empty, and do not give the number of columns
        wide = ("hits", "true_positives", "false_positives")
        return cls(
            **{name: rows.reshape(-1, len(THRESHOLDS)) if name in wide else rows for name, rows in counts.items()}
        )


def queries_first(points, occluded) -> tuple[np.ndarray, np.ndarray]:
    """Query mode "first": one query per track, in its first visible frame. A track that is never visible has none.

    Args:
        points (`numpy.ndarray` of shape `(N, T, 2)`): True (x, y), in pixels of any raster.
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): Where the point is hidden.

    Returns:
        `tuple`: queries of shape `(Q, 3)`, (t, x, y) in the pixels of `points`; the track of each, of shape `(Q,)`.
    """
    points, visible = _checked_truth(points, occluded)
    tracks = np.flatnonzero(visible.any(axis=1))
    return _queries_at(points, tracks, visible[tracks].argmax(axis=1))


def queries_strided(points, occluded, stride: int = STRIDE) -> tuple[np.ndarray, np.ndarray]:
    """Query mode "strided": a query for every track visible in frame 0, `stride`, 2 * `stride` and so on, ordered by frame.

    Args:
        points (`numpy.ndarray` of shape `(N, T, 2)`): True (x, y), in pixels of any raster.
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): Where the point is hidden.
        stride (`int`, *optional*, defaults to 5): Frames from one query to the next; 5 in the benchmark.

    Returns:
        `tuple`: queries of shape `(Q, 3)`, (t, x, y) in the pixels of `points`; the track of each, of shape `(Q,)`.
    """
    if not isinstance(stride, int | np.integer) or stride < 1:
        raise ValueError(f"stride must be at least 1 frame, a whole number, but it is {stride}.")
    points, visible = _checked_truth(points, occluded)
    steps, tracks = np.nonzero(visible[:, ::stride].T)
    return _queries_at(points, tracks, steps * stride)


def count_tapvid(query_frames, points, occluded, tracks, visible, query_mode: str = "first") -> TapVidCounts:
    """Compare the predictions for the queries of one video with the ground truth.

    Row q of every argument belongs to query q: pass `points[index]` and `occluded[index]` with the index that
    [`queries_first`] or [`queries_strided`] returns.

    Args:
        query_frames (`numpy.ndarray` of shape `(Q,)`): Frame of each query, `queries[:, 0]`.
        points (`numpy.ndarray` of shape `(Q, T, 2)`): True (x, y) in pixels at 256 x 256; any value where
            hidden.
        occluded (`numpy.ndarray` of shape `(Q, T)`, bool): Where the point is truly hidden.
        tracks (`numpy.ndarray` of shape `(Q, T, 2)`): Predicted (x, y) in the same pixels; NaN is a miss.
        visible (`numpy.ndarray` of shape `(Q, T)`, bool): Where the point is predicted visible.
        query_mode (`str`, *optional*, defaults to `"first"`): `"first"` scores the frames after the query, `"strided"`
            every frame except the query's. The position on the query frame is given, so neither mode scores it.

    Returns:
        [`TapVidCounts`] with Q rows.

    Raises:
        `ValueError`: the shapes do not match, a query is in no frame, a visible true point is not finite, or visibility is neither true nor
            false.
    """
    points, truly_visible = _checked_truth(points, occluded)
    query_frames, visible = whole_numbers("query_frames", query_frames), flags("visible", visible)
    tracks = numbers("tracks", tracks).astype(np.float64)
    _check_shapes(truly_visible.shape, query_frames=query_frames, tracks=tracks, visible=visible)
    if query_frames.size and query_frames.max() >= points.shape[1]:
        raise ValueError(
            f"query_frames must be below {points.shape[1]}, the number of frames, got {query_frames.max()}."
        )
    scored = _scored_frames(query_frames, points.shape[1], query_mode)
    squared_distance = np.square(tracks - points).sum(axis=-1)
    within = squared_distance[..., None] < np.square(THRESHOLDS)  # (Q, T, 5); False where NaN
    hits = within & (scored & truly_visible)[..., None]
    claimed = (scored & visible)[..., None]
    return TapVidCounts(
        evaluated=scored.sum(axis=1),
        visible=(scored & truly_visible).sum(axis=1),
        agreement=(scored & (visible == truly_visible)).sum(axis=1),
        hits=hits.sum(axis=1),
        true_positives=(claimed & hits).sum(axis=1),
        false_positives=(claimed & ~hits).sum(axis=1),
    )


def aggregate(counts: Mapping[str, TapVidCounts]) -> dict[str, dict[str, float]]:
    """Scores over a benchmark, in the three averages in use.

    | name | average |
    |---|---|
    | `"tapvid"` | counts are summed over a video, and the ratios averaged over videos: the official benchmark |
    | `"track"` | ratios per query, averaged over a video's queries, then over videos: the released FGVC code |
    | `"pooled"` | counts are summed over everything: long videos and videos with many points weigh more |

    A ratio with denominator 0, such as the delta of a point that is hidden in every scored frame, is undefined and left
    out of the averages, as by `numpy.nanmean`: a video in which no scored point is visible has no weight in delta. A score
    of which every ratio is undefined is NaN.

    Args:
        counts (`Mapping[str, TapVidCounts]`): Counts by video name.

    Returns:
        `dict`: for each of the three averages, fractions in [0, 1]: `"delta_avg"` and `"delta_1"` to `"delta_16"`
        (share of visible points within the threshold), `"AJ"` (average Jaccard) and `"OA"` (occlusion accuracy).
    """
    if not counts:
        raise ValueError("There are no videos to aggregate: at least one is needed.")
    videos = list(counts.values())
    sums = [_ratios(_summed([video])) for video in videos]
    means = [mean_of_known(_ratios(video)) for video in videos]
    return {
        "tapvid": _named(mean_of_known(np.concatenate(sums))),
        "track": _named(mean_of_known(np.stack(means))),
        "pooled": _named(_ratios(_summed(videos))[0]),
    }


def _checked_truth(points, occluded) -> tuple[np.ndarray, np.ndarray]:
    """The true points and their visibility (N, T), checked for shape and for finite visible points."""
    points, occluded = numbers("points", points), flags("occluded", occluded)
    if points.ndim != 3 or points.shape != (*occluded.shape, 2):
        raise ValueError(
            "points must have shape (tracks, frames, 2) and occluded (tracks, frames), "
            f"but they have {points.shape} and {occluded.shape}."
        )
    visible = ~occluded
    if not np.isfinite(points[visible]).all():
        raise ValueError("A true point is NaN or infinite in a frame where it is visible: only hidden points may be.")
    return points, visible


def _check_shapes(shape: tuple[int, int], **arrays: np.ndarray) -> None:
    accepted = {"query_frames": shape[:1], "tracks": (*shape, 2), "visible": shape}
    for name, array in arrays.items():
        if array.shape != accepted[name]:
            raise ValueError(f"{name} has shape {array.shape}, but the true points need {accepted[name]}.")


def _queries_at(points: np.ndarray, tracks: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact = np.result_type(points.dtype, np.float32)  # small types hold no larger frame numbers
    return np.column_stack([frames, points[tracks, frames]]).astype(exact), tracks


def _scored_frames(query_frames: np.ndarray, num_frames: int, query_mode: str) -> np.ndarray:
    """Mask (Q, T) of the scored frames of each query."""
    frames = np.arange(num_frames)
    if query_mode == "first":
        return frames > query_frames[:, None]
    if query_mode == "strided":
        return frames != query_frames[:, None]
    raise ValueError(f'query_mode must be "first" or "strided", but it is {query_mode!r}.')


def _summed(videos: list[TapVidCounts]) -> TapVidCounts:
    """The counts summed over all queries of all videos, as one row."""

    def total(name: str) -> np.ndarray:
        return sum(getattr(video, name).sum(axis=0, keepdims=True) for video in videos)

    return TapVidCounts(**{field.name: total(field.name) for field in fields(TapVidCounts)})


def _ratios(counts: TapVidCounts) -> np.ndarray:
    """delta and Jaccard at each threshold, and the occlusion accuracy, of each row: (Q, 11)."""
    visible = counts.visible[:, None]
    delta = divide(counts.hits, visible)
    jaccard = divide(counts.true_positives, visible + counts.false_positives)
    accuracy = divide(counts.agreement, counts.evaluated)
    return np.column_stack([delta, jaccard, accuracy])


def _named(scores: np.ndarray) -> dict[str, float]:
    """Name the columns of [`_ratios`]. Either all thresholds are NaN or none, so their mean can be taken last."""
    delta, jaccard = scores[: len(THRESHOLDS)], scores[len(THRESHOLDS) : -1]
    at_thresholds = {f"delta_{threshold}": float(value) for threshold, value in zip(THRESHOLDS, delta)}
    return {"delta_avg": float(delta.mean()), **at_thresholds, "AJ": float(jaccard.mean()), "OA": float(scores[-1])}
