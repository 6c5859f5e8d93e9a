"""The command line: `fgvc-hf track`, `propagate`, `paint`, `flow`, `evaluate` and `info`. torch is imported when there is work for it."""

import argparse
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from . import __version__, bundled_checkpoints, default_checkpoint
from .allocator import keep_freed_memory
from .presets import PRESETS, fast_dtype, load


SHEET_FRAMES = 6


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
    add_model_arguments(flow)
    flow.set_defaults(run=run_flow)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on a benchmark",
        description="Measure a checkpoint on a benchmark, and write every count and average to one JSON file. "
        "Several processes share the videos: torchrun --nproc_per_node N -m fgvc_hf.cli evaluate ...",
    )
    evaluate.add_argument("benchmark", choices=("tapvid", "davis", "badja", "jhmdb", "vip"))
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

    info = commands.add_parser("info", help="versions, device, and the checkpoints that ship with the package")
    info.set_defaults(run=run_info)
    return parser


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """What all commands that run the model have in common."""
    command.add_argument("--checkpoint", metavar="C", help="name of a bundled checkpoint, folder, or Hub id")
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
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"fgvc-hf: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fgvc-hf: interrupted", file=sys.stderr)
        return 130
    return 0


# ---- track --------------------------------------------------------------------------------------------------------


def run_track(arguments: argparse.Namespace) -> None:
    from .tracks import check_format, save_tracks
    from .video import check_video_name, check_writable, open_video

    if not (arguments.output or arguments.overlay or arguments.sheet):
        raise ValueError("nothing to write: give --output FILE, --overlay FILE, --sheet FILE, or several of them.")
    if arguments.output:
        check_writable(check_format(arguments.output))
    if arguments.sheet:
        check_writable(arguments.sheet)
        if Path(arguments.sheet).suffix.lower() != ".png":
            raise ValueError(f"{arguments.sheet}: the name must end in .png.")
    if arguments.overlay:
        check_writable(check_video_name(arguments.overlay))
    video = open_video(arguments.video)
    points = read_prompt(arguments, video)
    model, processor = load_checkpoint(arguments)
    tracks = model.track(
        video, points, arguments.direction, processor, threshold=arguments.threshold, show_progress_bar=True
    )
    if arguments.output:
        save_tracks(tracks, arguments.output)
        print(arguments.output)
    if arguments.overlay:
        write_overlay(video, tracks, arguments.overlay)
        print(arguments.overlay)
    if arguments.sheet:
        write_sheet(video, tracks, arguments.sheet)
        print(arguments.sheet)


def read_prompt(arguments: argparse.Namespace, video):
    """The points (N, 3) that the arguments ask for."""
    import numpy as np

    from .tracks import read_points_file

    if arguments.points_file:
        return read_points_file(arguments.points_file)
    if arguments.points is not None:
        prompts = arguments.points.strip("; ").split(";")
        try:
            points = [[float(value) for value in prompt.split(",")] for prompt in prompts]
        except ValueError:
            points = [[]]
        if any(len(point) != 3 for point in points):
            raise ValueError(f'--points must be "t,x,y;t,x,y;...", got "{arguments.points}".')
        return np.array(points)
    if arguments.grid < 1:
        raise ValueError(f"--grid must be 1 or more, got {arguments.grid}.")
    centres = (np.arange(arguments.grid) + 0.5) / arguments.grid
    x, y = np.meshgrid(centres * video.width, centres * video.height)
    return np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1)


def load_checkpoint(arguments: argparse.Namespace, **settings):
    """Model and processor that the arguments ask for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return load(arguments.checkpoint, arguments.preset, arguments.device, arguments.dtype, **settings)


def write_overlay(video, tracks, path: str) -> None:
    """The video with the tracks drawn over it, at the source's frame times."""
    from tqdm import tqdm

    from .video import VideoWriter
    from .visualization import draw_tracks

    fps = video.fps or 24
    with VideoWriter(path, fps, video.height, video.width) as writer:
        for t, frame in enumerate(tqdm(video.frames(), desc="drawing", unit=" frames", disable=None)):
            drawn = draw_tracks(frame, tracks.tracks, tracks.visible, t, ids=tracks.object_ids)
            writer.write(drawn, time=video.time(t))


def write_sheet(video, tracks, path: str) -> None:
    """Frames spread evenly over the video, with the tracks drawn over them, in one picture."""
    import numpy as np
    from PIL import Image

    from .video import atomic_write
    from .visualization import contact_sheet, draw_tracks

    length = tracks.tracks.shape[1]
    chosen = set(np.linspace(0, length - 1, min(SHEET_FRAMES, length)).round().astype(int).tolist())
    drawn = [
        draw_tracks(frame, tracks.tracks, tracks.visible, t, ids=tracks.object_ids)
        for t, frame in enumerate(video.frames())
        if t in chosen
    ]
    with atomic_write(path) as temporary:
        Image.fromarray(contact_sheet(drawn)).save(temporary)


