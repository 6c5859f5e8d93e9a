"""The memory of the template tracker: the first patch of each point, patches of frames since, and other looks of it.

Old patches have drifted less and new ones know the pose, so patches of about 1, 2, 4, 8, ... frames back are kept. The patch of frame t of a
point, counted from 1, goes into the slot whose number is how often 2 divides t: slot 0 changes on every second frame, slot 1 on every fourth,
and so on; the last one takes the rest. So five slots hold patches of up to 16 frames back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..kernels.constants import constant_like
from ..kernels.dispatch import patches_for
from ..matching.patches import patch_weights
from .prompts import PointLooks


# Along which axis of each tensor the points lie
LOOKS_ALONG = {"reference": 1, "look_images": 1, "known": 1}  # tensors that are empty while no point has other looks
POINTS_ALONG = LOOKS_ALONG | dict.fromkeys(
    ("anchor", "recent", "anchor_image", "recent_image", "trusted", "similarity", "count"), 0
)


@dataclass
class TemplateMemory:
    """
    Patches of N points: P = (2 * radius + 1)^2 cells each, of C channels; and of the images, S x S pixels each.

    Args:
        anchor (`torch.Tensor` of shape `(N, P, C)`): The first patch of each point.
        recent (`torch.Tensor` of shape `(N, slots, P, C)`): Patches of frames since, see above; zeros where they were not trusted.
        anchor_image (`torch.Tensor` of shape `(N, S, S)`, float32), recent_image (`torch.Tensor` of shape `(N, slots, S, S)`, float32):
            The same of the images.
        trusted (`torch.Tensor` of shape `(N, slots)`, bool): Whether it was similar enough to the mean template to become one.
        similarity (`torch.Tensor` of shape `(N, P)`, float32): EMA of the cosine similarity of each cell of the patch with that of the mean
            template, over frames on which the point was visible.
        reference (`torch.Tensor` of shape `(R, N, P, C)`): Mean of the first patch and of those of other labelled frames or of other images.
            R is 1 if a point has other looks, else 0, for the first patch serves.
        look_images (`torch.Tensor` of shape `(K, N, S, S)`, float32), known (`torch.Tensor` of shape `(K, N)`, bool):
            The patches of the other images, and which there are; zeros elsewhere.
        count (`torch.Tensor` of shape `(N,)`, int64): Frames since the point was added. Each has its own, so that a track does not depend on
            when other points were added.
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
    count: torch.Tensor

    @classmethod
    def of(
        cls,
        anchor: torch.Tensor,
        anchor_image: torch.Tensor,
        slots: int,
        looks: Sequence[PointLooks | None] | None = None,
    ) -> "TemplateMemory":
        """The memory, of as many slots, of points with first patches (N, P, C) and (N, S, S), and with other looks of each if there are."""
        n = len(anchor)
        recent, recent_image = (of.new_zeros((n, slots, *of.shape[1:])) for of in (anchor, anchor_image))
        trusted, count = anchor.new_zeros((n, slots), dtype=torch.bool), anchor.new_zeros(n, dtype=torch.int64)
        similarity = anchor.new_ones(anchor.shape[:2], dtype=torch.float32)
        others = [(row, look) for row, look in enumerate(looks or ()) if look is not None]
        most = max((len(look.images) for _, look in others), default=0)
        reference = anchor[None].repeat(min(most, 1), 1, 1, 1)
        images, known = anchor_image.new_zeros((most, *anchor_image.shape)), trusted.new_zeros((most, n))
        for row, look in others:
            patches = torch.cat([anchor[row : row + 1].float(), look.templates.to(anchor.device).float()])
            reference[:, row], known[: len(look.images), row] = patches.mean(dim=0).to(anchor.dtype), True
            images[: len(look.images), row] = look.images.to(anchor_image)
        return cls(anchor, recent, anchor_image, recent_image, trusted, similarity, reference, images, known, count)

    @property
    def nbytes(self) -> int:
        """Bytes of the patches."""
        names = "anchor", "reference", "recent", "anchor_image", "recent_image", "look_images"
        return sum(getattr(self, name).nbytes for name in names)

    def bytes_of(self, number: int, looks: int = 0) -> int:
        """Bytes of the patches of a number of points more, that have at most so many other looks each."""
        patch, image = (math.prod(of.shape[1:]) * of.element_size() for of in (self.anchor, self.anchor_image))
        before, after = len(self.known), max(len(self.known), looks)  # room is made for as many looks of every point
        own = number * (1 + self.slots) * (patch + image)
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
        self.reference = self.references[None]

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

    @property
    def slots(self) -> int:
        """Number of patches of each point since its first one."""
        return self.recent.shape[1]

    def next_slot(self, rows: slice) -> torch.Tensor:
        """The slot (n,) of the patches on the next frame, number `count + 1`: how often 2 divides that number."""
        powers = 2 ** torch.arange(1, self.slots, device=self.count.device)
        return ((self.count[rows, None] + 1) % powers == 0).sum(dim=1)

    def ages(self, rows: slice) -> torch.Tensor:
        """How many frames before the next one the patches (n, slots) were found; more than `count` where there are none yet."""
        slot = torch.arange(self.slots, device=self.count.device)
        last = slot == self.slots - 1
        first, period = (
            torch.where(last, 0, 2**slot),
            2 ** torch.where(last, slot, slot + 1),
        )  # of the frames in a slot
        return (self.count[rows, None] - first) % period + 1

    def mean(self, rows: slice, anchor_share: float) -> torch.Tensor:
        """Mean template (n, P, C): the reference, weighted `anchor_share`, and the trusted patches since, weighted 1."""
        return patches_for(self.anchor).mean(
            self.references[rows], anchor_share, self.recent[rows], self.trusted[rows]
        )

    def images(self, rows: slice, frames_back: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (K, n, S, S) of the first image, of those about so many frames back and of other looks, and which (K, n), bool, may be used."""
        ages = self.ages(rows)[None]  # (1, n, slots)
        back = constant_like(frames_back, ages)[:, None, None]
        order = torch.arange(self.slots, device=ages.device)  # the first of two that are as near
        nearest = ((ages - back).abs() * self.slots + order).argmin(dim=2)  # (K, n)
        point = torch.arange(ages.shape[1], device=ages.device)
        recent, trusted = (of[rows][point, nearest] for of in (self.recent_image, self.trusted))
        patches = torch.cat([self.anchor_image[None, rows], recent, self.look_images[:, rows]])
        first = torch.ones_like(trusted[:1]) if len(trusted) else torch.ones_like(self.trusted[None, rows, 0])
        return patches, torch.cat([first, trusted, self.known[:, rows]])

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
        """Store the patches found on a frame in their slots.

        Args:
            rows (`slice`): The n points.
            features (`torch.Tensor` of shape `(h, w, C)`), cells (`torch.Tensor` of shape `(n, 2)`): The frame, and where they are on it.
            images (`torch.Tensor` of shape `(n, S, S)`): The patches of the image there.
            mean (`torch.Tensor` of shape `(n, P, C)`): Their mean templates.
            trusted (`torch.Tensor` of shape `(n,)`, bool): Whose patches become templates.
            visible (`torch.Tensor` of shape `(n,)`, bool): Whose EMA of the cells' similarities is updated, at `rate`.
        """
        slots, point = self.next_slot(rows), torch.arange(len(cells), device=cells.device)
        found = patches_for(features).take(features, cells, mean, trusted, self.recent[rows], slots)  # (n, P)
        self.trusted[rows][point, slots], self.recent_image[rows][point, slots] = trusted, images
        self.similarity[rows] = torch.lerp(self.similarity[rows], found, rate * visible[:, None].to(found.dtype))
        self.count[rows] += 1


__all__ = ["TemplateMemory"]
