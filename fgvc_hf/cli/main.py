"""The command line: `fgvc-hf track`, `track-dataset`, `describe`, `propagate`, `paint`, `flow`, `match`, `evaluate`, `demo` and `info`.

Each command is a module that adds its options to the parser, and runs. torch and the rest are imported only when a command runs, so
that help is printed at once.
"""

import argparse
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from .. import __version__
from ..io.text_files import one_line
from ..kernels.process import clean_end, give_home, keep_freed_memory, rest_soon
from .describe import add_describe
from .evaluate import add_evaluate
from .image_pair import add_flow, add_match
from .info import add_info
from .outputs import every_name_printed
from .paint import add_paint
from .propagate import add_propagate
from .serve import add_demo
from .track import add_track
from .track_dataset import add_track_dataset


class CommandParser(argparse.ArgumentParser):
    """The parser of one command: options may stand before, between and after its other arguments."""

    _parsing = False

    def parse_known_args(self, args=None, namespace=None):
        if self._parsing or "--" in (
            args or ()
        ):  # a pass of `parse_known_intermixed_args`, which does not know two dashes
            return super().parse_known_args(args, namespace)
        self._parsing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._parsing = False


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; parsed arguments hold the function of the command as `run`."""
    parser = argparse.ArgumentParser(prog="fgvc-hf", description="Track points, masks and dense flow through video.")
    parser.add_argument("--version", action="version", version=f"fgvc-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for add in (
        add_track,
        add_track_dataset,
        add_describe,
        add_propagate,
        add_paint,
        add_flow,
        add_match,
        add_evaluate,
        add_demo,
        add_info,
    ):
        add(commands)
    return parser


@contextmanager
def warnings_on_a_line() -> Generator[None, None, None]:
    """Within the block, warnings that Python prints are a sentence each, without the place in the code; Pillow's of large pictures are left
    to the error that follows."""

    def on_a_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return f"fgvc-hf: warning: {one_line(message)}\n"

    before = warnings.formatwarning
    warnings.formatwarning = on_a_line  # ty: ignore[invalid-assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
            yield
    finally:
        warnings.formatwarning = before


def main(argv: list[str] | None = None) -> int:
    """
    Run a command. A user error is one line on standard error and exit status 2, without a traceback. A warning is a line as well.

    Ctrl-C ends with status 130, SIGTERM with 143 and SIGHUP with 129; temporary files are removed, and what is finished stays.
    """
    arguments = build_parser().parse_args(argv)
    keep_freed_memory()
    rest_soon()
    give_home()
    try:
        with clean_end(), warnings_on_a_line(), every_name_printed():
            arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"fgvc-hf: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgvc-hf: interrupted", file=sys.stderr)
        return 130
    return 0


__all__ = ["build_parser", "main"]
