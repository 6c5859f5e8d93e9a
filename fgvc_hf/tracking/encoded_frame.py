"""A frame as the trackers see it."""

from dataclasses import dataclass
from functools import cached_property

import torch

from ..matching.patch_flow import pyramid


LEVELS = 3  # of the pyramid of an image; the coarsest is of a quarter of its size


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """
    What a frame is matched by.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): Normalised features.
        image (`torch.Tensor` of shape `(H, W)`, float32): Grey levels of the model's input, in any unit of brightness.
        previous (`torch.Tensor` of shape `(H, W)`, float32, *optional*): The image of the frame before.
    """

    features: torch.Tensor
    image: torch.Tensor
    previous: torch.Tensor | None = None

    @classmethod
    def of(
        cls, features: torch.Tensor, pixel_values: torch.Tensor, previous: torch.Tensor | None = None
    ) -> "EncodedFrame":
        """The frame with features (h, w, C) of the model's input (3, H, W)."""
        return cls(features, pixel_values.float().mean(dim=0).to(features.device), previous)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the model's input."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def levels(self) -> list[torch.Tensor]:
        """The image pyramid, the finest level first."""
        return pyramid(self.image, LEVELS)

    @cached_property
    def previous_levels(self) -> list[torch.Tensor] | None:
        """The image pyramid of the frame before."""
        return None if self.previous is None else pyramid(self.previous, LEVELS)


__all__ = ["EncodedFrame"]
