"""What light, air, lens, sensor and codec do to the frames of a clip: changes that are smooth in time, on the device of the frames."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..tracking.frames import LUMA
from .moving_scenes import log_uniform, wave
from .scene import Random


Wave = Callable[
    [torch.Tensor, float], torch.Tensor
]  # rate (B,) and reach of a wave -> its values (B, T) at the times of the frames
BLOCK = 8  # pixels; of the transform of JPEG and of video codecs


def disturb(
    frames: torch.Tensor, random: Random, strength: float = 1.0, times: torch.Tensor | None = None
) -> torch.Tensor:
    """Frames `(B, T, 3, H, W)` in [0, 1] as a camera in changing conditions would record them.

    Args:
        frames (`torch.Tensor` of shape `(B, T, 3, H, W)`): RGB in [0, 1], overwritten.
        random ([`Random`]): One stream per clip.
        strength (`float`): Factor on all changes; 0 for none.
        times (`torch.Tensor` of shape `(T,)`, *optional*): The frames of the clip that these are; the first T if not given.
    """
    if not strength:
        return frames
    times = torch.arange(frames.shape[1], device=frames.device) if times is None else times

    def over_time(rate: torch.Tensor, reach: float) -> torch.Tensor:
        return wave(int(times.max()) + 1, rate, reach, random)[:, times]

    for change in (change_exposure, add_haze, defocus):
        frames = change(frames, random, strength, over_time)
    steps = log_uniform(0.01, 0.08, random) * random.chance(0.5) * strength
    # Noise is drawn last, because it is not drawn where no clip has any, and a clip must not depend on the others
    return compress(add_noise(frames, random, strength), steps).clamp_(0, 1)


def change_exposure(frames: torch.Tensor, random: Random, strength: float, over_time: Wave) -> torch.Tensor:
    """Gain, gamma and tint: different for each clip, and drifting within it; a light that comes from one side."""
    batch, length, _, height, width = frames.shape

    def drift(constant: float, change: float) -> torch.Tensor:
        moving = over_time(log_uniform(change / 30, change / 4, random), change)
        return strength * (random.uniform(-constant, constant, 1) + moving)

    gamma, gain = (drift(*ranges).exp().view(batch, length, 1, 1, 1) for ranges in ((0.25, 0.1), (0.25, 0.2)))
    tint = torch.stack([drift(0.08, 0.04) for _ in range(3)], dim=-1).exp().view(batch, length, 3, 1, 1)
    ends = torch.stack([drift(0.15, 0.1) * random.chance(0.4, 1) for _ in range(4)], dim=-1).view(-1, 1, 2, 2)
    side = F.interpolate(ends, (height, width), mode="bilinear", align_corners=True).view(
        batch, length, 1, height, width
    )
    return frames.clamp_(1e-4, 1).pow_(gamma).mul_(gain * tint).mul_(side.exp())


def add_haze(frames: torch.Tensor, random: Random, strength: float, over_time: Wave) -> torch.Tensor:
    """Smoke or fog of uneven density that drifts by, in a fifth of the clips. What is behind it stays visible."""
    batch, length, _, height, width = frames.shape
    chosen = random.chance(0.2, 1) * random.uniform(0.2, 0.6, 1) * min(strength, 1)  # (B, 1)
    lattice = random.uniform(-0.6, 1, 1, 7, 7)
    speed = log_uniform(0.002, 0.04, random)
    shift = torch.stack([over_time(speed, 1.0) for _ in range(2)], dim=-1)  # (B, T, 2)
    grey = random.uniform(0.3, 0.9)
    if not bool(chosen.any()):
        return frames
    theta = torch.eye(2, dtype=torch.float32, device=frames.device).mul(0.6).expand(batch * length, 2, 2)
    grid = F.affine_grid(
        torch.cat([theta, shift.view(-1, 2, 1)], dim=2), [batch * length, 1, height, width], align_corners=False
    )
    density = F.grid_sample(lattice.repeat_interleave(length, 0), grid, "bicubic", "reflection", align_corners=False)
    alpha = density.clamp(0, 1).view(batch, length, 1, height, width) * chosen.view(batch, 1, 1, 1, 1)
    return frames.lerp_(grey.view(batch, 1, 1, 1, 1).expand_as(frames), alpha)


def defocus(frames: torch.Tensor, random: Random, strength: float, over_time: Wave) -> torch.Tensor:
    """The focus hunts: frames blend with blurred ones, by a share that changes over time, in a third of the clips."""
    batch, length = frames.shape[:2]
    swing = over_time(log_uniform(0.01, 0.2, random), 0.5)
    share = ((random.uniform(-0.3, 0.7, 1) + swing) * strength).clamp(0, 1) * random.chance(0.35, 1)
    if not bool(share.any()):
        return frames
    soft = frames.flatten(0, 1)
    for _ in range(2):
        soft = F.avg_pool2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return frames.lerp_(soft.view_as(frames), share.view(batch, length, 1, 1, 1))


def add_noise(frames: torch.Tensor, random: Random, strength: float) -> torch.Tensor:
    """Noise of a sensor: another on each frame, of a deviation of up to 0.04, in half of the clips."""
    deviation = random.uniform(0, 0.04, 1, 1, 1, 1) * random.chance(0.5, 1, 1, 1, 1) * strength
    if not bool(deviation.any()):
        return frames
    return frames.add_(deviation * random.normal(*frames.shape[1:]))


def compress(frames: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Blocks of 8x8 pixels with their fine detail rounded away, as JPEG and video codecs do: to multiples of `steps` `(B,)`, 0 for none."""
    height, width = frames.shape[-2:]
    if height % BLOCK or width % BLOCK:
        return frames
    rows = torch.arange(BLOCK, dtype=torch.float32, device=frames.device)
    cosines = (math.pi / BLOCK * (rows + 0.5) * rows[:, None]).cos() * math.sqrt(2 / BLOCK)  # (frequency, place)
    cosines[0] /= math.sqrt(2)
    coarse = 1 + 0.7 * (rows[:, None] + rows)  # (8, 8): fine detail is rounded more
    for clip, size in enumerate(steps.tolist()):
        if size:
            grey = (frames[clip] * frames.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
            luma, chroma = (
                _rounded(grey, cosines, size * coarse),
                _rounded(frames[clip] - grey, cosines, 3 * size * coarse),
            )
            frames[clip] = luma + chroma
    return frames


def _rounded(images: torch.Tensor, cosines: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Images `(T, C, H, W)` with the cosine transforms of their blocks rounded to multiples of `steps` (8, 8)."""
    blocks = images.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).movedim(3, 4)  # (T, C, H/8, W/8, 8, 8)
    found = cosines @ blocks @ cosines.T
    blocks = cosines.T @ ((found / steps).round() * steps) @ cosines
    return blocks.movedim(4, 3).flatten(4, 5).flatten(2, 3)


__all__ = ["disturb"]
