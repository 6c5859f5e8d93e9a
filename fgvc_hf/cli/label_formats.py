"""Options of commands that read labels, and write tracks, in the formats of other tools."""

import argparse
import sys
from pathlib import Path
from typing import Any


# As of the table in fgvc_hf/io/formats, which help must not wait for
READ = ("dlc", "sleap", "coco", "posemark", "cvat", "mot")
WRITTEN = ("dlc", "sleap", "coco", "posemark", "cvat", "mot", "nuke", "blender", "after-effects")


OF_OUTPUT = ("output_format", "fps", "first_frame", "images")
OF_LABELS = (
    "--format, --parts, --clip and --min-confidence are of labels of another tool, which are read by --points-file and "
    "--format."
)


def add_format_options(command: argparse.ArgumentParser) -> None:
    """The formats of `--points-file`, `--boxes-file` and `--output`, and what is read and written of them."""
    command.add_argument("--format", choices=READ, help="whose labels the file holds, where its suffix does not tell")
    command.add_argument(
        "--parts", nargs="+", default=[], metavar="NAME", help="of labels, only points of these names"
    )
    command.add_argument("--clip", metavar="NAME", help="of labels of several clips, those of this one")
    command.add_argument(
        "--min-confidence", type=float, metavar="P", help="of predictions, only labels of this confidence or more"
    )
    command.add_argument(
        "--output-format", choices=WRITTEN, help="whose format to write, where the suffix does not tell"
    )
    command.add_argument("--fps", type=float, help="of After Effects: the composition's; default: the video's")
    command.add_argument(
        "--first-frame", type=int, metavar="N", help="of Nuke and Blender: number of the first; default: 1"
    )
    command.add_argument("--images", metavar="FOLDER", help="of DeepLabCut: write labels of images in this folder")


def label_options(arguments: argparse.Namespace) -> bool:
    """Whether an option is given that only labels of another tool have."""
    given = arguments.format, arguments.parts or None, arguments.clip, arguments.min_confidence
    return any(option is not None for option in given)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given of the arguments of [`save_tracks`] that only some formats take; `None` for what was not."""
    return {option: getattr(arguments, option) for option in ("fps", "first_frame", "images")}


def output_options(arguments: argparse.Namespace, video: Any, names: dict[int, Any] | None) -> dict[str, Any]:
    """What [`save_tracks`] needs beside tracks for the format of `--output`: names, and what was given, else what the video tells.

    Raises:
        `ValueError`: the format does not take an option or a name, or the file cannot have this name.
        `ImportError`: a library that writes the format is not installed.
    """
    from ..io.formats.table import TABLE, check_options, find_format

    name = find_format(Path(arguments.output), arguments.output_format, "write")
    options = given_options(arguments)
    told = {"fps": video.fps, "video": arguments.video}
    options |= {
        key: told[key] for key in (TABLE[name].options if name else ()) if options.get(key) is None and key in told
    }
    check_options(name, options)
    if name is not None:
        TABLE[name].check_target(Path(arguments.output), video.num_frames)
        TABLE[name].check_names(list((names or {}).values()))
        if TABLE[name].of_editor and uneven(video):
            print(
                f"fgvc-hf: warning: frames of {arguments.video} are not evenly spaced in time; {TABLE[name].tool} counts them as if they were, "
                "so convert the clip to a constant frame rate first.",
                file=sys.stderr,
            )
    return options | {"names": names}


def uneven(video: Any) -> bool:
    """Whether a frame comes half a frame or more before or after its time at the rate of the video."""
    if video.fps is None:
        return False
    first = video.time(0)
    return any(abs((video.time(t) - first) * video.fps - t) >= 0.5 for t in range(video.num_frames))


__all__ = ["OF_LABELS", "OF_OUTPUT", "add_format_options", "given_options", "label_options", "output_options"]
