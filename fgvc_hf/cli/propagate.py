"""`fgvc-hf propagate`: propagate the masks of one frame through a video."""

import argparse
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .options import add_direction_option, add_model_options, add_video_option, load_tracker
from .outputs import add_drawing_options, check_drawings, check_files, write_drawings


if TYPE_CHECKING:
    import numpy as np


def add_propagate(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "propagate",
        help="propagate the masks of one frame through a video",
        description="Propagate the masks of objects from one frame through a video. A mask is a palette or grey image of the size of "
        "the video, whose values are object ids, 0 for the background.",
    )
    add_video_option(command)
    command.add_argument("--mask", metavar="FILE", required=True, help="mask of one frame, as .png")
    command.add_argument("--frame", type=int, default=0, metavar="T", help="number of that frame; default: 0")
    command.add_argument(
        "--output",
        metavar="DIR",
        help="new folder for the masks of the frames processed, by their numbers: 00000.png and so on",
    )
    add_drawing_options(command, "masks")
    add_direction_option(command)
    add_model_options(command)
    command.set_defaults(run=run_propagate)


def run_propagate(arguments: argparse.Namespace) -> None:
    """Propagate, and write masks and drawings. Each mask is written when it is found, and drawn from its file: none is held."""
    from ..io.drawing import draw_masks, scaled
    from ..io.files import check_new_folder, growing_folder
    from ..io.masks import read_mask, write_mask
    from ..io.video import open_video

    if not (arguments.output or arguments.overlay or arguments.sheet):
        raise ValueError("nothing to write: give --output DIR, --overlay FILE, --sheet FILE, or several of them.")
    if arguments.output:
        check_new_folder(arguments.output)
    check_files(arguments, ["output", "overlay", "sheet"], ["video", "mask"])
    check_drawings(arguments)
    video, mask = open_video(arguments.video, arguments.allow_truncated), read_mask(arguments.mask)
    tracker = load_tracker(arguments)
    found = tracker.propagate_masks(video, mask, arguments.frame, arguments.direction, progress=True)
    with growing_folder(arguments.output) if arguments.output else temporary_folder() as folder:

        def file(t: int) -> Path:
            return folder / f"{t:05d}.png"

        def draw(t: int, frame: "np.ndarray", scale: float = 1.0) -> "np.ndarray":
            return draw_masks(frame, read_mask(file(t)), scale=scale) if file(t).exists() else scaled(frame, scale)

        for t, ids in found:
            write_mask(file(t), ids)
        drawings = write_drawings(video, draw, arguments)
    for path in [arguments.output] * bool(arguments.output) + drawings:
        print(path)


@contextmanager
def temporary_folder() -> Generator[Path]:
    """A folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="fgvc-hf-") as folder:
        yield Path(folder)


__all__ = ["add_propagate"]
