"""`fgvc-hf track-dataset`: track the clips of a whole data set, on one machine or many."""

import argparse

from .options import add_model_options


def add_track_dataset(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "track-dataset",
        help="track points or masks through all clips of a data set",
        description="Track points or masks through all clips of a data set, and write a data set of what is found. The same command again does what is "
        "missing.",
    )
    command.add_argument(
        "source",
        metavar="SRC",
        nargs="?",
        help="a folder of videos, Parquet or WebDataset (.tar) files, or a LeRobotDataset v3; also hf://datasets/USER/NAME",
    )
    command.add_argument("destination", metavar="DST", nargs="?", help="folder of the tracks; made if needed")
    command.add_argument(
        "--inspect", metavar="DST", help="instead: count rows and errors of a data set, and draw a sample of it"
    )
    command.add_argument(
        "--points", metavar="P", help="grid:N or grid:ROWSxCOLUMNS on the first frame, or column:NAME of the source"
    )
    command.add_argument(
        "--masks",
        metavar="P",
        help="instead of points: column:NAME of the source, images whose values are object ids on the first frame",
    )
    command.add_argument(
        "--video", metavar="NAME", help="column, extension or camera of the videos; found if only one can be meant"
    )
    command.add_argument("--engine", default="local", metavar="E", help="local, this process, or ray; default: local")
    command.add_argument(
        "--num-shards", type=int, metavar="N", help="files of the result; default: of about 256 MB before compression"
    )
    command.add_argument(
        "--time-limit", type=float, default=3600, metavar="S", help="seconds for a clip; default: 3600"
    )
    command.add_argument(
        "--actors", type=int, metavar="N", help="of ray: processes at most; default: as many as there is room for"
    )
    command.add_argument("--cpus", type=int, metavar="N", help="of ray: CPU cores of an actor; default: 1")
    command.add_argument(
        "--gpus", type=float, metavar="N", help="of ray: GPUs of an actor, such as 0.5; default: 1 if there are GPUs"
    )
    command.add_argument(
        "--retry-errors",
        action="store_true",
        help="also track the clips again whose error may pass: source, time and tracker",
    )
    command.add_argument(
        "--append-to", metavar="DIR", help="of a LeRobotDataset: also write a copy of it with the tracks as columns"
    )
    command.add_argument("--sample", type=int, metavar="N", help="with --inspect, clips to draw; default: 4")
    add_model_options(command)
    command.set_defaults(run=run_track_dataset)


def run_track_dataset(arguments: argparse.Namespace) -> None:
    """Track, or inspect what was tracked."""
    try:
        import datasets  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        raise ImportError("track-dataset needs datasets and pyarrow: pip install 'fgvc-hf[datasets]'") from None
    if arguments.inspect:
        if arguments.source:
            raise ValueError("--inspect DST takes no SRC.")
        _inspect(arguments)
    else:
        _track(arguments)


def _inspect(arguments: argparse.Namespace) -> None:
    from ..data.dataset_tracking.inspection import inspect_tracks
    from ..data.dataset_tracking.run_options import check_number

    check_number("--sample", arguments.sample, least=0)
    for line in inspect_tracks(arguments.inspect, 4 if arguments.sample is None else arguments.sample):
        print(line)


def _track(arguments: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..data.dataset_tracking.dataset_run import track_dataset
    from ..data.dataset_tracking.run_options import Actors
    from ..io.text_files import printable

    nothing = arguments.points is None and arguments.masks is None
    if nothing or not (arguments.source and arguments.destination):
        raise ValueError("give SRC, DST, and --points or --masks; or --inspect DST.")
    if arguments.sample is not None:
        raise ValueError("--sample is an option of --inspect.")
    given = {"most": arguments.actors, "threads": arguments.cpus, "gpus": arguments.gpus}
    of_actors = {name: value for name, value in given.items() if value is not None}
    logging.disable_progress_bar()
    summary = track_dataset(
        arguments.source,
        arguments.destination,
        arguments.points,
        arguments.masks,
        video=arguments.video,
        engine=arguments.engine,
        actors=Actors(**of_actors) if of_actors else None,
        num_shards=arguments.num_shards,
        time_limit=arguments.time_limit,
        append_to=arguments.append_to,
        retry_errors=arguments.retry_errors,
        progress=True,
        checkpoint=arguments.checkpoint,
        preset=arguments.preset,
        device=arguments.device,
        dtype=arguments.dtype,
        revision=arguments.revision,
    )
    print(
        f"{printable(arguments.destination)}: {summary.rows} rows, {summary.errors} with an error; {summary.added} new"
    )
    if arguments.append_to:
        print(arguments.append_to)


__all__ = ["add_track_dataset"]
