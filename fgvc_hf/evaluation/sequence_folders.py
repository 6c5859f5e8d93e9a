"""Folders of numbered pictures, as data sets hold frames and masks: each picture is found by its name, never by its place in a listing."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..io.files import not_hidden
from ..io.image_files import ImageSequence, picture_files
from ..io.masks import read_mask
from ..io.text_numbers import frame_in


def masks_of_frames(frames: Path, annotations: Path) -> tuple[Path, ...]:
    """The mask of each frame of a folder: the .png file of the same name, in the order of [`open_video`].

    Raises:
        `OSError`: a frame lacks its mask or a mask its frame, or as of [`picture_files`].
    """
    names = [path.stem for path in picture_files(frames)]
    masks = {path.stem: path for path in not_hidden(annotations.glob("*.png"))}
    if odd := set(masks) ^ set(names):
        where, lacking = (frames, "frame") if min(odd) in masks else (annotations, "mask")
        raise FileNotFoundError(f"{where}: the {lacking} {min(odd)} is missing.")
    return tuple(masks[name] for name in names)


def read_masks(masks: Iterable[Path], source) -> np.ndarray:
    """The masks `(T, H, W)` of the frames of an open video.

    Raises:
        `OSError`, `ValueError`: a mask cannot be read, or is of another size than its frame.
    """
    return np.stack([_checked(read_mask(path), path, source) for path in masks])


def _checked(mask: np.ndarray, path: Path, source) -> np.ndarray:
    if mask.shape != (source.height, source.width):
        raise ValueError(f"{path}: is {mask.shape[0]}x{mask.shape[1]}, but its frame {source.height}x{source.width}.")
    return mask


def numbered_frames(folder: Path, numbers: Iterable[int]) -> tuple[Path, ...]:
    """The frames of these numbers, such as 00007.jpg of 7. Pictures whose name ends in no number are not looked at.

    Raises:
        `OSError`: one is missing or there twice, or the folder holds no pictures.
    """
    found: dict[int | None, list[Path]] = {}
    for path in picture_files(folder):
        found.setdefault(frame_in(path.name), []).append(path)
    frames: list[Path] = []
    for number in numbers:
        if len(found.get(number, ())) != 1:
            what = "there twice" if number in found else "missing"
            raise FileNotFoundError(f"{folder}: the frame {number:05d} is {what}.")
        frames += found[number]
    return tuple(frames)


def sequence_of(frames: tuple[Path, ...]) -> ImageSequence:
    """These frames of a folder as a video."""
    return ImageSequence(str(frames[0].parent), [(path, None) for path in frames])


__all__ = ["masks_of_frames", "numbered_frames", "read_masks", "sequence_of"]
