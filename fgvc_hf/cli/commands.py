"""The commands that follow, match and draw. torch and the rest are imported when there is work for them, so that help comes at once."""

import argparse
from pathlib import Path

from ..io.checkpoints import DEFAULT_CHECKPOINT, PRESETS, load


def load_checkpoint(arguments: argparse.Namespace, **settings):
    """Model and processor that the arguments ask for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = arguments.device, arguments.dtype, arguments.revision
    return load(arguments.checkpoint, arguments.preset, *place, **settings)


# ---- track --------------------------------------------------------------------------------------------------------


def run_track(arguments: argparse.Namespace) -> None:
    from ..io.files import check_writable
    from ..io.overlays import check_picture_name, drawn_tracks, write_overlay, write_sheet
    from ..io.tracks import check_format, save_tracks
    from ..io.video import check_video_name, open_video

    if not (arguments.output or arguments.overlay or arguments.sheet):
        raise ValueError("nothing to write: give --output FILE, --overlay FILE, --sheet FILE, or several of them.")
    if arguments.compare and not (arguments.overlay or arguments.sheet):
        raise ValueError("--compare is drawn: give --overlay FILE, --sheet FILE, or both.")
    if arguments.output:
        check_writable(check_format(arguments.output))
    if arguments.sheet:
        check_picture_name(arguments.sheet)
    if arguments.overlay:
        check_writable(check_video_name(arguments.overlay))
    video = open_video(arguments.video)
    points = read_prompt(arguments, video)
    runs = {arguments.preset or arguments.checkpoint or DEFAULT_CHECKPOINT: load_checkpoint(arguments)}
    runs |= {name: load_checkpoint(compared(arguments, name)) for name in arguments.compare}
    settings = {"threshold": arguments.threshold, "show_progress_bar": True}
    shown = {
        name: model.track(video, points, arguments.direction, processor, **settings)
        for name, (model, processor) in runs.items()
    }
    if arguments.output:
        save_tracks(next(iter(shown.values())), arguments.output)
        print(arguments.output)
    for path, write in ((arguments.overlay, write_overlay), (arguments.sheet, write_sheet)):
        if path:
            write(video, drawn_tracks(shown), path)
            print(path)


def compared(arguments: argparse.Namespace, name: str) -> argparse.Namespace:
    """The arguments with another preset, or with another checkpoint."""
    change = {"preset": name} if name in PRESETS else {"checkpoint": name}
    return argparse.Namespace(**vars(arguments) | change)


def read_prompt(arguments: argparse.Namespace, video):
    """The points (N, 3) that the arguments ask for."""
    import numpy as np

    from ..io.tracks import read_points_file

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


# ---- propagate ----------------------------------------------------------------------------------------------------


def run_propagate(arguments: argparse.Namespace) -> None:
    from contextlib import ExitStack

    import numpy as np

    from ..io.drawing import draw_masks
    from ..io.files import atomic_folder, check_writable
    from ..io.masks import read_mask, write_mask
    from ..io.overlays import check_picture_name, write_overlay, write_sheet
    from ..io.video import check_video_name, open_video

    if not (arguments.output or arguments.overlay or arguments.sheet):
        raise ValueError("nothing to write: give --output DIR, --overlay FILE, --sheet FILE, or several of them.")
    if arguments.sheet:
        check_picture_name(arguments.sheet)
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
        for path, write in ((arguments.overlay, write_overlay), (arguments.sheet, write_sheet)):
            if path:
                write(video, lambda t, frame: draw_masks(frame, masks[t]), path)
    for path in (arguments.output, arguments.overlay, arguments.sheet):
        if path:
            print(path)


# ---- paint --------------------------------------------------------------------------------------------------------


def run_paint(arguments: argparse.Namespace) -> None:
    from itertools import chain

    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from ..applications.painting import paint
    from ..io.drawing import contact_sheet
    from ..io.files import check_writable
    from ..io.overlays import check_picture_name, sheet_frames, write_picture
    from ..io.video import VideoWriter, check_video_name, open_video

    if arguments.sheet:
        check_picture_name(arguments.sheet)
    check_writable(check_video_name(arguments.output))
    video = open_video(arguments.video)
    try:
        texture = np.asarray(Image.open(arguments.texture).convert("RGBA"))
    except UnidentifiedImageError:
        raise ValueError(f"{arguments.texture}: is no image.") from None
    model, processor = load_checkpoint(arguments)
    frames = paint(model, video, texture, arguments.frame, processor, show_progress_bar=True)
    t, first = next(frames)  # what is wrong with the arguments shows here, before there is a file
    chosen, kept = sheet_frames(arguments.frame, video.num_frames), []
    with VideoWriter(arguments.output, video.fps or 24, video.height, video.width) as writer:
        for t, frame in chain([(t, first)], frames):
            writer.write(frame, time=video.time(t))
            if arguments.sheet and t in chosen:
                kept.append(frame)
    print(arguments.output)
    if arguments.sheet:
        write_picture(contact_sheet(kept), arguments.sheet)
        print(arguments.sheet)


# ---- flow ---------------------------------------------------------------------------------------------------------


def run_flow(arguments: argparse.Namespace) -> None:
    from ..io.drawing import draw_arrows
    from ..io.files import check_writable
    from ..io.flow_files import check_flow_format, save_flow
    from ..io.overlays import check_picture_name, write_picture
    from ..io.video import read_image

    check_writable(check_flow_format(arguments.output))
    if arguments.overlay:
        check_picture_name(arguments.overlay)
    first, second = (read_image(path) for path in arguments.images)
    model, processor = load_checkpoint(arguments)
    found = model.flow(first, second, processor)
    save_flow(found.flow, found.occluded, arguments.output)
    print(arguments.output)
    if arguments.overlay:
        write_picture(draw_arrows(first, found.flow, found.occluded), arguments.overlay)
        print(arguments.overlay)


# ---- match --------------------------------------------------------------------------------------------------------


def run_match(arguments: argparse.Namespace) -> None:
    import numpy as np

    from ..applications.heat_map import match_heat_map
    from ..io.drawing import draw_heat_map, draw_tracks, side_by_side
    from ..io.files import atomic_write, check_writable
    from ..io.overlays import check_picture_name, write_picture
    from ..io.video import read_image

    numbers = Path(arguments.output).suffix.lower() == ".npz"
    check_writable(arguments.output) if numbers else check_picture_name(arguments.output)
    try:
        x, y = (float(value) for value in arguments.point.split(","))
    except ValueError:
        raise ValueError(f'--point must be "x,y", got "{arguments.point}".') from None
    first, second = (read_image(path) for path in arguments.images)
    model, processor = load_checkpoint(arguments)
    probability = match_heat_map(model, processor, first, second, (x, y))
    if numbers:
        with atomic_write(arguments.output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, point=np.array([x, y]), probability=probability)
    else:
        marked = draw_tracks(first, np.array([[[x, y]]]), np.ones((1, 1), bool), 0)
        labels = [Path(path).name for path in arguments.images]
        write_picture(side_by_side([marked, draw_heat_map(second, probability)], labels), arguments.output)
    print(arguments.output)
