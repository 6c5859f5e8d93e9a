"""Baselines for point tracking: no motion, and Lucas-Kanade and DIS flow (of OpenCV) chained from frame to frame.

A [`ChainedTracker`] tracks points like [`Tracker.track`], so benchmarks measure it by the same code. Frames are reduced to a working
size by area interpolation. Positions are used as pixel indices, without the half-pixel shift, as these baselines are commonly run.
"""

from collections.abc import Callable

import numpy as np

from ..coordinates import rescale_points
from ..io.video import open_video
from ..tracker import DIRECTIONS
from ..tracking.labels import labels_of
from ..tracking.results import PointTracks
from .flow_baselines import dense_inverse_search, opencv


WINDOW, LEVELS = (15, 15), 3  # of Lucas-Kanade: side in pixels, and the highest pyramid level
RETURN_LIMIT = 2.0  # tolerance of the forward-backward check, in pixels

# (frame, next frame, points (N, 2)) -> points (N, 2) and visibility (N,) on the next frame
Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def stand_still(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every point stays where it is, and is visible."""
    return points, np.ones(len(points), bool)


def lucas_kanade(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pyramidal Lucas-Kanade. A point is visible if it passes a forward-backward check with a tolerance of 2 pixels."""
    cv2 = opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    options = {"winSize": WINDOW, "maxLevel": LEVELS}
    start = np.ascontiguousarray(points, np.float32)[:, None]
    there, _, _ = cv2.calcOpticalFlowPyrLK(*grey, start, None, **options)
    back, _, _ = cv2.calcOpticalFlowPyrLK(*grey[::-1], there, None, **options)
    return there[:, 0], np.linalg.norm(back - start, axis=-1)[:, 0] < RETURN_LIMIT


def dis_flow(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense inverse search (DIS), medium preset; every point is visible."""
    cv2, flow = opencv(), dense_inverse_search(first, second)
    at = np.ascontiguousarray(points, np.float32)[:, None]
    moved = cv2.remap(flow, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    return points + moved, np.ones(len(points), bool)


BASELINES: dict[str, Step] = {"stand-still": stand_still, "lucas-kanade": lucas_kanade, "dis": dis_flow}


class ChainedTracker:
    """Tracks points by stepping from each frame to the next.

    Args:
        name (`str`): `"stand-still"`, `"lucas-kanade"` or `"dis"`.
        size (`tuple[int, int]`, *optional*): (height, width) of the frames that it works on; that of the video if not given.

    Raises:
        `ValueError`: there is no such baseline.
    """

    def __init__(self, name: str, size: tuple[int, int] | None = (256, 256)):
        if name not in BASELINES:
            raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}.")
        self.name, self.step, self.size = name, BASELINES[name], size

    def track(self, video, points, *, direction: str = "forward") -> PointTracks:
        """
        Track points through a video.

        Args:
            video: As of [`Tracker.track`].
            points (array of shape `(N, 3)`): Queries (t, x, y): frame number, and pixels of the video.
            direction (`str`, defaults to `"forward"`): `"forward"`, `"backward"` or `"both"`, as of [`Tracker.track`].

        Returns:
            [`PointTracks`] in pixels of the video. The confidence is 1 where a point is visible, else 0; the uncertainty is not known
            (NaN), and no point is said to have left the frame.

        Raises:
            `ValueError`: there is no such direction, or points are of another form, not finite, or on no frame.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be 'forward', 'backward' or 'both', got {direction!r}.")
        source = open_video(video)
        original, queries = (source.height, source.width), labels_of(points).positions
        size = self.size or original
        frames = [self._reduce(frame, size) for frame in source.frames()]
        if not np.isfinite(queries).all() or not ((queries[:, 0] >= 0) & (queries[:, 0] < len(frames))).all():
            raise ValueError(f"points must be finite (t, x, y), with t from 0 to {len(frames) - 1}.")
        start, times = rescale_points(queries[:, 1:], original, size), queries[:, 0].astype(int)
        tracks = np.full((len(times), len(frames), 2), np.nan, np.float32)
        visible = np.zeros(tracks.shape[:2], bool)
        for reverse in DIRECTIONS[direction]:
            order, since = np.arange(len(frames)), times
            if reverse:
                order, since = order[::-1], len(frames) - 1 - times
            found, seen = self._follow([frames[t] for t in order], since, start)
            covered = np.arange(len(frames)) >= since[:, None]  # (N, T), in the order of this pass
            tracks[:, order] = np.where(covered[..., None], found, tracks[:, order])
            visible[:, order] = np.where(covered, seen, visible[:, order])
        tracks = rescale_points(tracks, size, original)
        confidence, unknown = visible.astype(np.float32), np.full(visible.shape, np.nan, np.float32)
        outside = np.zeros_like(visible)
        return PointTracks(list(range(len(queries))), queries, tracks, visible, confidence, unknown, outside, original)

    def _follow(self, frames: list[np.ndarray], times: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, T, 2) and visibility (N, T) of points (N, 2) from the frames `times` (N,) of their queries on; NaN before."""
        tracks = np.full((len(times), len(frames), 2), np.nan, np.float32)
        visible = np.zeros(tracks.shape[:2], bool)
        for t, frame in enumerate(frames):
            if t and (moving := times < t).any():
                tracks[moving, t], visible[moving, t] = self.step(frames[t - 1], frame, tracks[moving, t - 1])
            tracks[times == t, t], visible[times == t, t] = start[times == t], True
        return tracks, visible

    @staticmethod
    def _reduce(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A frame (H, W, 3) at a size, by area interpolation."""
        if frame.shape[:2] == size:
            return frame
        cv2 = opencv()
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


__all__ = ["BASELINES", "ChainedTracker"]
