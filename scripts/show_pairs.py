"""A picture of synthetic training pairs: both frames, the flow in colour, and the first frame warped from the second by the flow.

    python scripts/show_pairs.py --videos FOLDER --output pairs.png

Black in the last column is occluded in the second frame. Prints the mean difference of the warped frames to the first ones.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fgvc_hf import draw_flow
from fgvc_hf.data.augmentation import change_light
from fgvc_hf.data.scene import Random, pixel_centres
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.io.files import atomic_write, check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.experiment import TEXTURE_SIZE


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos that the textures are cut from")
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--light", action="store_true", help="with the changes of light and colour of training")
    arguments = parser.parse_args()
    try:
        check_outputs([arguments.output], [arguments.videos])
        images = VideoFolder(arguments.videos).texture_images(64, *TEXTURE_SIZE)
        pairs = render_pairs(images, range(arguments.count), arguments.size, arguments.size / 6, stride=1)
        shown = change_light(pairs.frames, Random(range(arguments.count))) if arguments.light else pairs.frames
        picture = np.concatenate([row(pairs, shown, index) for index in range(arguments.count)])
        with atomic_write(arguments.output) as path:
            Image.fromarray(picture).save(path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def row(pairs, shown: torch.Tensor, index: int) -> np.ndarray:
    """One pair, (size, 4 * size, 3)."""
    first, second = pairs.frames[index]
    flow, visible = pairs.flow[index, 0], pairs.visible[index, 0]
    size = first.shape[-1]
    ends = pixel_centres(size, size).view(size, size, 2) + flow
    rebuilt = F.grid_sample(second[None], (ends / size * 2 - 1)[None], align_corners=False)[0]
    error = (rebuilt - first).abs().mean(0)[visible].mean()
    print(f"pair {index}: {visible.float().mean():6.1%} visible, rebuilt to {255 * error:.1f} of 255 levels there")
    parts = [_to_uint8(shown[index, 0]), _to_uint8(shown[index, 1]), draw_flow(flow.numpy(), size / 6)]
    return np.concatenate([*parts, _to_uint8(rebuilt * visible)], axis=1)


def _to_uint8(image: torch.Tensor) -> np.ndarray:
    return (255 * image).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
