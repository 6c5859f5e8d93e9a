"""Levels of the feature pyramid: features at half their resolution, and pooled blocks of cells."""

import math
from functools import cached_property

import torch


BLOCK_SIDE = 4  # cells along a side of the blocks that `mean_blocks` pools
BLOCK_STRIDE = 2  # cells from one block to the next


def unit_length(values: torch.Tensor) -> torch.Tensor:
    """Float32 values (..., C) of unit length over C, as `torch.nn.functional.normalize`; in place while no gradients are asked for."""
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_min(1e-12)
    return values / norms if torch.is_grad_enabled() else values.div_(norms)


class FeaturePyramid:
    """The levels of a frame that templates are searched on.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): The frame at full resolution.

    Attributes:
        coarse (`torch.Tensor` of shape `(ceil(h/2), ceil(w/2), C)`): The next level, by [`downsample`].
        blocks (`torch.Tensor` of shape `(rows, columns, C)`, *optional*): What [`mean_blocks`] gives, computed at its first use.
    """

    def __init__(self, features: torch.Tensor):
        self.features, self.coarse = features, downsample(features)

    @cached_property
    def blocks(self) -> torch.Tensor | None:
        return mean_blocks(self.features)


def downsample(features: torch.Tensor) -> torch.Tensor:
    """The next pyramid level (ceil(h/2), ceil(w/2), C) of features (h, w, C): means of 3 x 3 cells at stride 2, of unit length."""
    sums = features
    for _ in range(2):
        odd, sums = sums[1::2], sums[::2].to(torch.float32, copy=True)
        sums[: len(odd)] += odd
        sums[1:] += odd[: len(sums) - 1]
        sums = sums.transpose(0, 1)
    return unit_length(sums).to(features.dtype).contiguous()


def downsample_patches(patches: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (N, P, C) and the weights (N, P) of their cells on the next pyramid level.

    Every cell is shared out, linearly, among the nearest cells of the next level, so the weights still sum to 1. A patch of radius r has
    radius r // 2 there.

    Returns:
        Patches (N, S, C), of unit length, and weights (N, S).
    """
    radius = math.isqrt(patches.shape[1]) // 2
    axis = torch.arange(-radius, radius + 1, dtype=torch.float32, device=patches.device)
    coarse = torch.arange(-(radius // 2), radius // 2 + 1, dtype=torch.float32, device=patches.device)
    near = (1 - ((axis / 2).clamp(coarse[0], coarse[-1]) - coarse[:, None]).abs()).clamp_min(0)  # (side, D)
    shares = torch.kron(near, near) * weights[:, None]  # (N, S, P)
    sums = (shares.to(patches.dtype) @ patches).float()  # (N, S, C)
    return unit_length(sums).to(patches.dtype), shares.sum(dim=-1)


def mean_blocks(features: torch.Tensor) -> torch.Tensor | None:
    """Mean features (rows, columns, C), of unit length, of overlapping blocks of 4 x 4 cells at stride 2 of features (h, w, C).

    `None` where the frame holds no whole block.
    """
    if min(features.shape[:2]) < BLOCK_SIDE:
        return None
    h, w = (side // 2 * 2 for side in features.shape[:2])
    rows = features[:h:2].float() + features[1:h:2].float()
    cells = rows[:, :w:2] + rows[:, 1:w:2]  # sums of 2 x 2 cells; 2 x 2 of these are a block
    rows = cells[:-1] + cells[1:]
    return unit_length(rows[:, :-1] + rows[:, 1:])


__all__ = ["FeaturePyramid", "downsample", "downsample_patches", "mean_blocks", "unit_length"]
