"""Results drawn over frames: tracks, masks, flow, probabilities; numpy in, numpy out."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont


SUPERSAMPLING = 2  # lines are drawn at twice the size and scaled down, which smooths their edges
FADES = 4  # steps in which a trail fades
HIDDEN_OPACITY = 0.35  # of a point that is not visible
GOLDEN_RATIO = 0.618034
GREY = np.array([0.299, 0.587, 0.114])  # luma of R, G and B
HEAT = np.array([(90, 0, 60), (230, 40, 30), (255, 160, 20), (255, 255, 190)])  # from nothing to the largest value
STRIP = (24, 24, 28)  # background of labels
DIMMED = 0.65  # brightness of a frame under a heat map


def point_colours(ids) -> np.ndarray:
    """
    A colour for each id, whatever the other ids are; ids that follow each other differ in hue.

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
    Draw where points are, and a trail of where they came from.

    A point is a dot where it is visible, and a faint ring where it is not. Trails fade with age. Frames on which a point
    was not tracked (NaN) show nothing of it.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`): (x, y) in pixels of the frame.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Visibility.
        frame_idx (`int`): Which of the T frames it is.
        ids (sequence of N `int`, *optional*): Ids, for the colours; 0 to N-1 if not given.
        trail (`int`, defaults to 16): Length of the trail in frames.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    unit = line_width(*frame.shape[:2])
    layer, draw = _layer(*frame.shape[:2])
    colours = point_colours(range(len(tracks)) if ids is None else ids).tolist()
    _draw_trails(draw, tracks, visible, frame_idx, trail, colours, unit)
    for track, seen, colour in zip(tracks, visible, colours, strict=True):
        _draw_point(draw, track[frame_idx], seen[frame_idx], tuple(colour), unit)
    return _over(frame, layer)


def line_width(height: int, width: int) -> float:
    """Width in pixels of lines that are seen well on a frame of a size."""
    return max(1.0, min(height, width) / 240)


def _layer(height: int, width: int) -> tuple[Image.Image, Any]:
    """An empty picture to draw on, larger than the frame that it goes over."""
    layer = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    return layer, ImageDraw.Draw(layer)


def _over(frame: np.ndarray, layer: Image.Image) -> np.ndarray:
    """The frame (H, W, 3) with what was drawn laid over it."""
    layer = layer.reduce(SUPERSAMPLING)
    return np.asarray(Image.alpha_composite(Image.fromarray(frame).convert("RGBA"), layer).convert("RGB"))


def _draw_trails(draw, tracks, visible, frame_idx: int, trail: int, colours: list, unit: float) -> None:
    frames = np.arange(max(0, frame_idx - trail), frame_idx + 1)
    points, seen = tracks[:, frames] * SUPERSAMPLING, visible[:, frames]
    both_seen = seen[:, :-1] & seen[:, 1:]
    fresh = np.ceil(FADES * (1 - (frame_idx - frames[1:]) / trail)) / FADES  # 1 for the newest segments
    opacity = (255 * fresh * np.where(both_seen, 1.0, HIDDEN_OPACITY)).round().astype(int)  # (N, L)
    opacity[np.isnan(points[:, :-1] + points[:, 1:]).any(axis=-1)] = 0
    # Neighbouring segments of one opacity are one line
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
    Colour a flow field: the hue is the direction, the saturation the length; white stands still.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements.
        largest (`float`, *optional*): Length of full saturation; that of the field if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8 RGB.
    """
    length = np.linalg.norm(flow, axis=-1)
    largest = max(float(length.max()), 1e-6) if largest is None else largest
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    saturation = np.clip(length / largest, 0, 1)
    hsv = np.stack([hue * 255, saturation * 255, np.full_like(hue, 255)], axis=-1).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def draw_arrows(
    frame: np.ndarray, flow: np.ndarray, occluded: np.ndarray | None = None, spacing: int | None = None
) -> np.ndarray:
    """
    Draw a flow field as arrows over the frame that it starts from, in the colours of [`draw_flow`].

    Where the flow is not known a faint ring is drawn instead.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool, *optional*): Pixels whose flow is not known.
        spacing (`int`, *optional*): Pixels between arrows; a sixteenth of the shorter side, and 8 at least, if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    height, width = frame.shape[:2]
    spacing, unit = spacing or max(8, min(height, width) // 16), line_width(height, width)
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
    """A line with a head of two strokes; a dot where it would be shorter than that."""
    length = np.linalg.norm(end - start)
    if length < 2 * unit:
        _draw_point(draw, start, True, colour, 0.5 * unit)
        return
    back = (start - end) / length * min(4 * unit, length)
    sides = [end + back @ np.array([[c, s], [-s, c]]) for c, s in ((0.87, 0.5), (0.87, -0.5))]  # turned by 30 degrees
    for points in ([start, end], [sides[0], end, sides[1]]):
        line = [tuple(point * SUPERSAMPLING) for point in points]
        draw.line(line, fill=(0, 0, 0, 130), width=round(2 * unit * SUPERSAMPLING))
        draw.line(line, fill=(*colour, 255), width=round(unit * SUPERSAMPLING))


def draw_masks(frame: np.ndarray, ids: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """
    Tint objects with their colours, and outline them.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        ids (`numpy.ndarray` of shape `(H, W)`, integer): Object ids, 0 for the background.
        opacity (`float`, defaults to 0.45): Of the tint.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    drawn = frame.astype(np.float32)
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
    Lay a map of probabilities over a dimmed, grey frame: from dark red over orange to a bright yellow where it is largest.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        probability (`numpy.ndarray` of shape `(H, W)`, float): In [0, 1], as [`match_heat_map`] gives it.
        largest (`float`, *optional*): Value that is drawn brightest; the largest of the map if not given, for a probability that is
            spread over the pixels of a frame is small everywhere.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.

    Raises:
        `ValueError`: frame and map differ in size.
    """
    if probability.shape != frame.shape[:2]:
        raise ValueError(f"probability must be of the frame's size {frame.shape[:2]}, got {probability.shape}.")
    largest = max(float(probability.max()), 1e-12) if largest is None else largest
    heat = np.clip(probability / largest, 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], axis=-1)  # (H, W, 3)
    opacity = np.sqrt(heat)[..., None]  # a second, weaker place shows as well
    grey = (frame @ GREY)[..., None] * DIMMED
    return (grey * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def side_by_side(frames: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """
    Frames beside each other, each under its label.

    Args:
        frames (sequence of `numpy.ndarray` of shape `(H, W, 3)`, uint8): Scaled to the height of the first.
        labels (sequence of `str`): As many; what is wider than its frame is cut off.

    Returns:
        `numpy.ndarray` of shape `(H + strip, W', 3)`, uint8: the strip holds the labels, thin lines separate the frames.

    Raises:
        `ValueError`: frames and labels differ in number, or there are none.
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"frames and labels must be as many, and one at least, got {len(frames)} and {len(labels)}.")
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
    Outline boxes in the colours of their ids.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        boxes (`numpy.ndarray` of shape `(N, 4)` or `(N, 4, 2)`): Sides (x0, y0, x1, y1), or corners one after the other, in pixels.
        ids (sequence of N `int`, *optional*): Ids of the boxes; 0 to N-1 if not given.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    width = max(2, round(min(frame.shape[:2]) / 160))
    for box, colour in zip(boxes, point_colours(range(len(boxes)) if ids is None else ids), strict=True):
        corners = box if box.ndim == 2 else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        draw.line([*map(tuple, corners), tuple(corners[0])], fill=tuple(colour.tolist()), width=width)
    return np.asarray(image)


def contact_sheet(frames: Sequence[np.ndarray], columns: int = 3, width: int = 768) -> np.ndarray:
    """
    Frames side by side, row by row.

    Args:
        frames (sequence of `numpy.ndarray` of shape `(H, W, 3)`, uint8): Frames of one size.
        columns (`int`, defaults to 3): Frames in a row; what is missing in the last one is black.
        width (`int`, defaults to 768): Of the sheet, in pixels; frames are scaled to fit.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
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
