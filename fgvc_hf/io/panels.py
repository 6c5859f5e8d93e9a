"""Sizes and arrangement of pictures: enlarged, reduced, side by side, or in a sheet of panels."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..tracking.frames import as_frame


STRIP = (24, 24, 28)  # background colour of label strips and margins
PANEL_WIDTH = (480, 640)  # a narrower frame is enlarged, a wider one reduced
MAX_PANEL_HEIGHT = 4096  # bounds the panels of narrow, tall frames


def panel_scale(height: int, width: int) -> float:
    """
    The scale at which a frame becomes a panel that shows details: the smallest whole number that makes it 480 pixels wide or wider,
    or else what reduces it to 640.

    Args:
        height, width (`int`): Size of the frame in pixels.

    Returns:
        `float`: the scale. Panels are at most 4096 pixels high, which frames much taller than wide may need to be narrower for.
    """
    least, most = PANEL_WIDTH
    if width < least:
        return float(max(1, min(math.ceil(least / width), MAX_PANEL_HEIGHT // height)))
    return min(1.0, most / width, MAX_PANEL_HEIGHT / height)


def scaled(frame: np.ndarray, scale: float) -> np.ndarray:
    """
    A frame at another scale. Whole numbers repeat its pixels, so that they can be told apart; below 1 they are averaged by area.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        scale (`float`): Size of the result in sizes of the frame.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8, and at least one pixel.

    Raises:
        `ValueError`: `scale` is not a positive number.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number, got {scale}.")
    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    return resized(frame, height, width)


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame (H, W, 3), uint8, at another size: pixels are repeated a whole number of times, averaged by area, or else interpolated."""
    if frame.shape[:2] == (height, width):
        return frame
    if height % frame.shape[0] == 0 and width % frame.shape[1] == 0:
        return frame.repeat(height // frame.shape[0], axis=0).repeat(width // frame.shape[1], axis=1)
    if height <= frame.shape[0] and width <= frame.shape[1]:
        return np.rint(_averaged(_averaged(frame, height, axis=0), width, axis=1)).astype(np.uint8)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def _averaged(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Means over `size` equal parts of an axis; a value on the border of two parts counts in both by its share."""
    length = values.shape[axis]
    values = np.moveaxis(values, axis, 0).astype(np.float32)
    bounds = np.arange(size + 1) * length / size
    whole = np.floor(bounds).astype(int)
    share = (bounds - whole).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0, dtype=np.float32)])
    sums = sums[whole] + share * values[np.minimum(whole, length - 1)]  # up to each bound
    return np.moveaxis(np.diff(sums, axis=0) * (size / length), 0, axis)


def side_by_side(frames: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """
    Place frames side by side, each under its label.

    Args:
        frames (sequence of `numpy.ndarray` of shape `(H, W, 3)`, uint8): All are scaled to the height of the first.
        labels (sequence of `str`): One label per frame; text wider than its frame is cut off.

    Returns:
        `numpy.ndarray` of shape `(H + strip, W', 3)`, uint8: a strip with the labels, and below it the frames, separated by thin lines.

    Raises:
        `ValueError`: the numbers of frames and labels differ, or there are none.
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"frames and labels must be as many, and one at least, got {len(frames)} and {len(labels)}.")
    frames = [as_frame(frame) for frame in frames]
    height, width = frames[0].shape[:2]
    strip, gap = label_height(height, width), max(1, round(height / 240))
    columns = []
    for frame, label in zip(frames, labels, strict=True):
        fitting = resized(frame, height, max(1, round(frame.shape[1] * height / frame.shape[0])))
        columns += [np.full((height + strip, gap, 3), STRIP, np.uint8), labelled(fitting, label, strip)]
    return np.concatenate(columns[1:], axis=1)


def label_height(height: int, width: int) -> int:
    """Height in pixels of the label strip of a frame."""
    return max(14, round(min(height / 14, width / 28)))


def labelled(frame: np.ndarray, label: str, strip: int) -> np.ndarray:
    """A frame (H, W, 3), uint8, under a strip of that many pixels with a label."""
    top = Image.new("RGB", (frame.shape[1], strip), STRIP)
    font = ImageFont.load_default(size=0.7 * strip)
    ImageDraw.Draw(top).text((0.3 * strip, strip / 2), label, fill="white", font=font, anchor="lm")
    return np.concatenate([np.asarray(top), frame])


def contact_sheet(
    frames: Sequence[np.ndarray],
    columns: int = 3,
    width: int | None = None,
    labels: Sequence[str] | None = None,
    gap: int = 0,
) -> np.ndarray:
    """
    Arrange frames in a grid, row by row.

    Args:
        frames (sequence of `numpy.ndarray` of shape `(H, W, 3)`, uint8): Frames of one size.
        columns (`int`, defaults to 3): Frames per row; the last row is filled up with black.
        width (`int`, *optional*): Width of the sheet in pixels, gaps not counted; frames are scaled to fit. If not given, frames are
            scaled by [`panel_scale`], to 480 pixels or more.
        labels (sequence of `str`, *optional*): What stands in a strip above each frame.
        gap (`int`, defaults to 0): Pixels between frames.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.

    Raises:
        `ValueError`: there are no frames, or another number of labels.
    """
    if not len(frames) or (labels is not None and len(labels) != len(frames)):
        raise ValueError(f"frames must be one or more, and labels as many, got {len(frames)} frames.")
    frames = [as_frame(frame) for frame in frames]
    height, own = frames[0].shape[:2]
    scale = panel_scale(height, own) if width is None else width / columns / own
    cells = [resized(frame, max(1, round(height * scale)), max(1, round(own * scale))) for frame in frames]
    if labels is not None:
        strip = label_height(*cells[0].shape[:2])
        cells = [labelled(cell, label, strip) for cell, label in zip(cells, labels, strict=True)]
    (height, width), rows = cells[0].shape[:2], -(-len(cells) // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.uint8)
    for i, cell in enumerate(cells):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


__all__ = [
    "STRIP",
    "contact_sheet",
    "label_height",
    "labelled",
    "panel_scale",
    "resized",
    "scaled",
    "side_by_side",
]
