"""Tracks drawn over frames; numpy in, numpy out."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw


SUPERSAMPLING = 2  # lines are drawn at twice the size and scaled down, which smooths their edges
HIDDEN_OPACITY = 0.35  # of a point that is not visible
GOLDEN_RATIO = 0.618034


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
    height, width = frame.shape[:2]
    unit = max(1.0, min(height, width) / 240)  # line width in pixels
    layer = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(layer)
    colours = point_colours(range(len(tracks)) if ids is None else ids)
    for track, seen, colour in zip(tracks, visible, colours, strict=True):
        _draw_trail(draw, track, seen, frame_idx, trail, tuple(colour.tolist()), unit)
    for track, seen, colour in zip(tracks, visible, colours, strict=True):
        _draw_point(draw, track[frame_idx], seen[frame_idx], tuple(colour.tolist()), unit)
    layer = layer.reduce(SUPERSAMPLING)
    return np.asarray(Image.alpha_composite(Image.fromarray(frame).convert("RGBA"), layer).convert("RGB"))


def _draw_trail(draw, track, seen, frame_idx: int, trail: int, colour: tuple, unit: float) -> None:
    for t in range(max(1, frame_idx - trail + 1), frame_idx + 1):
        if np.isnan(track[t - 1 : t + 1]).any():
            continue
        opacity = (1 - (frame_idx - t) / trail) * (1.0 if seen[t] and seen[t - 1] else HIDDEN_OPACITY)
        ends = [tuple(point * SUPERSAMPLING) for point in track[t - 1 : t + 1]]
        draw.line(ends, fill=(*colour, round(255 * opacity)), width=round(unit * SUPERSAMPLING))


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


def draw_heat_map(frame: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """
    Lay a probability map over a frame, which is shown darker and in grey: from transparent over red and orange to white.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        probability (`numpy.ndarray` of shape `(H, W)`): In [0, 1].

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8.
    """
    heat = np.sqrt(np.clip(probability, 0, 1))[..., None]  # the root shows what is improbable as well
    grey = 0.6 * frame.astype(np.float32).mean(axis=-1, keepdims=True)
    colour = 255 * np.clip(3 * heat - np.array([0, 1, 2], np.float32), 0, 1)
    return np.round((1 - heat) * grey + heat * colour).astype(np.uint8)


__all__ = ["contact_sheet", "draw_flow", "draw_heat_map", "draw_masks", "draw_tracks", "point_colours"]
