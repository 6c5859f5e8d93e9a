"""Whether points that something passes in front of are called hidden, and found again: rendered clips with exact truth.

    python scripts/occlusion.py --preset balanced

A textured bar crosses each clip of 32 frames. What counts are the points that are hidden once, for
8 frames or one more or less, and seen on all others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from train import TEXTURE_SIZE

from fgvc_hf import load
from fgvc_hf.data.scene import Layer, Random
from fgvc_hf.data.synthetic import (
    SyntheticClip,
    make_clip,
    random_scene,
    sample_queries,
    scene_image,
    translation_motion,
)
from fgvc_hf.data.textures import raster_texture
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.io.checkpoints import PRESETS


FRAMES, SIZE, BODIES, POINTS = 32, 256, 3, 256
HIDDEN, SLACK = 8, 1  # frames
SPEED = 6.0  # of the bar, in pixels per frame
FOUND = 4.0  # pixels
AGAIN = 4  # frames after it came back on which a point has to be found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="balanced")
    parser.add_argument("--videos", type=Path, help="where textures are cut from; made up if not given")
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
    model, processor = load(arguments.checkpoint, arguments.preset)
    hidden, found, near = [], [], []
    for number in range(arguments.clips):
        clip = crossed_clip(arguments.seed + number, images)
        points = passed_points(clip)
        if not len(points):
            continue
        result = model.track(clip.frames, clip.queries[points], processor=processor)
        error = np.linalg.norm(result.tracks - clip.tracks[points], axis=-1)
        gone = ~clip.visible[points]
        hidden.append(~result.visible[gone])
        back = gone.argmax(axis=1) + gone.sum(axis=1) + AGAIN - 1
        rows = np.arange(len(points))
        near.append(error[rows, back] < FOUND)
        found.append(near[-1] & result.visible[rows, back])
    near, found, hidden = (np.concatenate(part) for part in (near, found, hidden))
    print(
        f"{len(found)} points hidden for {HIDDEN} (+-{SLACK}) of {FRAMES} frames, in {arguments.clips} clips of {SIZE}x{SIZE}"
    )
    print(f"hidden while they were: {hidden.mean():.1%} of frames")
    print(
        f"within {FOUND:g} px of the truth {AGAIN} frames after they came back: {near.mean():.1%}; and called visible: {found.mean():.1%}"
    )


def crossed_clip(seed: int, images: torch.Tensor | None) -> SyntheticClip:
    """A scene with a bar in front of it that wanders from left to right."""
    random = Random([seed])
    layers = random_scene(FRAMES, SIZE, SIZE, BODIES, random, images)
    width = HIDDEN * SPEED
    start = float(random.uniform(-width, 40)[0])

    def bar(points: torch.Tensor) -> torch.Tensor:
        return (points[..., 0] - start - width / 2).abs() - width / 2

    image = scene_image(2 * SIZE + 2 * int(width), 24.0, 0.46, random, images)
    layers.append(Layer(bar, raster_texture(image), translation_motion(FRAMES, (SPEED, 0.0), "cpu")))
    times, points = sample_queries(layers, FRAMES, SIZE, SIZE, POINTS, random)
    return make_clip(layers, times, points, SIZE, SIZE)


def passed_points(clip: SyntheticClip) -> np.ndarray:
    """Points asked for on the first frame that are hidden once, for about `HIDDEN` frames, long enough before the end."""
    changes = (clip.visible[:, 1:] != clip.visible[:, :-1]).sum(axis=1)
    about = np.abs((~clip.visible).sum(axis=1) - HIDDEN) <= SLACK
    once = (changes == 2) & about & clip.visible[:, -AGAIN:].all(axis=1)
    return np.flatnonzero(once & (clip.queries[:, 0] == 0))


if __name__ == "__main__":
    main()
