"""The rows of a data set of masks: each frame's object ids as a PNG image, which `datasets` and its viewer show as a picture.

| `objects` | list of int32 | ids in the mask of the first frame, ascending |
| `masks` | list of T images | PNG of W x H pixels: ids up to 255 as a palette, larger ones as grey of 16 bits; 0 is background |

The encoding is lossless.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...io.image_files import open_picture
from ...io.masks import mask_image, read_mask
from ...io.scratch_folders import scratch_folder
from ...tracking.frames import host_array
from .clip_errors import OF_MACHINE, ClipError, renamed
from .row_columns import check_row, row_features, whole


if TYPE_CHECKING:
    import datasets


def mask_features() -> "datasets.Features":
    """The schema of the rows, for `datasets`."""
    import datasets

    return row_features(objects=datasets.List(datasets.Value("int32")), masks=datasets.List(datasets.Image()))


def mask_of(value: Any, height: int, width: int) -> Any:
    """
    Object ids (H, W) of the value of a row.

    Args:
        value: Ids of any type, or an image of them as of [`read_mask`]: its path, its bytes, or the mapping of both that `datasets` has.
        height, width (`int`): Size of the video, which it must be of: a file of a few bytes may claim any.

    Raises:
        [`ClipError`]: there is none, it is of another size, or its bytes are no image of ids.
        `OSError`, `ValueError`: a file is no image of ids.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise ClipError("masks", "the row has no mask.")
    if isinstance(value, bytes | bytearray | memoryview):
        value = ids_of_bytes(value, (height, width))
    elif isinstance(value, str | Path):
        value = ids_of_file(value, (height, width))
    ids = host_array(value)
    if ids is not None and ids.ndim == 2:
        check_size(ids.shape, (height, width))
    return value if ids is None else ids


def ids_of_bytes(data: bytes | bytearray | memoryview, size: tuple[int, int]) -> np.ndarray:
    """The ids in the bytes of an image."""
    with scratch_folder() as folder:
        path = folder / "mask"
        path.write_bytes(data)
        try:
            return ids_of_file(path, size)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in OF_MACHINE:
                raise
            raise ClipError("masks", renamed(str(error), str(path), "the mask")) from None


def ids_of_file(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """The ids in an image, whose size is looked at before it is decoded; its EXIF orientation may turn it."""
    with open_picture(path) as image:
        found = image.height, image.width
    if found not in (size, size[::-1]):
        check_size(found, size)
    return read_mask(path)


def check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    """A [`ClipError`] if a mask is not of the size of the video."""
    if tuple(found) != size:
        shown = "x".join(map(str, found))
        raise ClipError("masks", f"the mask must be {size[0]}x{size[1]} like the video, it is {shown}.")


def encode_masks(found: Iterable[np.ndarray], ids: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    """
    The columns of a row that hold masks.

    Args:
        found (iterable of `numpy.ndarray` of shape `(H, W)`, integer): Object ids of each frame; only one is held at a time.
        ids (sequence of `int`): Of the objects.
        size (`tuple[int, int]`): H and W.

    Raises:
        `ValueError`: an id is above 65,535, which an image cannot hold.
    """
    masks = []
    for frame in found:
        file = io.BytesIO()
        mask_image(frame, "masks").save(file, format="PNG")
        masks.append({"bytes": file.getvalue(), "path": None})
    return {
        "num_frames": len(masks),
        "width": size[1],
        "height": size[0],
        "objects": [int(i) for i in ids],
        "masks": masks,
    }


class MaskFrames(Sequence):
    """
    The masks of a clip, of which each is decoded when it is asked for: `masks[t]` is `(H, W)`, int32, 0 for the background.

    Attributes:
        object_ids (`list[int]`): Ids in the mask of the first frame.
        size (`tuple[int, int]`): H and W in pixels.
    """

    def __init__(self, frames: Sequence, object_ids: list[int], size: tuple[int, int], name: str | None):
        self._frames, self.object_ids, self.size, self._name = frames, object_ids, size, name

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, t):
        """The object ids of a frame, `(H, W)`, int32; a `ValueError` if they are not as rows are written."""
        if isinstance(t, slice):
            return MaskFrames(self._frames[t], self.object_ids, self.size, self._name)
        ids = host_array(decoded(self._frames[t], self.size, self._name))
        known = ids is not None and ids.shape == self.size and ids.dtype.kind in "iu"
        if not known or not np.isin(ids, [0, *self.object_ids]).all():
            raise ValueError(f"row {self._name} is damaged: frame {t} is no mask of its objects and size.")
        return ids.astype(np.int32)


def decoded(value: Any, size: tuple[int, int], name: str | None) -> Any:
    """The picture of an image as the formats of Parquet have it, if it is of a size; one that is decoded already, as it is.

    Raises:
        `ValueError`: it is damaged.
    """
    if not isinstance(value, Mapping):
        return value
    try:
        with Image.open(io.BytesIO(value["bytes"]), formats=["PNG"]) as image:
            if image.size != size[::-1]:  # a few bytes may claim any
                raise ValueError
            image.load()
            return image
    except Exception:  # decoders raise anything on damaged files
        raise ValueError(f"row {name} is damaged: a mask is no PNG image of {size[0]}x{size[1]}.") from None


def load_masks(row: Mapping[str, Any]) -> MaskFrames:
    """
    The masks of a row, as [`Tracker.propagate_masks`] gives them.

    Args:
        row (mapping): A row of the data set, as `datasets`, Ray, pandas or pyarrow's `to_pylist` give it; not in the format `"torch"` of `datasets`.

    Returns:
        [`MaskFrames`], a sequence of T masks `(H, W)`, int32, in pixels of the video.

    Raises:
        `ValueError`: it is no such row, holds an error instead of masks, or is damaged.
    """
    check_row(row, "masks", ("num_frames", "width", "height", "objects"))
    name = row.get("id")
    try:
        length, height, width = (whole(row[side]) for side in ("num_frames", "height", "width"))
        objects = [whole(i) for i in row["objects"]]
        if len(row["masks"]) != length:
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f"row {name} is damaged, or in the format torch of datasets: its masks are not of its frames and objects."
        ) from None
    return MaskFrames(row["masks"], objects, (height, width), name)


__all__ = ["MaskFrames", "encode_masks", "load_masks", "mask_features", "mask_of"]
