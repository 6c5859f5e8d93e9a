"""Files that commands write. Names are checked before there is any work, so that a run does not fail at its end."""

import argparse


def add_drawing_options(command: argparse.ArgumentParser, drawn: str) -> None:
    """`--overlay` and `--sheet`, of commands that draw something over a video."""
    command.add_argument("--overlay", metavar="FILE", help=f"the video with the {drawn} drawn over it, as .mp4")
    command.add_argument("--sheet", metavar="FILE", help=f"six frames with the {drawn} drawn over them, as .png")


def check_drawings(arguments: argparse.Namespace) -> None:
    """Check that `--overlay` and `--sheet` can be written.

    Raises:
        `ValueError`: a name has another suffix.
        `OSError`: a folder does not exist or cannot be written to.
    """
    from ..io.files import check_writable
    from ..io.overlays import check_picture_name
    from ..io.video import check_video_name

    if arguments.sheet:
        check_picture_name(arguments.sheet)
    if arguments.overlay:
        check_writable(check_video_name(arguments.overlay))


def write_drawings(video, draw, arguments: argparse.Namespace) -> list[str]:
    """Write `--overlay` and `--sheet` where they are asked for: frames with `draw` (frame number, frame) applied.

    Returns:
        `list[str]`: the files.
    """
    from ..io.overlays import write_overlay, write_sheet

    written = []
    for path, write in ((arguments.overlay, write_overlay), (arguments.sheet, write_sheet)):
        if path:
            write(video, draw, path)
            written.append(path)
    return written


__all__ = ["add_drawing_options", "check_drawings", "write_drawings"]
