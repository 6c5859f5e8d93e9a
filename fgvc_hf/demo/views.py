"""What the page shows of points and results: pictures as arrays, everything else as HTML."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..io.drawing import draw_flow, draw_marker, draw_point, point_colours, with_flow_legend
from ..io.flow_colours import largest_flow
from ..tracking.results import PointTracks
from .limits import Point, by_point


DOT = 2.0  # how many times as large as in an overlay points are that a user clicks; pictures are as wide as a column
MIN_WIDTH = 640  # of pictures; no column of the page is wider


def zoom_of(width: int) -> int:
    """How many times as large a frame is shown: Gradio tells where a picture was clicked only if it is as large as it is shown, or larger."""
    return -(-MIN_WIDTH // width)


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A frame as pictures show it."""
    zoom = zoom_of(frame.shape[1])
    return frame.repeat(zoom, axis=0).repeat(zoom, axis=1)


def picture_of(frame: np.ndarray, points: list[Point], t: int, tracks: PointTracks | None = None) -> np.ndarray:
    """
    Frame t, enlarged, with the points: dots where they are labelled on it; where they were followed to, hollow if hidden; else small rings where they
    are labelled on another frame. Once they were followed, labels have a white ring around them.
    """
    picture, zoom = enlarged(frame), zoom_of(frame.shape[1])
    row = {} if tracks is None else {obj_id: n for n, obj_id in enumerate(tracks.object_ids)}
    for obj_id, labels in by_point(points).items():
        colour = point_colours([obj_id])[0]
        here = [label for label in labels if label.t == t]
        place = tracks.tracks[row[obj_id], t] if tracks is not None and obj_id in row else np.full(2, np.nan)
        if here:
            draw_point(picture, (zoom * here[0].x, zoom * here[0].y), colour, size=DOT)
            if obj_id in row:
                draw_marker(picture, (zoom * here[0].x, zoom * here[0].y))
        elif tracks is not None and not np.isnan(place[0]):
            draw_point(picture, zoom * place, colour, visible=bool(tracks.visible[row[obj_id], t]), size=DOT)
        else:
            draw_point(picture, (zoom * labels[0].x, zoom * labels[0].y), colour, visible=False, size=DOT)
    return picture


def coloured(flow: np.ndarray, occluded: np.ndarray) -> np.ndarray:
    """Flow (H, W, 2), enlarged, in colours, hatched where it is occluded, with a colour wheel in the margin."""
    picture = enlarged(draw_flow(flow, occluded=occluded))
    return with_flow_legend(picture, largest_flow(flow, occluded), bool(occluded.any()))


def crosshair(frame: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """A frame, enlarged, with a ring around a place, light on dark, so that it shows on everything."""
    picture, zoom = enlarged(frame), zoom_of(frame.shape[1])
    draw_marker(picture, (zoom * point[0], zoom * point[1]))
    return picture


def data_uri(frame: np.ndarray) -> str:
    """A frame as a JPEG inside an address."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def css_colour(obj_id: int) -> str:
    return "rgb({},{},{})".format(*point_colours([obj_id])[0])


def legend(points: list[Point]) -> str:
    """The points by colour, name and first label."""
    if not points:
        return '<p class="hint">No points yet: click on the picture, or add a grid.</p>'
    chips = (
        f'<li><i style="background:{css_colour(obj_id)}"></i><b>{html.escape(first.name)}</b>'
        f"<span>frame {first.t} · {first.x:.1f}, {first.y:.1f}{f' · {len(others)} more' if others else ''}</span></li>"
        for obj_id, (first, *others) in by_point(points).items()
    )
    return f'<ul class="legend">{"".join(chips)}</ul>'


def runs(states: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, state) of the stretches of (T,) on which the state is the same."""
    edges = np.flatnonzero(np.diff(states)) + 1
    bounds = [0, *edges.tolist(), len(states)]
    return [(start, stop, int(states[start])) for start, stop in zip(bounds, bounds[1:], strict=False)]


def timeline(
    names: Sequence[str], ids: Sequence[int], confidence: np.ndarray, visible: np.ndarray, measure: str = "confidence"
) -> str:
    """
    A row per target over all frames: how confident it is, and where it is hidden.

    Args:
        names, ids (sequences of N): What the targets are called, and their ids for the colours.
        confidence, visible (`numpy.ndarray` of shape `(N, T)`): As of [`Followed`]; NaN where a target was not followed.
        measure (`str`, defaults to `"confidence"`): What `confidence` is, for the explanation.
    """
    length = confidence.shape[1]
    rows = []
    for name, obj_id, values, seen in zip(names, ids, confidence, visible, strict=True):
        followed = ~np.isnan(values)
        state = np.where(followed, 1 + seen, 0)  # 0 not followed, 1 hidden, 2 seen
        kinds = ("off", "hidden", "seen")
        bars = "".join(
            f'<rect class="{kinds[kind]}" x="{start}" y="0" width="{stop - start}" height="1"/>'
            for start, stop, kind in runs(state)
        )
        curves = "".join(
            f'<path d="M{start} 1{"".join(f"V{1 - v:.2f}h1" for v in values[start:stop])}V1z"/>'
            for start, stop, kind in runs(followed.astype(int))
            if kind
        )
        share = f"seen on {int(seen.sum())} of {int(followed.sum())} frames"
        rows.append(
            f'<div class="row" style="--colour:{css_colour(obj_id)}"><span class="name" title="{html.escape(name)}">'
            f'<i></i><b>{html.escape(name)}</b></span><svg viewBox="0 0 {length} 1" preserveAspectRatio="none" role="img" '
            f'aria-label="{html.escape(name)}: {share}"><title>{share}</title>{bars}{curves}</svg></div>'
        )
    return (
        f'<div class="timeline" data-frames="{length}">{"".join(rows)}'
        f'<div class="row scale"><span class="name"></span><div><span>0</span><span>frame</span>'
        f'<span>{length - 1}</span></div></div><div class="playhead"></div></div>'
        f'<p class="hint">Height: {measure}. Grey: hidden. Click to go there in the video.</p>'
    )
