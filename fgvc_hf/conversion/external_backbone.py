"""Other networks' features behind the same propagation: anything that gives a feature map can be measured and used."""

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration_fgvc import FgvcConfig
from ..modeling_fgvc import FgvcModel


class BackboneEncoder(nn.Module):
    """The last feature map `(N, C, h, w)` of a network, whatever it wraps it in.

    Accepted are a tensor, a list of tensors (timm with `features_only=True`), and an output with `feature_maps` (the backbones of
    transformers). Frames are continued to a multiple of the stride, so that cells are complete.
    """

    def __init__(self, backbone: nn.Module, stride: int):
        super().__init__()
        self.backbone, self.stride = backbone, stride

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]
        right, below = -width % self.stride, -height % self.stride
        if right or below:
            pixel_values = F.pad(pixel_values, (0, right, 0, below), mode="replicate")
        output = self.backbone(pixel_values)
        maps = getattr(output, "feature_maps", output)
        features = maps[-1] if isinstance(maps, list | tuple) else maps
        expected = (-(-height // self.stride), -(-width // self.stride))
        if not isinstance(features, torch.Tensor) or features.ndim != 4 or features.shape[-2:] != expected:
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ValueError(
                f"the backbone must give (N, C, {expected[0]}, {expected[1]}) at stride {self.stride}, got {found}."
            )
        return features


def model_from_backbone(backbone: nn.Module, stride: int, patches: bool, **settings) -> FgvcModel:
    """A model that propagates with the features of another network.

    ```python
    from transformers import AutoBackbone
    model = model_from_backbone(AutoBackbone.from_pretrained("facebook/dinov2-small", out_indices=[-1]), 14, patches=True)
    ```

    Args:
        backbone (`torch.nn.Module`): Of timm, transformers or one's own; see [`BackboneEncoder`]. It gets frames as the processor
            makes them: give one with its mean and standard deviation, and `do_convert_lab=False` for RGB.
        stride (`int`): Pixels per cell of its last feature map.
        patches (`bool`): Whether cells are centred on blocks of pixels, as after convolutions that do not overlap (ViT, ConvNeXt), and
            not on pixels, as after convolutions with symmetric padding (ResNet).
        settings: Fields of [`FgvcConfig`]. To follow points by templates, `point_matching="templates"`, with `hidden_threshold=0.0` and
            `recall_similarity=2.0`, or weights of `scripts/calibrate.py`: how similar two views of a point are depends on the network.
    """
    origin = stride / 2 if patches else 0.5
    config = FgvcConfig(encoder="external", output_stride=stride, cell_origin=origin, **settings)
    return FgvcModel(config, BackboneEncoder(backbone, stride)).eval()
