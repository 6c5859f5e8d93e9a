"""Scripts of training as a user runs them, and the files that they read."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fgvc_hf import render_clip


ROOT = Path(__file__).parents[2]


def run(script, *arguments, launcher=()):
    command = [sys.executable, *launcher, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def write_tracks(folder):
    """A file of tracks and the folder of its frames."""
    clip = render_clip(num_frames=4, height=64, width=96, num_points=4, seed=2)
    (folder / "frames" / "one").mkdir(parents=True)
    for t, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / "frames" / "one" / f"{t:05d}.jpg")
    arrays = {"one/points": clip.tracks, "one/occluded": ~clip.visible, "one/size": np.array([96, 64])}
    np.savez(folder / "tracks.npz", **arrays)
    return folder / "tracks.npz", folder / "frames"
