"""A frame as the trackers see it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """
    What a frame is matched by.

    Args:
        features (`torch.Tensor` of shape `(h, w, C)`): Normalised features.
        image (`torch.Tensor` of shape `(H, W)`, float32): Grey levels of the model's input, in any unit of brightness.
    """

    features: torch.Tensor
    image: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, pixel_values: torch.Tensor) -> "EncodedFrame":
        """The frame with features (h, w, C) of the model's input (3, H, W)."""
        return cls(features, pixel_values.float().mean(dim=0))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the model's input."""
        return self.image.shape[0], self.image.shape[1]


__all__ = ["EncodedFrame"]
