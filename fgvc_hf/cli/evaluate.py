"""`fgvc-hf evaluate`: measure a checkpoint on a benchmark."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.checkpoints import default_checkpoint
from .options import add_model_options, load_tracker, parse_setting
from .outputs import check_files


if TYPE_CHECKING:
    from ..evaluation.baselines import ChainedTracker
    from ..evaluation.flow_baselines import FlowBaseline
    from ..tracker import Tracker


POINT_BASELINES = ("stand-still", "lucas-kanade", "dis")
FLOW_BASELINES = ("dis", "farneback", "zero")


def add_evaluate(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on a benchmark",
        description="Measure a checkpoint on a benchmark, and write every count and average to one JSON file. "
        "Several processes share the videos: torchrun --nproc_per_node N -m fgvc_hf.cli evaluate ...",
    )
    command.add_argument("benchmark", choices=("tapvid", "davis", "boxes", "badja", "jhmdb", "vip", "flow"))
    command.add_argument(
        "--data",
        metavar="DIR",
        required=True,
        help="root folder of the benchmark's data, or the word rendered for pairs of flow that need none",
    )
    command.add_argument("--split", metavar="NAME", help="split of the data")
    command.add_argument(
        "--query-mode", choices=("first", "strided"), default="first", help="of tapvid; default: first"
    )
    command.add_argument("--sequences", nargs="+", metavar="NAME", help="only these videos")
    command.add_argument("--output", metavar="FILE", required=True, help="result as .json")
    command.add_argument("--resume", action="store_true", help="continue an interrupted run of the same output")
    command.add_argument("--save-visuals", metavar="DIR", help="overlays of the best and the worst videos")
    command.add_argument(
        "--baseline",
        choices=tuple(dict.fromkeys(POINT_BASELINES + FLOW_BASELINES)),
        help="instead of a checkpoint. Of points: stand-still, lucas-kanade or dis, at 256x256, or at the size of the video with --preset "
        "accurate. Of flow: dis, farneback or zero, at the size of the frames",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the configuration to change"
    )
    add_model_options(command)
    command.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Measure, write the result, and print a table."""
    from ..evaluation.run import Task, evaluate
    from ..io.files import check_writable

    check_files(arguments, ["output", "save_visuals"], ["data"])
    check_writable(arguments.output)
    arguments.device = arguments.device or gpu_of_process()
    tracker, settings = load_baseline(arguments) if arguments.baseline else load_checkpoint(arguments)
    evaluate(
        tracker,
        Task(arguments.benchmark, arguments.data, arguments.split, arguments.sequences, arguments.query_mode),
        arguments.output,
        settings,
        resume=arguments.resume,
        visuals=arguments.save_visuals,
        report=lambda line: print(f"{line}\n", end="", flush=True),  # whole, for several processes print
    )


def gpu_of_process() -> str | None:
    """The GPU of this process where `torchrun` started several on a machine with GPUs; `None` otherwise."""
    import torch

    rank, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    return f"cuda:{int(rank) % count}" if rank and count else None


def load_baseline(arguments: argparse.Namespace) -> tuple["ChainedTracker | FlowBaseline", dict[str, Any]]:
    """The baseline that the arguments ask for, and what a result states of it.

    Raises:
        `ValueError`: the benchmark has no baselines, or not this one.
    """
    from ..evaluation.baselines import ChainedTracker
    from ..evaluation.flow_baselines import FlowBaseline

    benchmark, name = arguments.benchmark, arguments.baseline
    if benchmark in ("davis", "boxes", "vip"):
        measured = "boxes" if benchmark == "boxes" else "masks"
        raise ValueError(f"--baseline tracks points or finds flow; {benchmark} measures {measured}.")
    accepted = FLOW_BASELINES if benchmark == "flow" else POINT_BASELINES
    if name not in accepted:
        raise ValueError(f"--baseline of {benchmark} must be one of {', '.join(accepted)}, got {name}.")
    size = None if arguments.preset == "accurate" or benchmark == "flow" else (256, 256)
    tracker = FlowBaseline(name) if benchmark == "flow" else ChainedTracker(name, size)
    return tracker, {"size": size, "baseline": name}


def load_checkpoint(arguments: argparse.Namespace) -> tuple["Tracker", dict[str, Any]]:
    """The tracker that the arguments ask for, and what a result states of it."""
    from ..hub.measured_results import weights_fingerprint

    tracker = load_tracker(arguments, **dict(parse_setting(assignment) for assignment in arguments.set))
    config, resizing = tracker.model.config, tracker.processor.image_processor.to_dict()
    return tracker, {
        "checkpoint": arguments.checkpoint or Path(default_checkpoint()).name,
        "weights": weights_fingerprint(tracker.model),
        "dtype": str(tracker.model.dtype).removeprefix("torch."),
        "preset": arguments.preset,
        "input": {key: resizing[key] for key in ("resize_policy", "size", "size_divisor")},
        "config": {name: getattr(config, name) for name in type(config).__annotations__},
    }


__all__ = ["add_evaluate"]
