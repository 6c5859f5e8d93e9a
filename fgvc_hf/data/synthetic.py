"""Rendered clips with the exact position and visibility of every point, on any device. Scenes are stacks of moving layers; see `scene.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F

from .scene import (
    Layer,
    Motion,
    Random,
    blob,
    correspondences,
    ellipse,
    everywhere,
    inside_frame,
    polygon,
    render_frame,
    top_layer,
)
from .textures import body_shading, image_patches, natural_image, raster_texture, sinusoid_texture


MIN_SIZE = 32  # pixels; bodies on a smaller frame are too thin to hold a query
EDGE_MARGIN = 3.0  # pixels from a query to the nearest edge, so that its neighbourhood is on its own layer
GRID_MARGIN = 24.0  # pixels from the queries of a translating texture to the border
GRID_STRIDE = 16
LATE_QUERIES = 0.25  # share of the queries that start after the first frame
CANDIDATES_PER_POINT = 64
CLIP_SHAPES = (blob, polygon, ellipse)


@dataclass(frozen=True)
class SyntheticClip:
    """A rendered clip and its exact ground truth.

    Args:
        frames (`numpy.ndarray` of shape `(T, H, W, 3)`, uint8): RGB.
        queries (`numpy.ndarray` of shape `(N, 3)`, float32): (t, x, y) of each point.
        tracks (`numpy.ndarray` of shape `(N, T, 2)`, float32): (x, y) in pixels, also where the point is occluded.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): In the frame and covered by no other layer.
    """

    frames: np.ndarray
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray


# Motions of clips


def smooth_wave(num_frames: int, rate: float, random: Random) -> torch.Tensor:
    """Sinusoids `(B, num_frames)` that change by at most `rate` per frame and stay bounded in clips of any length."""
    turn = 2 * math.pi / random.uniform(60, 110, 1)
    times = torch.arange(num_frames, dtype=torch.float32, device=random.device)
    return random.uniform(0.7, 1, 1) * rate / turn * (turn * times + random.uniform(0, 2 * math.pi, 1)).sin()


def similarity(centre: torch.Tensor, angle: torch.Tensor, shear: torch.Tensor, log_scale: torch.Tensor):
    """Poses `(..., 3, 3)` that rotate, shear and scale the layer, and put its origin at `centre` `(..., 2)`."""
    cos, sin = log_scale.exp() * angle.cos(), log_scale.exp() * angle.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    x, y = centre.unbind(-1)
    rows = [cos, shear * cos - sin, x, sin, shear * sin + cos, y, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def translation(shift: torch.Tensor) -> torch.Tensor:
    """Poses `(..., 3, 3)` that move the layer's origin by `(..., 2)`."""
    pose = torch.eye(3, dtype=shift.dtype, device=shift.device).repeat(*shift.shape[:-1], 1, 1)
    pose[..., :2, 2] = shift
    return pose


def wandering_motion(
    num_frames: int, anchor: torch.Tensor, speed: float, spin: float, zoom: float, random: Random
) -> Motion:
    """A smooth motion around `anchor` `(B, 2)`: translation, rotation, zoom and a little shear.

    `speed`, `spin` and `zoom` are the largest changes per frame: pixels along each axis, radians and relative scale.
    """
    steps = torch.stack([smooth_wave(num_frames, speed, random) for _ in range(2)], dim=-1)  # (B, T, 2)
    angle, shear = smooth_wave(num_frames, spin, random), smooth_wave(num_frames, zoom / 2, random)
    return Motion(similarity(anchor[:, None] + steps, angle, shear, smooth_wave(num_frames, zoom, random)))


def translation_motion(num_frames: int, velocity: tuple[float, float], device: torch.device | str) -> Motion:
    """A motion of one scene by `velocity` (x, y) in pixels per frame, from the identity at frame 0."""
    times = torch.arange(num_frames, dtype=torch.float32, device=device)
    return Motion(translation(times[None, :, None] * times.new_tensor(velocity)))


# Scenes of clips


