"""`fgvc-hf describe`: what points of an image look like, to look for them in videos."""

import argparse

from .options import add_model_options, load_tracker, parse_points
from .outputs import check_files


def add_describe(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "describe",
        help="describe points of an image, to look for them in videos",
        description="Describe points of an image by their features. `fgvc-hf track --queries` looks for them in videos.",
    )
    command.add_argument("image", metavar="IMAGE", help="the image")
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--points", metavar='"x,y;..."', help='positions in pixels of the image, separated by ";"')
    prompt.add_argument("--mask", metavar="FILE", help="an image of object ids; points are spread over each object")
    command.add_argument("--points-per-mask", type=int, default=8, metavar="N", help="how many; default: 8")
    command.add_argument("--output", required=True, metavar="FILE", help="the described points, as .safetensors")
    add_model_options(command)
    command.set_defaults(run=run_describe)


def run_describe(arguments: argparse.Namespace) -> None:
    """Describe points, and write them."""
    from ..io.files import check_writable
    from ..io.image_files import read_image
    from ..io.masks import read_mask
    from ..io.point_queries import check_query_name

    check_files(arguments, ["output"], ["image", "mask"])
    check_writable(check_query_name(arguments.output))
    image = read_image(arguments.image)
    points = parse_points(arguments.points, "x,y") if arguments.points is not None else None
    masks = read_mask(arguments.mask) if arguments.mask else None
    tracker = load_tracker(arguments)
    tracker.describe(image, points, masks, arguments.points_per_mask).save(arguments.output)
    print(arguments.output)


__all__ = ["add_describe"]
