"""Scenes of clips to learn tracking from, in batches: what makes points hard to follow, with exact truth.

A camera moves past layers at several depths (parallax); rigid, bending and articulated bodies move by themselves, up to fast, leave the frame and
come back; thin ones hide little and are hidden often; some look exactly alike. `training_clips.py` renders the scenes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .scene import Layer, Motion, Random, Shape, blob, ellipse, everywhere, polygon, strip
from .synthetic import similarity, translation
from .textures import image_patches, sample_raster, texel_centres


BODY_SHAPES = (blob, polygon, strip, ellipse, blob, strip)
PERIODS = (12.0, 120.0)  # frames; of the waves that motions are made of
REACH = 0.75  # share of the frame's side that a body may swing from its place: it leaves the frame and comes back
BODY_RADIUS = (0.07, 0.35)  # in sides of the frame
LIMB_LENGTH = (0.06, 0.14)  # half of it, in the same unit
RASTER = 1.3  # side of a body's raster relative to its diameter
NUM_WAVES = 2  # of the bending of a body
FAR = 1e6  # pixels; distance to a body that is absent. It is interpolated, so it must be finite
MAX_SLOPE = 0.1  # of each of them, so that the bending can be inverted


@dataclass(frozen=True)
class RasterLayer(Layer):
    """A layer that is painted from a raster: much faster than from its functions, which remain its exact truth.

    Args:
        shape, texture, motion: As of [`Layer`].
        raster (`torch.Tensor` of shape `(B, 4, S, S)`): RGB in [0, 1] and the signed distance, at one texel per layer pixel.
        extent (`torch.Tensor` of shape `(B,)`, *optional*): Half the side in layer pixels of the square that the layer lies in; a background
            has none.
        shadow (`float`): Darkness of the shadow that it casts, from 0 to 1.
    """

    raster: torch.Tensor
    extent: torch.Tensor | None
    shadow: float = 0.0


def wave(num_frames: int, rate: torch.Tensor, reach: float, random: Random) -> torch.Tensor:
    """Two sinusoids `(B, num_frames)` of random periods, together changing by at most `rate` `(B,)` per frame, each swinging by at most `reach`."""
    times, total = torch.arange(num_frames, dtype=torch.float32, device=random.device), 0.0
    for _ in range(2):
        period = log_uniform(*PERIODS, random).minimum(2 * math.pi * reach / rate.clamp_min(1e-9))[:, None]
        phase = random.uniform(0, 2 * math.pi, 1)
        total = total + rate[:, None] / 2 * period / (2 * math.pi) * (2 * math.pi * times / period + phase).sin()
    return total


def log_uniform(low: float, high: float, random: Random) -> torch.Tensor:
    """Numbers `(B,)` between two bounds, as often near the one as near the other by their ratio."""
    return low * (high / low) ** random.uniform(0, 1)


def _shifts(num_frames: int, rate: torch.Tensor, reach: float, random: Random) -> torch.Tensor:
    """Shifts `(B, num_frames, 2)` by waves along both axes."""
    return torch.stack([wave(num_frames, rate, reach, random) for _ in range(2)], dim=-1)


def camera(num_frames: int, size: int, random: Random) -> Callable[[torch.Tensor], torch.Tensor]:
    """Poses `(B, T, 3, 3)` by which a camera moves what lies at a nearness `(B,)`: 1 for a body, less for what is farther away.

    The camera pans by up to 10 pixels per frame of 256, turns, zooms and shakes; nearer layers shift and grow more.
    """
    unit, still = size / 256, random.chance(0.15)[:, None]
    rate = log_uniform(0.1, 10, random) * unit
    shifts = _shifts(num_frames, rate, 0.6 * size, random)
    shake = random.normal(num_frames, 2) * (random.uniform(0, 1.2) ** 3 * unit)[:, None, None]
    angle = wave(num_frames, log_uniform(0.0005, 0.015, random), 0.5, random)
    zoom = wave(num_frames, log_uniform(0.0005, 0.02, random), 0.35, random)
    shifts, angle, zoom = ((shifts + shake) * ~still[..., None], angle * ~still, zoom * ~still)
    middle = torch.full((2,), size / 2, dtype=torch.float32, device=random.device)

    def pose(nearness: torch.Tensor) -> torch.Tensor:
        place = middle + shifts * nearness[:, None, None]
        turned = similarity(place, angle, torch.zeros_like(angle), zoom * nearness[:, None])
        return turned @ translation(-middle)

    return pose


def _bending(num_frames: int, radius: torch.Tensor, random: Random) -> tuple[torch.Tensor, ...]:
    """Frequencies, phases and amplitudes of a [`Motion`]: half of the bodies bend, by waves that come and go. Nothing if none does."""
    bends = random.chance(0.5, 1)
    directions = random.uniform(0, 2 * math.pi, NUM_WAVES)
    numbers = 2 * math.pi / (radius[:, None] * random.uniform(0.8, 2.5, NUM_WAVES))
    frequencies = torch.stack([directions.cos(), directions.sin()], dim=-1) * numbers[..., None]
    most = MAX_SLOPE / numbers * bends  # (B, W)
    rates = log_uniform(0.02, 0.3, random)
    swings = torch.stack([_shifts(num_frames, rates, 1.0, random) for _ in range(NUM_WAVES)], dim=2)
    amplitudes = swings.clamp(-1, 1) * most[:, None, :, None] / math.sqrt(2)  # (B, T, W, 2)
    phases = random.uniform(0, 2 * math.pi, NUM_WAVES)
    return (frequencies, phases, amplitudes) if bool(bends.any()) else ()


def _painted(
    shape: Shape, radius: torch.Tensor, largest: float, images: torch.Tensor, random: Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """The raster of a body of at most the `largest` radius with a texture cut out of images, and the body's extent."""
    side = 2 * math.ceil(RASTER * largest)
    points = texel_centres(side, random.device).expand(len(radius), -1, -1)
    distance = shape(points).view(-1, 1, side, side)
    slope = (points.sum(-1) / radius[:, None]).clamp(-1.3, 1.3).view_as(distance)
    light = 1 - 0.2 * random.uniform(0, 1, 1, 1, 1) * slope
    colours = (image_patches(images, side, (0.5, 1.6), random) * light).clamp(0, 1)
    return torch.cat([colours, distance], dim=1), RASTER * radius


