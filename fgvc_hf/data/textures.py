"""Textures of the layers of scenes, in batches: procedural ones, and patches of images."""

import math

import torch
import torch.nn.functional as F

from .scene import Random, Shape, Texture


def fractal_noise(size: int, cell: float, octaves: int, channels: int, random: Random) -> torch.Tensor:
    """Smooth noise `(B, channels, size, size)`, zero mean and unit deviation; its largest bumps span `cell` texels."""
    total = torch.zeros((len(random), channels, size, size), dtype=torch.float32, device=random.device)
    for octave in range(octaves):
        cells = math.ceil(size * 2**octave / cell) + 1
        lattice = random.uniform(-1, 1, channels, cells, cells)
        total += 0.55**octave * F.interpolate(lattice, (size, size), mode="bicubic")
    return (total - total.mean((2, 3), keepdim=True)) / total.std((2, 3), keepdim=True)


def sample_raster(raster: torch.Tensor, points: torch.Tensor, mode: str = "bicubic") -> torch.Tensor:
    """Samples `(B, N, C)` of rasters `(B, C, S, S)` of one texel per pixel, centred on the origin."""
    grid = points[:, None] / (raster.shape[-1] / 2)
    samples = F.grid_sample(raster, grid, mode, padding_mode="reflection", align_corners=False)
    return samples[:, :, 0].transpose(1, 2)


def texel_centres(size: int, device: torch.device | str) -> torch.Tensor:
    """Layer points `(size * size, 2)` of the texels of a raster centred on the origin."""
    axis = torch.arange(size, dtype=torch.float32, device=device) + 0.5 - size / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)


def palette(values: torch.Tensor, saturation: float, random: Random) -> torch.Tensor:
    """Colours `(B, 3, ...)` of values `(B, ...)`: one cosine per channel, over a few related hues."""
    shape = (len(values), 3) + (1,) * (values.ndim - 1)
    hue = random.uniform(0, 1, 1) + random.uniform(0.15, 0.4, 3).cumsum(1)
    turns = random.uniform(0.12, 0.3, 3)
    return 0.52 + saturation * (2 * math.pi * (turns.view(shape) * values[:, None] + hue.view(shape))).cos()


def natural_image(size: int, detail: float, saturation: float, random: Random) -> torch.Tensor:
    """Colourful images `(B, 3, size, size)`: warped noise in related hues, patches with crisp edges, veins and grain.

    `detail` is the span in texels of the largest structures.
    """
    warp = 0.35 * detail * fractal_noise(size, 1.5 * detail, 2, 2, random).flatten(2).transpose(1, 2)
    fields = sample_raster(fractal_noise(size, detail, 5, 3, random), texel_centres(size, random.device) + warp)
    tone, patch, vein = fields.transpose(1, 2).reshape(-1, 3, size, size).unbind(1)
    edge = torch.sigmoid(6 * (patch - 0.3))[:, None]
    colour = torch.lerp(palette(tone, saturation, random), palette(tone + 1.5, saturation, random), edge)
    veins = 1 - 0.45 * torch.exp(-((vein / 0.09) ** 2))[:, None]
    grain = 1 + 0.09 * fractal_noise(size, 6, 2, 1, random)
    return (colour * veins * grain).clamp(0, 1)


def raster_texture(raster: torch.Tensor, mode: str = "bicubic") -> Texture:
    """A texture from images `(B, 3, S, S)` of one texel per layer pixel, centred on the layer's origin."""
    return lambda points: sample_raster(raster, points, mode).clamp(0, 1)


def body_shading(shape: Shape, size: int, radius: torch.Tensor) -> torch.Tensor:
    """Brightness `(B, 1, size, size)` of a body lit from its upper left. It moves with the body, so no point changes colour."""
    points = texel_centres(size, radius.device).expand(len(radius), -1, -1)
    rim = (-shape(points) / (0.3 * radius[:, None])).clamp(0, 1)
    light = 1 - 0.22 * (points.sum(-1) / radius[:, None]).clamp(-1.3, 1.3)
    return (light * (0.45 + 0.55 * (rim * (2 - rim)).sqrt())).view(-1, 1, size, size)


def sinusoid_texture(random: Random, waves: int = 40) -> Texture:
    """A sum of plane waves with periods of 6 to 60 pixels. It is defined at every real point, so any shift is exact."""
    periods = 6 * 10 ** random.uniform(0, 1, waves)
    directions = random.uniform(0, 2 * math.pi, waves)
    frequencies = torch.stack([directions.cos(), directions.sin()], dim=1) * (2 * math.pi / periods)[:, None]
    phases = random.uniform(0, 2 * math.pi, waves)[:, None]
    weights = random.uniform(-1, 1, waves, 3)
    weights = weights * (0.17 * math.sqrt(2) / weights.norm(dim=1, keepdim=True))  # deviation 0.17: clipping is rare
    return lambda points: (0.5 + (points @ frequencies + phases).sin() @ weights).clamp(0, 1)


def image_patches(images: torch.Tensor, size: int, zoom: tuple[float, float], random: Random) -> torch.Tensor:
    """Square patches `(B, 3, size, size)` in [0, 1] cut at random from images `(N, 3, H, W)` of uint8.

    Each is rotated, mirrored and scaled at random; `zoom` is the range of texels of the patch per pixel of the image. Images are padded by
    reflection.
    """
    count, _, height, width = images.shape
    chosen = images[random.integer(0, count).to(images.device)].to(random.device).float() / 255
    log_zoom = random.uniform(math.log(zoom[0]), math.log(zoom[1]))
    angle = random.uniform(-math.pi / 6, math.pi / 6)
    mirror = 1 - 2 * random.chance(0.5).float()
    centre = random.uniform(-1, 1, 2) * 0.8  # in units of grid_sample: the image spans -1 to 1
    span = size / log_zoom.exp()[:, None]  # image pixels that the patch spans
    across = torch.stack([mirror * angle.cos(), -angle.sin()], dim=-1) * span
    down = torch.stack([mirror * angle.sin(), angle.cos()], dim=-1) * span
    extent = span.new_tensor([width, height])
    theta = torch.stack([across, down], dim=1)  # rows x, y of the map from patch to image pixels
    theta = torch.cat([theta / extent[:, None], centre[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [len(random), 3, size, size], align_corners=False)
    return F.grid_sample(chosen, grid, "bilinear", padding_mode="reflection", align_corners=False).clamp(0, 1)
