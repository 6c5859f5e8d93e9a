"""The encoder for inference: batch normalisation is folded into the convolutions, and sums and ReLUs are part of them.

What normalisation does at inference, a factor and a summand per channel, can as well be done by the weights and a bias of the
convolution before it. oneDNN then adds a residual and cuts off at zero while a result is still in the cache, so that no map is
written twice. Where there are many channels, products are saved instead, by [`fgvc_hf.kernels.winograd_numba`]. The weights of the model stay as
they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.dispatch import numba_fits
from .backbone import FgvcBottleneckBlock, FgvcEncoder


LEAST_CHANNELS = 128  # from which transforming the tiles costs less than it saves


class FoldedConvolution:
    """A convolution and the normalisation after it, as one; then, as asked, a sum and a ReLU."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        factor = norm.weight.float() * (variance.float() + norm.eps).rsqrt()
        weight = convolution.weight
        folded = weight.float() * factor[:, None, None, None]
        self.weight = folded.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        self.bias = (norm.bias.float() - mean.float() * factor).to(weight.dtype)
        self.stride, self.padding = convolution.stride, convolution._reversed_padding_repeated_twice[::2]
        self.reflect = convolution.padding_mode == "reflect"
        self.fused = not self.reflect and _fuses(weight)
        self.winograd = None
        if self.fused and self.stride == (1, 1) and _takes_fewer_products(weight):
            from ..kernels.winograd_numba import WinogradConvolution

            self.winograd = WinogradConvolution(folded, self.bias)
        elif self.fused:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = pack(self.weight, self.padding, self.stride, [1, 1], 1, None)

    def __call__(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None, relu: bool = True
    ) -> torch.Tensor:
        if self.winograd is not None:
            return self.winograd(hidden_states, residual, relu)
        if self.fused:
            where = (self.weight, self.bias, self.padding, self.stride, [1, 1], 1)
            convolve = torch.ops.mkldnn._convolution_pointwise
            if residual is None:
                return convolve(hidden_states, *where, "relu" if relu else "none", [], "")
            return convolve.binary(hidden_states, residual, *where, "add", 1.0, "relu" if relu else None, [], "")
        padding = self.padding
        if self.reflect:
            down, across = padding
            hidden_states, padding = F.pad(hidden_states, (across, across, down, down), mode="reflect"), [0, 0]
        hidden_states = F.conv2d(hidden_states, self.weight, self.bias, self.stride, padding)
        if residual is not None:
            hidden_states += residual
        return hidden_states.relu_() if relu else hidden_states


def _fuses(weight: torch.Tensor) -> bool:
    """Whether oneDNN has fused convolutions for these weights; its operators are torch's own, and may be missing in another version."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _takes_fewer_products(weight: torch.Tensor) -> bool:
    """Whether a convolution is faster by Winograd's algorithm: with many channels, except where tiles of products in bfloat16 cost little (AMX)."""
    if tuple(weight.shape[2:]) != (3, 3) or min(weight.shape[:2]) < LEAST_CHANNELS or not numba_fits(weight):
        return False
    return weight.dtype == torch.float32 or not getattr(torch.cpu, "_is_amx_tile_supported", bool)()


class FoldedBlock:
    """A residual block of either kind."""

    def __init__(self, block: Any):
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if isinstance(block, FgvcBottleneckBlock):
            pairs.append((block.conv3, block.bn3))
        *self.first, self.last = (FoldedConvolution(*pair) for pair in pairs)
        self.shortcut = None if block.downsample is None else FoldedConvolution(*block.downsample)

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states, relu=False)
        for convolution in self.first:
            hidden_states = convolution(hidden_states)
        return self.last(hidden_states, residual)


class FoldedEncoder:
    """An [`FgvcEncoder`] as it was when this was made: (N, 3, H, W) to (N, C, h, w)."""

    @torch.no_grad()
    def __init__(self, encoder: FgvcEncoder):
        self.version = weights_version(encoder)
        self.stem, self.pool = FoldedConvolution(encoder.conv1, encoder.bn1), encoder.pool
        layers = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4 or ()]
        self.first, self.second, self.third, self.fourth = (
            [FoldedBlock(block) for block in layer] for layer in layers
        )
        self.project = encoder.project

    def stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As of [`FgvcEncoder`]."""
        pixel_values = pixel_values.to(self.stem.bias.dtype).contiguous(memory_format=torch.channels_last)
        stem = self.stem(pixel_values)
        first = _through(self.first, self.pool(stem))
        return stem, first, _through(self.second + self.third, first)

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.project(_through(self.fourth, self.stages(pixel_values)[-1]))


def _through(blocks: list[FoldedBlock], hidden_states: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        hidden_states = block(hidden_states)
    return hidden_states


def weights_version(encoder: FgvcEncoder) -> tuple:
    """What changes whenever weights are trained, loaded, moved or converted."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def folded_for_inference(model: Any, before: FoldedEncoder | None) -> FoldedEncoder | None:
    """What a model encodes frames with where nothing is trained: the one made before, or another if weights have changed.

    Nothing while gradients are asked for, under autocast and in graphs being compiled or exported; nor where someone wants to be called
    when modules are: hooks of torch, or of accelerate, which moves weights about.
    """
    graph = model.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if graph or torch.is_autocast_enabled(model.device.type) or not isinstance(model.encoder, FgvcEncoder):
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") for m in model.modules()):
        return None
    current = before is not None and before.version == weights_version(model.encoder)
    return before if current else FoldedEncoder(model.encoder)
