"""`fgvc-hf flow` and `fgvc-hf match`: dense flow, and the matching probability of one point, between two images."""

import argparse
from pathlib import Path

from .options import add_model_options, load_tracker
from .outputs import check_files


def add_flow(commands) -> None:
    """Add `flow` to a parser's subcommands."""
    command = commands.add_parser(
        "flow",
        help="dense flow between two images",
        description="Dense flow from one image to another of the same size.",
    )
    command.add_argument("images", nargs=2, metavar="IMAGE")
    command.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="flow as .flo (Middlebury), .npz with occlusions, .png in colours, or .exr with the flow back",
    )
    command.add_argument("--stmap", metavar="FILE", help="STMap that warps the second image onto the first, as .exr")
    command.add_argument("--inverse-stmap", metavar="FILE", help="STMap that warps the first onto the second, as .exr")
    command.add_argument(
        "--overlay",
        metavar="FILE",
        help="arrows over the first image, and flow in colours with a colour wheel beside it, as .png",
    )
    add_model_options(command)
    command.set_defaults(run=run_flow)


def add_match(commands) -> None:
    """Add `match` to a parser's subcommands."""
    command = commands.add_parser(
        "match",
        help="matching probability of a point in another image",
        description="The probability of every pixel of an image to show the same as a point of another image, for any two images.",
    )
    command.add_argument("images", nargs=2, metavar="IMAGE")
    command.add_argument("--point", metavar='"x,y"', required=True, help="in pixels of the first image")
    command.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="heat map beside the first image as .png, or probability as .npz",
    )
    add_model_options(command)
    command.set_defaults(run=run_match)


def run_flow(arguments: argparse.Namespace) -> None:
    """Estimate flow, and write it, its maps and its drawing."""
    from ..io.drawing import draw_flow_panels
    from ..io.exr_files import check_exr_name, save_stmap
    from ..io.files import check_writable
    from ..io.flow_files import check_flow_format, save_flow
    from ..io.image_files import read_image
    from ..io.overlays import check_picture_name, write_picture

    check_files(arguments, ["output", "overlay", "stmap", "inverse_stmap"], ["images"])
    check_writable(check_flow_format(arguments.output))
    for path in (arguments.stmap, arguments.inverse_stmap):
        if path:
            check_writable(check_exr_name(path))
    if arguments.overlay:
        check_picture_name(arguments.overlay)
    first, second = (read_image(path) for path in arguments.images)
    tracker = load_tracker(arguments)
    found = tracker.flow(first, second)
    flow, occluded = found.flow, found.occluded
    both_ways = arguments.inverse_stmap or Path(arguments.output).suffix.lower() == ".exr"
    backward = tracker.flow(second, first).flow if both_ways else None
    save_flow(flow, occluded, arguments.output, backward)
    print(arguments.output)
    for path, field in ((arguments.stmap, flow), (arguments.inverse_stmap, backward)):
        if path and field is not None:
            save_stmap(field, path)
            print(path)
    if arguments.overlay:
        write_picture(draw_flow_panels(first, flow, occluded), arguments.overlay)
        print(arguments.overlay)


def run_match(arguments: argparse.Namespace) -> None:
    """Match a point, and write the probability or its picture."""
    import numpy as np

    from ..io.array_files import write_npz
    from ..io.drawing import draw_heat_map, draw_marker, draw_tracks, panel_scale, side_by_side
    from ..io.files import atomic_write, check_writable
    from ..io.image_files import read_image
    from ..io.overlays import check_picture_name, write_picture
    from ..io.text_files import cut
    from ..io.text_numbers import number_in

    check_files(arguments, ["output"], ["images"])
    numbers = Path(arguments.output).suffix.lower() == ".npz"
    check_writable(arguments.output) if numbers else check_picture_name(arguments.output)
    try:
        x, y = (number_in(value) for value in arguments.point.split(","))
    except ValueError:
        raise ValueError(f'--point must be "x,y", got "{cut(arguments.point)}".') from None
    first, second = (read_image(path) for path in arguments.images)
    probability = load_tracker(arguments).match(first, second, point=(x, y))
    if numbers:
        with atomic_write(arguments.output) as temporary:
            write_npz(temporary, point=np.array([x, y]), probability=probability)
    else:
        scale, labels = panel_scale(*first.shape[:2]), [Path(path).name for path in arguments.images]
        marked = draw_tracks(first, np.array([[[x, y]]]), np.ones((1, 1), bool), 0, scale=scale)
        draw_marker(marked, (scale * x, scale * y))
        heat = draw_heat_map(second, probability)
        write_picture(side_by_side([marked, heat], labels), arguments.output)
    print(arguments.output)


__all__ = ["add_flow", "add_match"]
