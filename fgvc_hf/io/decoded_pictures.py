"""Decoded frames as pictures in RGB, turned and mirrored as players show them."""

import struct
from typing import Any

import numpy as np

from .containers import load_av


Matrix = tuple[int, int, int, int]
UNTURNED: Matrix = (1, 0, 0, 1)


class Pictures:
    """
    Converts the frames of one pass over a file, with one conversion context and without threads of its own.

    A context for each frame, as `VideoFrame.to_ndarray` makes it, takes longer; and one with threads must not be freed by the garbage collector of
    a forked process, which waits for threads that are not there.

    Attributes:
        matrix (`tuple`): The display matrix of the last frame.
    """

    def __init__(self) -> None:
        self.matrix = UNTURNED
        self._reformatter = load_av().video.reformatter.VideoReformatter()
        self._rotation: int | None = None

    def upright(self, frame: Any) -> np.ndarray:
        """A decoded frame as a picture (H, W, 3), uint8."""
        if (
            frame.rotation != self._rotation
        ):  # a frame whose side data are looked at is freed late, for they refer to each other
            self._rotation, self.matrix = frame.rotation, display_matrix(frame)
        converted = self._reformatter.reformat(frame, format="rgb24", threads=1)
        return turned_upright(converted.to_ndarray(), self.matrix)


def display_matrix(frame) -> Matrix:
    """The display matrix (a, b, c, d) of a decoded frame, which sends (x, y) to (a x + c y, b x + d y)."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack_from("5i", bytes(data))
            return a, b, c, d
    return UNTURNED


def turned_upright(picture: np.ndarray, matrix: Matrix) -> np.ndarray:
    """A picture (H, W, 3) as a display matrix (a, b, c, d) shows it: in one of eight orientations, the nearest for other angles."""
    a, b, c, d = matrix
    if transposes(matrix):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def transposes(matrix: Matrix) -> bool:
    """Whether a display matrix (a, b, c, d) makes rows columns."""
    a, b, c, d = matrix
    return abs(a) + abs(d) < abs(b) + abs(c)


__all__ = ["Pictures", "transposes"]
