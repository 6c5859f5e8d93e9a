"""Rendered clips in which the position and the visibility of every point are known exactly.

A scene is a stack of [`Layer`]s, the background first. A layer has its own coordinates, in pixels, and three parts that
are written independently of each other:

* a shape, a function from layer points to a signed distance in layer pixels, negative inside;
* a texture, a function from layer points to RGB in [0, 1];
* a motion, one affine map from layer to frame per frame.

A frame is drawn by mapping its pixel centres back into every layer, a track by mapping one layer point forward, and
visibility is the sign of the shapes above at the point itself: no rounding to pixels, no tolerance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


Shape = Callable[[torch.Tensor], torch.Tensor]  # (..., 2) -> (...)
Texture = Callable[[torch.Tensor], torch.Tensor]  # (P, 2) -> (P, 3)

MIN_SIZE = 32  # pixels; on a smaller frame the bodies would be too thin to hold a query
EDGE_MARGIN = 3.0  # pixels between a query and the nearest edge, so that its neighbourhood is its own layer
GRID_MARGIN = 24.0  # pixels that the queries of a translating texture keep from the border
GRID_STRIDE = 16
LATE_QUERIES = 0.25  # share of the queries that start after the first frame
CANDIDATES_PER_POINT = 64


@dataclass(frozen=True)
class SyntheticClip:
    """A rendered clip and its exact ground truth.

    Args:
        frames (`numpy.ndarray` of shape `(T, H, W, 3)`, uint8): RGB.
        queries (`numpy.ndarray` of shape `(N, 3)`, float32): (t, x, y) of each point where it is first asked for.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`, float32): (x, y) in pixels, also where the point is hidden.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): in the frame and covered by no other layer.
    """

    frames: np.ndarray
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One opaque textured sheet.

    Args:
        shape: Signed distance of layer points `(..., 2)`, in layer pixels, negative inside; its zero set is the edge.
        texture: RGB in [0, 1] of layer points `(P, 2)`.
        motion (`torch.Tensor` of shape `(T, 2, 3)`): Affine map from layer to frame coordinates at each frame.
    """

    shape: Shape
    texture: Texture
    motion: torch.Tensor

    def to_frame(self, points: torch.Tensor, times) -> torch.Tensor:
        """Frame coordinates of layer points `(..., 2)` at frames `times` (int, or integer tensor that broadcasts)."""
        matrix = self.motion[times]
        return (matrix[..., :2] @ points[..., None])[..., 0] + matrix[..., 2]

    def to_layer(self, points: torch.Tensor, times) -> torch.Tensor:
        """Layer coordinates of frame points: the inverse of [`Layer.to_frame`]."""
        matrix = self.motion[times]
        inverse = torch.linalg.inv(matrix[..., :2])
        return (inverse @ (points - matrix[..., 2])[..., None])[..., 0]

    def distance(self, points: torch.Tensor, times) -> torch.Tensor:
        """Signed distance `(...)` of frame points to the edge in frame pixels, negative inside."""
        scale = torch.linalg.det(self.motion[times][..., :2]).sqrt()
        return self.shape(self.to_layer(points, times)) * scale


class Random:
    """Seeded numbers, drawn on the CPU so that a seed gives the same scene on every device."""

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device

    def uniform(self, low: float, high: float, *size: int) -> torch.Tensor:
        return (low + (high - low) * torch.rand(size, generator=self.generator)).to(self.device)

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return int(torch.randint(low, high, (), generator=self.generator))


# Shapes


def everywhere(points: torch.Tensor) -> torch.Tensor:
    """The shape of a background: no point is ever near its edge."""
    return torch.full_like(points[..., 0], -math.inf)


def ellipse(radius: float, random: Random) -> Shape:
    """An ellipse of half-axes `radius` and 0.55 to 0.85 of it. The distance is exact to first order at the edge."""
    axes = radius * torch.stack([random.uniform(1, 1), random.uniform(0.55, 0.85)])

    def shape(points):
        level = (points / axes).norm(dim=-1)
        slope = (points / axes**2).norm(dim=-1)
        return level * (level - 1) / slope.clamp_min(1e-6)

    return shape


def polygon(radius: float, random: Random) -> Shape:
    """A convex polygon of 5 to 7 sides with rounded corners, around a circle of 0.75 to 0.95 of `radius`."""
    sides = random.integer(5, 8)
    angles = (torch.arange(sides, device=random.device) + random.uniform(-0.15, 0.15, sides)) * (2 * math.pi / sides)
    normals = torch.stack([angles.cos(), angles.sin()])
    offsets = radius * random.uniform(0.75, 0.95, sides)
    rounding = 0.03 * radius

    def shape(points):
        return rounding * torch.logsumexp((points @ normals - offsets) / rounding, dim=-1)

    return shape


def blob(radius: float, random: Random) -> Shape:
    """A smooth star-shaped outline: `radius` times one plus a few angular waves, to first order at the edge."""
    orders = torch.arange(2, 6, device=random.device)
    amplitudes = random.uniform(0.35, 1.0, 4) * 0.32 / orders
    phases = random.uniform(0, 2 * math.pi, 4)

    def shape(points):
        distance = points.norm(dim=-1)
        waves = torch.atan2(points[..., 1], points[..., 0])[..., None] * orders + phases
        outline = radius * (1 + waves.cos() @ amplitudes)
        slope = -radius * (waves.sin() @ (amplitudes * orders)) / distance.clamp_min(0.3 * radius)
        return (distance - outline) / (1 + slope**2).sqrt()

    return shape


SHAPES = (blob, polygon, ellipse)


# Textures


def fractal_noise(size: int, cell: float, octaves: int, channels: int, random: Random) -> torch.Tensor:
    """Smooth noise `(channels, size, size)` of zero mean and unit deviation; its largest bumps span `cell` texels."""
    total = torch.zeros(channels, size, size, device=random.device)
    for octave in range(octaves):
        cells = math.ceil(size * 2**octave / cell) + 1
        lattice = random.uniform(-1, 1, 1, channels, cells, cells)
        total += 0.55**octave * F.interpolate(lattice, (size, size), mode="bicubic")[0]
    return (total - total.mean((1, 2), keepdim=True)) / total.std((1, 2), keepdim=True)


def sample_raster(raster: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bicubic samples `(P, C)` of a raster `(C, S, S)` of one texel per pixel, centred on the origin."""
    grid = points.reshape(1, 1, -1, 2) / (raster.shape[-1] / 2)
    samples = F.grid_sample(raster[None], grid, "bicubic", padding_mode="reflection", align_corners=False)
    return samples[0, :, 0].T


def texel_centres(size: int, device: torch.device | str) -> torch.Tensor:
    """Layer coordinates `(size, size, 2)` of the texels of a raster centred on the origin."""
    axis = torch.arange(size, device=device) + 0.5 - size / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def palette(values: torch.Tensor, saturation: float, random: Random) -> torch.Tensor:
    """Colours `(3, ...)` of values: one cosine per channel, which runs through a few related hues."""
    shape = (3,) + (1,) * values.ndim
    hue = random.uniform(0, 1) + random.uniform(0.15, 0.4, 3).cumsum(0)
    turns = random.uniform(0.12, 0.3, 3)
    return 0.52 + saturation * (2 * math.pi * (turns.view(shape) * values + hue.view(shape))).cos()


def natural_image(size: int, detail: float, saturation: float, random: Random) -> torch.Tensor:
    """A colourful image `(3, size, size)`: warped noise in related hues, patches with crisp edges, veins and grain.

    `detail` is the span in texels of the largest structures.
    """
    warp = 0.35 * detail * fractal_noise(size, 1.5 * detail, 2, 2, random).movedim(0, -1)
    fields = sample_raster(fractal_noise(size, detail, 5, 3, random), texel_centres(size, random.device) + warp)
    tone, patch, vein = fields.T.reshape(3, size, size)
    edge = torch.sigmoid(6 * (patch - 0.3))
    colour = torch.lerp(palette(tone, saturation, random), palette(tone + 1.5, saturation, random), edge)
    veins = 1 - 0.45 * torch.exp(-((vein / 0.09) ** 2))
    grain = 1 + 0.09 * fractal_noise(size, 6, 2, 1, random)
    return (colour * veins * grain).clamp(0, 1)


def raster_texture(raster: torch.Tensor) -> Texture:
    """A texture from an image `(3, S, S)` of one texel per layer pixel, centred on the layer's origin."""
    return lambda points: sample_raster(raster, points).clamp(0, 1)


def body_shading(shape: Shape, size: int, radius: float, device: torch.device | str) -> torch.Tensor:
    """Brightness `(size, size)` of a body lit from its upper left, painted on it so that no point changes colour."""
    points = texel_centres(size, device)
    rim = (-shape(points) / (0.3 * radius)).clamp(0, 1)
    light = 1 - 0.22 * (points.sum(-1) / radius).clamp(-1.3, 1.3)
    return light * (0.45 + 0.55 * (rim * (2 - rim)).sqrt())


def sinusoid_texture(random: Random, waves: int = 40) -> Texture:
    """A sum of plane waves with periods of 6 to 60 pixels: defined at every real point, hence exact at any shift."""
    periods = 6 * 10 ** random.uniform(0, 1, waves)
    directions = random.uniform(0, 2 * math.pi, waves)
    frequencies = torch.stack([directions.cos(), directions.sin()]) * (2 * math.pi / periods)
    phases = random.uniform(0, 2 * math.pi, waves)
    weights = random.uniform(-1, 1, waves, 3)
    weights = weights * (0.17 * math.sqrt(2) / weights.norm(dim=0))  # deviation 0.17 around 0.5: clipping is rare
    return lambda points: (0.5 + (points @ frequencies + phases).sin() @ weights).clamp(0, 1)


# Motions


def smooth_wave(num_frames: int, rate: float, random: Random) -> torch.Tensor:
    """A sinusoid `(num_frames,)` that changes by at most `rate` per frame and stays bounded in clips of any length."""
    turn = 2 * math.pi / random.uniform(60, 110)
    times = torch.arange(num_frames, device=random.device)
    return random.uniform(0.7, 1) * rate / turn * (turn * times + random.uniform(0, 2 * math.pi)).sin()


def wandering_motion(num_frames: int, anchor, speed: float, spin: float, zoom: float, random: Random) -> torch.Tensor:
    """A smooth motion `(num_frames, 2, 3)` around `anchor`: translation, rotation, zoom and a little shear.

    Args:
        anchor (`tuple[float, float]`): Frame point (x, y) about which the layer's origin wanders.
        speed, spin, zoom: Largest change per frame, in pixels along each axis, radians and relative scale.
    """
    x, y = (smooth_wave(num_frames, speed, random) + centre for centre in anchor)
    angle, shear = smooth_wave(num_frames, spin, random), smooth_wave(num_frames, zoom / 2, random)
    scale = smooth_wave(num_frames, zoom, random).exp()
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [cos, shear * cos - sin, x, sin, shear * sin + cos, y]
    return torch.stack(rows, dim=-1).reshape(num_frames, 2, 3)


def translation_motion(num_frames: int, velocity: tuple[float, float], device: torch.device | str) -> torch.Tensor:
    """A motion `(num_frames, 2, 3)` by `velocity` (x, y) in pixels per frame, from the identity at frame 0."""
    motion = torch.eye(2, 3, device=device).repeat(num_frames, 1, 1)
    motion[:, :, 2] = torch.arange(num_frames, device=device)[:, None] * torch.tensor(velocity, device=device)
    return motion


# Scenes


def background_layer(num_frames: int, height: int, width: int, random: Random) -> Layer:
    """A slowly panning, turning and zooming background whose texture covers every frame of the clip."""
    unit = min(height, width) / 256
    motion = wandering_motion(num_frames, (width / 2, height / 2), 1.1 * unit, 0.004, 0.003, random)
    layer = Layer(everywhere, everywhere, motion)
    corners = torch.tensor([(0, 0), (width, 0), (0, height), (width, height)], device=random.device)
    times = torch.arange(num_frames, device=random.device)[:, None]
    reach = layer.to_layer(corners.float(), times).abs().max()
    image = natural_image(2 * math.ceil(reach) + 4, 72 * unit, 0.25, random)
    return Layer(everywhere, raster_texture(0.9 * image), motion)


def body_layer(index: int, start: torch.Tensor, num_frames: int, height: int, width: int, random: Random) -> Layer:
    """The `index`-th moving body. `start` (2,) in [0, 1) shifts the sequence that spreads the bodies over the frame."""
    unit = min(height, width) / 256
    radius = unit * float(random.uniform(36, 58))
    shape = SHAPES[index % len(SHAPES)](radius, random)
    # Multiples of these two constants fill the square evenly however many are taken.
    place = 0.2 + 0.6 * ((start + index * start.new_tensor([0.7548777, 0.5698403])) % 1)
    anchor = (float(place[0]) * width, float(place[1]) * height)
    motion = wandering_motion(num_frames, anchor, 3 * unit, 0.02, 0.006, random)
    size = 2 * math.ceil(1.6 * radius)
    image = natural_image(size, 0.8 * radius, 0.46, random) * body_shading(shape, size, radius, random.device)
    return Layer(shape, raster_texture(image), motion)


def random_scene(num_frames: int, height: int, width: int, num_bodies: int, random: Random) -> list[Layer]:
    """A background and `num_bodies` bodies, from back to front."""
    start = random.uniform(0, 1, 2)
    bodies = [body_layer(index, start, num_frames, height, width, random) for index in range(num_bodies)]
    return [background_layer(num_frames, height, width, random), *bodies]


# Compositing and ground truth


def render_frame(layers: Sequence[Layer], time: int, height: int, width: int) -> torch.Tensor:
    """One frame `(height, width, 3)` in [0, 1], the edges antialiased over one pixel."""
    device = layers[0].motion.device
    rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2)
    image = pixels.new_zeros(len(pixels), 3)
    for layer in layers:
        alpha = (0.5 - layer.distance(pixels, time)).clamp(0, 1)
        covered = alpha > 0
        colour = layer.texture(layer.to_layer(pixels[covered], time))
        image[covered] = torch.lerp(image[covered], colour, alpha[covered, None])
    return image.reshape(height, width, 3)


def render_frames(layers: Sequence[Layer], num_frames: int, height: int, width: int) -> np.ndarray:
    """All frames `(num_frames, height, width, 3)` as uint8."""
    frames = [(255 * render_frame(layers, time, height, width)).round().byte().cpu() for time in range(num_frames)]
    return torch.stack(frames).numpy()


def top_layer(layers: Sequence[Layer], points: torch.Tensor, times) -> torch.Tensor:
    """Index of the frontmost layer that covers each frame point `(..., 2)` at frames `times`."""
    top = torch.zeros(points.shape[:-1], dtype=torch.long, device=points.device)
    for index, layer in enumerate(layers):
        top[layer.distance(points, times) < 0] = index
    return top


def inside_frame(points: torch.Tensor, height: int, width: int, margin: float = 0.0) -> torch.Tensor:
    """Whether points `(..., 2)` lie at least `margin` pixels inside the frame."""
    high = points.new_tensor([width - margin, height - margin])
    return ((points >= margin) & (points < high)).all(dim=-1)


def sample_queries(
    layers: Sequence[Layer], num_frames: int, height: int, width: int, num_points: int, random: Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Visible points away from every edge, spread as evenly over the layers as what can be seen of them allows.

    Returns:
        Frames `(num_points,)` and positions `(num_points, 2)` in pixels of those frames.
    """
    count = CANDIDATES_PER_POINT * num_points
    late = random.uniform(0, 1, count) < LATE_QUERIES
    times = torch.where(late, (random.uniform(0, 1, count) * num_frames).long(), 0)
    points = random.uniform(0, 1, count, 2) * torch.tensor([width, height], device=random.device)
    clear = inside_frame(points, height, width, EDGE_MARGIN)
    for layer in layers:
        clear &= layer.distance(points, times).abs() >= EDGE_MARGIN
    times, points = times[clear], points[clear]
    members = F.one_hot(top_layer(layers, points, times), len(layers))
    rank = (members.cumsum(0) * members).sum(1)  # 1 for the first candidate of each layer, 2 for its second, ...
    chosen = rank.argsort(stable=True)[:num_points]
    return times[chosen], points[chosen]


def follow(layers: Sequence[Layer], times: torch.Tensor, points: torch.Tensor, height: int, width: int):
    """Exact tracks `(N, T, 2)` and visibility `(N, T)` of what is seen at `points` `(N, 2)` of frames `times` `(N,)`."""
    owner = top_layer(layers, points, times)
    every = torch.arange(len(layers[0].motion), device=points.device)
    tracks = points.new_zeros(len(points), len(every), 2)
    for index, layer in enumerate(layers):
        mine = owner == index
        tracks[mine] = layer.to_frame(layer.to_layer(points[mine], times[mine])[:, None], every)
    visible = inside_frame(tracks, height, width) & (top_layer(layers, tracks, every) == owner[:, None])
    return tracks, visible


def make_clip(layers: Sequence[Layer], times: torch.Tensor, points: torch.Tensor, height: int, width: int):
    """Render the layers and follow the points `(N, 2)` seen at frames `times` `(N,)` into a [`SyntheticClip`]."""
    tracks, visible = follow(layers, times, points, height, width)
    queries = torch.cat([times[:, None].float(), points], dim=1)
    frames = render_frames(layers, len(layers[0].motion), height, width)
    return SyntheticClip(frames, queries.cpu().numpy(), tracks.cpu().numpy(), visible.cpu().numpy())


def _check_least(**arguments: tuple[int, int]) -> None:
    for name, (value, least) in arguments.items():
        if value < least:
            raise ValueError(f"{name} is {value}, but it must be at least {least}.")


def render_clip(
    num_frames: int = 32,
    height: int = 256,
    width: int = 256,
    num_bodies: int = 3,
    num_points: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SyntheticClip:
    """Render textured bodies that move over a moving background and hide it and one another.

    No point moves by more than about 6 pixels per frame where the shorter side is 256, and in proportion otherwise.

    Args:
        num_frames, height, width (`int`): Size of the clip, in frames and pixels; the sides at least 32.
        num_bodies (`int`): Bodies over the background, from back to front.
        num_points (`int`): Points to follow. Three of four are queried at frame 0 and the others at a random frame.
        seed (`int`): The same seed gives the same scene, also on another device.
        device (`torch.device` or `str`): Where to render.

    Raises:
        ValueError: If a size or a number is below its least value.
    """
    _check_least(num_frames=(num_frames, 1), height=(height, MIN_SIZE), width=(width, MIN_SIZE))
    _check_least(num_bodies=(num_bodies, 0), num_points=(num_points, 0))
    random = Random(seed, device)
    layers = random_scene(num_frames, height, width, num_bodies, random)
    times, points = sample_queries(layers, num_frames, height, width, num_points, random)
    return make_clip(layers, times, points, height, width)


def translating_texture(
    num_frames: int = 32,
    height: int = 256,
    width: int = 256,
    velocity: tuple[float, float] = (1.0, 0.5),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SyntheticClip:
    """Render one texture that translates by `velocity`, without any interpolation: sub-pixel steps are exact.

    The queries form a regular grid on frame 0, kept where they stay at least 24 pixels inside every frame.

    Args:
        num_frames, height, width (`int`): Size of the clip, in frames and pixels; the sides at least 32.
        velocity (`tuple[float, float]`): (x, y) in pixels per frame.
        seed (`int`): Chooses the texture.
        device (`torch.device` or `str`): Where to render.

    Raises:
        ValueError: If a size is below its least value, or if no grid point stays inside the clip.
    """
    _check_least(num_frames=(num_frames, 1), height=(height, MIN_SIZE), width=(width, MIN_SIZE))
    motion = translation_motion(num_frames, velocity, device)
    layers = [Layer(everywhere, sinusoid_texture(Random(seed, device)), motion)]
    columns, rows = (torch.arange(GRID_STRIDE / 2, side, GRID_STRIDE, device=device) for side in (width, height))
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2)
    points = points[inside_frame(points[:, None] + motion[:, :, 2], height, width, GRID_MARGIN).all(dim=1)]
    if len(points) == 0:
        raise ValueError(
            f"velocity is {velocity}, but over {num_frames} frames of {height}x{width} pixels it must leave at least "
            f"one grid point {GRID_MARGIN:.0f} pixels inside every frame."
        )
    return make_clip(layers, torch.zeros(len(points), dtype=torch.long, device=device), points, height, width)
