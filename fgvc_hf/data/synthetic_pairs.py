"""Rendered training pairs: two frames with the exact flow between them, in batches, on any device. Scenes are stacks of layers; see `scene.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .scene import (
    Layer,
    Motion,
    Random,
    blob,
    correspondences,
    ellipse,
    everywhere,
    expose,
    pixel_centres,
    polygon,
    render_frame,
    strip,
)
from .synthetic import MIN_SIZE, check_images, check_least, similarity, translation
from .textures import image_patches, raster_texture


PAIR_SHAPES = (blob, polygon, strip, ellipse, blob, strip)
NUM_WAVES = 3  # of the bending of a body


@dataclass(frozen=True)
class SyntheticPairs:
    """Pairs of frames and the exact flow between them, at the centres of feature cells (every `stride`-th pixel).

    Args:
        frames (`torch.Tensor` of shape `(B, 2, 3, H, W)`): RGB in [0, 1].
        flow (`torch.Tensor` of shape `(B, 2, h, w, 2)`): (x, y) in pixels; `[:, 0]` from frame 0 to frame 1, `[:, 1]` from
            frame 1 to frame 0.
        visible (`torch.Tensor` of shape `(B, 2, h, w)`, bool): Whether the target of the flow is in the frame and not occluded.
    """

    frames: torch.Tensor
    flow: torch.Tensor
    visible: torch.Tensor


def pair_motion(
    anchor: torch.Tensor, size: int, reach: float, upright: bool, random: Random, bend: float = 0.0
) -> Motion:
    """The motion of a layer between two frames: a random similarity with shear and perspective, more often small than large.

    Args:
        anchor (`torch.Tensor` of shape `(B, 2)`): Position of the layer's origin in frame 0.
        size (`int`): Side of the frame in pixels, which wavelengths and perspective are in proportion to.
        reach (`float`): Largest shift, in pixels.
        upright (`bool`): Whether the layer is upright in frame 0, as a background is.
        random ([`Random`]): One stream per pair.
        bend (`float`): Largest bending, in pixels.
    """
    turn, tilt = (0.0, 0.0) if upright else (math.pi, 0.25)
    first = similarity(anchor, random.uniform(-turn, turn), random.uniform(-tilt, tilt), random.uniform(-tilt, tilt))
    heading, length = random.uniform(0, 2 * math.pi), reach * random.uniform(0, 1) ** 2
    shift = torch.stack([heading.cos(), heading.sin()], dim=-1) * length[:, None]
    vigour = random.uniform(0, 1) ** 2  # common factor of rotation, zoom and shear; the square makes large ones rare
    spin, shear, zoom = (vigour * random.uniform(-most, most) for most in (0.5, 0.15, 0.3))
    step = similarity(shift, spin, shear, zoom)
    step[:, 2, :2] = random.uniform(-0.15, 0.15, 2) * vigour[:, None] / size  # perspective
    to_anchor = translation(anchor)
    second = to_anchor @ step @ torch.linalg.inv(to_anchor) @ first
    if not bend:
        return Motion(torch.stack([first, second], dim=1))
    directions = random.uniform(0, 2 * math.pi, NUM_WAVES)
    wave_numbers = 2 * math.pi / (size * random.uniform(0.25, 0.8, NUM_WAVES))
    frequencies = torch.stack([directions.cos(), directions.sin()], dim=-1) * wave_numbers[..., None]
    # Half of the bodies are rigid; no wave bends by a slope of more than 0.1, so that the bending can be inverted
    most = (0.1 / wave_numbers).clamp(max=bend / NUM_WAVES) * random.chance(0.5, 1)
    second_bend = random.uniform(-1, 1, NUM_WAVES, 2) * most[..., None] / math.sqrt(2)
    amplitudes = torch.stack([torch.zeros_like(second_bend), second_bend], dim=1)  # (B, 2, W, 2)
    return Motion(
        torch.stack([first, second], dim=1), frequencies, random.uniform(0, 2 * math.pi, NUM_WAVES), amplitudes
    )


def pair_body(kind: int, images: torch.Tensor, size: int, reach: float, random: Random) -> Layer:
    """A body cut out of an image, anywhere in the frame, with a radius of 8 to 35 % of its side; absent in one of five scenes."""
    radius = size * 0.08 * (0.35 / 0.08) ** random.uniform(0, 1)
    outline = PAIR_SHAPES[kind % len(PAIR_SHAPES)](radius, random)
    absent = torch.zeros_like(radius)[:, None].masked_fill(random.chance(0.2, 1), math.inf)
    motion = pair_motion(random.uniform(-0.05, 1.05, 2) * size, size, reach, False, random, bend=0.05 * size)
    texture = raster_texture(image_patches(images, size, (0.6, 1.6), random), "bilinear")
    return Layer(lambda points: outline(points) + absent, texture, motion)


def pair_background(images: torch.Tensor, size: int, reach: float, random: Random) -> Layer:
    """An image as background; it does not move in a quarter of the scenes."""
    centre = torch.full((len(random), 2), size / 2, dtype=torch.float32, device=random.device)
    moving = pair_motion(centre, size, reach, True, random)
    still = random.chance(0.25, 1, 1)
    second = torch.where(still, moving.pose[:, 0], moving.pose[:, 1])
    patches = image_patches(images, 2 * size, (0.7, 1.6), random)
    motion = Motion(torch.stack([moving.pose[:, 0], second], dim=1))
    return Layer(everywhere, raster_texture(patches, "bilinear"), motion)


def render_pairs(
    images: torch.Tensor,
    seeds: Sequence[int],
    size: int = 256,
    reach: float = 40.0,
    stride: int = 2,
    num_bodies: int = 6,
    device: torch.device | str = "cpu",
) -> SyntheticPairs:
    """Render a batch of training pairs: bodies cut out of images that move over another image.

    Bodies are smooth, angular, round or thin; they move by homographies, and half of them bend. A fifth of the pairs has motion blur.
    `augmentation.py` changes light and colour.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`, uint8): Images that textures are cut from.
        seeds (sequence of B `int`): One per pair, on which alone the pair depends.
        size (`int`): Side of the frames, at least 32.
        reach (`float`): Largest shift of a body in pixels; the background moves by at most half of it.
        stride (`int`): Flow is given at the centre of every `stride`-th pixel.
        num_bodies (`int`): Most bodies in a scene.
        device (`torch.device` or `str`): Where to render.

    Raises:
        ValueError: `size` is below 32, or `images` has another shape or type.
    """
    check_least(size=(size, MIN_SIZE), num_bodies=(num_bodies, 0), stride=(stride, 1))
    check_images(images)
    random = Random(seeds, device)
    background = pair_background(images, size, reach / 2, random)
    layers = [background, *(pair_body(kind, images, size, reach, random) for kind in range(num_bodies))]
    shutter = torch.where(random.chance(0.2), random.uniform(0.2, 0.8), 0.0)
    frames = [
        expose(layers, time, shutter, lambda moved, time=time: render_frame(moved, time, size, size))
        for time in (0, 1)
    ]
    cells = pixel_centres(size, size, stride, device).expand(len(seeds), -1, -1)
    side = -(-size // stride)
    flow, visible = [], []
    for source, target in ((0, 1), (1, 0)):
        positions, seen = correspondences(layers, cells, source, target, size, size)
        flow.append((positions - cells).view(-1, side, side, 2))
        visible.append(seen.view(-1, side, side))
    return SyntheticPairs(torch.stack(frames, dim=1), torch.stack(flow, dim=1), torch.stack(visible, dim=1))
