"""The encoder: ResNet-18 through layer3, with fewer strides.

Parameters have torchvision's names. The strides of its stages follow from `config.output_stride`, so the same weights give features at
stride 2, 4 or 8. Features are the output of the last ReLU.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration_fgvc import BOTTLENECK_EXPANSION, FgvcConfig


def _convolution(config: FgvcConfig, inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    mode: Any = config.padding_mode
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False, padding_mode=mode)


def _norm(config: FgvcConfig, width: int) -> nn.BatchNorm2d:
    """Statistics are in float32 in a model of half precision, and in float64 in one of that type."""
    kind = torch.promote_types(torch.empty(0).dtype, torch.float32)
    return nn.BatchNorm2d(width, eps=config.batch_norm_eps, dtype=kind)


class FgvcBasicBlock(GradientCheckpointingLayer):
    """Residual block of ResNet-18: Conv-BN-ReLU-Conv-BN, plus the (projected) input, then ReLU."""

    expansion = 1

    def __init__(self, config: FgvcConfig, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = _convolution(config, inputs, width, 3, stride)
        self.bn1 = _norm(config, width)
        self.conv2 = _convolution(config, width, width, 3, 1)
        self.bn2 = _norm(config, width)
        cast(Any, self.bn2).starts_at_zero = True
        self.downsample = _shortcut(config, inputs, width, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.downsample is None else self.downsample(hidden_states)
        hidden_states = F.relu(self.bn1(self.conv1(hidden_states)))
        hidden_states = self.bn2(self.conv2(hidden_states))
        return F.relu(hidden_states + residual)


class FgvcBottleneckBlock(GradientCheckpointingLayer):
    """Bottleneck block of ResNet-50: 1x1 to `width` channels, 3x3 with the stride, 1x1 to four times `width`."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(self, config: FgvcConfig, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _convolution(config, inputs, width, 1, 1)
        self.bn1 = _norm(config, width)
        self.conv2 = _convolution(config, width, width, 3, stride)
        self.bn2 = _norm(config, width)
        self.conv3 = _convolution(config, width, outputs, 1, 1)
        self.bn3 = _norm(config, outputs)
        cast(Any, self.bn3).starts_at_zero = True
        self.downsample = _shortcut(config, inputs, outputs, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.downsample is None else self.downsample(hidden_states)
        hidden_states = F.relu(self.bn1(self.conv1(hidden_states)))
        hidden_states = F.relu(self.bn2(self.conv2(hidden_states)))
        hidden_states = self.bn3(self.conv3(hidden_states))
        return F.relu(hidden_states + residual)


def _shortcut(config: FgvcConfig, inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The projection shortcut of a block that changes the shape of its input, else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(projection, _norm(config, outputs))


def _stage(config: FgvcConfig, inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    block = FgvcBottleneckBlock if config.bottleneck else FgvcBasicBlock
    later = (block(config, width * block.expansion, width, 1) for _ in range(depth - 1))
    return nn.Sequential(block(config, inputs, width, stride), *later)


class FgvcEncoder(nn.Module):
    """ResNet through layer3 (or layer4), by default without pooling: (N, 3, H, W) to (N, C, H / stride, W / stride).

    Parameters have torchvision's names.
    """

    def __init__(self, config: FgvcConfig):
        super().__init__()
        stem_stride, *stage_strides = config.stage_strides
        widths, expansion = config.hidden_sizes, BOTTLENECK_EXPANSION if config.bottleneck else 1
        self.conv1 = _convolution(config, config.num_channels, widths[0], 7, stem_stride)
        self.bn1 = _norm(config, widths[0])
        pools = {"max": nn.MaxPool2d(3, 2, 1), "avg": nn.AvgPool2d(3, 2, 1)}
        self.pool = pools[config.stem_pooling] if config.stem_pooling else nn.Identity()
        stages, inputs = [], widths[0]
        for width, depth, stride in zip(widths, config.depths, stage_strides, strict=True):
            stages.append(_stage(config, inputs, width, depth, stride))
            inputs = width * expansion
        self.layer1, self.layer2, self.layer3 = stages[:3]
        self.layer4 = stages[3] if len(stages) == 4 else None
        self._keep_in_fp32_modules_strict = ["bn3"] if config.bottleneck else []  # in addition to those of the model
        self.projection = None
        if config.projection_size:
            size = config.projection_kernel
            self.projection = nn.Conv2d(inputs, config.projection_size, size, padding=size // 2)
        self.projection_relu = config.projection_relu

    def stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs (N, C, h, w) of the stem before pooling, of layer1 and of layer3."""
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)  # several times faster in bfloat16
        stem = F.relu(self.bn1(self.conv1(pixel_values)))
        first = self.layer1(self.pool(stem))
        return stem, first, self.layer3(self.layer2(first))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden_states = self.stages(pixel_values)[-1]
        if self.layer4 is not None:
            hidden_states = self.layer4(hidden_states)
        return self.project(hidden_states)

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Output of the last stage to features: the projection and its ReLU, if the configuration has them."""
        if self.projection is None:
            return hidden_states
        hidden_states = self.projection(hidden_states)
        return F.relu(hidden_states) if self.projection_relu else hidden_states


__all__ = ["FgvcBasicBlock", "FgvcBottleneckBlock", "FgvcEncoder"]
