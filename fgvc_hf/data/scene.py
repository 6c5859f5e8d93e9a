"""Scenes of moving textured layers, in batches, with exact ground truth.

A scene is a stack of [`Layer`]s, the background first. A layer has its own coordinates, in pixels, and three independent parts:

* a shape, a function from layer points to a signed distance in layer pixels, negative inside;
* a texture, a function from layer points to RGB in [0, 1];
* a [`Motion`], an invertible map from layer to frame per frame.

A frame is rendered by mapping its pixel centres back into every layer, a correspondence by mapping a layer point forward. Visibility is the
sign of the shapes above at the point itself, without rounding to pixels and without tolerance.

Points are `(B, N, 2)` for a batch of B scenes. Where a function takes `times`, this is one frame number for all points,
or one for each: an integer tensor `(B, N)`.
"""

import math
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..io.checkpoints import check_device


Shape = Callable[[torch.Tensor], torch.Tensor]  # (B, N, 2) -> (B, N)
Texture = Callable[[torch.Tensor], torch.Tensor]  # (B, N, 2) -> (B, N, 3)

DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # random numbers, whatever torch's defaults are
FIELD = 2**14  # numbers of one scene from which on scenes are drawn in parallel threads
INVERSION_STEPS = 10  # fixed-point iterations; with a slope of at most 0.3 the error shrinks to 6e-6 of the bending


class Random:
    """Random numbers for a batch of scenes, one seed each. They are drawn on the CPU, so a seed gives the same scene on every device.

    Raises:
        ValueError: there is no seed, one is no whole number of 64 bits, or the device is not available.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.generators = [_seeded(seed) for seed in seeds]
        if not self.generators:
            raise ValueError("seeds must hold one or more whole numbers, got none.")
        self.device = check_device(device)

    def __len__(self) -> int:
        return len(self.generators)

    def uniform(self, low: float, high: float, *size: int) -> torch.Tensor:
        """Numbers `(B, *size)` in [low, high)."""
        draws = [torch.rand(size, generator=generator, **DRAWN) for generator in self.generators]
        return (low + (high - low) * torch.stack(draws)).to(self.device)

    def normal(self, *size: int) -> torch.Tensor:
        """Standard normal numbers `(B, *size)`; large fields are drawn in threads, or a GPU would wait for them."""

        def draw(generator: torch.Generator) -> torch.Tensor:
            return torch.randn(size, generator=generator, **DRAWN)

        if math.prod(size) < FIELD or len(self) == 1:
            return torch.stack([draw(generator) for generator in self.generators]).to(self.device)
        with ThreadPoolExecutor() as threads:
            return torch.stack(list(threads.map(draw, self.generators))).to(self.device)

    def integer(self, low: int, high: int, *size: int) -> torch.Tensor:
        """Integers `(B, *size)` in [low, high)."""
        draws = [torch.randint(low, high, size, generator=generator, device="cpu") for generator in self.generators]
        return torch.stack(draws).to(self.device)

    def chance(self, probability: float, *size: int) -> torch.Tensor:
        """Booleans `(B, *size)`, true with the given probability."""
        return self.uniform(0, 1, *size) < probability


def _seeded(seed: int) -> torch.Generator:
    try:
        return torch.Generator("cpu").manual_seed(operator.index(seed))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"a seed must be a whole number of 64 bits, got {seed!r}.") from None


def _at(values: torch.Tensor, times) -> torch.Tensor:
    """Values `(B, T, ...)` at `times`: `(B, 1, ...)` for one frame, `(B, N, ...)` for one per point."""
    if isinstance(times, int):
        return values[:, times, None]
    return values[torch.arange(len(values), device=values.device)[:, None], times]


def _project(homography: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points `(B, N, 2)` through homographies `(B, 1 or N, 3, 3)`."""
    if homography.shape[1] == 1:  # a product of matrices is several times faster
        mapped = torch.baddbmm(homography[..., 2], points, homography[:, 0, :, :2].transpose(1, 2))  # (B, N, 3)
    else:
        mapped = (homography[..., :2] * points[..., None, :]).sum(-1) + homography[..., 2]
    return mapped[..., :2] / mapped[..., 2:]


