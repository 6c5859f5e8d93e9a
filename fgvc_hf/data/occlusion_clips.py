"""Rendered clips in which a bar passes in front of the scene: points that are occluded once, with exact truth."""

import numpy as np
import torch

from .scene import Layer, Random
from .synthetic import SyntheticClip, make_clip, random_scene, sample_queries, scene_image, translation_motion
from .textures import raster_texture


NUM_FRAMES, SIZE = 32, 256  # of a clip, in frames and pixels
NUM_BODIES, NUM_POINTS = 3, 256
BAR_SPEED = 6.0  # pixels per frame, from left to right
OCCLUDED_FRAMES, TOLERANCE = (
    8,
    1,
)  # frames that the bar hides a point for, and by how much a point's own motion may change them
FRAMES_AFTER = 4  # visible frames that must follow the occlusion


def occlusion_clip(seed: int, images: torch.Tensor | None = None) -> SyntheticClip:
    """A scene of three bodies, and a textured vertical bar in front that crosses it.

    Args:
        seed (`int`): The same seed gives the same clip.
        images (`torch.Tensor` of shape `(N, 3, H, W)`, uint8, *optional*): Where textures are cut from; procedural if not given.
    """
    random = Random([seed])
    layers = random_scene(NUM_FRAMES, SIZE, SIZE, NUM_BODIES, random, images)
    width = OCCLUDED_FRAMES * BAR_SPEED
    start = float(random.uniform(-width, 40)[0])

    def bar(points: torch.Tensor) -> torch.Tensor:
        return (points[..., 0] - start - width / 2).abs() - width / 2

    image = scene_image(2 * SIZE + 2 * int(width), 24.0, 0.46, random, images)
    layers.append(Layer(bar, raster_texture(image), translation_motion(NUM_FRAMES, (BAR_SPEED, 0.0), "cpu")))
    times, points = sample_queries(layers, NUM_FRAMES, SIZE, SIZE, NUM_POINTS, random)
    return make_clip(layers, times, points, SIZE, SIZE)


def occluded_once(clip: SyntheticClip) -> np.ndarray:
    """Indices of the points queried on the first frame that the bar hides once, for about `OCCLUDED_FRAMES` frames, and that are visible on
    the last `FRAMES_AFTER` frames."""
    changes = (clip.visible[:, 1:] != clip.visible[:, :-1]).sum(axis=1)
    duration = (~clip.visible).sum(axis=1)
    once = (changes == 2) & (np.abs(duration - OCCLUDED_FRAMES) <= TOLERANCE)
    return np.flatnonzero(once & clip.visible[:, -FRAMES_AFTER:].all(axis=1) & (clip.queries[:, 0] == 0))
