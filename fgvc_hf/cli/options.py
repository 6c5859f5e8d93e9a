"""Options that several commands share, and what they ask for."""

import argparse
import json
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from ..io.checkpoints import PRESETS


if TYPE_CHECKING:
    import numpy as np

    from ..tracker import Tracker


def add_video_option(command: argparse.ArgumentParser) -> None:
    """The video, of commands that read one."""
    command.add_argument("video", metavar="VIDEO", help="a video file, or a folder of frames in name order")
    command.add_argument(
        "--allow-truncated",
        action="store_true",
        help="read a file that was cut off up to there, with a warning, instead of refusing it",
    )


def add_direction_option(command: argparse.ArgumentParser) -> None:
    """In which direction the video is processed."""
    command.add_argument(
        "--direction",
        choices=("forward", "backward", "both"),
        default="forward",
        help="from each prompt to the end, to the start, or both; default: forward",
    )


def add_model_options(command: argparse.ArgumentParser) -> None:
    """The options of all commands that run the model."""
    command.add_argument("--checkpoint", metavar="C", help="name of a bundled checkpoint, folder, or Hub id")
    command.add_argument(
        "--revision", default="main", metavar="R", help="branch, tag or commit of a Hub id; default: main"
    )
    command.add_argument(
        "--preset", choices=tuple(PRESETS), help="resolution and method; default: those of the checkpoint"
    )
    command.add_argument("--device", metavar="D", help="cpu, cuda, mps, ...; default: cuda if there is one, else cpu")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        help="precision of the features; default: bfloat16 if the device multiplies it faster than float32",
    )


def load_tracker(arguments: argparse.Namespace, **config_fields) -> "Tracker":
    """The tracker that the options of [`add_model_options`] ask for, with other fields of the configuration if given."""
    from transformers.utils import logging

    from ..tracker import Tracker

    logging.disable_progress_bar()
    place = arguments.device, arguments.dtype, arguments.revision
    return Tracker.from_pretrained(arguments.checkpoint, arguments.preset, *place, **config_fields)


def parse_points(text: str, form: str) -> "np.ndarray":
    """Points (N, K) of the text of `--points`, of which each is of a form, `"t,x,y"` or `"x,y"`.

    Raises:
        `ValueError`: it has another form.
    """
    import numpy as np

    from ..io.text_numbers import number_in

    try:
        points = [[number_in(value) for value in point.split(",")] for point in text.strip("; ").split(";")]
    except ValueError:
        points = [[]]
    if any(len(point) != len(form.split(",")) for point in points):
        shown = shorten(text.replace("\0", " "), 100, placeholder="...")
        raise ValueError(f'--points must be "{form};{form};...", got "{shown}".')
    return np.array(points)


def parse_setting(assignment: str) -> tuple[str, Any]:
    """Field and value of FIELD=VALUE. The value is JSON, otherwise text; an integer becomes a float where the field is one.

    Raises:
        `ValueError`: there is no equals sign.
    """
    from ..configuration_fgvc import FgvcConfig

    name, equals, value = assignment.partition("=")
    if not equals:
        raise ValueError(f"--set must be FIELD=VALUE, got {assignment!r}.")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return name, value
    return name, float(parsed) if type(parsed) is int and FgvcConfig.__annotations__.get(name) is float else parsed


__all__ = [
    "add_direction_option",
    "add_model_options",
    "add_video_option",
    "load_tracker",
    "parse_points",
    "parse_setting",
]
