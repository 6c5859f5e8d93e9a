"""Antialiased dots, rings and lines, sized in proportion to the width of a picture. Colours of ids."""

import colorsys
import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..tracking.frames import LUMA


GOLDEN_RATIO = 0.618034  # hue step from one id to the next: neighbours are far apart on the colour circle
SUPERSAMPLING = 2  # lines are drawn at this scale and averaged down: antialiasing
THIN_UP_TO = 480  # pixels: lines are 1 pixel wide in pictures up to this width
DOT = 2.4  # radius of a dot in line widths: its diameter is 1 % of the width of a picture of 480 pixels or more
OUTLINE = 0.7  # line widths
BRIGHT = 110  # luma from which a colour gets a black outline instead of a white one


def point_colours(ids) -> np.ndarray:
    """
    The colour of each id. It depends on that id alone, and consecutive ids differ in hue.

    Args:
        ids (sequence of N `int`): Ids of the points.

    Returns:
        `numpy.ndarray` of shape `(N, 3)`, uint8 RGB.
    """
    hues = [(int(i) * GOLDEN_RATIO) % 1 for i in ids]
    colours = [colorsys.hsv_to_rgb(hue, 0.75 if int(i) % 2 else 0.95, 1.0) for i, hue in zip(ids, hues, strict=True)]
    return np.round(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def line_width(width: int) -> float:
    """Line width in pixels that suits a picture of this width: 1 up to 480 pixels, then in proportion."""
    return max(1.0, width / THIN_UP_TO)


def dot_radius(width: int) -> float:
    """Radius of a dot in pixels, outline included."""
    return DOT * line_width(width)


def draw_dot(picture: np.ndarray, centre, colour, radius: float, outline: float) -> None:
    """Draw a disc with an outline that contrasts with its colour.

    Args:
        picture (`numpy.ndarray` of shape `(H, W, 3)`, uint8): Is drawn on.
        centre (sequence of 2 `float`): (x, y) in pixels.
        colour (sequence of 3): RGB.
        radius, outline (`float`): Radius with the outline, and width of the outline, in pixels.
    """
    part, distance = _around(picture, centre, radius)
    _blend(picture, part, _contrast(colour), _disc(distance, radius))
    _blend(picture, part, colour, _disc(distance, radius - outline))


def draw_ring(
    picture: np.ndarray, centre, colour, radius: float, width: float, opacity: float = 1.0, halo: float = 0.0
) -> None:
    """Draw a circle line, and on both of its sides a halo that contrasts with its colour.

    Args:
        picture (`numpy.ndarray` of shape `(H, W, 3)`, uint8): Is drawn on.
        centre (sequence of 2 `float`): (x, y) in pixels.
        colour (sequence of 3): RGB.
        radius, width (`float`): Radius of the middle of the line, and its width, in pixels.
        opacity, halo (`float`): Opacity of the line and of the halo, 0 to 1.
    """
    part, distance = _around(picture, centre, radius + 1.5 * width)
    off = np.abs(distance - radius)
    if halo:
        _blend(picture, part, _contrast(colour), halo * _disc(off, 1.2 * width))
    _blend(picture, part, colour, opacity * _disc(off, width / 2))


def _around(picture: np.ndarray, centre, reach: float) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of a picture within `reach` of a point (x, y), and the distance of its pixels' centres from it."""
    (height, width), (x, y) = picture.shape[:2], (float(value) for value in centre)
    rows = slice(max(0, math.floor(y - reach - 0.5)), max(0, min(height, math.ceil(y + reach + 0.5))))
    columns = slice(max(0, math.floor(x - reach - 0.5)), max(0, min(width, math.ceil(x + reach + 0.5))))
    down = np.arange(rows.start, rows.stop) + (0.5 - y)
    across = np.arange(columns.start, columns.stop) + (0.5 - x)
    return (rows, columns), np.hypot(down[:, None], across)


def _disc(distance: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel a disc covers, by the distance of the pixel's centre from that of the disc."""
    return np.clip(radius - distance + 0.5, 0, 1)


def _blend(picture: np.ndarray, part: tuple[slice, slice], colour, opacity: np.ndarray) -> None:
    """Draw a colour over a part of a picture, with the opacity (h, w) of every pixel."""
    below = picture[part]
    picture[part] = np.rint(below + opacity[..., None] * (np.asarray(colour, float) - below)).astype(np.uint8)


def _contrast(colour) -> tuple[int, int, int]:
    """Black for bright colours, white for dark ones."""
    return (0, 0, 0) if np.asarray(colour) @ LUMA >= BRIGHT else (255, 255, 255)


def new_layer(height: int, width: int) -> tuple[Image.Image, Any]:
    """An empty layer to draw lines on, supersampled, and what draws on it."""
    layer = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    return layer, ImageDraw.Draw(layer)


def layer_over(picture: np.ndarray, layer: Image.Image) -> np.ndarray:
    """A picture (H, W, 3) with the layer, scaled down to its size, over it."""
    layer = layer.reduce(SUPERSAMPLING)
    return np.array(Image.alpha_composite(Image.fromarray(picture).convert("RGBA"), layer).convert("RGB"))


__all__ = [
    "OUTLINE",
    "SUPERSAMPLING",
    "dot_radius",
    "draw_dot",
    "draw_ring",
    "layer_over",
    "line_width",
    "new_layer",
    "point_colours",
]
