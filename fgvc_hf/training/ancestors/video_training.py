"""Base of the trainings on unlabelled clips alone: UVC, TimeCycle, and UVC's colour auto-encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ...coordinates import cell_to_point
from ...data.augmentation import rgb_to_pixel_values
from ...image_processing_pil_fgvc import FgvcImageProcessorPil
from ...io.drawing import draw_boxes
from ..module import TrainingModule
from ..recipes import check_fields
from .patch_localisation import Place, Size


@dataclass(frozen=True)
class VideoRecipe:
    """Hyperparameters of a training on clips.

    Args:
        steps (`int`): Updates of the weights.
        batch_size (`int`): Clips per update, over all processes and accumulated parts.
        frame (`int`): Side of the frames in pixels.
        learning_rate (`float`): Of Adam, before the method's decay.
        gap (`tuple[int, int]`): Frames from one frame of a pair to the other.
        area, aspect (`tuple[float, float]`): Crops of the video that become frames; see [`VideoFolder`].
        seed (`int`): Of weights, data and augmentation.

    Raises:
        `ValueError`: a field is outside its range.
    """

    steps: int
    batch_size: int
    frame: int
    learning_rate: float
    gap: tuple[int, int] = (1, 50)
    area: tuple[float, float] = (0.6, 1.0)
    aspect: tuple[float, float] = (1.0, 1.8)
    seed: int = 0

    uses_real: ClassVar[bool] = True
    synthetic: ClassVar[float] = 0.0
    tracking: ClassVar[float] = 0.0
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    max_grad_norm: ClassVar[float] = 0.0
    config: ClassVar[Mapping[str, Any]] = {}  # fields of FgvcConfig for a model with random weights
    processor: ClassVar[Mapping[str, Any]] = {}  # settings of the image processor

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        self.check_side("frame")

    def check_side(self, name: str) -> None:
        """Refuse a side that is not of whole cells, by a `ValueError`."""
        side = getattr(self, name)
        if side < 32 or side % 8:
            raise ValueError(f"{name} must be a multiple of 8 of at least 32, got {side}.")

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the losses in the total, by name."""
        raise NotImplementedError

    def decay(self, step: int) -> float:
        """Factor on the learning rate of update `step`."""
        return 1.0

    @property
    def clip_settings(self) -> tuple:
        """Size, gap, area and aspect of clips, and offsets where the method has them; see [`VideoFolder`]."""
        return self.frame, self.gap, self.area, self.aspect


class VideoTraining(TrainingModule):
    """A model and its losses on clips: `forward(frames, seeds, step)` returns the losses by name.

    Args:
        model ([`FgvcModel`]): The encoder that is trained.
        recipe ([`VideoRecipe`]): Its hyperparameters.
    """

    def __init__(self, model: Any, recipe: Any):
        super().__init__(model, recipe, FgvcImageProcessorPil(**recipe.processor))

    def encode(self, rgb: torch.Tensor) -> torch.Tensor:
        """Features `(B, h, w, C)`, float32, of frames `(B, 3, H, W)`, RGB in [0, 1], which the recipe's processor converts."""
        return self.model(rgb_to_pixel_values(rgb, self.processor), return_dict=True).features.float().movedim(1, -1)

    def outlined(self, image: torch.Tensor, place: Place, index: int, size: Size) -> np.ndarray:
        """An image (3, H, W), RGB in [0, 1], as uint8 with a box around patch `index` of `size` cells."""
        stride = self.model.config.output_stride
        corners = cell_to_point(place.corners(size)[index], stride).cpu().numpy()
        return draw_boxes((255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy(), corners[None])
