"""Videos and contact sheets with results drawn over them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..processing_fgvc import PointTracks
from .drawing import contact_sheet, draw_tracks, side_by_side
from .files import atomic_write, check_writable
from .video import DEFAULT_FPS, VideoWriter


SHEET_FRAMES = 6
WIDE = 2.5  # from this width on, relative to the height, a picture has a row of a sheet for itself
Draw = Callable[[int, np.ndarray], np.ndarray]  # number of a frame, and the frame (H, W, 3), to what is shown of it


def check_picture_name(path: str | Path) -> Path:
    """The path, if a picture can be written there; a `ValueError` if its suffix is not .png, an `OSError` as of [`check_writable`]."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: the name must end in .png.")
    return check_writable(path)


def write_picture(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture (H, W, 3), uint8, as PNG; nothing is left behind if that fails."""
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def drawn_tracks(shown: Mapping[str, PointTracks]) -> Draw:
    """What draws tracks over a frame: those of one run, or those of several side by side under their names."""

    def draw(t: int, frame: np.ndarray) -> np.ndarray:
        drawn = [draw_tracks(frame, one.tracks, one.visible, t, ids=one.object_ids) for one in shown.values()]
        return drawn[0] if len(drawn) == 1 else side_by_side(drawn, list(shown))

    return draw


def write_overlay(video, draw: Draw, path: str | Path) -> None:
    """Write a video in which every frame of a source is drawn over, at the source's frame times."""
    frames = (
        draw(t, frame) for t, frame in enumerate(tqdm(video.frames(), desc="drawing", unit=" frames", disable=None))
    )
    first = next(frames)
    with VideoWriter(path, video.fps or DEFAULT_FPS, *first.shape[:2]) as writer:
        writer.write(first, time=video.time(0))
        for t, drawn in enumerate(frames, start=1):
            writer.write(drawn, time=video.time(t))


def write_sheet(video, draw: Draw, path: str | Path) -> None:
    """Write frames spread evenly over a video, drawn over, in one picture."""
    chosen = sheet_frames(0, video.num_frames)
    drawn = [draw(t, frame) for t, frame in enumerate(video.frames()) if t in chosen]
    height, width = drawn[0].shape[:2]
    write_picture(contact_sheet(drawn, columns=3 if width < WIDE * height else 1), path)


def sheet_frames(start: int, stop: int) -> list[int]:
    """The numbers of at most six frames spread evenly over start..stop-1."""
    return np.linspace(start, stop - 1, min(SHEET_FRAMES, stop - start)).round().astype(int).tolist()


__all__ = ["check_picture_name", "drawn_tracks", "sheet_frames", "write_overlay", "write_picture", "write_sheet"]
