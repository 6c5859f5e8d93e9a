"""The coarse-to-fine head (section 3.2 of the paper): features of stride 8, enhanced by self-attention, and learned up-sampling to stride 2.

The paper matches the coarse features (Eq. 1 with r = 6) and up-samples the map of every query from 13x13 to 49x49, on a query grid four
times as dense, by pixel shuffle or by bilinear interpolation and a convolution. This head up-samples the features instead, and the fine
features are matched. It is the same up-sampling in factored form: with fine features A_i f(q) and A_j f(k) at the sub-positions i and j of
the coarse cells q and k, a fine score is f(q)' A_i' A_j f(k), a learned function of the coarse pair of rank `fine_size`; the coarse scores are
those of the means of blocks of fine features. Nothing depends on the size of the frame or of the window. Features belong to one frame, so each
is computed once however many frames it is matched with, and all trackers take them unchanged. For the same reason there is no
cross-attention, which would have to be computed again for each context frame. Detail that is lost at stride 8 comes from the outputs of the
stem and of layer1, up-sampled in the same way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..configuration_fgvc import BOTTLENECK_EXPANSION, COARSE_STRIDE, FgvcConfig


MLP_GROWTH = 2  # hidden channels of an MLP per input channel
FACTORS = (1, 2, 4)  # up-sampling factors of the outputs of the stem, of layer1 and of layer3
ROTARY_BASE = 100.0  # rotary position embedding: the slowest rotation is 0.01 rad per cell


def rotary_positions(window: int, channels: int, device=None) -> torch.Tensor:
    """Angles (window^2, channels / 2) of a 2D rotary position embedding: products of rotated channels depend on offsets alone."""
    axis = torch.arange(channels // 4, dtype=torch.float32, device=device)
    frequencies = ROTARY_BASE ** -(axis / (channels // 4))
    angles = torch.arange(window, device=device)[:, None] * frequencies  # (window, channels / 4)
    rows = angles[:, None].expand(-1, window, -1)
    columns = angles[None].expand(window, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def rotate(values: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of channels (c, c + C/2) of values (..., n, C) by angles (n, C / 2)."""
    a, b = values.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(values.dtype)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention of (N, heads, n, d) each: (N, n, heads, d), and the weights (N, heads, n, n)."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class FgvcAttention(nn.Module):
    """Self-attention with several heads within windows (N, n, C), by the implementation that the configuration names."""

    def __init__(self, config: FgvcConfig, channels: int):
        super().__init__()
        self.config, self.head_dim, self.is_causal = config, channels // config.num_attention_heads, False
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.output = nn.Linear(channels, channels, bias=False)
        cast(Any, self.output).starts_at_zero = True

    def forward(
        self, windows: torch.Tensor, mask: torch.Tensor | None, angles: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = [linear(windows).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for linear in self._inputs]
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        query, key = rotate(heads[0], angles), rotate(heads[1], angles)
        mixed, weights = attend(
            self, query, key, heads[2], mask, scaling=self.head_dim**-0.5, dropout=0.0, is_causal=self.is_causal
        )
        return self.output(mixed.flatten(2)), weights

    @property
    def _inputs(self) -> tuple[nn.Linear, ...]:
        return self.query, self.key, self.value


class FgvcAttentionLayer(GradientCheckpointingLayer):
    """Windowed self-attention and an MLP, both residual and with pre-norm: (N, h, w, C) to the same.

    Cost is linear in the number of cells. Every other layer has its windows shifted by half of their size (Swin), so that information passes
    between windows. Cells beyond the border are masked.
    """

    def __init__(self, config: FgvcConfig, channels: int, shifted: bool):
        super().__init__()
        self.window = config.attention_window
        self.shift = self.window // 2 if shifted else 0
        self.attention_norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = FgvcAttention(config, channels)
        last = nn.Linear(MLP_GROWTH * channels, channels)
        cast(Any, last).starts_at_zero = True
        self.mlp = nn.Sequential(nn.Linear(channels, MLP_GROWTH * channels), nn.GELU(), last)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        size, shift = self.window, self.shift
        rows, columns = (-(-(n + shift) // size) for n in cells.shape[1:3])  # of windows
        y, inside_y = _along(cells.shape[1], rows * size, shift, cells.device)
        x, inside_x = _along(cells.shape[2], columns * size, shift, cells.device)
        # An index exports for any size, a slice does not
        padded = self.attention_norm(cells).index_select(1, y).index_select(2, x)
        outside = ~(inside_y[:, None] & inside_x)[None, :, :, None]
        mask = torch.zeros_like(padded[..., :1]).masked_fill(outside, torch.finfo(cells.dtype).min)
        mask = to_windows(mask, size)[:, None, None, :, 0]  # (N * windows, 1, 1, n)
        angles = rotary_positions(size, self.attention.head_dim, cells.device)
        mixed = from_windows(self.attention(to_windows(padded, size), mask, angles)[0], rows, columns)
        y, x = (torch.arange(n, device=cells.device) + shift for n in cells.shape[1:3])
        cells = cells + mixed.index_select(1, y).index_select(2, x)
        return cells + self.mlp(self.mlp_norm(cells))


def _along(cells: int, length: int, shift: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells that fill an axis of whole windows from `shift` before the first on, clamped to the map, and which of them are on it."""
    place = torch.arange(length, device=device) - shift
    return place.clamp(0, cells - 1), (place >= 0) & (place < cells)


def to_windows(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Windows (N * windows, n, C), row by row, of cells (N, H, W, C) that they fit into; n is the square of their size."""
    batch, height, width, channels = cells.shape
    split = cells.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
    return split.reshape(-1, size * size, channels)


def from_windows(windows: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse of [`to_windows`]: cells (N, H, W, C) of so many rows and columns of windows."""
    size, channels = math.isqrt(windows.shape[1]), windows.shape[2]
    split = windows.view(-1, rows, columns, size, size, channels).transpose(2, 3)
    return split.reshape(-1, rows * size, columns * size, channels)


def _crop(values: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """The first h rows and w columns of values (..., H, W)."""
    if not torch.compiler.is_compiling():
        return values[..., :h, :w]
    # An index exports for any size, a slice does not
    rows, columns = (torch.arange(n, device=values.device) for n in (h, w))
    return values.index_select(-2, rows).index_select(-1, columns)


class FgvcCoarseToFineHead(nn.Module):
    """Fine features (N, fine_size, h, w) of stride 2 from what the encoder gives at strides 2, 4 and 8.

    The last of them is enhanced by attention. Each is projected and up-sampled to stride 2, and a convolution mixes their sum. Up-sampling is
    one of the two that the paper names: `"shuffle"`, sub-pixel convolution with a projection for each sub-position of a cell, or `"bilinear"`,
    one projection and interpolation between the centres of cells.

    Args:
        config ([`FgvcConfig`]): Size, layers and up-sampling.
    """

    def __init__(self, config: FgvcConfig):
        super().__init__()
        expansion = BOTTLENECK_EXPANSION if config.bottleneck else 1
        stem, last = config.hidden_sizes[0], expansion * config.hidden_sizes[-1]
        widths = (stem, expansion * stem, last)
        self.least = config.attention_window if config.num_attention_layers else 1  # cells of a side
        self.upsampling = config.upsampling
        self.layers = nn.ModuleList(
            FgvcAttentionLayer(config, last, shifted=i % 2 == 1) for i in range(config.num_attention_layers)
        )
        self.norm = nn.LayerNorm(last)
        copies = [factor**2 if config.upsampling == "shuffle" else 1 for factor in FACTORS]
        self.projections = nn.ModuleList(
            nn.Conv2d(width, config.fine_size * number, 1) for width, number in zip(widths, copies, strict=True)
        )
        self.mix = nn.Conv2d(config.fine_size, config.fine_size, 3, padding=1)

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            stages (sequence of three `torch.Tensor` of shape `(N, C, h, w)`): Outputs of the stem, of layer1 and of layer3.

        Raises:
            `ValueError`: the frame is smaller than one window of attention.
        """
        *details, coarse = stages
        if min(coarse.shape[-2:]) < self.least:
            height, width = (COARSE_STRIDE * cells for cells in coarse.shape[-2:])
            raise ValueError(
                f"frames must be at least {COARSE_STRIDE * self.least} pixels high and wide, one window of attention, "
                f"got about {height}x{width}."
            )
        cells = coarse.permute(0, 2, 3, 1)
        for layer in self.layers:
            cells = layer(cells)
        enhanced = self.norm(cells).permute(0, 3, 1, 2)
        h, w = details[0].shape[-2:]
        projected = [p(values) for p, values in zip(self.projections, (*details, enhanced), strict=True)]
        first, *others = (_crop(self._upsample(p, factor), h, w) for p, factor in zip(projected, FACTORS, strict=True))
        return self.mix(F.relu(sum(others, first)))

    def _upsample(self, values: torch.Tensor, factor: int) -> torch.Tensor:
        """Values (N, ..., h, w) at `factor` times as many cells: cell i becomes cell `factor` * i, and those up to the next."""
        if self.upsampling == "shuffle":
            return F.pixel_shuffle(values, factor)
        size = [factor * cells + 1 for cells in values.shape[-2:]]
        values = F.pad(values, (0, 1, 0, 1), mode="replicate")
        return F.interpolate(values, size=size, mode="bilinear", align_corners=True)


__all__ = ["FgvcAttention", "FgvcAttentionLayer", "FgvcCoarseToFineHead"]
