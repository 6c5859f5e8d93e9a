"""The map of matching probabilities from every cell of one frame to the window around it in another (Eq. 1 of the paper).

Products and sums are in float32 whatever the precision of the features: bfloat16 keeps 8 bits of a product, which is too few to
tell neighbouring cells apart.
"""

from itertools import product

import torch

from ..kernels.topk_torch import window_view
from .tiles import TILE, check_frames, copy_block, exclude_outside


def probability_map(query: torch.Tensor, key: torch.Tensor, radius: int, temperature: float) -> torch.Tensor:
    """Log-probabilities that a query matches each key of its window: log softmax(products / temperature), Eq. 1.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features of the two frames, of unit length for cosine similarities.
        radius (`int`): Window radius r in cells; the window is a square of (2r+1)^2 cells.
        temperature (`float`): Temperature of the softmax.

    Returns:
        `torch.Tensor` of shape `(B, h, w, (2r+1)^2)`, float32, in dy-major order; -inf outside the frame.

    Raises:
        `ValueError`: the features differ in shape or device, the radius is negative, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    return torch.log_softmax(window_correlation(query, key, radius) / temperature, dim=-1)


def window_correlation(query: torch.Tensor, key: torch.Tensor, radius: int) -> torch.Tensor:
    """Products of every query with every key of its square window: Eq. 1 before temperature and softmax.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features of the two frames; differentiable.
        radius (`int`): Window radius r in cells.

    Returns:
        `torch.Tensor` of shape `(B, h, w, (2r+1)^2)`, float32, in dy-major order; -inf outside the frame.

    Raises:
        `ValueError`: the features differ in shape or device, or the radius is negative.
    """
    query, (key,) = check_frames(query, [key], dims=4)
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}.")
    batch, h, w, channels = query.shape
    size, halo = 2 * radius + 1, (TILE[0] + 2 * radius, TILE[1] + 2 * radius)
    exact = torch.promote_types(query.dtype, torch.float32)
    output = query.new_empty((batch, h, w, size, size), dtype=torch.float32)
    for top, left in product(range(0, h, TILE[0]), range(0, w, TILE[1])):
        tile = query.new_zeros((batch, *TILE, channels), dtype=exact)
        keys = query.new_zeros((batch, *halo, channels), dtype=exact)
        for b in range(batch):
            copy_block(query[b], top, left, tile[b])
            copy_block(key[b], top - radius, left - radius, keys[b])
        products = torch.bmm(tile.flatten(1, 2), keys.flatten(1, 2).transpose(1, 2)).view(batch, *TILE, 1, *halo)
        exclude_outside(products, top - radius, left - radius, h, w)
        windows = window_view(products, size)[:, : h - top, : w - left, 0]  # (B, <=8, <=16, D, D)
        output[:, top : top + TILE[0], left : left + TILE[1]] = windows
    return output.view(batch, h, w, size * size)


__all__ = ["probability_map", "window_correlation"]
