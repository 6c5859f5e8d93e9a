"""The memory of the template tracker: the first patch of each point and a ring of the patches since."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..kernels.dispatch import patches_for
from ..matching.patches import patch_weights


@dataclass
class TemplateMemory:
    """
    Patches of N points: P = (2 * radius + 1)^2 cells each, of C channels.

    Args:
        anchor (`torch.Tensor` of shape `(N, P, C)`): The first patch of each point.
        recent (`torch.Tensor` of shape `(slots, N, P, C)`): Patch of frame t in slot t % slots; zeros where it was not trusted.
        trusted (`torch.Tensor` of shape `(slots, N)`, bool): Whether it was similar enough to the mean template to become one.
        similarity (`torch.Tensor` of shape `(N, P)`, float32): EMA of the cosine similarity of each cell of the patch with that of the mean
            template, over frames on which the point was visible.
        count (`int`): Frames since the first point was added.
    """

    anchor: torch.Tensor
    recent: torch.Tensor
    trusted: torch.Tensor
    similarity: torch.Tensor
    count: int = 0

    @classmethod
    def of(cls, anchor: torch.Tensor, slots: int) -> "TemplateMemory":
        """The memory, of as many slots, of points with first patches (N, P, C)."""
        recent = anchor.new_zeros((slots, *anchor.shape))
        trusted = anchor.new_zeros((slots, len(anchor)), dtype=torch.bool)
        return cls(anchor, recent, trusted, anchor.new_ones(anchor.shape[:2], dtype=torch.float32))

    @property
    def nbytes(self) -> int:
        """Bytes of the patches."""
        return self.anchor.nbytes + self.recent.nbytes

    def bytes_of(self, number: int) -> int:
        """Bytes of the patches of a number of points."""
        _, cells, channels = self.anchor.shape
        return number * (1 + len(self.recent)) * cells * channels * self.anchor.element_size()

    def add(self, anchor: torch.Tensor) -> None:
        """Add points with their first patches (n, P, C)."""
        new = TemplateMemory.of(anchor, len(self.recent))
        self.anchor, self.similarity = (
            torch.cat(pair) for pair in ((self.anchor, new.anchor), (self.similarity, new.similarity))
        )
        self.recent, self.trusted = (
            torch.cat(pair, dim=1) for pair in ((self.recent, new.recent), (self.trusted, new.trusted))
        )

    def keep(self, rows: list[int]) -> None:
        """Forget all other points."""
        self.anchor, self.similarity = self.anchor[rows], self.similarity[rows]
        self.recent, self.trusted = self.recent[:, rows], self.trusted[:, rows]

    def cell_weights(self, rows: slice, radius: int, temperature: float) -> torch.Tensor:
        """How much each cell of the patches counts (n, P): a Gaussian of its place, times exp(its usual similarity / temperature).

        Around a thin object, or at the border of one, most cells of a patch show the background, which moves in another way.
        """
        similarity = self.similarity[rows]
        return torch.softmax(patch_weights(radius, similarity.device).log() + similarity / temperature, dim=1)

    def mean(self, rows: slice, frames_back: Sequence[int], anchor_share: float) -> torch.Tensor:
        """Mean template (n, P, C): the first patch, weighted `anchor_share`, and the trusted patches of some frames back, weighted 1."""
        slots = [(self.count - back) % len(self.recent) for back in frames_back]
        recent = [(self.recent[slot, rows], self.trusted[slot, rows]) for slot in slots]
        return patches_for(self.anchor).mean(self.anchor[rows], anchor_share, recent)

    def update(
        self,
        rows: slice,
        features: torch.Tensor,
        cells: torch.Tensor,
        mean: torch.Tensor,
        trusted: torch.Tensor,
        visible: torch.Tensor,
        rate: float,
    ) -> None:
        """Store the patches found on a frame in place of the oldest.

        Args:
            rows (`slice`): The n points.
            features (`torch.Tensor` of shape `(h, w, C)`), cells (`torch.Tensor` of shape `(n, 2)`): The frame, and where they are on it.
            mean (`torch.Tensor` of shape `(n, P, C)`): Their mean templates.
            trusted (`torch.Tensor` of shape `(n,)`, bool): Whose patches become templates.
            visible (`torch.Tensor` of shape `(n,)`, bool): Whose EMA of the cells' similarities is updated, at `rate`.
        """
        slot = self.count % len(self.recent)
        found = patches_for(features).take(features, cells, mean, trusted, self.recent[slot, rows])  # (n, P)
        self.trusted[slot, rows] = trusted
        self.similarity[rows] = torch.lerp(self.similarity[rows], found, rate * visible[:, None].to(found.dtype))


__all__ = ["TemplateMemory"]