# ---- propagate ----------------------------------------------------------------------------------------------------


def run_propagate(arguments: argparse.Namespace) -> None:
    from contextlib import ExitStack

    import numpy as np

    from .masks import atomic_folder, read_mask, write_mask
    from .video import VideoWriter, check_video_name, check_writable, open_video
    from .visualization import draw_masks

    if not arguments.output and not arguments.overlay:
        raise ValueError("nothing to write: give --output DIR, --overlay FILE, or both.")
    if arguments.overlay:
        check_writable(check_video_name(arguments.overlay))
    video, mask = open_video(arguments.video), read_mask(arguments.mask)
    model, processor = load_checkpoint(arguments)
    masks = np.zeros((video.num_frames, video.height, video.width), dtype=np.uint8)
    found = model.propagate_masks(video, mask, arguments.frame, arguments.direction, processor, show_progress_bar=True)
    for t, ids in found:
        masks[t] = ids
    with ExitStack() as stack:
        if arguments.output:
            folder = stack.enter_context(atomic_folder(arguments.output))
            for t, ids in enumerate(masks):
                write_mask(folder / f"{t:05d}.png", ids)
        if arguments.overlay:
            size = (video.height, video.width)
            writer = stack.enter_context(VideoWriter(arguments.overlay, video.fps or 24, *size))
            for t, frame in enumerate(video.frames()):
                writer.write(draw_masks(frame, masks[t]), time=video.time(t))
    for path in (arguments.output, arguments.overlay):
        if path:
            print(path)


# ---- paint --------------------------------------------------------------------------------------------------------


def run_paint(arguments: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from .textures_fgvc import paint
    from .video import VideoWriter, check_video_name, check_writable, open_video

    check_writable(check_video_name(arguments.output))
    video = open_video(arguments.video)
    try:
        texture = np.asarray(Image.open(arguments.texture).convert("RGBA"))
    except UnidentifiedImageError:
        raise ValueError(f"{arguments.texture}: is no image.") from None
    model, processor = load_checkpoint(arguments)
    frames = paint(model, video, texture, arguments.frame, processor, show_progress_bar=True)
    t, first = next(frames)  # what is wrong with the arguments shows here, before there is a file
    with VideoWriter(arguments.output, video.fps or 24, video.height, video.width) as writer:
        writer.write(first, time=video.time(t))
        for t, frame in frames:
            writer.write(frame, time=video.time(t))
    print(arguments.output)


# ---- flow ---------------------------------------------------------------------------------------------------------


def run_flow(arguments: argparse.Namespace) -> None:
    from .flow_files import check_flow_format, save_flow
    from .video import check_writable, read_image

    check_writable(check_flow_format(arguments.output))
    first, second = (read_image(path) for path in arguments.images)
    model, processor = load_checkpoint(arguments)
    found = model.flow(first, second, processor)
    save_flow(found.flow, found.occluded, arguments.output)
    print(arguments.output)


# ---- evaluate -----------------------------------------------------------------------------------------------------


def run_evaluate(arguments: argparse.Namespace) -> None:
    from .evaluation.run import evaluate
    from .video import check_writable

    check_writable(arguments.output)
    if arguments.baseline:
        from .evaluation.baselines import ChainedTracker

        if arguments.benchmark in ("davis", "vip"):
            raise ValueError(f"--baseline tracks points; {arguments.benchmark} measures masks.")
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
    changes = dict(parse_setting(assignment) for assignment in arguments.set)
    model, processor = load_checkpoint(arguments, **changes)
    size = processor.image_processor.to_dict()
    settings = {
        "checkpoint": arguments.checkpoint or Path(default_checkpoint()).name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "preset": arguments.preset,
        "input": {key: size[key] for key in ("resize_policy", "size", "size_divisor")},
        "config": {name: getattr(model.config, name) for name in type(model.config).__annotations__},
    }
    return model, processor, settings


def parse_setting(assignment: str):
    """Field and value of FIELD=VALUE; the value is JSON, or else text. A whole number will do where a field is a fraction."""
    from .configuration_fgvc import FgvcConfig

    name, equals, value = assignment.partition("=")
    if not equals:
        raise ValueError(f"--set must be FIELD=VALUE, got {assignment!r}.")
    try:
        parsed = json.loads(value)
        return name, float(parsed) if type(parsed) is int and FgvcConfig.__annotations__.get(name) is float else parsed
    except ValueError:
        return name, value


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


if __name__ == "__main__":
    sys.exit(main())
