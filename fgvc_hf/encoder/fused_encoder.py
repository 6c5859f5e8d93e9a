"""The encoder for inference, with fused Conv-BN: batch normalisation becomes part of the weights of the convolution before it.

3 x 3 convolutions with many channels run by Winograd's algorithm, [`fgvc_hf.kernels.winograd_numba`], where it is faster than torch's:
in float32, and in bfloat16 on CPUs without matrix tiles (AMX). The weights of the model stay as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..kernels.dispatch import numba_fits
from .backbone import FgvcBottleneckBlock, FgvcEncoder


LEAST_CHANNELS = 128  # channels from which the transforms of Winograd's algorithm cost less than it saves


class FusedConvolution:
    """A convolution and the batch normalisation after it, as one convolution; then, if asked for, a sum and a ReLU."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight.float(), None, mean, variance, norm.eps, norm.weight.float(), norm.bias.float()
        )
        dtype = convolution.weight.dtype
        self.weight = weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = bias.detach().to(dtype)
        self.stride, self.padding = convolution.stride, convolution.padding
        self.reflect = convolution.padding_mode == "reflect"
        self.winograd = None
        if not self.reflect and self.stride == (1, 1) and winograd_is_faster(self.weight):
            from ..kernels.winograd_numba import WinogradConvolution

            self.winograd = WinogradConvolution(weight.detach(), self.bias)

    def __call__(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None, relu: bool = True
    ) -> torch.Tensor:
        """(N, C, H, W) to (N, O, h, w); inputs stay as they are."""
        if self.winograd is not None:
            return self.winograd(hidden_states, residual, relu)
        padding: Any = self.padding
        if self.reflect:
            down, across = padding
            hidden_states, padding = F.pad(hidden_states, (across, across, down, down), mode="reflect"), 0
        hidden_states = F.conv2d(hidden_states, self.weight, self.bias, self.stride, padding)
        if residual is not None:
            hidden_states += residual
        return hidden_states.relu_() if relu else hidden_states


def winograd_is_faster(weight: torch.Tensor) -> bool:
    """Whether Winograd's algorithm in numba is faster than torch for these weights (O, C, kernel, kernel) at stride 1.

    Frames with 30 points are 1.3 to 2 times as fast with it on CPUs without AMX (`scripts/benchmark_kernels.py`). With AMX, torch multiplies bfloat16 faster than numba transforms it.
    """
    if tuple(weight.shape[2:]) != (3, 3) or min(weight.shape[:2]) < LEAST_CHANNELS or not numba_fits(weight):
        return False
    return weight.dtype == torch.float32 or not getattr(torch.cpu, "_is_amx_tile_supported", bool)()


class FusedBlock:
    """A residual block of either kind with fused convolutions."""

    def __init__(self, block: Any):
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if isinstance(block, FgvcBottleneckBlock):
            pairs.append((block.conv3, block.bn3))
        *self.first, self.last = (FusedConvolution(*pair) for pair in pairs)
        self.shortcut = None if block.downsample is None else FusedConvolution(*block.downsample)

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states, relu=False)
        for convolution in self.first:
            hidden_states = convolution(hidden_states)
        return self.last(hidden_states, residual)


class FusedEncoder:
    """An [`FgvcEncoder`] with the weights that it had when this was made: (N, 3, H, W) to (N, C, h, w)."""

    @torch.no_grad()
    def __init__(self, encoder: FgvcEncoder):
        self.version = weights_version(encoder)
        self.stem, self.pool = FusedConvolution(encoder.conv1, encoder.bn1), encoder.pool
        layers = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4 or ()]
        self.first, self.second, self.third, self.fourth = ([FusedBlock(block) for block in layer] for layer in layers)
        self.project = encoder.project

    def stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs (N, C, h, w) of the stem before pooling, of layer1 and of layer3."""
        pixel_values = pixel_values.to(self.stem.bias.dtype).contiguous(memory_format=torch.channels_last)
        stem = self.stem(pixel_values)
        first = _through(self.first, self.pool(stem))
        return stem, first, _through(self.second + self.third, first)

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.project(_through(self.fourth, self.stages(pixel_values)[-1]))


def _through(blocks: list[FusedBlock], hidden_states: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        hidden_states = block(hidden_states)
    return hidden_states


def weights_version(encoder: FgvcEncoder) -> tuple:
    """A value that changes whenever weights are trained, loaded, moved or converted."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def fused_for_inference(model: Any, before: FusedEncoder | None) -> FusedEncoder | None:
    """The encoder that a model encodes frames with at inference: the one made before, or a new one if weights have changed since.

    `None`, for the module itself, while gradients are asked for, under autocast, and in graphs being compiled or exported; and where modules
    have hooks, of torch or of accelerate, which expect to be called.
    """
    graph = model.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if graph or torch.is_autocast_enabled(model.device.type) or not isinstance(model.encoder, FgvcEncoder):
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") for m in model.modules()):
        return None
    current = before is not None and before.version == weights_version(model.encoder)
    return before if current else FusedEncoder(model.encoder)


__all__ = ["FusedConvolution", "FusedEncoder", "fused_for_inference"]