def _raster_layer(
    shape: Shape, raster: torch.Tensor, extent: torch.Tensor | None, motion: Motion, shadow: float = 0.0
) -> RasterLayer:
    def texture(points: torch.Tensor) -> torch.Tensor:
        return sample_raster(raster[:, :3], points, "bilinear")

    return RasterLayer(shape, texture, motion, raster, extent, shadow)


def background(images: torch.Tensor, num_frames: int, size: int, view, random: Random) -> RasterLayer:
    """An image at a distance, mirrored at its borders so that it is everywhere, with a little perspective."""
    pose = view(random.uniform(0.25, 1.0)).clone()
    tilt = torch.stack(
        [wave(num_frames, log_uniform(1e-4, 3e-3, random) / size, 0.1 / size, random) for _ in range(2)], -1
    )
    tilted = translation(torch.zeros_like(tilt))
    tilted[..., 2, :2] = tilt
    middle = translation(
        torch.full((2,), size / 2, dtype=torch.float32, device=random.device)
    )  # where the layer's origin is
    raster = image_patches(images, 2 * size, (0.7, 1.6), random)
    return _raster_layer(everywhere, raster, None, Motion(pose @ middle @ tilted))


def body(
    kind: int, images: torch.Tensor, num_frames: int, size: int, view, random: Random, twin: RasterLayer | None = None
) -> tuple[RasterLayer, torch.Tensor]:
    """A body, and its pose without bending: scenery that only the camera moves in a third of the scenes, absent in a fifth.

    Args:
        kind (`int`): Chooses the shape.
        images: As of [`render_training_clips`].
        num_frames, size (`int`): Of the clips.
        view: As [`camera`] gives it.
        random ([`Random`]): One stream per scene.
        twin ([`RasterLayer`], *optional*): A body that this one looks exactly like.
    """
    unit, moves = size / 256, random.chance(2 / 3)
    radius = size * log_uniform(*BODY_RADIUS, random)
    place = random.uniform(-0.05, 1.05, 2) * size
    rate = log_uniform(0.4, 40, random) * unit * moves
    shifts = _shifts(num_frames, rate, REACH * size, random)
    shifts = shifts - shifts[:, :1] * (1 - random.uniform(0, 1, 1, 1))  # on average nearer to its place at the start
    start, spin = (
        random.uniform(-math.pi, math.pi, 1),
        wave(num_frames, log_uniform(0.002, 0.1, random) * moves, 2.0, random),
    )
    growth = wave(num_frames, log_uniform(0.001, 0.03, random) * moves, 0.5, random)
    shear = random.uniform(-0.2, 0.2, 1) + wave(num_frames, log_uniform(0.001, 0.01, random) * moves, 0.2, random)
    pose = view(random.uniform(0.8, 1.5)) @ similarity(place[:, None] + shifts, start + spin, shear, growth)
    motion = Motion(pose, *_bending(num_frames, radius, random))
    if twin is None:
        outline = BODY_SHAPES[kind % len(BODY_SHAPES)](radius, random)
        raster, extent = _painted(outline, radius, size * BODY_RADIUS[1], images, random)
    else:
        outline, raster, extent = twin.shape, twin.raster, twin.extent
    absent = torch.zeros_like(radius)[:, None].masked_fill(random.chance(0.2, 1), FAR)

    def shape(points: torch.Tensor) -> torch.Tensor:
        return outline(points) + absent

    raster = torch.cat([raster[:, :3], raster[:, 3:] + absent[..., None, None]], dim=1)
    return _raster_layer(shape, raster, extent, motion, shadow=0.35 if kind % 2 else 0.0), pose


