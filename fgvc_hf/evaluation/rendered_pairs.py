"""Rendered pairs with exact flow and occlusion at every pixel, for the benchmark of flow: no download, and truth that is exact.

Bodies move over a moving background by homographies, half of them bend, and a fifth of the pairs has motion blur; see `render_pairs`.
"""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import torch

from ..data.scene import Random
from ..data.synthetic_pairs import render_pairs
from ..data.textures import natural_image
from .flow_pairs import FlowPair, FlowSample


SIZE = 256  # side of the frames in pixels
NUM_PAIRS = 24
REACH = {"small": 12.0, "large": 120.0}  # pixels; the mean motion is about 7 and 30
FIRST_SEED = 2**50  # held out: training renders from the seeds 2**40 and 2**41 on
TEXTURES, TEXTURE_SIZE = 12, 384  # images that textures are cut from, and their side in pixels


def rendered_pairs(split: str) -> Iterator[FlowPair]:
    """The pairs of a split, `"small"` or `"large"` by their motion; each is rendered when it is read."""
    for number in range(NUM_PAIRS):
        yield FlowPair(f"{split}-{number:02d}", partial(render_sample, split, number))


def render_sample(split: str, number: int) -> FlowSample:
    """The `number`-th pair of a split, the same on every call."""
    seed = FIRST_SEED + number + NUM_PAIRS * list(REACH).index(split)
    pairs = render_pairs(_textures(), [seed], SIZE, REACH[split], stride=1)
    first, second = (255 * pairs.frames[0]).round().byte().permute(0, 2, 3, 1).numpy()
    flow, occluded = pairs.flow[0, 0].numpy(), ~pairs.visible[0, 0].numpy()
    return FlowSample((first, second), flow, np.ones((SIZE, SIZE), bool), occluded)


@cache
def _textures() -> torch.Tensor:
    """Procedural images `(N, 3, S, S)`, uint8."""
    seeds = [FIRST_SEED - 1 - number for number in range(TEXTURES)]
    return (255 * natural_image(TEXTURE_SIZE, 60, 0.4, Random(seeds))).byte()


__all__ = ["REACH", "render_sample", "rendered_pairs"]
