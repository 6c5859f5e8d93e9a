"""The reconstruction loss of checkpoints on videos (Eq. 8), without training.

    python scripts/reconstruction.py --videos HELD_OUT_CLIPS --checkpoint fgvc-joint outputs/mine/last

Every checkpoint sees the same pairs with the same dropped channel. Lower is better.
"""

import argparse
import sys
from pathlib import Path

import torch

from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.training.experiment import load_model, parse_recipe
from fgvc_hf.training.joint import JointTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--checkpoint", nargs="+", required=True)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    arguments = parser.parse_args()
    try:
        recipe = parse_recipe("finetune-small", {"synthetic": "0"})
        videos = VideoFolder(arguments.videos, recipe.crop, recipe.gap, recipe.area, recipe.aspect)
        for name in arguments.checkpoint:
            module = JointTraining(load_model(name), recipe).eval()
            print(f"{name}: {mean_loss(module, videos, arguments):.5f}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


@torch.no_grad()
def mean_loss(module: JointTraining, videos: VideoFolder, arguments: argparse.Namespace) -> float:
    """Mean over the first pairs."""
    total = 0.0
    for number in range(arguments.pairs):
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16"):
            total += float(module(videos[number][None], None, [number])["reconstruction"])
    return total / arguments.pairs


if __name__ == "__main__":
    main()