def limbs(
    trunk: torch.Tensor, images: torch.Tensor, num_frames: int, size: int, random: Random, parts: int = 2
) -> list[RasterLayer]:
    """A chain of thin parts that swing about their joints, the first of them on a body of pose `trunk` `(B, T, 3, 3)`."""
    layers, joint = [], trunk @ translation(size * random.uniform(-0.1, 0.1, 1, 2))
    absent = torch.zeros(len(random), 1, dtype=torch.float32, device=random.device).masked_fill(
        random.chance(0.4, 1), FAR
    )
    for _ in range(parts):
        radius = size * random.uniform(*LIMB_LENGTH)
        outline = strip(radius, random)

        def shape(points: torch.Tensor, outline: Shape = outline) -> torch.Tensor:
            return outline(points) + absent

        angle = random.uniform(-math.pi, math.pi, 1) + wave(num_frames, log_uniform(0.01, 0.25, random), 0.8, random)
        zero, along = torch.zeros_like(angle), torch.stack([radius, torch.zeros_like(radius)], dim=-1)[:, None]
        joint = joint @ similarity(torch.zeros_like(angle)[..., None].expand(*angle.shape, 2), angle, zero, zero)
        pose = joint @ translation(0.95 * along)
        raster, extent = _painted(shape, radius, size * LIMB_LENGTH[1], images, random)
        layers.append(_raster_layer(shape, raster, extent, Motion(pose)))
        joint = joint @ translation(1.9 * along)
    return layers


def training_scene(
    images: torch.Tensor, num_frames: int, size: int, num_bodies: int, random: Random
) -> list[RasterLayer]:
    """A background, bodies of which every third looks like the one before, and two chains of limbs, from back to front."""
    view = camera(num_frames, size, random)
    layers, previous = [background(images, num_frames, size, view, random)], None
    for kind in range(num_bodies):
        previous, pose = body(kind, images, num_frames, size, view, random, previous if kind % 3 == 2 else None)
        layers.append(previous)
        if kind in (1, 3):
            layers += limbs(pose, images, num_frames, size, random)
    return layers


__all__ = ["RasterLayer", "training_scene"]