@dataclass(frozen=True)
class Motion:
    """The motion of a layer: a smooth bending of the layer within itself, then a homography, for each frame.

    A bent point v of the layer point u solves v + sum_w amplitude_w sin(frequency_w . v + phase_w) = u. Rendering evaluates the left side; the
    other direction is a fixed-point iteration, which converges while the bending has a slope below one.

    Args:
        pose (`torch.Tensor` of shape `(B, T, 3, 3)`): Homography from bent layer points to frame points.
        frequencies (`torch.Tensor` of shape `(B, W, 2)`), phases (`(B, W)`): The W waves; none by default.
        amplitudes (`torch.Tensor` of shape `(B, T, W, 2)`): Of each wave at each frame, in layer pixels.
    """

    pose: torch.Tensor
    frequencies: torch.Tensor | None = None
    phases: torch.Tensor | None = None
    amplitudes: torch.Tensor | None = None

    def _bending(self, points: torch.Tensor, times) -> torch.Tensor:
        if self.frequencies is None or self.phases is None or self.amplitudes is None:
            return torch.zeros_like(points)
        waves = (points @ self.frequencies.transpose(1, 2) + self.phases[:, None]).sin()  # (B, N, W)
        return (waves[..., None] * _at(self.amplitudes, times)).sum(-2)

    def to_frame(self, points: torch.Tensor, times) -> torch.Tensor:
        """Frame points of layer points."""
        bent = points
        if self.frequencies is not None:
            for _ in range(INVERSION_STEPS):
                bent = points - self._bending(bent, times)
        return _project(_at(self.pose, times), bent)

    def to_layer(self, points: torch.Tensor, times) -> torch.Tensor:
        """Layer points of frame points: the inverse of [`Motion.to_frame`]."""
        bent = _project(torch.linalg.inv(_at(self.pose, times)), points)
        return bent + self._bending(bent, times)

    def scale(self, times) -> torch.Tensor:
        """Frame pixels per layer pixel `(B, 1 or N)` at the origin of the layer."""
        pose = _at(self.pose, times)
        jacobian = pose[..., :2, :2] - pose[..., :2, 2:] * pose[..., 2:, :2] / pose[..., 2:, 2:]
        return (torch.linalg.det(jacobian).abs()).sqrt() / pose[..., 2, 2].abs()


@dataclass(frozen=True)
class Layer:
    """One opaque textured sheet.

    Args:
        shape: Signed distance of layer points, in layer pixels, negative inside.
        texture: RGB in [0, 1] of layer points.
        motion ([`Motion`]): From layer to frame coordinates at each frame.
    """

    shape: Shape
    texture: Texture
    motion: Motion

    def distance(self, points: torch.Tensor, times) -> torch.Tensor:
        """Signed distance `(B, N)` of frame points to the edge in frame pixels, negative inside."""
        return self.shape(self.motion.to_layer(points, times)) * self.motion.scale(times)


LayerKind = TypeVar("LayerKind", bound=Layer)


# Shapes. Their sizes are tensors (B,), one per scene


def everywhere(points: torch.Tensor) -> torch.Tensor:
    """The shape of a background, without an edge."""
    return torch.full_like(points[..., 0], -math.inf)


def ellipse(radius: torch.Tensor, random: Random) -> Shape:
    """An ellipse of half-axes `radius` and 0.55 to 0.85 of it. The distance is exact to first order at the edge."""
    axes = torch.stack([radius, radius * random.uniform(0.55, 0.85)], dim=-1)[:, None]  # (B, 1, 2)

    def shape(points):
        level = (points / axes).norm(dim=-1)
        slope = (points / axes**2).norm(dim=-1)
        return level * (level - 1) / slope.clamp_min(1e-6)

    return shape


def polygon(radius: torch.Tensor, random: Random) -> Shape:
    """A convex polygon of 5 to 7 sides with rounded corners, around a circle of 0.75 to 0.95 of `radius`."""
    sides = random.integer(5, 8)[:, None]  # (B, 1)
    side = torch.arange(7, device=radius.device)
    angles = (side + random.uniform(-0.15, 0.15, 7)) * (2 * math.pi / sides.to(radius.dtype))  # (B, 7)
    normals = torch.stack([angles.cos(), angles.sin()], dim=1)  # (B, 2, 7)
    offsets = radius[:, None] * random.uniform(0.75, 0.95, 7)
    offsets = offsets.masked_fill(side >= sides, math.inf)[:, None]
    rounding = 0.03 * radius[:, None]

    def shape(points):
        return rounding * torch.logsumexp((points @ normals - offsets) / rounding[..., None], dim=-1)

    return shape


def blob(radius: torch.Tensor, random: Random) -> Shape:
    """A smooth star-shaped outline: `radius` times one plus a few angular waves, to first order at the edge."""
    radius = radius[:, None]
    orders = torch.arange(2, 6, dtype=radius.dtype, device=radius.device)
    amplitudes = random.uniform(0.35, 1.0, 4) * 0.32 / orders  # (B, 4)
    phases = random.uniform(0, 2 * math.pi, 4)[:, None]

    def shape(points):
        distance = points.norm(dim=-1)
        waves = torch.atan2(points[..., 1], points[..., 0])[..., None] * orders + phases  # (B, N, 4)
        outline = radius * (1 + (waves.cos() @ amplitudes[..., None])[..., 0])
        slope = -radius * (waves.sin() @ (amplitudes * orders)[..., None])[..., 0] / distance.maximum(0.3 * radius)
        return (distance - outline) / (1 + slope**2).sqrt()

    return shape


