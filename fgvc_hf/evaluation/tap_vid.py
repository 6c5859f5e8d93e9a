"""TAP-Vid point tracks: loading, and tracking them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates_fgvc import rescale_points
from ..metrics.tap_vid import TrackCounts, count, queries_first
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor, PointTracks
from ..video import open_video


RASTER = (256, 256)  # distances of the benchmark are measured in this raster


@dataclass
class TapVidVideo:
    """
    One annotated video.

    Args:
        name (`str`): Name of the sequence.
        frames: Frame source of T frames or more; only the first T are annotated.
        points (`numpy.ndarray` of shape `(N, T, 2)`, float32): (x, y) in pixels of the frames.
        occluded (`numpy.ndarray` of shape `(N, T)`, bool): Occlusion.
    """

    name: str
    frames: Any
    points: np.ndarray
    occluded: np.ndarray

    @property
    def num_frames(self) -> int:
        """Annotated frames."""
        return self.points.shape[1]


def load_tap_vid(annotations: str | Path, frames: str | Path) -> Iterator[TapVidVideo]:
    """
    Read annotations in NPZ layout, a video at a time.

    Args:
        annotations: An NPZ file with `<name>/points` (N, T, 2), x and y in pixels; `<name>/occluded` (N, T); and
            `<name>/size`, (width, height) of the frames that the points refer to.
        frames: A folder that holds a folder of frames for each name.

    Yields:
        [`TapVidVideo`] in order of name.

    Raises:
        `OSError`: a file or a folder of frames is missing.
        `ValueError`: the file is of another layout, or a video has fewer frames than annotations, or of another size.
    """
    annotations, frames = Path(annotations), Path(frames)
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations}: there is no such annotation file.")
    with np.load(annotations, allow_pickle=False) as arrays:
        names = sorted({key.split("/")[0] for key in arrays.files if key.endswith("/points")})
        if not names:
            raise ValueError(f"{annotations}: must hold arrays <name>/points, <name>/occluded and <name>/size.")
        for name in names:
            points, occluded = arrays[f"{name}/points"], arrays[f"{name}/occluded"]
            width, height = arrays[f"{name}/size"].tolist()
            video = open_video(frames / name)
            if (video.height, video.width) != (height, width):
                size = f"{video.height}x{video.width}"
                raise ValueError(f"{video.name}: frames are {size}, but annotated at {height}x{width}.")
            if video.num_frames < points.shape[1]:
                raise ValueError(f"{video.name}: has {video.num_frames} frames, but {points.shape[1]} are annotated.")
            yield TapVidVideo(name, video, points, occluded)


def track_first(model: FgvcModel, processor: FgvcProcessor, video: TapVidVideo) -> tuple[PointTracks, TrackCounts]:
    """
    Track every point of a video from the first frame on which it is visible, and count.

    All points share one pass over the video, but none is used to help another, as the benchmark demands.
    """
    queries, index = queries_first(video.points, video.occluded)
    size = video.frames.height, video.frames.width
    queries[:, 1:] = queries[:, 1:].clip(0, (size[1], size[0]))  # a few annotations lie on the far side of the border
    frames = video.frames.frames(0, video.num_frames)
    tracks = model.track(frames, queries, processor=processor)
    truth, prediction = (rescale_points(points, size, RASTER) for points in (video.points[index], tracks.tracks))
    return tracks, count(queries, truth, video.occluded[index], prediction, tracks.visible)
