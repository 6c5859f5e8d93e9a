"""The memory of the template tracker: the first patch of each point, a ring of the patches since, and other looks of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..kernels.dispatch import patches_for
from ..matching.patches import patch_weights
from .prompts import PointLooks


# Along which axis of each tensor the points lie
LOOKS_ALONG = {"reference": 1, "look_images": 1, "known": 1}  # tensors that are empty while no point has other looks
POINTS_ALONG = {
    "anchor": 0,
    "recent": 1,
    "anchor_image": 0,
    "recent_image": 1,
    "trusted": 1,
    "similarity": 0,
}
POINTS_ALONG |= LOOKS_ALONG


@dataclass
class TemplateMemory:
    """
    Patches of N points: P = (2 * radius + 1)^2 cells each, of C channels; and of the images, S x S pixels each.

    Args:
        anchor (`torch.Tensor` of shape `(N, P, C)`): The first patch of each point.
        recent (`torch.Tensor` of shape `(slots, N, P, C)`): Patch of frame t in slot t % slots; zeros where it was not trusted.
        anchor_image (`torch.Tensor` of shape `(N, S, S)`, float32), recent_image (`torch.Tensor` of shape `(slots, N, S, S)`, float32):
            The same of the images.
        trusted (`torch.Tensor` of shape `(slots, N)`, bool): Whether it was similar enough to the mean template to become one.
        similarity (`torch.Tensor` of shape `(N, P)`, float32): EMA of the cosine similarity of each cell of the patch with that of the mean
            template, over frames on which the point was visible.
        reference (`torch.Tensor` of shape `(R, N, P, C)`): Mean of the first patch and of those of other labelled frames or of other images.
            R is 1 if a point has other looks, else 0, for the first patch serves.
        look_images (`torch.Tensor` of shape `(K, N, S, S)`, float32), known (`torch.Tensor` of shape `(K, N)`, bool):
            The patches of the other images, and which there are; zeros elsewhere.
        count (`int`): Frames since the first point was added.
    """

    anchor: torch.Tensor
    recent: torch.Tensor
    anchor_image: torch.Tensor
    recent_image: torch.Tensor
    trusted: torch.Tensor
    similarity: torch.Tensor
    reference: torch.Tensor
    look_images: torch.Tensor
    known: torch.Tensor
    count: int = 0

    @classmethod
    def of(
        cls,
        anchor: torch.Tensor,
        anchor_image: torch.Tensor,
        slots: int,
        looks: Sequence[PointLooks | None] | None = None,
    ) -> "TemplateMemory":
        """The memory, of as many slots, of points with first patches (N, P, C) and (N, S, S), and with other looks of each if there are."""
        recent, recent_image = (patches.new_zeros((slots, *patches.shape)) for patches in (anchor, anchor_image))
        trusted = anchor.new_zeros((slots, len(anchor)), dtype=torch.bool)
        similarity = anchor.new_ones(anchor.shape[:2], dtype=torch.float32)
        others = [(row, look) for row, look in enumerate(looks or ()) if look is not None]
        most = max((len(look.images) for _, look in others), default=0)
        reference = anchor[None].repeat(min(most, 1), 1, 1, 1)
        images, known = anchor_image.new_zeros((most, *anchor_image.shape)), trusted.new_zeros((most, len(anchor)))
        for row, look in others:
            patches = torch.cat([anchor[row : row + 1].float(), look.templates.to(anchor.device).float()])
            reference[:, row], known[: len(look.images), row] = patches.mean(dim=0).to(anchor.dtype), True
            images[: len(look.images), row] = look.images.to(anchor_image)
        return cls(anchor, recent, anchor_image, recent_image, trusted, similarity, reference, images, known)

    @property
    def nbytes(self) -> int:
        """Bytes of the patches."""
        names = "anchor", "reference", "recent", "anchor_image", "recent_image", "look_images"
        return sum(getattr(self, name).nbytes for name in names)

    def bytes_of(self, number: int, looks: int = 0) -> int:
        """Bytes of the patches of a number of points more, that have at most so many other looks each."""
        patch, image = (math.prod(of.shape[1:]) * of.element_size() for of in (self.anchor, self.anchor_image))
        before, after = len(self.known), max(len(self.known), looks)  # room is made for as many looks of every point
        own = number * (1 + len(self.recent)) * (patch + image)
        total = len(self.anchor) + number
        grown = total * (min(after, 1) * patch + after * image) - len(self.anchor) * (
            min(before, 1) * patch + before * image
        )
        return own + grown

    @property
    def references(self) -> torch.Tensor:
        """Mean (N, P, C) of the first patch and of those of other looks."""
        return self.reference[0] if len(self.reference) else self.anchor

    def join(self, new: "TemplateMemory") -> None:
        """Add the points of another memory of as many slots."""
        for one, other in ((self, new), (new, self)):
            if len(one.known) < len(other.known):
                one._make_room(len(other.known))
        for name, dim in POINTS_ALONG.items():
            setattr(self, name, torch.cat([getattr(memory, name) for memory in (self, new)], dim=dim))

    def _make_room(self, looks: int) -> None:
        """Make room for so many other looks of every point, more than there are."""
        for name in ("look_images", "known"):
            tensor = getattr(self, name)
            setattr(self, name, torch.cat([tensor, tensor.new_zeros((looks - len(tensor), *tensor.shape[1:]))]))
        self.reference = self.references[None].clone()

    def keep(self, rows: list[int]) -> None:
        """Forget all other points."""
        for name, dim in POINTS_ALONG.items():
            tensor = getattr(self, name)
            setattr(self, name, tensor[:, rows] if dim else tensor[rows])
        if not self.known.any():  # none of these has other looks
            for name in LOOKS_ALONG:
                setattr(self, name, getattr(self, name)[:0].clone())

    def rows(self, rows: list[int]) -> "TemplateMemory":
        """A memory of some of the points."""
        some = replace(self)
        some.keep(rows)
        return some

    def cell_weights(self, rows: slice, radius: int, temperature: float) -> torch.Tensor:
        """How much each cell of the patches counts (n, P): a Gaussian of its place, times exp(its usual similarity / temperature).

        Around a thin object, or at the border of one, most cells of a patch show the background, which moves in another way.
        """
        similarity = self.similarity[rows]
        return torch.softmax(patch_weights(radius, similarity.device).log() + similarity / temperature, dim=1)

    def mean(self, rows: slice, frames_back: Sequence[int], anchor_share: float) -> torch.Tensor:
        """Mean template (n, P, C): the reference, weighted `anchor_share`, and the trusted patches of some frames back, weighted 1."""
        slots = [(self.count - back) % len(self.recent) for back in frames_back]
        recent = [(self.recent[slot, rows], self.trusted[slot, rows]) for slot in slots]
        return patches_for(self.anchor).mean(self.references[rows], anchor_share, recent)

    def images(self, rows: slice, frames_back: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (K, n, S, S) of the first image, of those some frames back and of other looks, and which (K, n), bool, may be used."""
        slots = [(self.count - back) % len(self.recent) for back in frames_back]
        recent = (self.recent_image[slot, rows] for slot in slots)
        patches = torch.stack([self.anchor_image[rows], *recent, *self.look_images[:, rows]])
        first = torch.ones_like(self.trusted[0, rows])
        return patches, torch.stack([first, *(self.trusted[slot, rows] for slot in slots), *self.known[:, rows]])

    def update(
        self,
        rows: slice,
        features: torch.Tensor,
        cells: torch.Tensor,
        images: torch.Tensor,
        mean: torch.Tensor,
        trusted: torch.Tensor,
        visible: torch.Tensor,
        rate: float,
    ) -> None:
        """Store the patches found on a frame in place of the oldest.

        Args:
            rows (`slice`): The n points.
            features (`torch.Tensor` of shape `(h, w, C)`), cells (`torch.Tensor` of shape `(n, 2)`): The frame, and where they are on it.
            images (`torch.Tensor` of shape `(n, S, S)`): The patches of the image there.
            mean (`torch.Tensor` of shape `(n, P, C)`): Their mean templates.
            trusted (`torch.Tensor` of shape `(n,)`, bool): Whose patches become templates.
            visible (`torch.Tensor` of shape `(n,)`, bool): Whose EMA of the cells' similarities is updated, at `rate`.
        """
        slot = self.count % len(self.recent)
        found = patches_for(features).take(features, cells, mean, trusted, self.recent[slot, rows])  # (n, P)
        self.trusted[slot, rows], self.recent_image[slot, rows] = trusted, images
        self.similarity[rows] = torch.lerp(self.similarity[rows], found, rate * visible[:, None].to(found.dtype))


__all__ = ["TemplateMemory"]
