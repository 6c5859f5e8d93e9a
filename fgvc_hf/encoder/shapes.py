"""Checks of what a model encodes, and of what comes out: shapes and types."""

import math
from typing import Any

import torch

from ..configuration_fgvc import COARSE_STRIDE, FgvcConfig


def check_pixel_values(pixel_values: Any, config: FgvcConfig, most_dims: float = math.inf) -> None:
    """A `ValueError` if something is no batch of frames that a model can encode."""
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(
            f"pixel_values must be a tensor, as the processor makes it, got {type(pixel_values).__name__}."
        )
    shape = tuple(pixel_values.shape)
    if not pixel_values.is_floating_point() or not 4 <= len(shape) <= most_dims:
        wanted = "(batch, 3, height, width)" if most_dims == 4 else "(batch, [frames,] 3, height, width)"
        raise ValueError(
            f"pixel_values must be floating-point numbers {wanted}, as the processor makes them, got {pixel_values.dtype} of {shape}."
        )
    if config.encoder != "resnet":
        return
    if shape[-3] != config.num_channels:
        raise ValueError(f"pixel_values must have {config.num_channels} channels, got {shape[-3]} in {shape}.")
    least = max(3, COARSE_STRIDE if config.fine_size else config.output_stride) + 1  # which have two cells to reflect
    if config.padding_mode == "reflect" and min(shape[-2:]) < least:
        raise ValueError(
            f"frames must be at least {least} pixels high and wide with padding_mode 'reflect', got {shape[-2]}x{shape[-1]}."
        )


def check_stride(pixel_values: torch.Tensor, features: torch.Tensor, config: FgvcConfig) -> None:
    """A `ValueError` if features (N, h, w, C) of frames (N, 3, H, W) are of another stride than the configuration says: places would be wrong."""
    stride = config.output_stride
    for side, cells in zip(pixel_values.shape[2:], features.shape[1:3], strict=True):
        if not side // stride <= cells <= -(-side // stride):
            raise ValueError(
                f"config.output_stride is {stride}, but the encoder was made with another and gives {cells} cells for {side} pixels; "
                "set it in from_pretrained."
            )


__all__ = ["check_pixel_values", "check_stride"]
