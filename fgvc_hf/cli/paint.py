"""`fgvc-hf paint`: carry an image that is painted on a frame through a video."""

import argparse
from typing import TYPE_CHECKING

from .options import add_model_options, add_video_option, load_tracker
from .outputs import check_files


if TYPE_CHECKING:
    import numpy as np


def add_paint(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "paint",
        help="carry a picture painted on one frame through a video",
        description="Paint a picture on a frame of a video, and carry it through the following frames as if it were part of the scene.",
    )
    add_video_option(command)
    command.add_argument(
        "--texture", metavar="FILE", required=True, help="image with transparency, of the video's size"
    )
    command.add_argument("--frame", type=int, default=0, metavar="T", help="frame that it is painted on; default: 0")
    command.add_argument(
        "--output", metavar="FILE", required=True, help="the painted video from that frame on, as .mp4"
    )
    command.add_argument("--sheet", metavar="FILE", help="six frames of it, as .png")
    add_model_options(command)
    command.set_defaults(run=run_paint)


def run_paint(arguments: argparse.Namespace) -> None:
    """Paint, and write the video and a contact sheet."""
    from itertools import chain

    from ..applications.painting import paint
    from ..io.drawing import panel_scale, scaled
    from ..io.files import check_writable
    from ..io.overlays import check_picture_name, sheet_frames, write_panels
    from ..io.video import VideoWriter, check_video_name, open_video, writing_rate

    check_files(arguments, ["output", "sheet"], ["video", "texture"])
    if arguments.sheet:
        check_picture_name(arguments.sheet)
    check_writable(check_video_name(arguments.output))
    video, texture = open_video(arguments.video, arguments.allow_truncated), read_texture(arguments.texture)
    frames = paint(load_tracker(arguments), video, texture, arguments.frame, progress=True)
    first = next(frames)  # raises what is wrong with the arguments, before there is a file
    chosen, kept = sheet_frames(arguments.frame, video.num_frames), {}
    aspect = getattr(video, "pixel_aspect", 1)
    with VideoWriter(arguments.output, writing_rate(video), video.height, video.width, aspect) as writer:
        for t, frame in chain([first], frames):
            writer.write(frame, time=video.time(t) - video.time(arguments.frame))
            if arguments.sheet and t in chosen:
                kept[t] = scaled(frame, panel_scale(video.height, video.width))
    print(arguments.output)
    if arguments.sheet:
        write_panels(kept, arguments.sheet)
        print(arguments.sheet)


def read_texture(path: str) -> "np.ndarray":
    """An image as RGBA (H, W, 4), uint8.

    Raises:
        `OSError`: it cannot be read, or has values that cannot become 8 bits.
    """
    import numpy as np

    from ..io.image_files import load_picture, read_image

    picture = load_picture(path)
    if not picture.has_transparency_data:
        colours = read_image(path)
        return np.concatenate([colours, np.full_like(colours[..., :1], 255)], axis=-1)
    return np.asarray(picture.convert("RGBA"))


__all__ = ["add_paint"]
