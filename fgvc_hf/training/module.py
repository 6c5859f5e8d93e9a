"""The interface between a model with its losses and the training loop."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ..image_processing_pil_fgvc import FgvcImageProcessorPil


class TrainingModule(nn.Module):
    """A model and its losses behind one `forward`, so that one wrapper distributes all of it.

    Subclasses define `forward(frames, labelled, seeds, step)`, which returns the losses by name, each the mean over the batch:

    * frames (`torch.Tensor` of shape `(B, T, 3, H, W)`, uint8): real pairs or clips; `None` where the recipe uses none;
    * labelled ([`SyntheticPairs`]): pairs with flow, or `None`;
    * clips ([`TrainingClips`]): only where the recipe has a weight `tracking`;
    * seeds (list of B `int`): of all random choices, one for each pair;
    * step (`int`): the number of the update.

    Args:
        model: What is trained.
        recipe: Its hyperparameters.
        processor ([`FgvcImageProcessorPil`]): How the model sees frames; saved beside it.
    """

    frozen: tuple[Any, ...] = ()  # teachers; in a tuple torch does not see them, so they are neither trained nor saved

    def __init__(self, model: Any, recipe: Any, processor: FgvcImageProcessorPil):
        super().__init__()
        self.model, self.recipe, self.processor = model, recipe, processor

    @property
    def result(self) -> Any:
        """The model that is evaluated and saved."""
        return self.model

    def update_average(self) -> None:
        """Called after each update of the weights; for an average of them."""

    def draw(self, frames: torch.Tensor | None, labelled, seeds: list[int]) -> dict[str, np.ndarray]:
        """Pictures `(H, W, 3)`, uint8, of the model's matches on a batch, by name."""
        raise ValueError(f"there are no pictures of {type(self).__name__}.")
