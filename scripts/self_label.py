"""Label videos with the tracks of a checkpoint that a forward and a backward pass agree on, to train on with `scripts/train.py --tracks`.

    python scripts/self_label.py VIDEOS TRACKS

Writes TRACKS/NAME.npz for each video VIDEOS/.../NAME.mp4 or folder of images. Videos that have a file already are left alone, so that the same
command goes on after an interruption; other options need another folder. Fast clips, whose points leave the frame soon, need a smaller --length.
"""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from fgvc_hf import Tracker
from fgvc_hf.data.video_folder import clip_name, scaled_frames, video_sources
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.files import check_outputs, check_place_of_folder
from fgvc_hf.io.tracks import save_tracks
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.self_labels import agreed_tracks


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="searched with its subfolders")
    parser.add_argument("tracks", type=Path, help="folder of the tracks")
    parser.add_argument("--checkpoint", default="fgvc-coarse", help="bundled name, folder or Hub id")
    parser.add_argument("--preset", choices=[name for name in PRESETS if name != "paper"], default="balanced")
    parser.add_argument("--short-side", type=int, default=320, help="reduce frames to this, in pixels")
    parser.add_argument("--length", type=int, default=25, help="frames of a part")
    parser.add_argument("--windows", type=int, default=4, help="parts of a video, at most")
    parser.add_argument("--grid", type=int, default=16, help="points along each side of the frame")
    arguments = parser.parse_args()
    for name, least in (("short_side", 32), ("length", 2), ("windows", 1), ("grid", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(arguments, name)}")
    try:
        label(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def label(arguments: argparse.Namespace) -> None:
    check_outputs([arguments.tracks], [arguments.videos])
    check_place_of_folder(arguments.tracks)
    sources = video_sources(arguments.videos)
    names = [clip_name(source) for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{arguments.videos}: has two videos named {twice[0]}; tracks go by the name.")
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    arguments.tracks.mkdir(parents=True, exist_ok=True)
    agreed = points = there = 0
    for name, source in zip(tqdm(names, disable=None, unit=" videos"), sources, strict=True):
        path = arguments.tracks / f"{name}.npz"
        if path.exists():
            there += 1
            continue
        try:
            frames = scaled_frames(source, arguments.short_side)
        except (ValueError, OSError) as error:
            print(f"left out: {error}")
            continue
        if len(frames) < 2:
            print(f"{source}: left out, it has one frame")
            continue
        found = agreed_tracks(tracker, frames, arguments.length, arguments.windows, arguments.grid)
        save_tracks(found, path)
        agreed, points = agreed + found.visible.sum(), points + (found.confidence > 0).sum()
    print(f"{arguments.tracks}: {there} videos had labels; of the others {agreed} of {points} positions agree")


if __name__ == "__main__":
    main()
