"""Memory of previous frames: a ring of features that all label maps share."""

from dataclasses import dataclass

import torch


@dataclass
class FrameMemory:
    """Features of the n previous frames: frame number c of those that count is in slot c % n of the ring.

    Args:
        ring (`torch.Tensor` of shape `(n, h, w, C)`): The features.
        count (`int`): Frames that have been remembered; after [`~FrameMemory.resize`], from the first one that was kept on.
    """

    ring: torch.Tensor
    count: int = 0

    @classmethod
    def like(
        cls, features: torch.Tensor, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "FrameMemory":
        """Room for one frame with features (h, w, C), in their type and on their device unless others are given."""
        ring = torch.zeros((1, *features.shape), dtype=dtype or features.dtype, device=device or features.device)
        return cls(ring)

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def held(self) -> int:
        """Frames that there are: fewer than there is room for until the ring has filled."""
        return min(self.count, len(self.ring))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns (h, w) of a feature map."""
        return self.ring.shape[1], self.ring.shape[2]

    @property
    def next_slot(self) -> int:
        """Slot of the next frame, which replaces the oldest."""
        return self.count % len(self.ring)

    @property
    def last(self) -> torch.Tensor:
        """Features (h, w, C) of the last frame."""
        return self.ring[(self.count - 1) % len(self.ring)]

    def check(self, features: torch.Tensor) -> None:
        """A `ValueError` if features are not of the shape (h, w, C) of those before: the model has been given another encoder."""
        first, shape = tuple(self.ring.shape[1:]), tuple(features.shape)
        if first != shape:
            raise ValueError(
                f"features must be of shape {first} as on the frames before, got {shape}: make a new session."
            )

    def add(self, features: torch.Tensor) -> None:
        """Remember the features (h, w, C) of a frame in place of the oldest."""
        self.ring[self.next_slot] = features
        self.count += 1

    def recent_slots(self, number: int, step: int = 1) -> list[int]:
        """Slots of every `step`-th of the last `number` frames, latest first; at most as many as there are."""
        return [(self.count - back) % len(self.ring) for back in range(1, min(number, self.held) + 1, step)]

    def resize(self, frames: int) -> list[tuple[int, int]]:
        """Make room for `frames` frames, and keep the latest of those that there are.

        Returns:
            Old and new slot of each frame that is kept.
        """
        kept = min(frames, self.held)
        moves = [((self.count - kept + number) % len(self.ring), number) for number in range(kept)]
        try:
            old, self.ring = self.ring, self.ring.new_zeros((frames, *self.ring.shape[1:]))
        except RuntimeError:  # torch has no exception of its own for the CPU
            size = frames * self.ring[0].nbytes / 2**30
            raise ValueError(
                f"{frames} previous frames take {size:.3g} GiB: set max_memory_bytes, or fewer num_context_frames."
            ) from None
        for before, after in moves:
            self.ring[after] = old[before]
        self.count = kept
        return moves


__all__ = ["FrameMemory"]
