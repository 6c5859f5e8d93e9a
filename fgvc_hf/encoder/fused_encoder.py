"""The encoder for inference, with fused Conv-BN: batch normalisation becomes part of the weights of the convolution before it.

3 x 3 convolutions with many channels run by Winograd's algorithm, [`fgvc_hf.kernels.winograd_numba`], where it is faster than torch's:
in float32, and in bfloat16 on CPUs without matrix tiles (AMX). The weights of the model stay as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..kernels.dispatch import numba_fits
from ..kernels.processor import has_matrix_tiles
from .backbone import FgvcBasicBlock, FgvcBottleneckBlock, FgvcEncoder


LEAST_CHANNELS = 128  # channels from which the transforms of Winograd's algorithm cost less than it saves


class FusedConvolution:
    """A convolution and the batch normalisation after it, as one convolution; then, if asked for, a sum and a ReLU."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        kind = torch.promote_types(mean.dtype, torch.float32)  # float64 in a model of that type
        of_norm = mean.to(kind), variance.to(kind), norm.eps, norm.weight.to(kind), norm.bias.to(kind)
        weight, bias = fuse_conv_bn_weights(convolution.weight.to(kind), None, *of_norm)
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
    return weight.dtype == torch.float32 or not has_matrix_tiles()


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
    """An [`FgvcEncoder`] with the weights that it had when this was made: (N, 3, H, W) to (N, C, h, w).

    Raises:
        `ValueError`: the encoder has parts that this cannot stand in for, see [`can_be_fused`].
    """

    @torch.no_grad()
    def __init__(self, encoder: FgvcEncoder):
        if not can_be_fused(encoder):
            raise ValueError("the encoder has modules of other kinds than FgvcEncoder makes; run it as it is.")
        modules = modules_of(encoder)
        self.version, self.copies = weights_version(modules), [tensor.clone() for tensor in _tensors(modules)]
        self.settings = _settings(modules)
        self.encoder, self.stem = encoder, FusedConvolution(encoder.conv1, encoder.bn1)
        layers = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4 or ()]
        self.first, self.second, self.third, self.fourth = ([FusedBlock(block) for block in layer] for layer in layers)

    def stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs (N, C, h, w) of the stem before pooling, of layer1 and of layer3."""
        pixel_values = pixel_values.to(self.stem.bias.dtype).contiguous(memory_format=torch.channels_last)
        stem = self.stem(pixel_values)
        first = _through(self.first, self.encoder.pool(stem))
        return stem, first, _through(self.second + self.third, first)

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.encoder.project(_through(self.fourth, self.stages(pixel_values)[-1]))

    def is_of(self, modules: list[nn.Module], every_value: bool) -> bool:
        """Whether the weights and the settings of these modules are still those that this was made from.

        Args:
            modules (list of `nn.Module`): Those of the encoder, see [`modules_of`].
            every_value (`bool`):
                Compare all values and settings (stride, epsilon, ...), so that writes through `.data` and NumPy views are seen; else
                what torch itself counts as a change.
        """
        if self.version != weights_version(modules):
            return False
        if not every_value:
            return True
        return self.settings == _settings(modules) and all(map(torch.equal, self.copies, _tensors(modules)))


def _through(blocks: list[FusedBlock], hidden_states: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        hidden_states = block(hidden_states)
    return hidden_states


def modules_of(root: nn.Module) -> list[nn.Module]:
    """A module and all within it, as `root.modules()` but in half of its time, which counts once per frame."""
    found = [root]
    for module in found:  # grows while it is read
        found.extend(child for child in module._modules.values() if child is not None)
    return found


def _tensors(modules: list[nn.Module]) -> list[torch.Tensor]:
    """Parameters and buffers of modules."""
    parts = (part for module in modules for part in (module._parameters, module._buffers))
    return [tensor for part in parts for tensor in part.values() if tensor is not None]


def _settings(modules: list[nn.Module]) -> list[dict[str, Any]]:
    """What else a convolution and a normalisation compute by: stride, padding, epsilon, ..."""
    kinds = (int, float, str, tuple, type(None))
    return [{name: of for name, of in vars(module).items() if isinstance(of, kinds)} for module in modules]


def weights_version(modules: list[nn.Module]) -> list[tuple]:
    """A value that changes whenever weights are trained, loaded, moved, converted or replaced."""
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in _tensors(modules)]


def can_be_fused(encoder: nn.Module) -> bool:
    """Whether every part of an encoder is exactly what this file was written for: the classes of `FgvcEncoder`, with their own methods.

    Convolutions of other classes (LoRA, quantisation, spectral norm), other normalisations (frozen, synchronised, without affine weights),
    weights that are tensor subclasses or not in memory, and patched methods are not; such an encoder runs module by module.
    """
    if not _is_a(encoder, FgvcEncoder):
        return False
    layers: list[Any] = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    if not all(layer is None or _is_a(layer, nn.Sequential) for layer in layers):
        return False
    blocks = [block for layer in layers if layer is not None for block in layer]
    if not all(_is_a(block, FgvcBasicBlock) or _is_a(block, FgvcBottleneckBlock) for block in blocks):
        return False
    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    if not all(_is_a(shortcut, nn.Sequential) and len(shortcut) == 2 for shortcut in shortcuts):
        return False
    pairs: list[Any] = [(encoder.conv1, encoder.bn1), *shortcuts]
    for block in blocks:
        pairs += [
            (getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3) if hasattr(block, f"conv{i}")
        ]
    return all(_is_plain_convolution(convolution) and _is_plain_norm(norm) for convolution, norm in pairs)


def _is_plain_convolution(convolution: nn.Module) -> bool:
    return (
        _is_a(convolution, nn.Conv2d)
        and convolution.bias is None
        and convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode in ("zeros", "reflect")
        and isinstance(convolution.padding, tuple)
        and _is_in_memory(convolution.weight)
    )


def _is_plain_norm(norm: nn.Module) -> bool:
    """In evaluation mode, with weights and statistics of its own."""
    tensors = [getattr(norm, name, None) for name in ("weight", "bias", "running_mean", "running_var")]
    return _is_a(norm, nn.BatchNorm2d) and not norm.training and all(_is_in_memory(tensor) for tensor in tensors)


def _is_in_memory(tensor: Any) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.is_floating_point() and tensor.device.type != "meta"


# What runs of each class, to notice a class that was patched
METHODS = ("forward", "__call__", "_call_impl", "_conv_forward", "stages", "project")
OWN_METHODS = {
    cls: [getattr(cls, name, None) for name in METHODS]
    for cls in (FgvcEncoder, FgvcBasicBlock, FgvcBottleneckBlock, nn.Sequential, nn.Conv2d, nn.BatchNorm2d)
}


def _is_a(module: Any, cls: type) -> bool:
    """Whether a module is of a class, not of one derived from it, and neither of the two has been patched."""
    if type(module) is not cls or not vars(module).keys().isdisjoint(METHODS):
        return False
    return [getattr(cls, name, None) for name in METHODS] == OWN_METHODS[cls]


def fused_for_inference(model: Any, before: FusedEncoder | None, every_value: bool = True) -> FusedEncoder | None:
    """The encoder that a model encodes frames with at inference: the one made before, or a new one if weights have changed since.

    `None`, for the modules themselves, while gradients are asked for, in training mode, under autocast, in graphs being compiled or exported,
    where modules have hooks (of torch or of accelerate), and where a part is of another kind, see [`can_be_fused`].

    Args:
        model ([`FgvcModel`]): The model.
        before ([`FusedEncoder`], *optional*): The one made before.
        every_value (`bool`, defaults to `True`): See [`FusedEncoder.is_of`].
    """
    graph = model.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if graph or torch.is_autocast_enabled(model.device.type) or type(model.encoder) is not FgvcEncoder:
        return None
    modules = modules_of(model.encoder)
    if any(map(_is_hooked, (model, *modules))):
        return None
    current = before is not None and before.is_of(modules, every_value)
    if current and not every_value:
        return before
    if not can_be_fused(model.encoder):
        return None
    return before if current else FusedEncoder(model.encoder)


def _is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module runs anything beside its own code."""
    own = module._forward_hooks or module._forward_pre_hooks or "_hf_hook" in vars(module)
    return bool(own or torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks)


__all__ = ["FusedConvolution", "FusedEncoder", "can_be_fused", "fused_for_inference"]