def scene_image(size: int, detail: float, saturation: float, random: Random, images: torch.Tensor | None):
    """A texture `(B, 3, size, size)` cut out of `images`, or procedural if there are none."""
    if images is None:
        return natural_image(size, detail, saturation, random)
    check_images(images)
    return image_patches(images, size, (0.7, 1.6), random)


def background_layer(
    num_frames: int, height: int, width: int, random: Random, images: torch.Tensor | None = None
) -> Layer:
    """A slowly panning, rotating and zooming background whose texture covers every frame of the clip."""
    unit = min(height, width) / 256
    centre = torch.tensor([[width / 2, height / 2]], dtype=torch.float32, device=random.device).expand(len(random), 2)
    motion = wandering_motion(num_frames, centre, 1.1 * unit, 0.004, 0.003, random)
    corners = torch.tensor([(0, 0), (width, 0), (0, height), (width, height)], device=random.device).float()
    corners = corners.expand(len(random), 4, 2)
    reach = max(float(motion.to_layer(corners, time).abs().max()) for time in range(num_frames))
    image = scene_image(2 * math.ceil(reach) + 4, 72 * unit, 0.25, random, images)
    return Layer(everywhere, raster_texture(0.9 * image), motion)


def body_layer(
    index: int,
    start: torch.Tensor,
    num_frames: int,
    height: int,
    width: int,
    random: Random,
    images: torch.Tensor | None = None,
) -> Layer:
    """The `index`-th moving body. `start` `(B, 2)` shifts the sequence that spreads the bodies over the frame."""
    unit = min(height, width) / 256
    radius = unit * random.uniform(36, 58)
    shape = CLIP_SHAPES[index % len(CLIP_SHAPES)](radius, random)
    # Multiples of these two constants, the R2 sequence, fill the square evenly
    place = 0.2 + 0.6 * ((start + index * start.new_tensor([0.7548777, 0.5698403])) % 1)
    motion = wandering_motion(num_frames, place * place.new_tensor([width, height]), 3 * unit, 0.02, 0.006, random)
    size = 2 * math.ceil(1.6 * float(radius.max()))
    image = scene_image(size, 0.8 * float(radius.mean()), 0.46, random, images)
    return Layer(shape, raster_texture(image * body_shading(shape, size, radius)), motion)


def random_scene(
    num_frames: int, height: int, width: int, num_bodies: int, random: Random, images: torch.Tensor | None = None
) -> list[Layer]:
    """A background and `num_bodies` bodies, from back to front."""
    start = random.uniform(0, 1, 2)
    bodies = [body_layer(index, start, num_frames, height, width, random, images) for index in range(num_bodies)]
    return [background_layer(num_frames, height, width, random, images), *bodies]


