"""Feature maps for tests of matching: noise, and smooth fields that move by fractions of a cell."""

import torch
import torch.nn.functional as F

from fgvc_hf.tracking.encoded_frame import EncodedFrame


def unit_features(h, w, channels=16, seed=0, dtype=torch.float32):
    """Noise (h, w, C) of unit length."""
    noise = torch.randn(h, w, channels, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1).to(dtype)


def smooth_field(h, w, channels=32, seed=0):
    """Features (1, C, h, w) that vary smoothly, so that positions between cells mean something."""
    coarse = torch.randn(1, channels, h // 3, w // 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (h, w), mode="bicubic", align_corners=False)


def shifted(field, dx, dy, h, w, top=20, left=20):
    """The (h, w) features of a field whose content has moved by (dx, dy) cells, fractions included."""
    y = torch.arange(h, dtype=torch.float32) + top - dy
    x = torch.arange(w, dtype=torch.float32) + left - dx
    height, width = field.shape[-2:]
    grid = torch.stack(torch.meshgrid(2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1, indexing="xy"), dim=-1)
    sampled = F.grid_sample(field, grid[None], mode="bicubic", align_corners=True)
    return F.normalize(sampled[0].permute(1, 2, 0), dim=-1)


def frame_of(features, seed=None):
    """A frame with features (h, w, C) at stride 2, and an image that is plain, so that nothing is aligned, or smooth noise."""
    h, w, _ = features.shape
    image = torch.zeros(2 * h, 2 * w)
    if seed is not None:
        image = F.interpolate(unit_features(h, w, 1, seed).movedim(-1, 0)[None], scale_factor=2, mode="bicubic")[0, 0]
        image = image + F.interpolate(smooth_field(h, w, 1, seed), (2 * h, 2 * w))[0, 0]
    return EncodedFrame(features, image, image)