def strip(radius: torch.Tensor, random: Random) -> Shape:
    """A thin bent band, like a limb, a rope or a pole: 2 `radius` long, a twentieth to a sixth of that wide."""
    radius = radius[:, None]
    width = radius * random.uniform(0.05, 0.17, 1)
    bend = random.uniform(-0.4, 0.4, 1)

    def shape(points):
        along, across = points[..., 0] / radius, points[..., 1] - bend * radius * (points[..., 0] / radius) ** 2
        slope = (1 + (2 * bend * along) ** 2).sqrt()
        return torch.maximum(across.abs() / slope - width, (along.abs() - 1) * radius)

    return shape


# Compositing and ground truth


def pixel_centres(height: int, width: int, stride: int = 1, device: torch.device | str = "cpu") -> torch.Tensor:
    """Frame points `(N, 2)` of the centres of every `stride`-th pixel, row by row: the centres of the feature cells."""
    rows, columns = (torch.arange(0, n, stride, dtype=torch.float32, device=device) + 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2)


def render_frame(layers: Sequence[Layer], time: int, height: int, width: int) -> torch.Tensor:
    """One frame of each scene, `(B, 3, height, width)` in [0, 1], the edges antialiased over one pixel."""
    pose = layers[0].motion.pose
    points = pixel_centres(height, width, device=pose.device).expand(len(pose), -1, -1)
    image = points.new_zeros(*points.shape[:2], 3)
    for layer in layers:
        inner = layer.motion.to_layer(points, time)
        alpha = (0.5 - layer.shape(inner) * layer.motion.scale(time)).clamp(0, 1)
        image = torch.lerp(image, layer.texture(inner), alpha[..., None])
    return image.transpose(1, 2).reshape(-1, 3, height, width)


def expose(
    layers: Sequence[LayerKind], time: int, shutter: torch.Tensor, paint: Callable[[Sequence[LayerKind]], torch.Tensor]
) -> torch.Tensor:
    """A frame with motion blur: the mean of three instants while the shutter is open.

    Args:
        layers (sequence of [`Layer`]): From back to front, with the poses of two frames or more.
        time (`int`): The frame.
        shutter (`torch.Tensor` of shape `(B,)`): How long the shutter is open, as a share of the time between two frames; 0 for no blur.
        paint: Gives the sharp frame `time` of layers.
    """
    sharp = paint(layers)
    if not bool(shutter.any()):
        return sharp
    before, after = max(time - 1, 0), min(time + 1, layers[0].motion.pose.shape[1] - 1)
    ends = []
    for side in (-0.5, 0.5):
        moved = []
        for layer in layers:
            pose = layer.motion.pose.clone()
            step = (pose[:, after] - pose[:, before]) / (after - before)
            pose[:, time] += side * shutter[:, None, None] * step
            moved.append(replace(layer, motion=replace(layer.motion, pose=pose)))
        ends.append(paint(moved))
    return (sharp + ends[0] + ends[1]) / 3


def top_layer(layers: Sequence[Layer], points: torch.Tensor, times) -> torch.Tensor:
    """Index `(B, N)` of the frontmost layer that covers each frame point."""
    top = torch.zeros(points.shape[:-1], dtype=torch.long, device=points.device)
    for index, layer in enumerate(layers):
        top[layer.distance(points, times) < 0] = index
    return top


def inside_frame(points: torch.Tensor, height: int, width: int, margin: float = 0.0) -> torch.Tensor:
    """Whether points `(..., 2)` lie at least `margin` pixels inside the frame."""
    high = points.new_tensor([width - margin, height - margin])
    return ((points >= margin) & (points < high)).all(dim=-1)


def correspondences(
    layers: Sequence[Layer], points: torch.Tensor, times, target: int, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions at frame `target` of what is visible at frame points `(B, N, 2)` of frames `times`.

    Returns:
        Exact positions `(B, N, 2)`, also where occluded, and visibility `(B, N)`: in the frame and covered by no other layer.
    """
    owner = top_layer(layers, points, times)
    positions = torch.zeros_like(points)
    for index, layer in enumerate(layers):
        moved = layer.motion.to_frame(layer.motion.to_layer(points, times), target)
        positions = torch.where((owner == index)[..., None], moved, positions)
    visible = inside_frame(positions, height, width) & (top_layer(layers, positions, target) == owner)
    return positions, visible
