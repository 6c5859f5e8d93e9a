"""The official files of TAP-Vid, which are pickles, read by a reader that can construct nothing but arrays.

    ROOT/tapvid_davis/tapvid_davis.pkl              a dict from name to video
    ROOT/tapvid_kinetics/0000_of_0010.pkl ...       lists of videos

A video is a dict of `video`, frames `(T, H, W, 3)` or a list of JPEG bytes, `points` `(N, T, 2)` in [0, 1], and `occluded` `(N, T)`.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..io.json_files import reason_of
from ..io.names import check_names
from .array_pickle import read_pickle


UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


@dataclass(frozen=True, eq=False)
class PickledVideo:
    """One video of an official file; the attributes are those of [`TapVidVideo`]."""

    name: str
    stored: np.ndarray | list
    points: np.ndarray
    occluded: np.ndarray

    @cached_property
    def frames(self) -> np.ndarray:
        """RGB frames of shape `(T, H, W, 3)`, uint8; decoded when first asked for, if they are stored as JPEG. An `OSError` if one is damaged."""
        if isinstance(self.stored, np.ndarray):
            return self.stored
        frames = np.empty((len(self.stored), *self.size, 3), np.uint8)
        for t, data in enumerate(self.stored):
            try:
                with Image.open(io.BytesIO(data)) as image:
                    if (image.height, image.width) != self.size:
                        raise ValueError(
                            f"it is {image.height}x{image.width}, and the first one {self.size[0]}x{self.size[1]}"
                        )
                    frames[t] = np.asarray(image.convert("RGB"))
            except UNREADABLE as error:
                raise OSError(f"{self.name}: the frame {t} cannot be read ({reason_of(error)}).") from None
        return frames

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames, without decoding them."""
        if isinstance(self.stored, np.ndarray):
            return self.stored.shape[1], self.stored.shape[2]
        with Image.open(io.BytesIO(self.stored[0])) as image:
            return image.height, image.width


def load_tapvid_pickle(path: str | Path) -> Iterator[PickledVideo]:
    """The videos of one official file, points in pixels of the stored frames.

    Raises:
        `OSError`: the file cannot be read, or is no file of TAP-Vid.
    """
    content = read_pickle(path)
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    pairs = [(f"{Path(path).stem}-{key:04d}" if isinstance(key, int) else key, value) for key, value in items]
    if not pairs:
        raise OSError(f"{path}: holds no videos.")
    for name, (_, value) in zip(check_names((name for name, _ in pairs), path), pairs, strict=True):
        yield _checked_video(path, name, value)


def _checked_video(path: str | Path, name: str, value) -> PickledVideo:
    """The video of an entry, points in pixels."""
    if not isinstance(value, dict) or not {"video", "points", "occluded"} <= set(value):
        raise OSError(f"{path}: the video {name} lacks video, points or occluded, which files of TAP-Vid have.")
    try:
        stored, points, occluded = value["video"], np.asarray(value["points"]), np.asarray(value["occluded"])
    except ValueError:  # lists of other lengths
        raise OSError(f"{path}: the video {name} has points or occluded that are no arrays.") from None
    frames = isinstance(stored, np.ndarray) and stored.ndim == 4 and stored.shape[3] == 3 and stored.dtype == np.uint8
    images = isinstance(stored, list) and all(isinstance(data, bytes) for data in stored)
    if not (frames or images) or not len(stored):
        raise OSError(f"{path}: the video {name} is neither frames (T, H, W, 3), uint8, nor a list of JPEG bytes.")
    if not are_tracks(points, occluded) or occluded.shape[1] != len(stored):
        shapes = f"points of shape {points.shape} of {points.dtype} and occluded of shape {occluded.shape} of {occluded.dtype}"
        raise OSError(f"{path}: the video {name} has {shapes} for {len(stored)} frames; occluded must be 0 or 1.")
    try:
        height, width = PickledVideo(name, stored, points, occluded).size
    except UNREADABLE as error:
        raise OSError(f"{path}: the first frame of the video {name} cannot be read ({reason_of(error)}).") from None
    return PickledVideo(name, stored, points * np.array([width, height]), occluded.astype(bool))


def are_tracks(points: np.ndarray, occluded: np.ndarray) -> bool:
    """Whether arrays are points `(N, T, 2)`, and whether each is hidden, `(N, T)`: false or true, or 0 or 1."""
    numbers = points.dtype.kind in "fiu" and occluded.dtype.kind in "bfiu"
    return (
        numbers and points.ndim == 3 and points.shape == (*occluded.shape, 2) and bool(np.isin(occluded, (0, 1)).all())
    )
