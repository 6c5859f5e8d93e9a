"""`fgvc-hf track`: track points through a video."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.checkpoints import DEFAULT_CHECKPOINT, PRESETS
from .label_formats import OF_LABELS, OF_OUTPUT, add_format_options, given_options, label_options, output_options
from .options import add_direction_option, add_model_options, add_video_option, load_tracker, parse_points
from .outputs import add_drawing_options, check_drawings, check_files, write_drawings


if TYPE_CHECKING:
    import numpy as np

    from ..io.point_queries import PointQueries
    from ..tracker import Tracker
    from ..tracking.results import PointTracks


def add_track(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "track",
        help="track points through a video",
        description="Track points through a video. Points are (t, x, y): frame number, and pixels of the video. (0, 0) is the "
        "outer corner of the first pixel.",
    )
    add_video_option(command)
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--points", metavar='"t,x,y;..."', help='points separated by ";"')
    prompt.add_argument(
        "--points-file",
        metavar="FILE",
        help="points as .csv with header t,x,y or id,t,x,y, .json or .npz, or labels of another tool",
    )
    prompt.add_argument("--boxes-file", metavar="FILE", help="boxes of MOTChallenge or CVAT, to track boxes")
    prompt.add_argument("--grid", type=int, metavar="N", help="N x N points spread evenly over the first frame")
    prompt.add_argument("--queries", metavar="FILE", help="points of `fgvc-hf describe`, to look for")
    command.add_argument(
        "--queries-from", metavar="IMAGE", help='look for points of an image, of which --points are "x,y;..."'
    )
    add_format_options(command)
    command.add_argument("--output", metavar="FILE", help="tracks as .csv, .json or .npz, or in another tool's format")
    add_drawing_options(command, "tracks")
    command.add_argument(
        "--compare", nargs="+", default=[], metavar="NAME", help="presets or checkpoints to draw beside it"
    )
    command.add_argument("--suggest", type=int, metavar="N", help="print N frames that it would help most to label")
    command.add_argument("--threshold", type=float, metavar="P", help="confidence from which a point is visible")
    add_direction_option(command)
    add_model_options(command)
    command.set_defaults(run=run_track)


def run_track(arguments: argparse.Namespace) -> None:
    """Track, and write tracks and drawings."""
    from ..io.files import check_writable
    from ..io.overlays import drawn_tracks
    from ..io.tracks import check_format, save_tracks
    from ..io.video import open_video
    from ..tracking.blending import say_otherwise

    check_request(arguments)
    if arguments.boxes_file:
        return run_boxes(arguments)
    check_files(arguments, ["output", "overlay", "sheet"], ["video", "points_file", "queries", "queries_from"])
    if arguments.output:
        check_writable(check_format(arguments.output, arguments.output_format))
    check_drawings(arguments)
    video = open_video(arguments.video, arguments.allow_truncated)
    points, names = (None, None) if sought(arguments) else read_prompts(arguments, video)
    written = output_options(arguments, video, names) if arguments.output else {}
    name = arguments.preset or arguments.checkpoint or DEFAULT_CHECKPOINT
    trackers = {name: load_tracker(arguments)}
    trackers |= {name: load_tracker(compared(arguments, name)) for name in arguments.compare}
    options: dict[str, Any] = {"direction": arguments.direction, "threshold": arguments.threshold, "progress": True}
    say_otherwise(__name__)
    tracks = {
        name: tracker.track(video, points, queries=read_queries(arguments, tracker), **options)
        for name, tracker in trackers.items()
    }
    warn_of_labels(tracks.values(), names)
    if arguments.output:
        save_tracks(next(iter(tracks.values())), arguments.output, arguments.output_format, **written)
        print(arguments.output)
    for path in write_drawings(video, drawn_tracks(tracks), arguments):
        print(path)
    if arguments.suggest:
        print_suggestions(next(iter(tracks.values())), arguments.suggest, names)


def warn_of_labels(tracks: Iterable["PointTracks"], names: dict[int, Any] | None) -> None:
    """A line on standard error where labels may be of two points; one of several runs that have it in common."""
    from ..tracking.blending import disagreement_sentence

    found = [disagreement_sentence(one.disagreements, names) for one in tracks if one.disagreements]
    for sentence in dict.fromkeys(found):
        print(f"fgvc-hf: warning: {sentence}.", file=sys.stderr)


def print_suggestions(tracks: "PointTracks", number: int, names: dict[int, Any] | None) -> None:
    """A line for each frame that it would help most to label, with the points by their names, or else their ids."""
    from ..tracking.suggestions import suggest_frames

    for one in suggest_frames(tracks, number):
        points = ", ".join(str(names[obj_id] if names else obj_id) for obj_id in one.object_ids)
        print(f"label frame {one.frame_idx}: point {points} ({one.score:.1f} px of expected error)")


def check_request(arguments: argparse.Namespace) -> None:
    """A `ValueError` if options do not belong together."""
    if not (arguments.output or arguments.overlay or arguments.sheet or arguments.suggest):
        raise ValueError("nothing to write: give --output FILE, --overlay FILE, --sheet FILE, or several of them.")
    if arguments.boxes_file and (arguments.parts or arguments.min_confidence is not None):
        raise ValueError("--parts and --min-confidence are of points; leave them out to track boxes.")
    if arguments.min_confidence is not None and not 0 <= arguments.min_confidence <= 1:
        raise ValueError(f"--min-confidence must be from 0 to 1, got {arguments.min_confidence:g}.")
    if label_options(arguments) and not (arguments.points_file or arguments.boxes_file):
        raise ValueError(OF_LABELS)
    if not arguments.output and any(getattr(arguments, option) is not None for option in OF_OUTPUT):
        raise ValueError("--output-format, --fps, --first-frame and --images are of --output, which is not given.")
    if arguments.suggest is not None and arguments.boxes_file:
        raise ValueError("--suggest is of points; leave it out to track boxes.")
    if arguments.compare and arguments.boxes_file:
        raise ValueError("--compare is of points; leave it out to track boxes.")
    if arguments.compare and not (arguments.overlay or arguments.sheet):
        raise ValueError("--compare is drawn: give --overlay FILE, --sheet FILE, or both.")
    if arguments.queries_from and arguments.points is None:
        raise ValueError('--queries-from needs --points "x,y;...", positions in pixels of that image.')
    if arguments.suggest is not None and arguments.suggest < 1:
        raise ValueError(f"--suggest must be 1 or more, got {arguments.suggest}.")


def sought(arguments: argparse.Namespace) -> bool:
    """Whether points are looked for by what they look like."""
    return bool(arguments.queries or arguments.queries_from)


def read_queries(arguments: argparse.Namespace, tracker: "Tracker") -> "PointQueries | None":
    """The described points of `--queries` or `--queries-from`; `None` without either.

    Raises:
        `ValueError`, `OSError`: they are malformed, or a file cannot be read.
    """
    from ..io.image_files import read_image
    from ..io.point_queries import PointQueries

    if arguments.queries:
        return PointQueries.load(arguments.queries)
    if arguments.queries_from:
        return tracker.describe(read_image(arguments.queries_from), parse_points(arguments.points, "x,y"))
    return None


def run_boxes(arguments: argparse.Namespace) -> None:
    """Track boxes, and write them and drawings."""
    from ..applications.tracked_boxes import track_boxes
    from ..io.files import check_writable
    from ..io.formats.table import check_options, find_format, read_boxes
    from ..io.overlays import drawn_boxes
    from ..io.tracks import save_boxes
    from ..io.video import open_video

    check_files(arguments, ["output", "overlay", "sheet"], ["video", "boxes_file"])
    if arguments.output:
        name = find_format(check_writable(arguments.output), arguments.output_format, "write_boxes")
        check_options(name, given_options(arguments))
    check_drawings(arguments)
    boxes = read_boxes(arguments.boxes_file, arguments.format, arguments.clip)
    video = open_video(arguments.video, arguments.allow_truncated)
    boxes.check(video.num_frames, (video.height, video.width))
    tracker = load_tracker(arguments)
    tracks = track_boxes(tracker, video, boxes, arguments.direction, arguments.threshold, progress=True)
    if arguments.output:
        save_boxes(tracks, arguments.output, arguments.output_format, names=boxes.names)
        print(arguments.output)
    for path in write_drawings(video, drawn_boxes(tracks), arguments):
        print(path)


def compared(arguments: argparse.Namespace, name: str) -> argparse.Namespace:
    """The arguments with another preset, or else with another checkpoint."""
    change = {"preset": name} if name in PRESETS else {"checkpoint": name}
    return argparse.Namespace(**vars(arguments) | change)


def read_prompts(arguments: argparse.Namespace, video) -> tuple[Any, Any]:
    """Points to track, as [`Tracker.track`] takes them, and what they are called, where a file of labels tells.

    Raises:
        `ValueError`, `OSError`: they are malformed, of another clip, or the file cannot be read.
    """
    from ..io.formats.table import find_format
    from ..io.tracks import read_labels

    path = arguments.points_file
    if path is None or find_format(Path(path), arguments.format, "read") is None:
        if label_options(arguments):
            raise ValueError(OF_LABELS)
        return read_points(arguments, video.height, video.width), None
    labels = read_labels(path, arguments.format, arguments.clip)
    labels = labels.select(arguments.parts) if arguments.parts else labels
    if arguments.min_confidence is not None:
        if (labels.confidence == 1).all():
            raise ValueError(f"{path}: holds no label with a confidence below 1; leave out --min-confidence.")
        labels = labels.confident(arguments.min_confidence)
        if not len(labels):
            raise ValueError(f"{path}: holds no label of a confidence of {arguments.min_confidence:g} or more.")
    labels.check(video.num_frames, (video.height, video.width))
    prompts = labels.prompts()
    return prompts, {obj_id: labels.names[obj_id] for obj_id in prompts}


def read_points(arguments: argparse.Namespace, height: int, width: int) -> "np.ndarray | dict[int, np.ndarray]":
    """Labels (t, x, y), with ids where the file has them, of `--points`, `--points-file` or `--grid`.

    Raises:
        `ValueError`, `OSError`: they are malformed, or the file cannot be read.
    """
    from ..io.tracks import read_points_file
    from ..tracking.point_grid import grid_points

    if arguments.points_file:
        return read_points_file(arguments.points_file)
    if arguments.points is None:
        if arguments.grid < 1:
            raise ValueError(f"--grid must be 1 or more, got {arguments.grid}.")
        return grid_points(arguments.grid, height, width)
    return parse_points(arguments.points, "t,x,y")


__all__ = ["add_track"]
