"""`fgvc-hf propagate`: propagate the masks of one frame through a video."""

import argparse

from .options import add_direction_option, add_model_options, add_video_option, load_tracker
from .outputs import add_drawing_options, check_drawings, write_drawings


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
    command.add_argument("--output", metavar="DIR", help="new folder for the masks of all frames, 00000.png and so on")
    add_drawing_options(command, "masks")
    add_direction_option(command)
    add_model_options(command)
    command.set_defaults(run=run_propagate)


def run_propagate(arguments: argparse.Namespace) -> None:
    """Propagate, and write masks and drawings."""
    from contextlib import ExitStack

    import numpy as np

    from ..io.drawing import draw_masks
    from ..io.files import atomic_folder
    from ..io.masks import read_mask, write_mask
    from ..io.video import open_video

    if not (arguments.output or arguments.overlay or arguments.sheet):
        raise ValueError("nothing to write: give --output DIR, --overlay FILE, --sheet FILE, or several of them.")
    check_drawings(arguments)
    video, mask = open_video(arguments.video), read_mask(arguments.mask)
    tracker = load_tracker(arguments)
    masks = np.zeros((video.num_frames, video.height, video.width), dtype=np.uint8)
    for t, ids in tracker.propagate_masks(video, mask, arguments.frame, arguments.direction, progress=True):
        masks[t] = ids
    with ExitStack() as stack:
        if arguments.output:
            folder = stack.enter_context(atomic_folder(arguments.output))
            for t, ids in enumerate(masks):
                write_mask(folder / f"{t:05d}.png", ids)
        drawings = write_drawings(video, lambda t, frame: draw_masks(frame, masks[t]), arguments)
    for path in [arguments.output] * bool(arguments.output) + drawings:
        print(path)


__all__ = ["add_propagate"]
