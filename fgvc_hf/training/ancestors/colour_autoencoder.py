"""UVC's colour auto-encoder: it encodes colours at the resolution of the features, where an affinity copies them, and decodes them to pixels.

It is frozen while [`UvcTraining`] trains an encoder. `scripts/convert.py uvc-colours` converts the published one; the recipes `colours` and
`colours-small` train one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ...data.augmentation import rgb_to_pixel_values
from ...encoder.loading import load_complete
from ...io.json_files import read_json, understanding
from .video_training import VideoRecipe, VideoTraining


# (8-bit Lab - 128) / 128
COLOUR_INPUT: dict[str, Any] = {
    "image_mean": [128 * 100 / 255, 0.0, 0.0],
    "image_std": [128 * 100 / 255, 128.0, 128.0],
}
CONTENTS = "settings and weights of a colour auto-encoder"  # in messages
CHANNEL_WEIGHTS = (1.0, 10.0, 10.0)  # of L, a and b, as in the released code


@strict
class ColourAutoEncoderConfig(PreTrainedConfig):
    """
    Configuration of a [`ColourAutoEncoder`].

    Args:
        widths (`list[int]`, defaults to `[64, 128, 256]`): Channels of the stages, each of which halves the resolution.
    """

    model_type = "uvc_colours"

    widths: list[int] | tuple[int, ...] = (64, 128, 256)

    def __post_init__(self, **kwargs):
        self.widths = list(self.widths)
        super().__post_init__(**kwargs)

    @property
    def stride(self) -> int:
        """Pixels per cell."""
        return 2 ** len(self.widths)


class ColourAutoEncoder(PreTrainedModel):
    """
    Encodes colours (N, 3, H, W) in [-1, 1] as (N, C, H / stride, W / stride), and decodes them: VGG's convolutions with reflection padding.

    Args:
        config ([`ColourAutoEncoderConfig`]): Its stages. The default is the published one, at stride 8.
    """

    config: ColourAutoEncoderConfig
    config_class = ColourAutoEncoderConfig
    base_model_prefix = "colours"
    main_input_name = "pixel_values"

    def __init__(self, config: ColourAutoEncoderConfig):
        super().__init__(config)
        down: list[nn.Module] = [_convolution(3, 3, 1)]
        up: list[nn.Module] = []
        for number, (inputs, width) in enumerate(zip([3, *config.widths], config.widths, strict=False), start=1):
            last = number == len(config.widths)
            deepest = [nn.MaxPool2d(2), _convolution(width, width, 1), nn.ReLU()]
            down += [_convolution(inputs, width), nn.ReLU()]
            down += deepest if last else [_convolution(width, width), nn.ReLU(), nn.MaxPool2d(2)]
            colours = nn.ReLU() if number > 1 else nn.Tanh()
            back = [nn.Upsample(scale_factor=2), _convolution(width, width, 1 if last else 3), nn.ReLU()]
            up = [*back, _convolution(width, inputs), colours, *up]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(cast(torch.Tensor, module.bias))

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Colour features `(N, h, w, C)`, channels last."""
        return self.encoder(pixel_values).movedim(1, -1)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Colours `(N, 3, H, W)` of features (N, h, w, C)."""
        return self.decoder(features.movedim(-1, 1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Reconstructed colours `(N, 3, H, W)`; the sides must be multiples of the stride."""
        return self.decode(self.encode(pixel_values))


def _convolution(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect" if size > 1 else "zeros")


def colour_loss(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference `(B,)` of colours `(B, 3, H, W)`, with weight 1 on L and 10 on a and b."""
    weights = found.new_tensor(CHANNEL_WEIGHTS)[:, None, None]
    return ((found - true).abs() * weights).mean((1, 2, 3))


def load_colours(folder: str) -> ColourAutoEncoder:
    """The auto-encoder in a folder.

    Raises:
        `OSError`: the folder has none.
        `ValueError`: it is damaged.
    """
    config = Path(folder) / "config.json"
    settings = read_json(config, CONTENTS) if config.is_file() else None
    if not isinstance(settings, dict) or settings.get("model_type") != ColourAutoEncoderConfig.model_type:
        raise OSError(f"{folder}: is no colour auto-encoder; give a folder of recipe colours, or a converted one.")
    with understanding(folder, CONTENTS):
        return load_complete(ColourAutoEncoder.from_pretrained, folder)


@dataclass(frozen=True)
class ColourRecipe(VideoRecipe):
    """Hyperparameters of a colour auto-encoder. Its authors give none; we use UVC's colour loss on single frames.

    Args:
        stride (`int`): Pixels per cell: 2, 4 or 8, as of the encoder that UVC trains with it.
        steps, ...: As of [`VideoRecipe`].
    """

    stride: int = 8

    processor = COLOUR_INPUT

    def __post_init__(self):
        super().__post_init__()
        if self.stride not in (2, 4, 8):
            raise ValueError(f"stride must be 2, 4 or 8, got {self.stride}.")

    @property
    def widths(self) -> list[int]:
        """Channels of the stages."""
        return [64, 128, 256][: self.stride.bit_length() - 1]

    @property
    def weights(self) -> dict[str, float]:
        return {"colour": 1.0}

    def decay(self, step: int) -> float:
        return (1 - step / self.steps) ** 0.9


class ColourTraining(VideoTraining):
    """A colour auto-encoder and its loss."""

    def forward(self, frames: torch.Tensor, seeds: list[int], step: int, labelled=None) -> dict[str, torch.Tensor]:
        """The loss of clips `(B, T, 3, H, W)`, uint8."""
        pixel_values = rgb_to_pixel_values(frames.flatten(0, 1).float() / 255, self.processor)
        return {"colour": colour_loss(self.model(pixel_values).float(), pixel_values).mean()}


COLOURS = ColourRecipe(steps=50_000, batch_size=16, frame=256, learning_rate=1e-4)
COLOURS_SMALL = ColourRecipe(steps=1_000, batch_size=4, frame=96, learning_rate=5e-4, area=(0.1, 0.6))
