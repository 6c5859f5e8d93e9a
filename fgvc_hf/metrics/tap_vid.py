"""TAP-Vid: average Jaccard (AJ), position accuracy within 1, 2, 4, 8 and 16 pixels (delta), occlusion accuracy (OA).

Everything is derived from one table of counts per track, so that the three ways in which papers average are three views of
one measurement. Distances are in the 256x256 raster whatever the size of the video; see `rescale_points`.

Source: Doersch et al., TAP-Vid (NeurIPS 2022 Datasets and Benchmarks); `track` is the average of the FGVC code, `pooled`
that of the FGVC paper's Table 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np


THRESHOLDS = (1, 2, 4, 8, 16)  # pixels of the 256x256 raster; closer than that, strictly, is a hit
AGGREGATIONS = ("tapvid", "track", "pooled")


def queries_first(points: np.ndarray, occluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Each track once, from the first frame on which it is visible; tracks that are never visible are left out.

    Args:
        points (`numpy.ndarray` of shape `(N, T, 2)`): Ground truth (x, y).
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): Ground-truth occlusion.

    Returns:
        `queries` (M, 3) as (t, x, y), and `index` (M,), the ground-truth track of each.
    """
    index = np.flatnonzero(~occluded.all(axis=1))
    start = (~occluded[index]).argmax(axis=1)
    return np.concatenate([start[:, None], points[index, start]], axis=1), index


def queries_strided(points: np.ndarray, occluded: np.ndarray, stride: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Each track from every `stride`-th frame on which it is visible; otherwise as [`queries_first`]."""
    pairs = [(t, n) for t in range(0, points.shape[1], stride) for n in np.flatnonzero(~occluded[:, t])]
    start, index = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return np.concatenate([start[:, None], points[index, start]], axis=1), index


@dataclass
class TrackCounts:
    """
    Counts of N tracks, over the evaluated frames of each, for each of the thresholds.

    Args:
        evaluated (`numpy.ndarray` of shape `(N,)`): Frames that count.
        agreed (`numpy.ndarray` of shape `(N,)`): Of those, frames on which predicted and true visibility agree.
        visible (`numpy.ndarray` of shape `(N,)`): Frames on which the point is truly visible.
        hits (`numpy.ndarray` of shape `(N, 5)`): Of those, frames on which the position is within the threshold.
        true_positives (`numpy.ndarray` of shape `(N, 5)`): Of those, frames on which it is also predicted visible.
        false_positives (`numpy.ndarray` of shape `(N, 5)`): Predicted visible, but hidden or not within the threshold.
    """

    evaluated: np.ndarray
    agreed: np.ndarray
    visible: np.ndarray
    hits: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """The counts as nested lists, for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "TrackCounts":
        """The inverse of [`TrackCounts.to_lists`]."""
        return cls(**{name: np.array(values) for name, values in lists.items()})


def count(
    queries: np.ndarray,
    points: np.ndarray,
    occluded: np.ndarray,
    tracks: np.ndarray,
    visible: np.ndarray,
    query_mode: str = "first",
) -> TrackCounts:
    """
    Compare predicted tracks with the truth.

    Args:
        queries (`numpy.ndarray` of shape `(N, 3)`): (t, x, y); only t is used.
        points (`numpy.ndarray` of shape `(N, T, 2)`): True (x, y) in the 256x256 raster.
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): True occlusion.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`): Predicted (x, y) in the 256x256 raster; NaN is a miss.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Predicted visibility.
        query_mode (`str`, defaults to `"first"`):
            `"first"` evaluates the frames after the query, `"strided"` all frames but that of the query.

    Raises:
        `ValueError`: shapes that do not go together, or another query mode.
    """
    if not points.shape[:2] == occluded.shape == tracks.shape[:2] == visible.shape or len(queries) != len(points):
        shapes = ", ".join(str(array.shape) for array in (queries, points, occluded, tracks, visible))
        raise ValueError(f"queries, points, occluded, tracks and visible must agree in N and T, got shapes {shapes}.")
    frame, start = np.arange(points.shape[1])[None], queries[:, :1]
    if query_mode not in ("first", "strided"):
        raise ValueError(f"query_mode must be 'first' or 'strided', got {query_mode!r}.")
    evaluated = frame > start if query_mode == "first" else frame != start  # (N, T)
    seen = ~occluded & evaluated
    claimed = visible & evaluated
    distance = ((tracks - points) ** 2).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        near = np.stack([distance < threshold**2 for threshold in THRESHOLDS], axis=-1)  # (N, T, 5)
    return TrackCounts(
        evaluated=evaluated.sum(axis=1),
        agreed=((visible == ~occluded) & evaluated).sum(axis=1),
        visible=seen.sum(axis=1),
        hits=(near & seen[..., None]).sum(axis=1),
        true_positives=(near & (seen & claimed)[..., None]).sum(axis=1),
        false_positives=(claimed[..., None] & ~(near & seen[..., None])).sum(axis=1),
    )


def aggregate(videos: Mapping[str, TrackCounts]) -> dict[str, dict[str, float]]:
    """
    Metrics of a set of videos, averaged in three ways.

    `tapvid` sums over the tracks of a video and averages over videos (the benchmark's own); `track` takes the ratio of
    each track, averages over the tracks of a video and then over videos; `pooled` sums over everything. Ratios with
    nothing to count (a track that is not visible after its query, say) are left out of the averages.

    Args:
        videos (mapping of `str` to [`TrackCounts`]): Counts of each video.

    Returns:
        For each aggregation, `average_jaccard`, `delta_avg`, `occlusion_accuracy` and `delta_1` to `delta_16`, in [0, 1].
    """
    counts = list(videos.values())
    summed = [_sum(c) for c in counts]
    pooled = _sum(TrackCounts(*(np.concatenate([getattr(c, f.name) for c in summed]) for f in fields(TrackCounts))))
    per_video = {
        "tapvid": [_ratios(c) for c in summed],
        "track": [{name: _mean(values) for name, values in _ratios(c).items()} for c in counts],
        "pooled": [_ratios(pooled)],
    }
    return {
        aggregation: {name: float(_mean([np.squeeze(ratios[name]) for ratios in ratios_of])) for name in ratios_of[0]}
        for aggregation, ratios_of in per_video.items()
    }


def _sum(counts: TrackCounts) -> TrackCounts:
    """Counts of all tracks together, as those of one track."""
    return TrackCounts(*(getattr(counts, field.name).sum(axis=0, keepdims=True) for field in fields(counts)))


def _ratios(counts: TrackCounts) -> dict[str, np.ndarray]:
    """Metrics of each track (N,); NaN where there is nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        delta = counts.hits / counts.visible[:, None]
        jaccard = counts.true_positives / (counts.visible[:, None] + counts.false_positives)
        ratios = {
            "average_jaccard": jaccard.mean(axis=1),
            "delta_avg": delta.mean(axis=1),
            "occlusion_accuracy": counts.agreed / counts.evaluated,
        }
    return ratios | {f"delta_{threshold}": delta[:, i] for i, threshold in enumerate(THRESHOLDS)}


def _mean(values) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
