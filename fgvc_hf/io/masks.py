"""Mask files: palette or grey images whose values are object ids, as in DAVIS."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import point_colours


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """
    Read object ids: the indices of a palette image (DAVIS), or the levels of a grey one.

    Returns:
        `numpy.ndarray` of shape `(H, W)`, uint8: object ids, 0 for the background.

    Raises:
        `OSError`: the file is missing, or is not an image.
        `ValueError`: the image holds colours instead of ids.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such mask.")
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path}: must be a palette or grey image whose values are object ids, got {image.mode}."
                )
            return np.asarray(image.convert("L") if image.mode == "1" else image)
    except OSError as error:
        raise OSError(f"{path}: cannot be read as an image ({error}).") from None


def write_mask(path: str | os.PathLike, ids: np.ndarray) -> None:
    """Write object ids `(H, W)`, 0 to 255, as a palette image in the colours of [`point_colours`]."""
    image = Image.fromarray(ids.astype(np.uint8), "P")
    palette = np.concatenate([np.zeros((1, 3), np.uint8), point_colours(range(1, 256))])
    image.putpalette(palette.tobytes())
    image.save(path)
