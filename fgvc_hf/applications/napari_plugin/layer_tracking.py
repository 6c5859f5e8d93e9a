"""What the plugin asks the tracker for, and what it makes of the answer."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tracker import Tracker
from ...tracking.blending import say_otherwise
from ...tracking.results import PointTracks
from .layer_frames import LayerFrames
from .layer_points import Labels


TIE = 1e-6  # cells: a pixel between two cells of the masks is of the first one


@dataclass(frozen=True)
class TrackRequest:
    """
    What is to be followed, and how.

    Args:
        image (`napari.layers.Image`): The video.
        labels (`dict`): Labels (K, 3) of each point as (t, x, y); empty to follow no points.
        masks (`numpy.ndarray` of shape `(H, W)`, *optional*): Object ids on the frame `frame_idx`.
        checkpoint, preset, direction (`str`): As of [`Tracker`]; an empty checkpoint is the default one.

    Raises:
        `ValueError`: there are neither labels nor masks.
    """

    image: Any
    labels: Labels
    masks: np.ndarray | None
    frame_idx: int
    checkpoint: str
    preset: str
    direction: str

    def __post_init__(self):
        if not self.labels and self.masks is None:
            raise ValueError("there is nothing to follow: choose a layer of points or of masks.")


@dataclass(frozen=True)
class Tracked:
    """Tracks of the points, and object ids (T, H, W) of all frames; of each, nothing where it was not asked for."""

    tracks: PointTracks | None
    masks: np.ndarray | None


@functools.lru_cache(maxsize=2)
def tracker_of(checkpoint: str, preset: str) -> Tracker:
    """A tracker, loaded once."""
    return Tracker.from_pretrained(checkpoint or None, preset=preset)


def follow(request: TrackRequest, report: Callable[[float], None]) -> Tracked:
    """
    Follow points and masks through a video.

    Args:
        report (callable): Called with the share that is done after every frame.

    Raises:
        as [`Tracker.track`] and [`Tracker.propagate_masks`], and what `report` raises.
    """
    report(0.0)
    tracker, count = tracker_of(request.checkpoint, request.preset), 0
    expected = frames_expected(request)

    def read() -> None:
        nonlocal count
        count += 1
        report(min(1.0, count / expected))

    video, tracks, masks = LayerFrames(request.image, read), None, None
    if request.labels:
        say_otherwise(__name__)
        tracks = tracker.track(video, request.labels, direction=request.direction)
    if request.masks is not None:
        dtype = np.min_scalar_type(int(request.masks.max()))
        masks = np.zeros((video.num_frames, video.height, video.width), dtype)
        for t, ids in tracker.propagate_masks(video, request.masks, request.frame_idx, request.direction):
            masks[t] = ids
    return Tracked(tracks, masks)


def frames_expected(request: TrackRequest) -> int:
    """Frames that will be read."""
    times = [points[:, 0] for points in request.labels.values()]
    ranges: list[tuple[float, float]] = []
    if times:
        ranges.append((float(np.concatenate(times).min()), float(np.concatenate(times).max())))
    if request.masks is not None:
        ranges.append((float(request.frame_idx), float(request.frame_idx)))
    length = LayerFrames(request.image).num_frames
    forward, backward = sum(length - first for first, _ in ranges), sum(last + 1 for _, last in ranges)
    return max(1, int({"forward": forward, "backward": backward}.get(request.direction, forward + backward)))


def masks_at(layer: Any, image: Any, t: int) -> np.ndarray:
    """Object ids (H, W) of a Labels layer where the pixels (H, W) of an image layer lie on frame t, 0 beside it; of a layer without frames, on any.

    Raises:
        `ValueError`: it has other dimensions, or no such frame.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(data.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"layer {layer.name!r} must be masks (H, W) or (T, H, W), got shape {shape}.")

    def place(row: int, column: int) -> np.ndarray:
        """Where a pixel of the image lies in the Labels layer."""
        world = image.data_to_world((t, row, column))
        return np.array(layer.world_to_data(world[-len(shape) :]))

    corner = place(0, 0)
    if len(shape) == 3 and not 0 <= round(corner[0]) < shape[0]:
        raise ValueError(f"layer {layer.name!r} has {shape[0]} frames, so there is no frame {round(corner[0])}.")
    frame = np.asarray(data if len(shape) == 2 else data[round(corner[0])])
    video = LayerFrames(image)
    rows, columns = np.arange(video.height)[:, None, None], np.arange(video.width)[:, None]
    # A layer lies by an affine map: (H, W, 2 or 3)
    cells = corner + (place(1, 0) - corner) * rows + (place(0, 1) - corner) * columns
    row, column = np.moveaxis(np.ceil(cells[..., -2:] - 0.5 - TIE).astype(int), -1, 0)
    inside = (row >= 0) & (row < shape[-2]) & (column >= 0) & (column < shape[-1])
    return np.where(inside, frame[row.clip(0, shape[-2] - 1), column.clip(0, shape[-1] - 1)], 0)


__all__ = ["TrackRequest", "Tracked", "follow", "masks_at"]
