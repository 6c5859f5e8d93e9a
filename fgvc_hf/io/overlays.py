"""Videos and contact sheets with results drawn over the frames."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..tracking.results import PointTracks
from .drawing import contact_sheet, draw_tracks, side_by_side
from .files import atomic_write, check_writable
from .video import VideoWriter, writing_rate


SHEET_FRAMES = 6
WIDE = 2.5  # aspect ratio from which a frame gets a row of the sheet to itself
Draw = Callable[[int, np.ndarray], np.ndarray]  # (frame number, frame (H, W, 3)) -> picture (H', W', 3)


def check_picture_name(path: str | Path) -> Path:
    """The path, checked to end in .png (else a `ValueError`) and to be writable (else an `OSError`)."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: the name must end in .png.")
    return check_writable(path)


def write_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture (H, W, 3), uint8, as PNG. On failure no file is left behind."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def drawn_tracks(shown: Mapping[str, PointTracks]) -> Draw:
    """A function that draws tracks over a frame: those of one run, or of several named runs side by side."""

    def draw(t: int, frame: np.ndarray) -> np.ndarray:
        drawn = [draw_tracks(frame, one.tracks, one.visible, t, ids=one.object_ids) for one in shown.values()]
        return drawn[0] if len(drawn) == 1 else side_by_side(drawn, list(shown))

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
    """Write a contact sheet: a few frames spread evenly over a video, with `draw` applied."""
    chosen = sheet_frames(0, video.num_frames)
    drawn = [draw(t, frame) for t, frame in enumerate(video.frames()) if t in chosen]
    height, width = drawn[0].shape[:2]
    write_picture(contact_sheet(drawn, columns=3 if width < WIDE * height else 1), path)


def sheet_frames(start: int, stop: int) -> list[int]:
    """Numbers of at most six frames spread evenly over start..stop-1, both ends included."""
    return np.linspace(start, stop - 1, min(SHEET_FRAMES, stop - start)).round().astype(int).tolist()


__all__ = ["check_picture_name", "drawn_tracks", "sheet_frames", "write_overlay", "write_picture", "write_sheet"]
