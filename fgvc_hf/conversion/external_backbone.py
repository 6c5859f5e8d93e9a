"""Label propagation and template tracking on the features of any other network."""

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration_fgvc import FgvcConfig
from ..modeling_fgvc import FgvcModel


class BackboneEncoder(nn.Module):
    """The last feature map `(N, C, h, w)` of a network.

    The network may return a tensor, a list of tensors (timm with `features_only=True`), or an output with `feature_maps` (the backbones of
    transformers). Frames are padded to a multiple of the stride by repeating their border, so that the last row and column have cells too.

    Args:
        backbone (`torch.nn.Module`): The network. It keeps its weights: the model that it becomes part of does not initialise it.
        stride (`int`): Pixels per cell of its last feature map.
    """

    def __init__(self, backbone: nn.Module, stride: int):
        super().__init__()
        for module in backbone.modules():
            setattr(module, "_is_hf_initialized", True)  # post_init leaves it as it is
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
    """A model that tracks with the features of another network.

    ```python
    from transformers import AutoBackbone
    model = model_from_backbone(AutoBackbone.from_pretrained("facebook/dinov2-small", out_indices=[-1]), 14, patches=True)
    ```

    Args:
        backbone (`torch.nn.Module`): A network of timm, of transformers or your own; see [`BackboneEncoder`]. It is put into evaluation
            mode; its weights stay as they are. Its input is what the processor makes of a frame: use one with the network's mean and
            standard deviation, and with `do_convert_lab=False` for RGB.
        stride (`int`): Pixels per cell of its last feature map.
        patches (`bool`): `True` if cells are centred on blocks of pixels, as after convolutions that do not overlap (ViT, ConvNeXt);
            `False` if they are centred on pixels, as after convolutions with symmetric padding (ResNet).
        settings: Fields of [`FgvcConfig`]. For template tracking, `point_matching="templates"` with `hidden_threshold=0.0` and
            `recall_similarity=2.0`, or with the weights that `scripts/calibrate.py` fits: the similarity of two views of a point
            depends on the network.

    Returns:
        [`FgvcModel`] in evaluation mode.

    Raises:
        `ValueError`: `backbone` is no module, `patches` neither `True` nor `False`, or a field of the configuration is not accepted; or,
            on the first frame, the network's output is no feature map at this stride.
    """
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}.")
    if not isinstance(patches, bool):
        raise ValueError(f"patches must be True or False, got {patches!r:.100}.")
    config = FgvcConfig(encoder="external", output_stride=stride, cell_origin=0.5, **settings)
    if patches:
        config.cell_origin = config.output_stride / 2
    return FgvcModel(config, BackboneEncoder(backbone, config.output_stride)).eval()
