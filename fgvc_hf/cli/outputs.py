"""Files that commands write. Names are checked before there is any work, so that a run does not fail at its end."""

import argparse
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager


def add_drawing_options(command: argparse.ArgumentParser, drawn: str) -> None:
    """`--overlay` and `--sheet`, of commands that draw something over a video."""
    command.add_argument("--overlay", metavar="FILE", help=f"the video with the {drawn} drawn over it, as .mp4")
    command.add_argument("--sheet", metavar="FILE", help=f"six frames with the {drawn} drawn over them, as .png")


def check_files(arguments: argparse.Namespace, written: Iterable[str], read: Iterable[str]) -> None:
    """Check that no file that a command writes is one that it reads, or another that it writes.

    Args:
        arguments (`argparse.Namespace`): Of a command with [`add_model_options`], whose checkpoints are read as well.
        written, read (iterable of `str`): Names of arguments that hold paths, lists of them, or nothing.

    Raises:
        `ValueError`: one is.
    """
    from ..io.checkpoints import bundled_checkpoints
    from ..io.files import check_outputs

    def paths(names: Iterable[str]) -> list[str]:
        values = [getattr(arguments, name, None) for name in names]
        return [path for value in values for path in (value if isinstance(value, list) else [value]) if path]

    bundled = bundled_checkpoints()
    inputs = paths([*read, "checkpoint", "compare"])
    check_outputs(paths(written), [bundled.get(path, path) for path in inputs])


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


@contextmanager
def every_name_printed() -> Generator[None]:
    """Within the block, characters that standard output cannot show are escaped, as on standard error: a name of a file, which may be any bytes, must
    not end a command whose work is done."""
    stream = sys.stdout
    before = getattr(stream, "errors", None)
    reconfigure = getattr(stream, "reconfigure", lambda errors: None)  # streams in memory hold everything
    reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        reconfigure(errors=before)


def print_result(action: Callable[[], str]) -> int:
    """Print what an action of a script returns; a user error is one line on standard error, and the exit status 2."""
    from ..io.text_files import one_line

    try:
        with every_name_printed():
            print(action())
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


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


__all__ = [
    "add_drawing_options",
    "check_drawings",
    "check_files",
    "every_name_printed",
    "print_result",
    "write_drawings",
]
