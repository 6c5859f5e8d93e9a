"""What any tracker should beat: standing still, Lucas-Kanade, and DIS flow chained from frame to frame (the latter two of OpenCV).

They track points as [`FgvcModel.track`] does, so that benchmarks measure them by the same code. Frames are reduced to a working size
by area interpolation, and positions are taken for pixel indices, as these baselines are commonly run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..coordinates import rescale_points
from ..io.video import open_video
from ..tracking.results import PointTracks


WINDOW, LEVELS = (15, 15), 3  # of Lucas-Kanade
RETURN_LIMIT = 2.0  # pixels from which a point that is tracked there and back counts as lost

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def stand_still(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every point stays where it is, and is visible."""
    return points, np.ones(len(points), bool)


def lucas_kanade(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pyramidal Lucas-Kanade; a point that does not return to within 2 pixels is not visible, and nothing else decides."""
    cv2 = _opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    options = {"winSize": WINDOW, "maxLevel": LEVELS}
    start = np.ascontiguousarray(points, np.float32)[:, None]
    there, _, _ = cv2.calcOpticalFlowPyrLK(*grey, start, None, **options)
    back, _, _ = cv2.calcOpticalFlowPyrLK(*grey[::-1], there, None, **options)
    return there[:, 0], np.linalg.norm(back - start, axis=-1)[:, 0] < RETURN_LIMIT


def dis_flow(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense inverse search, medium preset; every point is visible."""
    cv2 = _opencv()
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    at = np.ascontiguousarray(points, np.float32)[:, None]
    moved = cv2.remap(flow, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    return points + moved, np.ones(len(points), bool)


BASELINES: dict[str, Step] = {"stand-still": stand_still, "lucas-kanade": lucas_kanade, "dis": dis_flow}


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise ImportError("this baseline needs OpenCV: pip install 'fgvc-hf[eval]'") from None
    return cv2


class ChainedTracker:
    """Tracks points by stepping from each frame to the next.

    Args:
        name (`str`): One of `BASELINES`.
        size (`tuple[int, int]`, *optional*): (height, width) of the frames that it works on; that of the video if not given.

    Raises:
        `ValueError`: there is no such baseline.
    """

    def __init__(self, name: str, size: tuple[int, int] | None = (256, 256)):
        if name not in BASELINES:
            raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}.")
        self.name, self.step, self.size = name, BASELINES[name], size

    def track(self, video, points, direction: str = "forward", processor=None) -> PointTracks:
        """Tracks of points `(N, 3)`, (t, x, y), `"forward"` or `"both"` ways; `processor` is not used."""
        source = open_video(video)
        original, queries = (source.height, source.width), np.asarray(points, dtype=np.float64)
        size = self.size or original
        frames = [self._reduce(frame, size) for frame in source.frames()]
        start, times = rescale_points(queries[:, 1:], original, size), queries[:, 0].astype(int)
        tracks, visible = self._follow(frames, times, start)
        if direction == "both":
            back, seen = self._follow(frames[::-1], len(frames) - 1 - times, start)
            before = np.arange(len(frames)) < times[:, None]
            tracks = np.where(before[..., None], back[:, ::-1], tracks)
            visible = np.where(before, seen[:, ::-1], visible)
        tracks = rescale_points(tracks, size, original)
        confidence, unknown = visible.astype(np.float32), np.full(visible.shape, np.nan, np.float32)
        outside = np.zeros_like(visible)
        return PointTracks(list(range(len(queries))), queries, tracks, visible, confidence, unknown, outside, original)

    def _follow(self, frames: list[np.ndarray], times: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, T, 2) and visibility (N, T) of points (N, 2) that start in frames `times`, forward from there."""
        tracks = np.full((len(times), len(frames), 2), np.nan, np.float32)
        visible = np.zeros(tracks.shape[:2], bool)
        for t, frame in enumerate(frames):
            if t and (moving := times < t).any():
                tracks[moving, t], visible[moving, t] = self.step(frames[t - 1], frame, tracks[moving, t - 1])
            tracks[times == t, t], visible[times == t, t] = start[times == t], True
        return tracks, visible

    @staticmethod
    def _reduce(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if frame.shape[:2] == size:
            return frame
        cv2 = _opencv()
        return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
