"""Drawing results over frames: tracks, masks, boxes, flow, probabilities. NumPy arrays in and out."""

from typing import Any

import numpy as np

from ..tracking.frames import LUMA, as_frame
from .flow_colours import draw_arrows, draw_flow, draw_flow_panels, scale_end, with_flow_legend
from .panels import contact_sheet, panel_scale, scaled, side_by_side
from .strokes import (
    OUTLINE,
    SUPERSAMPLING,
    dot_radius,
    draw_dot,
    draw_ring,
    layer_over,
    line_width,
    new_layer,
    point_colours,
)


FADES = 4  # opacity levels of a trail
HIDDEN_OPACITY = 0.35  # opacity of the trails of points that are not visible
HIDDEN_RING = 0.75  # radius of the ring of a hidden point, in radii of a dot
HIDDEN_RING_OPACITY = 0.9
UNCERTAIN_OPACITY = 0.85  # opacity of the ring that shows the expected error
HALO = 0.25  # opacity of the contrasting lines beside rings
MARKER = 16  # radius of a marker in line widths
BORDER = 800  # pixels of width for each pixel of a mask's border
HEAT = np.array(
    [(90, 0, 60), (230, 40, 30), (255, 160, 20), (255, 255, 190)]
)  # colour map from 0 to the largest value
DIMMED = 0.65  # brightness of a frame under a heat map