def sample_queries(
    layers: Sequence[Layer], num_frames: int, height: int, width: int, num_points: int, random: Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Visible points of one scene, away from every edge, spread over the layers as evenly as their visible parts allow.

    Returns:
        Frames `(1, num_points)` and positions `(1, num_points, 2)` in pixels of those frames.
    """
    count = CANDIDATES_PER_POINT * num_points
    late = random.chance(LATE_QUERIES, count)
    times = torch.where(late, (random.uniform(0, 1, count) * num_frames).long(), 0)  # (1, count)
    points = random.uniform(0, 1, count, 2) * torch.tensor([width, height], dtype=torch.float32, device=random.device)
    clear = inside_frame(points, height, width, EDGE_MARGIN)
    for layer in layers:
        clear &= layer.distance(points, times).abs() >= EDGE_MARGIN
    times, points = times[clear][None], points[clear][None]
    members = F.one_hot(top_layer(layers, points, times)[0], len(layers))
    rank = (members.cumsum(0) * members).sum(1)  # 1 for the first candidate of each layer, 2 for its second, ...
    chosen = rank.argsort(stable=True)[:num_points]
    return times[:, chosen], points[:, chosen]


def make_clip(layers: Sequence[Layer], times: torch.Tensor, points: torch.Tensor, height: int, width: int):
    """Render the layers of one scene and follow the points `(1, N, 2)` of frames `times` `(1, N)`."""
    frames, tracks, visible = [], [], []
    for time in range(layers[0].motion.pose.shape[1]):
        frame = render_frame(layers, time, height, width)[0].permute(1, 2, 0)
        frames.append((255 * frame).round().byte().cpu().numpy())
        position, seen = correspondences(layers, points, times, time, height, width)
        tracks.append(position[0].cpu().numpy())
        visible.append(seen[0].cpu().numpy())
    queries = torch.cat([times[0, :, None].float(), points[0]], dim=1)
    return SyntheticClip(np.stack(frames), queries.cpu().numpy(), np.stack(tracks, axis=1), np.stack(visible, axis=1))


def check_least(**arguments: tuple[int, int]) -> None:
    """A `ValueError` for an argument that is no whole number, or below its least value."""
    for name, (value, least) in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {value!r}.")
        if value < least:
            raise ValueError(f"{name} is {value}, but it must be at least {least}.")


def check_images(images: torch.Tensor) -> None:
    """Refuse images for textures that are no tensor of uint8 `(N, 3, H, W)`, by a `ValueError`."""
    if not isinstance(images, torch.Tensor):
        raise ValueError(f"images must be a tensor, uint8 of shape (N, 3, H, W), got {type(images).__name__}.")
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0 or images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 of shape (N, 3, H, W), got {images.dtype} of {tuple(images.shape)}.")


def render_clip(
    num_frames: int = 32,
    height: int = 256,
    width: int = 256,
    num_bodies: int = 3,
    num_points: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    images: torch.Tensor | None = None,
) -> SyntheticClip:
    """Render textured bodies that move over a moving background and occlude it and one another.

    No point moves by more than about 6 pixels per frame where the shorter side is 256, and in proportion otherwise.

    Args:
        num_frames, height, width (`int`): Size of the clip, in frames and pixels; the sides at least 32.
        num_bodies (`int`): Bodies over the background, from back to front.
        num_points (`int`): Points to follow. Three of four are queried at frame 0 and the others at a random frame.
        seed (`int`): The same seed gives the same scene, also on another device.
        device (`torch.device` or `str`): Where to render.
        images (`torch.Tensor` of shape `(N, 3, H, W)`, uint8, *optional*): Images that textures are cut from; procedural if not given.

    Raises:
        ValueError: If a size or a number is below its least value, the device is not available, or `images` has another shape or type.
    """
    check_least(num_frames=(num_frames, 1), height=(height, MIN_SIZE), width=(width, MIN_SIZE))
    check_least(num_bodies=(num_bodies, 0), num_points=(num_points, 0))
    random = Random([seed], device)
    layers = random_scene(num_frames, height, width, num_bodies, random, images)
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
    """Render one texture that translates by `velocity`. It is evaluated and not interpolated, so sub-pixel steps are exact.

    The queries form a regular grid on frame 0, kept where they stay at least 24 pixels inside every frame.

    Args:
        num_frames, height, width (`int`): Size of the clip, in frames and pixels; the sides at least 32.
        velocity (`tuple[float, float]`): (x, y) in pixels per frame.
        seed (`int`): Chooses the texture.
        device (`torch.device` or `str`): Where to render.

    Raises:
        ValueError: If a size is below its least value, or if no grid point stays inside the clip.
    """
    check_least(num_frames=(num_frames, 1), height=(height, MIN_SIZE), width=(width, MIN_SIZE))
    texture = sinusoid_texture(Random([seed], device))
    motion = translation_motion(num_frames, velocity, device)
    layers = [Layer(everywhere, texture, motion)]
    centres = (
        torch.arange(GRID_STRIDE / 2, n, GRID_STRIDE, dtype=torch.float32, device=device) for n in (width, height)
    )
    columns, rows = centres
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2)
    shifted = points[:, None] + motion.pose[0, :, :2, 2]
    points = points[inside_frame(shifted, height, width, GRID_MARGIN).all(dim=1)][None]
    if points.shape[1] == 0:
        raise ValueError(
            f"velocity is {velocity}, but over {num_frames} frames of {height}x{width} pixels it must leave at least "
            f"one grid point {GRID_MARGIN:.0f} pixels inside every frame."
        )
    times = torch.zeros(points.shape[:2], dtype=torch.long, device=device)
    return make_clip(layers, times, points, height, width)
