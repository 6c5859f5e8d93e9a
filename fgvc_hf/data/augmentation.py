"""Augmentation of batches of frames on their device: photometric changes, noise, conversion to Lab, channel dropout.

Frames are `(B, 2, 3, H, W)`. All random numbers come from a [`Random`], with one stream for each pair of the batch.
"""

import torch
import torch.nn.functional as F

from ..image_processing_pil_fgvc import FgvcImageProcessorPil, convert_colours
from .scene import Random


def rgb_to_pixel_values(rgb: torch.Tensor, processor=FgvcImageProcessorPil) -> torch.Tensor:
    """The model's input for RGB in [0, 1] of shape `(..., 3, H, W)`: an [`FgvcImageProcessorPil`] without its resizing."""
    settings = processor.do_convert_lab, processor.lightness_only, True, processor.image_mean, processor.image_std
    return convert_colours(rgb, *settings)


def change_light(frames: torch.Tensor, random: Random, strength: float = 1.0) -> torch.Tensor:
    """Photometric augmentation of frames `(B, 2, 3, H, W)` in [0, 1].

    Colour and contrast change with the pair, and less between its two frames. Some pairs also get uneven brightness, blur or noise.

    Args:
        frames (`torch.Tensor` of shape `(B, 2, 3, H, W)`): RGB in [0, 1].
        random ([`Random`]): One stream per pair.
        strength (`float`): Factor on all changes; 0 for none.
    """
    batch, _, _, height, width = frames.shape

    def vary(range_pair: float, range_frame: float, *size: int) -> torch.Tensor:
        pair = random.uniform(-range_pair, range_pair, 1, *size, 1, 1)
        return strength * (pair + random.uniform(-range_frame, range_frame, 2, *size, 1, 1))

    gamma, gain, colour = vary(0.25, 0.1, 1).exp(), vary(0.25, 0.12, 1).exp(), vary(0.08, 0.05, 3).exp()
    frames = frames.clamp_min(1e-4) ** gamma * gain * colour
    coarse = random.normal(2, 3, 4).view(batch * 2, 1, 3, 4)
    field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).view(
        batch, 2, 1, height, width
    )
    uneven = random.chance(0.4, 1, 1, 1, 1) * random.uniform(0, 1, 1, 1, 1, 1) * (0.12 * strength)
    frames = frames * (uneven * field).exp()
    soft = F.avg_pool2d(F.pad(frames.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, 1).view_as(frames)
    focus = random.uniform(0, 1, 2, 1, 1, 1) * random.chance(0.4, 2, 1, 1, 1) * strength
    frames = torch.lerp(frames, soft, focus)
    noise = random.normal(2, 3, height, width) * random.uniform(0, 0.03, 1, 1, 1, 1) * random.chance(0.5, 1, 1, 1, 1)
    return (frames + strength * noise).clamp(0, 1)


def drop_channel(pixel_values: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """Channel dropout: set one of the colour channels a and b of each pair to 0, and scale the other two by 1.5.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, 2, 3, H, W)`): L, a, b.
        dropped (`torch.Tensor` of shape `(B,)`): The channel that is dropped, 1 or 2; 0 for none.
    """
    channels = torch.arange(3, device=pixel_values.device)
    keep = (channels != dropped[:, None]) | (dropped == 0)[:, None]  # (B, 3)
    scale = 1 + 0.5 * (dropped != 0).to(pixel_values.dtype)[:, None]
    return pixel_values * (keep * scale)[:, None, :, None, None]


def colour_of(pixel_values: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    """Channel `channel` `(B,)` of each pair, `(B, 2, 1, H, W)`."""
    index = channel.view(-1, 1, 1, 1, 1).expand(-1, 2, 1, *pixel_values.shape[-2:])
    return pixel_values.gather(2, index)
