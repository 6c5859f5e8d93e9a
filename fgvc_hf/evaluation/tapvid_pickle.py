"""The official files of TAP-Vid, which are pickles, read by a reader that can construct nothing but arrays.

    ROOT/tapvid_davis/tapvid_davis.pkl              a dict from name to video
    ROOT/tapvid_kinetics/0000_of_0010.pkl ...       lists of videos

A video is a dict of `video`, frames `(T, H, W, 3)` or a list of JPEG bytes, `points` `(N, T, 2)` in [0, 1], and `occluded` `(N, T)`.
"""

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image


ARRAY_PARTS = {  # what numpy's arrays and scalars are pickled as, in its versions 1 and 2
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Reader(pickle.Unpickler):
    """Dicts, lists, tuples, strings and numbers need no class; of classes, only the parts of arrays are let through."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it tries to construct {module}.{name}, which is not allowed")
        return super().find_class(module, name)


def read_pickle(path: str | Path):
    """The arrays, dicts, lists, strings and numbers of a pickle.

    Raises:
        `OSError`: the file is missing, is damaged, or tries to construct anything else, which is named.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise OSError(f"{path}: cannot be read as a pickle of arrays: {error}.") from None


@dataclass(frozen=True, eq=False)
class PickledVideo:
    """One video of an official file; the attributes are those of [`TapVidVideo`]."""

    name: str
    stored: np.ndarray | list
    points: np.ndarray
    occluded: np.ndarray

    @cached_property
    def frames(self) -> np.ndarray:
        """RGB frames of shape `(T, H, W, 3)`, uint8; decoded when first asked for, if they are stored as JPEG."""
        if isinstance(self.stored, np.ndarray):
            return self.stored
        images = []
        for data in self.stored:
            with Image.open(io.BytesIO(data)) as image:
                images.append(np.asarray(image.convert("RGB")))
        return np.stack(images)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.frames.shape[1], self.frames.shape[2]


def load_tapvid_pickle(path: str | Path) -> Iterator[PickledVideo]:
    """The videos of one official file, points in pixels of the stored frames.

    Raises:
        `OSError`: the file cannot be read, or is no file of TAP-Vid.
    """
    content = read_pickle(path)
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    named = [(f"{Path(path).stem}-{key:04d}" if isinstance(key, int) else str(key), value) for key, value in items]
    for name, value in named:
        if not isinstance(value, dict) or not {"video", "points", "occluded"} <= set(value):
            raise OSError(f"{path}: the video {name} lacks video, points or occluded, which files of TAP-Vid have.")
        video = PickledVideo(name, value["video"], value["points"], np.asarray(value["occluded"], dtype=bool))
        height, width = video.size
        yield PickledVideo(name, video.frames, video.points * np.array([width, height]), video.occluded)
    if not named:
        raise OSError(f"{path}: holds no videos.")
