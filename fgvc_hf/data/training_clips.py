"""Rendered clips to learn tracking from, in batches, on any device: frames, and exact tracks with visibility."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .clip_disturbance import disturb
from .moving_scenes import RasterLayer, training_scene
from .scene import Motion, Random, expose, inside_frame, pixel_centres, top_layer
from .synthetic import MIN_SIZE, check_images, check_least


CANDIDATES = 16  # places drawn for each point, to spread the points over the layers
LATE = 0.4  # share of points that are queried after the first frame
SHADOW_OFFSET = (0.04, 0.05)  # of a shadow, in sides of the frame
BEND = 0.05  # share of the extent of a layer by which bending may move its border


@dataclass(frozen=True)
class TrainingClips:
    """A batch of B clips of T frames with N tracks each.

    Args:
        frames (`torch.Tensor` of shape `(B, T, 3, H, W)`): RGB in [0, 1].
        queries (`torch.Tensor` of shape `(B, N)`, int64): The frame that each point is given on.
        tracks (`torch.Tensor` of shape `(B, N, T, 2)`): (x, y) in pixels, exact also where a point is hidden.
        visible (`torch.Tensor` of shape `(B, N, T)`, bool): In the frame and covered by no other layer.
        hidden (`torch.Tensor` of shape `(B, N, T)`, bool): Known not to be visible; of real clips, nothing is known of some.
    """

    frames: torch.Tensor
    queries: torch.Tensor
    tracks: torch.Tensor
    visible: torch.Tensor
    hidden: torch.Tensor


def render_training_clips(
    images: torch.Tensor,
    seeds: Sequence[int],
    num_frames: int = 24,
    size: int = 256,
    num_bodies: int = 6,
    num_points: int = 128,
    strength: float = 1.0,
    times: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> TrainingClips:
    """Render a batch of clips; see `moving_scenes.py` for what is in them and `clip_disturbance.py` for what a camera does to them.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`, uint8): Images that textures are cut from.
        seeds (sequence of B `int`): One per clip, on which alone the clip depends.
        num_frames, size (`int`): Frames of a clip, and their side in pixels, at least 32.
        num_bodies (`int`): Most bodies in a scene, without limbs.
        num_points (`int`): Tracks of a clip. Points lie on all layers alike as far as these are visible, up to their outlines.
        strength (`float`): Of the disturbance by light, shutter, lens, noise and compression; 0 for none.
        times (sequence of `int`, *optional*): The T frames that are rendered, in increasing order; all of the clip if not given. Points are
            queried on these alone.
        device (`torch.device` or `str`): Where to render.

    Raises:
        ValueError: a number is below its least value, or `images` has another shape or type.
    """
    check_least(
        num_frames=(num_frames, 2), size=(size, MIN_SIZE), num_bodies=(num_bodies, 0), num_points=(num_points, 1)
    )
    check_images(images)
    if times is not None and not (len(times) and all(0 <= time < num_frames for time in times)):
        raise ValueError(f"times must be one or more frames, 0 to {num_frames - 1}, got {list(times)}.")
    random = Random(seeds, device)
    layers = training_scene(images, num_frames, size, num_bodies, random)
    shutter = torch.where(random.chance(0.25), random.uniform(0.2, 0.9), 0.0) * min(strength, 1)
    chosen = torch.tensor(range(num_frames) if times is None else times, device=random.device)
    frames = [
        expose(layers, time, shutter, lambda moved, time=time: paint(moved, time, size)) for time in chosen.tolist()
    ]
    queries, points = sample_points(layers, chosen, size, num_points, random)
    tracks, visible = follow(layers, points, chosen[queries], chosen, size)
    return TrainingClips(
        disturb(torch.stack(frames, dim=1), random, strength, chosen), queries, tracks, visible, ~visible
    )


# Frames


def paint(layers: Sequence[RasterLayer], time: int, size: int) -> torch.Tensor:
    """One sharp frame of each scene, `(B, 3, size, size)`. A layer is painted where it may be, in the bounding box over the batch."""
    batch, device = len(layers[0].raster), layers[0].raster.device
    centres = pixel_centres(size, size, device=device).view(size, size, 2)
    image = layers[0].raster.new_zeros((batch, 3, size, size))
    for layer in layers:
        if layer.shadow:
            offset = centres.new_tensor(SHADOW_OFFSET) * size
            _blend(
                image,
                layer,
                time,
                centres - offset,
                bounding_box(layer, time, size, offset.tolist()),
                dark=layer.shadow,
            )
        _blend(image, layer, time, centres, bounding_box(layer, time, size))
    return image


def _blend(
    image: torch.Tensor,
    layer: RasterLayer,
    time: int,
    centres: torch.Tensor,
    box: tuple[slice, slice],
    dark: float = 0.0,
):
    """Paint a layer, or its shadow, over a part of the image in place."""
    part = centres[box]
    if not part.numel():
        return
    h, w = part.shape[:2]
    inner = layer.motion.to_layer(part.reshape(1, -1, 2).expand(len(image), -1, -1), time)
    grid = inner.view(-1, h, w, 2) / (layer.raster.shape[-1] / 2)
    if layer.extent is None:
        image[..., box[0], box[1]] = F.grid_sample(layer.raster, grid, "bilinear", "reflection", align_corners=False)
        return
    sample = F.grid_sample(layer.raster, grid, "bilinear", "border", align_corners=False)  # (B, 4, h, w)
    scale = layer.motion.scale(time).view(-1, 1, 1, 1)
    if dark:
        softness = 0.1 * layer.extent.view(-1, 1, 1, 1)
        colour, alpha = image.new_zeros(()), dark * torch.sigmoid(-4 * sample[:, 3:] / softness)
    else:
        colour, alpha = sample[:, :3], (0.5 - sample[:, 3:] * scale).clamp(0, 1)
    below = image[..., box[0], box[1]]
    below += alpha * (colour - below)


def bounding_box(layer: RasterLayer, time: int, size: int, offset: Sequence[float] = (0, 0)) -> tuple[slice, slice]:
    """Rows and columns of the frame that a layer may cover in any scene of the batch, shifted by `offset`."""
    if layer.extent is None:
        return slice(0, size), slice(0, size)
    reach = (1 + BEND) * layer.extent[:, None, None]  # (B, 1, 1)
    corners = reach * reach.new_tensor([(-1, -1), (1, -1), (-1, 1), (1, 1)])
    found = Motion(layer.motion.pose).to_frame(corners, time).flatten(0, 1)  # (4B, 2)
    (x0, y0), (x1, y1) = found.amin(0).tolist(), found.amax(0).tolist()
    limits = [(y0 + offset[1], y1 + offset[1]), (x0 + offset[0], x1 + offset[0])]
    rows, columns = (slice(max(0, math.floor(a)), min(size, max(0, math.ceil(b)))) for a, b in limits)
    return rows, columns


# Truth


def sample_points(
    layers: Sequence[RasterLayer], frames: torch.Tensor, size: int, num_points: int, random: Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices `(B, N)` into the frames `(T,)`, and places `(B, N, 2)`, of queries: as even over the layers as their visible parts allow."""
    count = CANDIDATES * num_points
    late = random.chance(LATE, count)
    index = torch.where(late, (random.uniform(0, 1, count) * (len(frames) - 1)).long(), 0)
    points = random.uniform(0, 1, count, 2) * size
    members = F.one_hot(top_layer(layers, points, frames[index]), len(layers))  # (B, count, layers)
    rank = (members.cumsum(1) * members).sum(2)  # 1 for the first candidate of each layer, 2 for its second, ...
    chosen = rank.argsort(dim=1, stable=True)[:, :num_points]
    return index.gather(1, chosen), points.gather(1, chosen[..., None].expand(-1, -1, 2))


def follow(
    layers: Sequence[RasterLayer], points: torch.Tensor, queries: torch.Tensor, frames: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact positions `(B, N, T, 2)` and visibility `(B, N, T)` of what is seen at `points` `(B, N, 2)` of frames `queries` `(B, N)`, on `frames` `(T,)`."""
    owner = top_layer(layers, points, queries)
    inner = [layer.motion.to_layer(points, queries) for layer in layers]
    tracks, visible = [], []
    for time in frames.tolist():
        place = torch.zeros_like(points)
        for index, layer in enumerate(layers):
            place = torch.where((owner == index)[..., None], layer.motion.to_frame(inner[index], time), place)
        tracks.append(place)
        visible.append(inside_frame(place, size, size) & (top_layer(layers, place, time) == owner))
    return torch.stack(tracks, dim=2), torch.stack(visible, dim=2)


__all__ = ["TrainingClips", "render_training_clips"]
