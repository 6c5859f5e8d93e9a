"""Flow in pictures: as colours, as arrows, and the colour wheel that tells directions and pixels."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..tracking.frames import as_frame, host_array
from .panels import STRIP, panel_scale, scaled, side_by_side
from .strokes import SUPERSAMPLING, draw_dot, draw_ring, layer_over, line_width, new_layer


UNKNOWN = 1e9  # a component of this size or more says that the flow is not known, as in Middlebury files
HATCH = 0.25  # share of an occluded area that is covered by stripes
STRIPE = 6  # pixels from one stripe to the next in pictures up to 480 pixels wide
DIMMED = 0.6  # brightness of occluded pixels between the stripes


def as_flow(flow: Any, name: str = "flow") -> np.ndarray:
    """
    A flow field that a user gives, an array or a tensor, as floats of 32 or 64 bits.

    Raises:
        `ValueError`: it is anything else than numbers (H, W, 2), with pixels.
    """
    array = host_array(flow)
    if array is None or array.dtype.kind not in "iuf" or array.ndim != 3 or array.shape[2] != 2 or not array.size:
        got = type(flow).__name__ if array is None else f"{array.dtype} of {array.shape}"
        raise ValueError(f"{name} must be displacements (H, W, 2), got {got}.")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def draw_flow(
    flow: np.ndarray, largest: float | None = None, occluded: np.ndarray | None = None, legend: bool = False
) -> np.ndarray:
    """
    Colour a flow field: hue for direction, saturation for length. No motion is white; pixels of unknown flow are black.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements. Values that are not finite, or 1e9 and more, are unknown.
        largest (`float`, *optional*): Length of full saturation; the largest length in the field if not given, occluded pixels left out.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool, *optional*): Pixels without a match, which are darkened and hatched.
        legend (`bool`, defaults to `False`): Add a margin on the right with the colour wheel and its scale in pixels.

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8 RGB; wider with a legend, and higher if that needs it.
    """
    flow = as_flow(flow)
    largest = scale_end(largest, max(largest_flow(flow, occluded), 1e-6))
    known = known_flow(flow)
    flow = np.where(known[..., None], flow, 0)
    length = np.linalg.norm(flow, axis=-1)
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    saturation = np.clip(length / largest, 0, 1)
    hsv = np.stack([hue * 255, saturation * 255, 255 * known], axis=-1).astype(np.uint8)
    colours = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    marked = known & np.asarray(occluded, bool) if occluded is not None else np.zeros_like(known)
    colours[marked] = (colours[marked] * (DIMMED * ~_stripes(*known.shape)[marked, None])).round().astype(np.uint8)
    return with_flow_legend(colours, largest, bool(marked.any()), not known.all()) if legend else colours


def known_flow(flow: np.ndarray) -> np.ndarray:
    """Pixels (H, W), bool, whose flow (H, W, 2) is known: finite, and less than 1e9."""
    return np.logical_and.reduce(np.abs(flow) < UNKNOWN, axis=-1)  # NaN is not


def largest_flow(flow: np.ndarray, occluded: np.ndarray | None = None) -> float:
    """The largest length in a flow field (H, W, 2), pixels left out that are unknown or occluded (H, W); 0 if there is none."""
    known = known_flow(flow)
    matched = known if occluded is None else known & ~np.asarray(occluded, bool)
    return float(np.linalg.norm(flow[matched if matched.any() else known], axis=-1).max(initial=0))


def scale_end(largest: float | None, otherwise: float) -> float:
    """The value that a scale of colours ends at, checked to be positive."""
    if largest is not None and not largest > 0:
        raise ValueError(f"largest must be positive, got {largest}.")
    return otherwise if largest is None else largest


def _stripes(height: int, width: int) -> np.ndarray:
    """Diagonal stripes (H, W), bool."""
    step = round(STRIPE * line_width(width))
    return (np.arange(height)[:, None] + np.arange(width)) % step < HATCH * step


def flow_wheel(diameter: int) -> np.ndarray:
    """The colours of all directions and lengths: displacement (x, y) from the centre, the largest at the rim. RGBA, uint8."""
    axis = (np.arange(diameter) + 0.5) * 2 / diameter - 1
    displacement = np.stack(np.meshgrid(axis, axis), axis=-1)
    inside = np.clip((1 - np.linalg.norm(displacement, axis=-1)) * diameter / 2 + 0.5, 0, 1)
    alpha = np.round(255 * inside).astype(np.uint8)
    return np.concatenate([draw_flow(displacement, largest=1), alpha[..., None]], axis=-1)


def with_flow_legend(picture: np.ndarray, largest: float, occluded: bool = False, unknown: bool = False) -> np.ndarray:
    """
    A picture with a margin on its right: the colour wheel, the length at its rim in pixels, and the marks that occur.

    Args:
        picture (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The picture.
        largest (`float`): Length of full saturation, in pixels.
        occluded, unknown (`bool`): Explain hatched and black pixels.

    Returns:
        `numpy.ndarray` of shape `(H', W + margin, 3)`, uint8; higher than the picture if the legend needs it.
    """
    margin = max(112, round(0.2 * min(picture.shape[:2])))
    wheel = Image.fromarray(flow_wheel(round(0.72 * margin)))
    left, line = round(0.14 * margin), round(0.16 * margin)
    font = ImageFont.load_default(size=0.115 * margin)
    marks = [name for name, present in (("occluded", occluded), ("unknown", unknown)) if present]
    height = max(picture.shape[0], round(0.28 * margin) + wheel.height + line * (2 + len(marks)))
    strip = Image.new("RGB", (margin, height), STRIP)
    strip.paste(wheel, (left, left), wheel)
    draw = ImageDraw.Draw(strip)
    y = left + wheel.height + 0.8 * line
    draw.text((margin / 2, y), f"rim: {_pixels(largest)} px", fill="white", font=font, anchor="mm")
    for name in marks:
        y += line
        size = round(0.7 * line)
        strip.paste(Image.fromarray(_swatch(name, size)), (left, round(y - size / 2)))
        draw.rectangle((left, round(y - size / 2), left + size, round(y - size / 2) + size), outline=(150, 150, 150))
        draw.text((left + 1.4 * size, y), name, fill="white", font=font, anchor="lm")
    whole = np.full((height, picture.shape[1], 3), STRIP, np.uint8)
    whole[: picture.shape[0]] = picture
    return np.concatenate([whole, np.asarray(strip)], axis=1)


def _pixels(length: float) -> str:
    """A length for people: two digits at least."""
    return f"{length:.0f}" if length >= 100 else f"{length:.1f}" if length >= 1 else f"{length:.2g}"


def _swatch(name: str, size: int) -> np.ndarray:
    """What an occluded or unknown area looks like, (size, size, 3)."""
    flow = np.full((size, size, 2), 0.0 if name == "occluded" else np.nan)
    return draw_flow(flow, 1, np.full((size, size), name == "occluded"))


def draw_arrows(
    frame: np.ndarray,
    flow: np.ndarray,
    occluded: np.ndarray | None = None,
    spacing: int | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """
    Draw a flow field as arrows over the frame that it starts from, in the colours of [`draw_flow`].

    Occluded pixels get a small ring instead, pixels of unknown flow nothing.

    Args:
        frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8): The frame; it is not changed.
        flow (`numpy.ndarray` of shape `(H, W, 2)`): (x, y) displacements in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool, *optional*): Pixels without a match in the second frame.
        spacing (`int`, *optional*): Pixels between arrows; a sixteenth of the shorter side, and 8 at least, if not given.
        scale (`float`, defaults to 1.0): Scale of the picture. The frame is scaled, and then drawn on.

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8.
    """
    frame, flow = as_frame(frame), as_flow(flow)
    height, width = frame.shape[:2]
    if flow.shape[:2] != (height, width):
        raise ValueError(f"flow must be of the frame's size {frame.shape[:2]}, got {flow.shape[:2]}.")
    spacing = max(8, min(height, width) // 16) if spacing is None else spacing
    if spacing < 1:
        raise ValueError(f"spacing must be 1 pixel or more, got {spacing}.")
    colours, known = draw_flow(flow, max(largest_flow(flow, occluded), 1e-6)), known_flow(flow)
    picture = scaled(frame, scale)
    stretch = np.array(picture.shape[1::-1]) / (width, height)
    unit = line_width(picture.shape[1])
    layer, draw = new_layer(*picture.shape[:2])
    still, hidden = [], []
    for y in range(spacing // 2, height, spacing):
        for x in range(spacing // 2, width, spacing):
            start = stretch * (x + 0.5, y + 0.5)
            if occluded is not None and occluded[y, x]:
                hidden.append(start)
            elif known[y, x] and np.linalg.norm(stretch * flow[y, x]) < 2 * unit:
                still.append((start, colours[y, x]))
            elif known[y, x]:
                _draw_arrow(draw, start, start + stretch * flow[y, x], tuple(colours[y, x].tolist()), unit)
    picture = layer_over(picture, layer)
    for start, colour in still:
        draw_dot(picture, start, colour, 1.3 * unit, 0.5 * unit)
    for start in hidden:
        draw_ring(picture, start, (255, 255, 255), 1.5 * unit, 0.8 * unit, opacity=0.8, halo=0.4)
    return picture


def _draw_arrow(draw, start: np.ndarray, end: np.ndarray, colour: tuple, unit: float) -> None:
    """An arrow with a dark outline; `unit` is the line width."""
    length = np.linalg.norm(end - start)
    back = (start - end) / length * min(4 * unit, length)
    sides = [
        end + back @ np.array([[c, s], [-s, c]]) for c, s in ((0.87, 0.5), (0.87, -0.5))
    ]  # rotated by 30 degrees either way
    lines = [
        [tuple(point * SUPERSAMPLING) for point in points] for points in ([start, end], [sides[0], end, sides[1]])
    ]
    for fill, width in (((0, 0, 0, 130), 2 * unit), ((*colour, 255), unit)):
        for line in lines:
            draw.line(line, fill=fill, width=round(width * SUPERSAMPLING))


def draw_flow_panels(frame: np.ndarray, flow: np.ndarray, occluded: np.ndarray | None = None) -> np.ndarray:
    """
    Flow for people to look at: arrows over the frame, the colours beside them, and a margin with the colour wheel.

    Args:
        frame, flow, occluded: As of [`draw_arrows`].

    Returns:
        `numpy.ndarray` of shape `(H', W', 3)`, uint8. Panels have the size that [`panel_scale`] gives.
    """
    frame, flow = as_frame(frame), as_flow(flow)
    scale = panel_scale(*frame.shape[:2])
    arrows = draw_arrows(frame, flow, occluded, scale=scale)
    colours = scaled(draw_flow(flow, occluded=occluded), scale)
    unknown = not known_flow(flow).all()
    pair = side_by_side([arrows, colours], ["motion", "direction and length"])
    return with_flow_legend(pair, largest_flow(flow, occluded), occluded is not None and bool(occluded.any()), unknown)


__all__ = [
    "as_flow",
    "draw_arrows",
    "draw_flow",
    "draw_flow_panels",
    "flow_wheel",
    "known_flow",
    "largest_flow",
    "scale_end",
    "with_flow_legend",
]
