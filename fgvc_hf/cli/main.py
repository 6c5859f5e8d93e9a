"""The command line: `fgvc-hf track`, `propagate`, `paint`, `flow`, `match`, `evaluate`, `demo` and `info`."""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path

from .. import __version__, bundled_checkpoints, default_checkpoint
from ..io.checkpoints import PRESETS, fast_dtype
from ..kernels.process import keep_freed_memory, rest_soon
from .commands import load_checkpoint, run_flow, run_match, run_paint, run_propagate, run_track


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fgvc-hf", description="Follow pixels through video.")
    parser.add_argument("--version", action="version", version=f"fgvc-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    track = commands.add_parser(
        "track",
        help="follow points through a video",
        description="Follow points through a video. Points are (t, x, y): frame number, and pixels of the video, "
        "(0, 0) being the outer corner of the first pixel.",
    )
    track.add_argument("video", metavar="VIDEO", help="a video file, or a folder of frames in name order")
    prompt = track.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--points", metavar='"t,x,y;..."', help='points separated by ";"')
    prompt.add_argument("--points-file", metavar="FILE", help="points as .csv with header t,x,y, or .json, or .npz")
    prompt.add_argument("--grid", type=int, metavar="N", help="N x N points spread evenly over the first frame")
    track.add_argument("--output", metavar="FILE", help="tracks as .csv, .json or .npz")
    track.add_argument("--overlay", metavar="FILE", help="the video with the tracks drawn over it, as .mp4")
    track.add_argument("--sheet", metavar="FILE", help="six frames with the tracks drawn over them, as .png")
    track.add_argument(
        "--compare", nargs="+", default=[], metavar="NAME", help="presets or checkpoints to draw beside it"
    )
    track.add_argument("--threshold", type=float, metavar="P", help="confidence from which a point counts as visible")
    track.add_argument("--direction", choices=("forward", "backward", "both"), default="forward")
    add_model_arguments(track)
    track.set_defaults(run=run_track)

    propagate = commands.add_parser(
        "propagate",
        help="carry masks through a video",
        description="Carry the masks of objects through a video. A mask is a palette or grey image of the size of the video, "
        "whose values are object ids, 0 for the background.",
    )
    propagate.add_argument("video", metavar="VIDEO", help="a video file, or a folder of frames in name order")
    propagate.add_argument("--mask", metavar="FILE", required=True, help="mask of one frame, as .png")
    propagate.add_argument("--frame", type=int, default=0, metavar="T", help="number of that frame; default: 0")
    propagate.add_argument(
        "--output", metavar="DIR", help="new folder for the masks of all frames, 00000.png and so on"
    )
    propagate.add_argument("--overlay", metavar="FILE", help="the video with the masks drawn over it, as .mp4")
    propagate.add_argument("--sheet", metavar="FILE", help="six frames with the masks drawn over them, as .png")
    propagate.add_argument("--direction", choices=("forward", "backward", "both"), default="forward")
    add_model_arguments(propagate)
    propagate.set_defaults(run=run_propagate)

    paint = commands.add_parser(
        "paint",
        help="carry an image painted onto a frame through a video",
        description="Paint an image onto a frame of a video, and carry it through the frames that follow as if it were on the scene.",
    )
    paint.add_argument("video", metavar="VIDEO", help="a video file, or a folder of frames in name order")
    paint.add_argument("--texture", metavar="FILE", required=True, help="image with transparency, of the video's size")
    paint.add_argument("--frame", type=int, default=0, metavar="T", help="frame that it is painted onto; default: 0")
    paint.add_argument("--output", metavar="FILE", required=True, help="the painted video from that frame on, as .mp4")
    paint.add_argument("--sheet", metavar="FILE", help="six frames of it, as .png")
    add_model_arguments(paint)
    paint.set_defaults(run=run_paint)

    flow = commands.add_parser(
        "flow",
        help="dense flow between two images",
        description="Dense flow from one image to another of the same size.",
    )
    flow.add_argument("images", nargs=2, metavar="IMAGE")
    flow.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="flow as .flo (Middlebury), .npz with occlusions, or .png in colours",
    )
    flow.add_argument("--overlay", metavar="FILE", help="the first image with arrows drawn over it, as .png")
    add_model_arguments(flow)
    flow.set_defaults(run=run_flow)

    match = commands.add_parser(
        "match",
        help="where a point of one image may be in another",
        description="Where a point of one image may be in another: the probability of every pixel, for any two images.",
    )
    match.add_argument("images", nargs=2, metavar="IMAGE")
    match.add_argument("--point", metavar='"x,y"', required=True, help="in pixels of the first image")
    match.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="heat map beside the first image as .png, or probability as .npz",
    )
    add_model_arguments(match)
    match.set_defaults(run=run_match)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on a benchmark",
        description="Measure a checkpoint on a benchmark, and write every count and average to one JSON file. "
        "Several processes share the videos: torchrun --nproc_per_node N -m fgvc_hf.cli evaluate ...",
    )
    evaluate.add_argument("benchmark", choices=("tapvid", "davis", "boxes", "badja", "jhmdb", "vip"))
    evaluate.add_argument("--data", metavar="DIR", required=True, help="root folder of the benchmark's data")
    evaluate.add_argument("--split", metavar="NAME", help="split of the data")
    evaluate.add_argument(
        "--query-mode", choices=("first", "strided"), default="first", help="of tapvid; default: first"
    )
    evaluate.add_argument("--sequences", nargs="+", metavar="NAME", help="only these videos")
    evaluate.add_argument("--output", metavar="FILE", required=True, help="result as .json")
    evaluate.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same output")
    evaluate.add_argument("--save-visuals", metavar="DIR", help="overlays of the best and the worst videos")
    evaluate.add_argument(
        "--baseline",
        choices=("stand-still", "lucas-kanade", "dis"),
        help="instead of a checkpoint, at 256x256, or at the size of the video with --preset accurate; points only",
    )
    evaluate.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="setting of the checkpoint"
    )
    add_model_arguments(evaluate)
    evaluate.set_defaults(run=run_evaluate)

    demo = commands.add_parser(
        "demo",
        help="the demo in the browser",
        description="Start the demo, and open it in the browser at the address that is printed. Only this machine can reach it.",
    )
    demo.add_argument("--port", type=int, metavar="N", help="port; default: the first that is free from 7860 on")
    demo.add_argument(
        "--share", choices=("no", "yes"), default="no", help="ask Gradio for a public address as well; default: no"
    )
    demo.set_defaults(run=run_demo)

    info = commands.add_parser("info", help="versions, device, and the checkpoints that ship with the package")
    info.set_defaults(run=run_info)
    return parser


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """What all commands that run the model have in common."""
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
        choices=("float32", "bfloat16"),
        help="precision of the features; default: bfloat16 where the device multiplies it fast",
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command. A user error is one line on standard error and exit status 2, without a traceback."""
    arguments = build_parser().parse_args(argv)
    keep_freed_memory()
    rest_soon()
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"fgvc-hf: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgvc-hf: interrupted", file=sys.stderr)
        return 130
    return 0


# ---- evaluate -----------------------------------------------------------------------------------------------------


def run_evaluate(arguments: argparse.Namespace) -> None:
    from ..evaluation.run import evaluate
    from ..io.files import check_writable

    check_writable(arguments.output)
    if arguments.baseline:
        from ..evaluation.baselines import ChainedTracker

        if arguments.benchmark in ("davis", "boxes", "vip"):
            measured = "boxes" if arguments.benchmark == "boxes" else "masks"
            raise ValueError(f"--baseline tracks points; {arguments.benchmark} measures {measured}.")
        size = None if arguments.preset == "accurate" else (256, 256)
        model, processor, settings = ChainedTracker(arguments.baseline, size), None, {"size": size}
        settings["baseline"] = arguments.baseline
    else:
        model, processor, settings = load_for_evaluation(arguments)
    evaluate(
        arguments.benchmark,
        arguments.data,
        model,
        processor,
        arguments.output,
        settings,
        arguments.split,
        arguments.sequences,
        arguments.resume,
        arguments.save_visuals,
        arguments.query_mode,
        report=lambda line: print(line, flush=True),
    )


def load_for_evaluation(arguments: argparse.Namespace):
    """Model, processor, and what a result says of them."""
    from ..hub.measured_results import weights_fingerprint

    changes = dict(parse_setting(assignment) for assignment in arguments.set)
    model, processor = load_checkpoint(arguments, **changes)
    size = processor.image_processor.to_dict()
    settings = {
        "checkpoint": arguments.checkpoint or Path(default_checkpoint()).name,
        "weights": weights_fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "preset": arguments.preset,
        "input": {key: size[key] for key in ("resize_policy", "size", "size_divisor")},
        "config": {name: getattr(model.config, name) for name in type(model.config).__annotations__},
    }
    return model, processor, settings


def parse_setting(assignment: str):
    """Field and value of FIELD=VALUE; the value is JSON, or else text. A whole number will do where a field is a fraction."""
    from ..configuration_fgvc import FgvcConfig

    name, equals, value = assignment.partition("=")
    if not equals:
        raise ValueError(f"--set must be FIELD=VALUE, got {assignment!r}.")
    try:
        parsed = json.loads(value)
        return name, float(parsed) if type(parsed) is int and FgvcConfig.__annotations__.get(name) is float else parsed
    except ValueError:
        return name, value


# ---- demo ---------------------------------------------------------------------------------------------------------


def run_demo(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the demo needs Gradio: pip install "fgvc-hf[demo]"')
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {arguments.port}.")
    from ..demo.app import launch

    launch(port=arguments.port, share=arguments.share == "yes")


# ---- info ---------------------------------------------------------------------------------------------------------


def run_info(arguments: argparse.Namespace) -> None:
    import torch

    print(f"fgvc-hf {__version__}, Python {platform.python_version()}")
    for name in ("torch", "transformers", "huggingface-hub", "safetensors", "numpy", "pillow", "av"):
        print(f"  {name} {importlib.metadata.version(name)}")
    if torch.cuda.is_available():
        device, description = torch.device("cuda"), torch.cuda.get_device_name()
    else:
        device, description = torch.device("cpu"), f"{torch.get_num_threads()} threads"
    print(f"device: {device} ({description}), {str(fast_dtype(device)).removeprefix('torch.')} by default")
    print("bundled checkpoints:")
    for name, path in bundled_checkpoints().items():
        print(f"  {name}{' (default)' if path == default_checkpoint() else ''}  {path}")
