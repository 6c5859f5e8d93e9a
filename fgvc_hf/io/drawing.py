"""Drawing results over frames: tracks, masks, boxes, flow, probabilities. NumPy arrays in and out."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..tracking.frames import as_frame


SUPERSAMPLING = 2  # lines are drawn at this scale and averaged down: antialiasing
FADES = 4  # opacity levels of a trail
HIDDEN_OPACITY = 0.35  # opacity of points that are not visible
GOLDEN_RATIO = 0.618034  # hue step from one id to the next: neighbours are far apart on the colour circle
GREY = np.array([0.299, 0.587, 0.114])  # luma weights of R, G and B (ITU-R BT.601)
HEAT = np.array(
    [(90, 0, 60), (230, 40, 30), (255, 160, 20), (255, 255, 190)]
)  # colour map from 0 to the largest value
STRIP = (24, 24, 28)  # background colour of label strips
DIMMED = 0.65  # brightness of a frame under a heat map


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


def draw_tracks(
    frame: np.ndarray, tracks: np.ndarray, visible: np.ndarray, frame_idx: int, ids=None, trail: int = 16
) -> np.ndarray:
    """
    Draw points and the trails of their last positions.

    Visible points are dots, hidden ones faint rings. Trails fade with age. Points without a position (NaN) are not drawn.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`): (x, y) in pixels of the frame.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Visibility.
        frame_idx (`int`): Number of this frame among the T frames.
        ids (sequence of N `int`, *optional*): Ids that give the colours; 0 to N-1 if not given.
        trail (`int`, defaults to 16): Length of the trails in frames.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    frame = as_frame(frame)
    unit = line_width(*frame.shape[:2])
    layer, draw = _layer(*frame.shape[:2])
    colours = point_colours(range(len(tracks)) if ids is None else ids).tolist()
    _draw_trails(draw, tracks, visible, frame_idx, trail, colours, unit)
    for track, seen, colour in zip(tracks, visible, colours, strict=True):
        _draw_point(draw, track[frame_idx], seen[frame_idx], tuple(colour), unit)
    return _over(frame, layer)


def line_width(height: int, width: int) -> float:
    """Line width in pixels that suits the size of a frame: 1 up to 240 pixels on the shorter side, then in proportion."""
    return max(1.0, min(height, width) / 240)


def _layer(height: int, width: int) -> tuple[Image.Image, Any]:
    """An empty supersampled layer to draw on."""
    layer = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    return layer, ImageDraw.Draw(layer)


def _over(frame: np.ndarray, layer: Image.Image) -> np.ndarray:
    """The frame (H, W, 3) with the layer, scaled down to its size, over it."""
    layer = layer.reduce(SUPERSAMPLING)
    return np.asarray(Image.alpha_composite(Image.fromarray(frame).convert("RGBA"), layer).convert("RGB"))


def _draw_trails(draw, tracks, visible, frame_idx: int, trail: int, colours: list, unit: float) -> None:
    frames = np.arange(max(0, frame_idx - trail), frame_idx + 1)
    points, seen = tracks[:, frames] * SUPERSAMPLING, visible[:, frames]
    both_seen = seen[:, :-1] & seen[:, 1:]
    fresh = np.ceil(FADES * (1 - (frame_idx - frames[1:]) / trail)) / FADES  # 1 for the newest segments, (L,)
    opacity = (255 * fresh * np.where(both_seen, 1.0, HIDDEN_OPACITY)).round().astype(int)  # (N, L)
    opacity[np.isnan(points[:, :-1] + points[:, 1:]).any(axis=-1)] = 0
    # Consecutive segments of equal opacity are drawn as one polyline
    changes = np.ones((len(points), len(frames)), bool)
    changes[:, 1:-1] = opacity[:, 1:] != opacity[:, :-1]
    runs = np.concatenate([np.argwhere(changes[:, :-1]), np.argwhere(changes[:, 1:])[:, 1:]], axis=1).tolist()
    corners, opacity = points.reshape(len(points), 2 * len(frames)).tolist(), opacity.tolist()
    for n, first, last in runs:
        if opacity[n][first]:
            line, fill = corners[n][2 * first : 2 * last + 4], (*colours[n], opacity[n][first])
            draw.line(line, fill=fill, width=round(unit * SUPERSAMPLING))


def _draw_point(draw, point, seen: bool, colour: tuple, unit: float) -> None:
    if np.isnan(point).any():
        return
    radius = 2.5 * unit * SUPERSAMPLING
    x, y = point * SUPERSAMPLING
    box = (x - radius, y - radius, x + radius, y + radius)
    if seen:
        draw.ellipse(box, fill=(*colour, 255), outline=(0, 0, 0, 160), width=max(1, round(unit)))
    else:
        draw.ellipse(box, outline=(*colour, round(255 * HIDDEN_OPACITY)), width=round(unit * SUPERSAMPLING))


def draw_flow(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """
    Colour a flow field: hue for direction, saturation for length. No motion is white.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements.
        largest (`float`, *optional*): Length of full saturation; the largest length in the field if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8 RGB.
    """
    length = np.linalg.norm(flow, axis=-1)
    largest = _scale(largest, max(float(length.max()), 1e-6))
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    saturation = np.clip(length / largest, 0, 1)
    hsv = np.stack([hue * 255, saturation * 255, np.full_like(hue, 255)], axis=-1).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _scale(largest: float | None, otherwise: float) -> float:
    """The value that a scale of colours ends at, checked to be positive."""
    if largest is not None and not largest > 0:
        raise ValueError(f"largest must be positive, got {largest}.")
    return otherwise if largest is None else largest


def draw_arrows(
    frame: np.ndarray, flow: np.ndarray, occluded: np.ndarray | None = None, spacing: int | None = None
) -> np.ndarray:
    """
    Draw a flow field as arrows over the frame that it starts from, in the colours of [`draw_flow`].

    Occluded pixels get a faint ring instead.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool, *optional*): Pixels without a match in the second frame.
        spacing (`int`, *optional*): Pixels between arrows; a sixteenth of the shorter side, and 8 at least, if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    frame = as_frame(frame)
    height, width = frame.shape[:2]
    spacing = max(8, min(height, width) // 16) if spacing is None else spacing
    if spacing < 1:
        raise ValueError(f"spacing must be 1 pixel or more, got {spacing}.")
    unit = line_width(height, width)
    colours = draw_flow(flow)
    layer, draw = _layer(height, width)
    for y in range(spacing // 2, height, spacing):
        for x in range(spacing // 2, width, spacing):
            colour, start = tuple(colours[y, x].tolist()), np.array([x + 0.5, y + 0.5])
            if occluded is not None and occluded[y, x]:
                _draw_point(draw, start, False, (255, 255, 255), 0.5 * unit)
            else:
                _draw_arrow(draw, start, start + flow[y, x], colour, unit)
    return _over(frame, layer)


def _draw_arrow(draw, start: np.ndarray, end: np.ndarray, colour: tuple, unit: float) -> None:
    """An arrow, or a dot if it would be shorter than twice the line width."""
    length = np.linalg.norm(end - start)
    if length < 2 * unit:
        _draw_point(draw, start, True, colour, 0.5 * unit)
        return
    back = (start - end) / length * min(4 * unit, length)
    sides = [
        end + back @ np.array([[c, s], [-s, c]]) for c, s in ((0.87, 0.5), (0.87, -0.5))
    ]  # rotated by 30 degrees either way
    for points in ([start, end], [sides[0], end, sides[1]]):
        line = [tuple(point * SUPERSAMPLING) for point in points]
        draw.line(line, fill=(0, 0, 0, 130), width=round(2 * unit * SUPERSAMPLING))
        draw.line(line, fill=(*colour, 255), width=round(unit * SUPERSAMPLING))


def draw_masks(frame: np.ndarray, ids: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """
    Tint the objects of a mask with their colours, and outline them.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        ids (`numpy.ndarray` of shape `(H, W)`, integer): Object ids, 0 for the background.
        opacity (`float`, defaults to 0.45): Opacity of the tint, 0 to 1.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    drawn = as_frame(frame).astype(np.float32)
    ids = np.asarray(ids)
    if ids.shape != drawn.shape[:2]:
        raise ValueError(f"ids must be of the frame's size {drawn.shape[:2]}, got {ids.shape}.")
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    present = np.unique(ids[ids != 0])
    for obj_id, colour in zip(present, point_colours(present), strict=True):
        inside = ids == obj_id
        drawn[inside] = (1 - opacity) * drawn[inside] + opacity * colour
        drawn[inside & edge] = colour
    return drawn.round().astype(np.uint8)


def draw_heat_map(frame: np.ndarray, probability: np.ndarray, largest: float | None = None) -> np.ndarray:
    """
    Draw a probability map over the frame in dimmed grey, from dark red over orange to bright yellow at the maximum.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        probability (`numpy.ndarray` of shape `(H, W)`, float): In [0, 1], as [`Tracker.match`] returns it.
        largest (`float`, *optional*): Value drawn brightest; the maximum of the map if not given, because probabilities that
            sum to 1 over a frame are all small.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.

    Raises:
        `ValueError`: frame and map differ in size.
    """
    frame = as_frame(frame)
    if probability.shape != frame.shape[:2]:
        raise ValueError(f"probability must be of the frame's size {frame.shape[:2]}, got {probability.shape}.")
    largest = _scale(largest, max(float(probability.max()), 1e-12))
    heat = np.clip(probability / largest, 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], axis=-1)  # (H, W, 3)
    opacity = np.sqrt(heat)[..., None]  # the square root keeps weaker modes visible
    grey = (frame @ GREY)[..., None] * DIMMED
    return (grey * (1 - opacity) + colours * opacity).round().astype(np.uint8)


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
    height = frames[0].shape[0]
    strip, gap = max(14, round(height / 14)), max(1, round(height / 240))
    font = ImageFont.load_default(size=0.7 * strip)
    columns = []
    for frame, label in zip(frames, labels, strict=True):
        scaled = Image.fromarray(frame).resize(
            (round(frame.shape[1] * height / frame.shape[0]), height), Image.Resampling.BILINEAR
        )
        column = Image.new("RGB", (scaled.width, height + strip), STRIP)
        column.paste(scaled, (0, strip))
        ImageDraw.Draw(column).text((0.3 * strip, strip / 2), label, fill="white", font=font, anchor="lm")
        columns += [np.full((height + strip, gap, 3), STRIP, np.uint8), np.asarray(column)]
    return np.concatenate(columns[1:], axis=1)


def draw_boxes(frame: np.ndarray, boxes: np.ndarray, ids=None) -> np.ndarray:
    """
    Draw the outlines of boxes in the colours of their ids.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        boxes (`numpy.ndarray` of shape `(N, 4)` or `(N, 4, 2)`):
            Sides (x0, y0, x1, y1), or corners (x, y) in order around the box, in pixels.
        ids (sequence of N `int`, *optional*): Ids of the boxes; 0 to N-1 if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    frame = as_frame(frame)
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    width = max(2, round(min(frame.shape[:2]) / 160))
    for box, colour in zip(boxes, point_colours(range(len(boxes)) if ids is None else ids), strict=True):
        corners = box if box.ndim == 2 else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        draw.line([*map(tuple, corners), tuple(corners[0])], fill=tuple(colour.tolist()), width=width)
    return np.asarray(image)


def contact_sheet(frames: Sequence[np.ndarray], columns: int = 3, width: int = 768) -> np.ndarray:
    """
    Arrange frames in a grid, row by row.

    Args:
        frames (sequence of `numpy.ndarray` of shape `(H, W, 3)`, uint8): Frames of one size.
        columns (`int`, defaults to 3): Frames per row; the last row is filled up with black.
        width (`int`, defaults to 768): Width of the sheet in pixels; frames are scaled to fit.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
    frames = [as_frame(frame) for frame in frames]
    scale = width / columns / frames[0].shape[1]
    size = round(frames[0].shape[1] * scale), round(frames[0].shape[0] * scale)
    cells = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


__all__ = [
    "contact_sheet",
    "draw_arrows",
    "draw_boxes",
    "draw_flow",
    "draw_heat_map",
    "draw_masks",
    "draw_tracks",
    "point_colours",
    "side_by_side",
]
