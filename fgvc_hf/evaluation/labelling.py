"""What labels and descriptions of points are worth: tracks between labelled frames, and points that are looked for, on annotated tracks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..coordinates import rescale_points
from ..io.video import open_video
from ..metrics.average_jaccard import RASTER_SIZE, THRESHOLDS
from ..tracker import Tracker
from ..tracking.blending import gaps
from ..tracking.following import Following
from ..tracking.labels import Labels, labels_of
from ..tracking.results import PointTracks
from .tapvid import TapVidVideo
from .tapvid_pickle import PickledVideo


FAR_OFF = 0.2  # of the mean side of the frame, by which a label is moved at least
FOUND = 8.0  # pixels of a raster of 256 x 256: a point within it of the truth is found


@dataclass(frozen=True)
class LabelRates:
    """
    Accuracy of one video on the frames between labels.

    Args:
        forward, blended (`float`): delta_avg of the forward pass alone and of both passes blended, 0 to 1; NaN without such a frame.
    """

    forward: float
    blended: float


def label_rates(tracker: Tracker, video: TapVidVideo | PickledVideo, every: int) -> LabelRates:
    """Label each point on every `every`-th frame on which it is visible, and compare the frames between labels with the truth."""
    labels = _every_few_frames(video, every)
    if labels is None:
        return LabelRates(np.nan, np.nan)
    forward, both = _passes(tracker, video, labels)
    truth = video.points.astype(np.float64).clip(0, video.size[::-1])
    return LabelRates(*(_delta(of.tracks, truth, ~video.occluded, labels, video.size) for of in (forward, both)))


def _every_few_frames(video: TapVidVideo | PickledVideo, every: int) -> Labels | None:
    """The labels; `None` where no point is visible on any such frame."""
    truth = video.points.astype(np.float64).clip(0, video.size[::-1])
    shown = [(n, t) for n, t in np.argwhere(~video.occluded).tolist() if t % every == 0]
    return labels_of([(t, *truth[n, t]) for n, t in shown], [n for n, _ in shown]) if shown else None


def _passes(tracker: Tracker, video: TapVidVideo | PickledVideo, labels: Labels) -> tuple[PointTracks, PointTracks]:
    """Tracks of the forward pass alone, and of both passes."""
    following = Following(tracker.model, tracker.processor, open_video(video.frames), (False, True), None, False)
    passes = following.label_passes(labels, tracker.look)
    return passes[0].tracks, following.blend(passes, labels)


def _delta(tracks: np.ndarray, truth: np.ndarray, visible: np.ndarray, labels: Labels, size: tuple[int, int]) -> float:
    """delta_avg on frames between labels on which the point is visible."""
    errors = []
    for gap in gaps(labels):
        point = labels.object_ids[gap.row]
        difference = (tracks[gap.row] - truth[point])[gap.frames][visible[point, gap.frames]]
        errors.append(np.linalg.norm(rescale_points(difference, size, RASTER_SIZE), axis=-1))
    every = np.concatenate(errors) if errors else np.empty(0)
    return float(np.mean([(every < limit).mean() for limit in THRESHOLDS])) if len(every) else np.nan


@dataclass(frozen=True)
class WrongLabels:
    """
    Which pairs of neighbouring labels of a point are reported as of two points.

    Args:
        wrong, told (`int`): Pairs with a label that was moved, and how many of them are reported.
        right, accused (`int`): Pairs of labels as they are where none was moved, and how many of them are reported.
    """

    wrong: int
    told: int
    right: int
    accused: int


def wrong_labels(tracker: Tracker, video: TapVidVideo | PickledVideo, every: int, seed: int = 0) -> WrongLabels:
    """Label points as [`label_rates`] does, then again with one label of each moved by a fifth of the frame or more, and count what is reported."""
    random, labels = np.random.default_rng(seed), _every_few_frames(video, every)
    if labels is None:
        return WrongLabels(0, 0, 0, 0)
    accused = _passes(tracker, video, labels)[1].disagreements
    far, moved, positions = FAR_OFF * np.sqrt(np.prod(video.size)), set(), labels.positions.copy()
    for row in {gap.row for gap in gaps(labels)}:
        label = int(random.choice(np.flatnonzero(labels.rows == row)))
        places = random.uniform(0, video.size[::-1], (100, 2))
        distance = np.linalg.norm(places - labels.positions[label, 1:], axis=1)
        positions[label, 1:] = places[(distance > far).argmax()]
        moved.add((labels.object_ids[row], int(positions[label, 0])))
    between = [(labels.object_ids[gap.row], gap.first, gap.last) for gap in gaps(labels)]
    wrong = {pair for pair in between if (pair[0], pair[1]) in moved or (pair[0], pair[2]) in moved}
    found = _passes(tracker, video, labels_of(positions, labels.ids))[1].disagreements
    told = {(one.object_id, one.first_frame, one.last_frame) for one in found}
    return WrongLabels(len(wrong), len(wrong & told), len(between), len(accused))


@dataclass(frozen=True)
class SearchResult:
    """
    How points that were described on the first frame are followed from a later frame on, without a position.

    Args:
        sought, followed (`numpy.ndarray` of shape `(N, F)`, bool): Whether a point is within 8 pixels of the truth at 256 x 256, on each frame
            from the later one on: looked for there, and followed from the first frame on.
        said (`numpy.ndarray` of shape `(N, F)`, bool): Whether the search had found the point by then.
        visible (`numpy.ndarray` of shape `(N, F)`, bool): Whether it is visible in truth.
    """

    sought: np.ndarray
    followed: np.ndarray
    said: np.ndarray
    visible: np.ndarray


def search_from(tracker: Tracker, video: TapVidVideo | PickledVideo, start: int) -> SearchResult:
    """Describe the points that are visible on the first frame, and look for them from frame `start` on. There may be neither."""
    points = np.flatnonzero(~video.occluded[:, 0])
    visible = ~video.occluded[points, start:]
    if not visible.size:
        return SearchResult(visible, visible, visible, visible)
    truth = video.points[points].astype(np.float64).clip(0, video.size[::-1])
    queries = tracker.describe(video.frames[0], truth[:, 0])
    sought = tracker.track(video.frames[start:], queries=queries).tracks
    first = np.column_stack([np.zeros(len(points)), truth[:, 0]])
    followed = tracker.track(video.frames, first).tracks[:, start:]

    def near(tracks: np.ndarray) -> np.ndarray:
        difference = rescale_points(tracks - truth[:, start:], video.size, RASTER_SIZE)
        return np.linalg.norm(difference, axis=-1) < FOUND

    return SearchResult(near(sought), near(followed), ~np.isnan(sought[..., 0]), visible)


def mean_of_videos(results: Sequence[SearchResult], name: str) -> float:
    """The share of visible frames on which a field of the results holds, the mean over videos; NaN without such a frame."""
    shares = [getattr(one, name)[one.visible].mean() for one in results if one.visible.any()]
    return float(np.mean(shares)) if shares else np.nan


__all__ = ["LabelRates", "SearchResult", "label_rates", "mean_of_videos", "search_from"]