def draw_tracks(
    frame: np.ndarray,
    tracks: np.ndarray,
    visible: np.ndarray,
    frame_idx: int,
    ids=None,
    trail: int = 16,
    uncertainty: np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """
    Draw points and the trails of their last positions.

    Visible points are dots with an outline, 1 % of the picture's width across; hidden ones are smaller and hollow. Trails fade with age.
    Points without a position (NaN) or outside the frame are not drawn.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`): (x, y) in pixels of the frame.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Visibility.
        frame_idx (`int`): Number of this frame among the T frames.
        ids (sequence of N `int`, *optional*): Ids that give the colours; 0 to N-1 if not given.
        trail (`int`, defaults to 16): Length of the trails in frames.
        uncertainty (`numpy.ndarray` of shape `(N, T)`, *optional*): Expected errors in pixels of the frame: the radius of a thin ring around
            each visible point whose dot is smaller than that.
        scale (`float`, defaults to 1.0): Scale of the picture. The frame is scaled, and then drawn on.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
    frame = as_frame(frame)
    picture = scaled(frame, scale)
    height, width = picture.shape[:2]
    stretch = np.array([width / frame.shape[1], height / frame.shape[0]])
    tracks, visible = np.asarray(tracks) * stretch, np.asarray(visible)
    colours = point_colours(range(len(tracks)) if ids is None else ids)
    if trail and frame_idx and len(tracks):
        layer, draw = new_layer(height, width)
        _draw_trails(draw, tracks, visible, frame_idx, trail, colours.tolist(), line_width(width))
        picture = layer_over(picture, layer)
    else:
        picture = np.array(picture)
    now = tracks[:, frame_idx]
    errors = np.full(len(tracks), np.nan) if uncertainty is None else np.asarray(uncertainty)[:, frame_idx] * scale
    inside = ((now >= 0) & (now <= (width, height))).all(axis=-1)  # NaN is not
    for point in np.flatnonzero(inside):
        draw_point(picture, now[point], colours[point], visible[point, frame_idx], errors[point])
    return picture


def draw_point(
    picture: np.ndarray, place, colour, visible: bool = True, error: float = np.nan, size: float = 1.0
) -> None:
    """
    Draw one point: a dot where it is visible, inside a ring of the expected error if that is larger; a small hollow ring elsewhere.

    Args:
        picture (`numpy.ndarray` of shape `(H, W, 3)`, uint8): Is drawn on.
        place (sequence of 2 `float`): (x, y) in pixels.
        colour (sequence of 3): RGB.
        visible (`bool`, defaults to `True`): Whether it is visible.
        error (`float`, *optional*): Expected error in pixels; NaN if it is not known.
        size (`float`, defaults to 1): How many times as large it is as the dots of [`draw_tracks`].
    """
    unit, radius = size * line_width(picture.shape[1]), size * dot_radius(picture.shape[1])
    if not visible:
        draw_ring(picture, place, colour, HIDDEN_RING * radius, 0.9 * unit, HIDDEN_RING_OPACITY)
        return
    if radius < error < max(picture.shape):  # a larger ring says nothing
        draw_ring(picture, place, colour, error, unit, UNCERTAIN_OPACITY, HALO)
    draw_dot(picture, place, colour, radius, OUTLINE * unit)


def draw_marker(picture: np.ndarray, place) -> None:
    """Draw a ring around a place that is to be found at a glance, white between black, so that it shows on everything.

    Args:
        picture (`numpy.ndarray` of shape `(H, W, 3)`, uint8): Is drawn on.
        place (sequence of 2 `float`): (x, y) in pixels.
    """
    unit = line_width(picture.shape[1])
    draw_ring(picture, place, (255, 255, 255), MARKER * unit, 2 * unit, halo=0.8)


def _draw_trails(draw: Any, tracks, visible, frame_idx: int, trail: int, colours: list, unit: float) -> None:
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


def draw_masks(frame: np.ndarray, ids: np.ndarray, opacity: float = 0.4, scale: float = 1.0) -> np.ndarray:
    """
    Tint the objects of a mask with their colours, inside a border line of the full colour.

    The line lies on the outermost pixels of an object, so that pixels of the background are those of the frame.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        ids (`numpy.ndarray` of shape `(H, W)`, integer): Object ids, 0 for the background.
        opacity (`float`, defaults to 0.4): Opacity of the tint, 0 to 1.
        scale (`float`, defaults to 1.0): Scale of the picture.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
    frame, ids = as_frame(frame), np.asarray(ids)
    if ids.shape != frame.shape[:2]:
        raise ValueError(f"ids must be of the frame's size {frame.shape[:2]}, got {ids.shape}.")
    if scale > 1:  # before drawing, so that the line is thin; a picture that becomes smaller is reduced with its line
        frame = scaled(frame, scale)
        rows, columns = (np.arange(new) * old // new for new, old in zip(frame.shape[:2], ids.shape, strict=True))
        ids = ids[rows[:, None], columns]
    drawn = frame.astype(np.float32)
    border = _border(ids, max(1, round(frame.shape[1] / BORDER)))
    present = np.unique(ids[ids != 0])
    for obj_id, colour in zip(present, point_colours(present), strict=True):
        inside = ids == obj_id
        drawn[inside] = (1 - opacity) * drawn[inside] + opacity * colour
        drawn[inside & border] = colour
    return scaled(drawn.round().astype(np.uint8), min(scale, 1))


def _border(ids: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels (H, W), bool, that are at most `thickness` rows and columns from a pixel of another id."""
    border = np.zeros(ids.shape, bool)
    below, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    for a, b, other in ((border[1:], border[:-1], below), (border[:, 1:], border[:, :-1], right)):
        a |= other
        b |= other
    for _ in range(thickness - 1):
        near = border.copy()
        near[1:] |= border[:-1] & ~below
        near[:-1] |= border[1:] & ~below
        near[:, 1:] |= border[:, :-1] & ~right
        near[:, :-1] |= border[:, 1:] & ~right
        border = near
    return border


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
    largest = scale_end(largest, max(float(probability.max()), 1e-12))
    heat = np.clip(probability / largest, 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], axis=-1)  # (H, W, 3)
    opacity = np.sqrt(heat)[..., None]  # the square root keeps weaker modes visible
    grey = (frame @ LUMA)[..., None] * DIMMED
    return (grey * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def draw_boxes(frame: np.ndarray, boxes: np.ndarray, ids=None, scale: float = 1.0) -> np.ndarray:
    """
    Draw the outlines of boxes in the colours of their ids.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        boxes (`numpy.ndarray` of shape `(N, 4)` or `(N, 4, 2)`):
            Sides (x0, y0, x1, y1), or corners (x, y) in order around the box, in pixels.
        ids (sequence of N `int`, *optional*): Ids of the boxes; 0 to N-1 if not given.
        scale (`float`, defaults to 1.0): Scale of the picture. The frame is scaled, and then drawn on.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
    picture = scaled(as_frame(frame), scale)
    layer, draw = new_layer(*picture.shape[:2])
    width = round(1.5 * line_width(picture.shape[1]) * SUPERSAMPLING)
    for box, colour in zip(boxes, point_colours(range(len(boxes)) if ids is None else ids), strict=True):
        corners = box if box.ndim == 2 else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        line = [tuple(corner * scale * SUPERSAMPLING) for corner in corners[[0, 1, 2, 3, 0, 1]]]
        draw.line(line, fill=(*colour.tolist(), 255), width=width, joint="curve")
    return layer_over(picture, layer)


__all__ = [
    "contact_sheet",
    "draw_arrows",
    "draw_boxes",
    "draw_flow",
    "draw_flow_panels",
    "draw_heat_map",
    "draw_marker",
    "draw_masks",
    "draw_point",
    "draw_tracks",
    "panel_scale",
    "point_colours",
    "scaled",
    "side_by_side",
    "with_flow_legend",
]
