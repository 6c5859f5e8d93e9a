"""Clips to try the demo with. Their tracks ship with the package, made by `python scripts/demo_examples.py`, so that they show at once.

The first is a real clip that ships with the package (NOTICE names its source and licence). Two are rendered when they are first asked
for, so that every trajectory is known exactly; the last is the start of a clip that ships inside Gradio.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio
import numpy as np

from ..data.synthetic import render_clip
from ..io.tracks import read_tracks, save_tracks
from ..io.video import VideoFile, VideoWriter
from ..tracking.results import PointTracks
from .limits import Point


FOLDER = Path(__file__).parent / "examples"
PRESET, DIRECTION = "balanced", "forward"
RENDERED_FPS = 16
GRADIO_CLIPS = Path(gradio.__file__).parent / "media_assets" / "videos"


@dataclass(frozen=True)
class Example:
    """
    Args:
        key, title (`str`): Of its files, and on the page.
        points (`list[Point]`): What is followed.
        seed (`int`, *optional*): Of a rendered clip.
        file (`Path`, *optional*): Of a clip that is kept as a file.
        num_frames (`int`, *optional*): How many of its frames are taken; all if not given.
    """

    key: str
    title: str
    points: list[Point]
    seed: int | None = None
    file: Path | None = None
    num_frames: int | None = None

    @property
    def thumbnail(self) -> Path:
        return FOLDER / f"{self.key}.jpg"

    def write_clip(self, path: Path) -> None:
        """Write the clip as H.264."""
        if self.file is not None and self.num_frames is None:
            shutil.copyfile(self.file, path)
            return
        frames, fps = self._frames()
        first = next(frames)
        with VideoWriter(path, fps, *first.shape[:2]) as writer:
            writer.write(first)
            for frame in frames:
                writer.write(frame)

    def _frames(self) -> tuple[Iterator[np.ndarray], float]:
        if self.file is not None:
            video = VideoFile(self.file)
            return video.frames(0, self.num_frames), video.fps or 30
        clip = render_clip(num_frames=40, height=216, width=384, num_points=0, seed=self.seed or 0)
        return iter(clip.frames), RENDERED_FPS

    def save_tracks(self, tracks: PointTracks) -> None:
        """Keep tracks beside the package's code."""
        save_tracks(tracks, FOLDER / f"{self.key}.npz")

    def tracks(self) -> PointTracks:
        """The tracks that ship with the package."""
        return read_tracks(FOLDER / f"{self.key}.npz")


def _points(*places: tuple[float, float, str]) -> list[Point]:
    return [Point(0, x, y, name, obj_id) for obj_id, (x, y, name) in enumerate(places)]


EXAMPLES = [
    Example(
        "cockatoo",
        "Cockatoo",
        _points(
            (254.5, 133, "eye"),
            (262, 20, "crest"),
            (370, 108, "beak, root"),
            (362, 247, "beak, tip"),
            (303, 184, "beak, corner"),
        ),
        file=FOLDER / "cockatoo.mp4",
    ),
    Example(
        "crossing",
        "Crossing",
        _points(
            (90, 115, "oval"),
            (120, 155, "violet"),
            (143, 130, "corner"),
            (210, 38, "blob"),
            (154, 42, "behind"),
            (300, 150, "ground"),
        ),
        seed=7,
    ),
    Example(
        "passing",
        "Passing",
        _points(
            (106, 90, "blob"),
            (89, 162, "yellow"),
            (219, 137, "oval"),
            (312, 31, "box"),
            (308, 47, "behind"),
            (362, 100, "ground"),
        ),
        seed=11,
    ),
    Example(
        "earth",
        "Earth",
        _points(
            (187, 92, "Delhi"),
            (253, 114, "Hong Kong"),
            (287, 86, "Tokyo"),
            (228, 132, "Bangkok"),
            (242, 174, "Java"),
            (156, 95, "Gulf"),
        ),
        file=GRADIO_CLIPS / "b.mp4",
        num_frames=96,
    ),
]
