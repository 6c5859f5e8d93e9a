"""Videos and contact sheets with results drawn over the frames."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..tracking.box_results import BoxTracks
from ..tracking.results import PointTracks
from .drawing import draw_boxes, draw_tracks
from .files import atomic_write, check_writable, local_path
from .panels import contact_sheet, panel_scale, side_by_side
from .video import VideoWriter, writing_rate


SHEET_FRAMES = 6
SHEET_COLUMNS, SHEET_WIDTH = 3, 2000  # a sheet has as many columns as fit into this many pixels, three at most
SHEET_GAP = 4  # pixels


class Draw(Protocol):
    """What draws results over a frame (H, W, 3): its number, the frame, and the scale of the picture (H', W', 3) to a picture."""

    def __call__(self, t: int, frame: np.ndarray, scale: float = 1.0, /) -> np.ndarray: ...


def check_picture_name(path: str | Path) -> Path:
    """The path, checked to end in .png (else a `ValueError`) and to be writable (else an `OSError`)."""
    path = local_path(path, "written")
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the name must end in .png.")
    return check_writable(path)


def write_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture (H, W, 3), uint8, as PNG. On failure no file is left behind."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def drawn_tracks(shown: Mapping[str, PointTracks]) -> Draw:
    """A function that draws tracks and their expected errors: those of one run, or of several named runs side by side."""
    inside = {name: np.where(one.outside[..., None], np.nan, one.tracks) for name, one in shown.items()}

    def draw(t: int, frame: np.ndarray, scale: float = 1.0) -> np.ndarray:
        drawn = [
            draw_tracks(frame, inside[name], one.visible, t, one.object_ids, uncertainty=one.uncertainty, scale=scale)
            for name, one in shown.items()
        ]
        return drawn[0] if len(drawn) == 1 else side_by_side(drawn, list(shown))

    return draw


def drawn_boxes(boxes: BoxTracks) -> Draw:
    """A function that draws the boxes that are visible."""

    def draw(t: int, frame: np.ndarray, scale: float = 1.0) -> np.ndarray:
        seen = np.flatnonzero(boxes.visible[:, t])
        return draw_boxes(frame, boxes.corners[seen, t], [boxes.object_ids[row] for row in seen], scale=scale)

    return draw


def write_overlay(video, draw: Draw, path: str | Path) -> None:
    """Write a video of every frame of a source with `draw` applied, at the frame times of the source."""
    frames = (
        draw(t, frame) for t, frame in enumerate(tqdm(video.frames(), desc="drawing", unit=" frames", disable=None))
    )
    first = next(frames)
    aspect = getattr(video, "pixel_aspect", 1)
    with VideoWriter(path, writing_rate(video), *first.shape[:2], aspect) as writer:
        writer.write(first, time=video.time(0))
        for t, drawn in enumerate(frames, start=1):
            writer.write(drawn, time=video.time(t))


def write_sheet(video, draw: Draw, path: str | Path) -> None:
    """Write a contact sheet: a few frames spread evenly over a video, scaled by [`panel_scale`], with `draw` applied."""
    chosen, scale = sheet_frames(0, video.num_frames), panel_scale(video.height, video.width)
    write_panels({t: draw(t, frame, scale) for t, frame in enumerate(video.frames()) if t in chosen}, path)


def write_panels(panels: Mapping[int, np.ndarray], path: str | Path) -> None:
    """Write pictures (H, W, 3) of one size, by the numbers of their frames, as a sheet of the panels as they are."""
    width = next(iter(panels.values())).shape[1]
    rows = math.ceil(len(panels) / min(SHEET_COLUMNS, max(1, SHEET_WIDTH // width)))
    columns = math.ceil(len(panels) / rows)  # as many in every row: four are two rows of two
    labels = [f"frame {t}" for t in panels]
    write_picture(contact_sheet(list(panels.values()), columns, columns * width, labels, SHEET_GAP), path)


def sheet_frames(start: int, stop: int) -> list[int]:
    """Numbers of at most six frames spread evenly over start..stop-1, both ends included."""
    return np.linspace(start, stop - 1, min(SHEET_FRAMES, stop - start)).round().astype(int).tolist()


__all__ = [
    "Draw",
    "check_picture_name",
    "drawn_boxes",
    "drawn_tracks",
    "sheet_frames",
    "write_overlay",
    "write_panels",
    "write_picture",
    "write_sheet",
]
