"""How many points are called hidden while something passes in front of them, and are found again: rendered clips with exact truth.

    python scripts/occlusion.py --preset balanced

A textured bar crosses each clip of 32 frames. Points count that it hides once, for 8 frames or one more or less, and that are visible on all others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from fgvc_hf import Tracker
from fgvc_hf.data.occlusion_clips import (
    FRAMES_AFTER,
    NUM_FRAMES,
    OCCLUDED_FRAMES,
    SIZE,
    TOLERANCE,
    occluded_once,
    occlusion_clip,
)
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.experiment import TEXTURE_SIZE


FOUND = 4.0  # pixels: a point within it of the truth is found again


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="balanced")
    parser.add_argument("--videos", type=Path, help="where textures are cut from; procedural if not given")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seed", type=int, default=5000)
    arguments = parser.parse_args()
    try:
        measure(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def measure(arguments: argparse.Namespace) -> None:
    images = None
    if arguments.videos:
        videos = VideoFolder(arguments.videos, SIZE, (1, 1), (0.5, 1.0), (1.0, 1.8))
        images = videos.texture_images(64, *TEXTURE_SIZE)
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    hidden, found, near = [], [], []
    for number in range(arguments.clips):
        clip = occlusion_clip(arguments.seed + number, images)
        points = occluded_once(clip)
        if not len(points):
            continue
        result = tracker.track(clip.frames, clip.queries[points])
        error = np.linalg.norm(result.tracks - clip.tracks[points], axis=-1)
        occluded = ~clip.visible[points]
        hidden.append(~result.visible[occluded])
        rows, again = np.arange(len(points)), occluded.argmax(axis=1) + occluded.sum(axis=1) + FRAMES_AFTER - 1
        near.append(error[rows, again] < FOUND)
        found.append(near[-1] & result.visible[rows, again])
    near, found, hidden = (np.concatenate(part) for part in (near, found, hidden))
    print(
        f"{len(found)} points hidden for {OCCLUDED_FRAMES} (+-{TOLERANCE}) of {NUM_FRAMES} frames, in {arguments.clips} clips of {SIZE}x{SIZE}"
    )
    print(f"hidden while they were: {hidden.mean():.1%} of frames")
    print(
        f"within {FOUND:g} px of the truth {FRAMES_AFTER} frames after they came back: {near.mean():.1%}; and called visible: {found.mean():.1%}"
    )


if __name__ == "__main__":
    main()
