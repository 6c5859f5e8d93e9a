"""Points followed by the images themselves: patches of earlier frames are aligned with the new one.

From one frame to the next the patch around a point hardly changes, which tells where it goes ([`carry_points`]). And features tell where a
point is to about a cell; patches of several earlier images, where they are found again, tell it to a fraction of a pixel
([`align_points`]).
"""

from collections.abc import Sequence

import torch

from ..kernels.dispatch import alignment_for
from .patches import patch_weights, rows_to_compute


ITERATIONS = 6  # of the alignment at most; more bring nothing
VOTE = 16  # power of the correlation that a patch votes with: 0.9 counts a fifth of 1
GROWTH = 0.4, 2.5  # times by which the area of a patch may change; beyond, the alignment has failed


def image_patches(image: torch.Tensor, points: torch.Tensor, radius: int) -> torch.Tensor:
    """Patches (n, S, S), S = 2 * radius + 3, of an image (H, W) around points (n, 2) in pixels: one pixel more on each side for slopes."""
    return alignment_for(image).sample(image, points.to(image.dtype), radius)


def carry_points(
    previous: Sequence[torch.Tensor],
    current: Sequence[torch.Tensor],
    points: torch.Tensor,
    radius: int,
    least_similarity: float,
    tolerance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points of the previous image are on the current one: pyramidal Lucas–Kanade with a forward–backward check.

    Args:
        previous, current (sequence of `torch.Tensor`): The pyramids of both images, float32, each level half the size of the one before.
        points (`torch.Tensor` of shape `(n, 2)`): Where they were, (x, y) in pixels.
        radius (`int`): Pixels of the patches, on every level.
        least_similarity (`float`): Normalised cross-correlation from which a patch counts as found.
        tolerance (`float`): Pixels from where it was within which a point that is carried there and back must arrive.

    Returns:
        Points (n, 2), and which of them (n,), bool, were found; of the others the places mean nothing.
    """
    start = points.to(previous[0].dtype)
    there, found = _descend(previous, current, start, radius, least_similarity)
    rows = rows_to_compute(found)
    back, returns = _descend(current, previous, there[rows], radius, least_similarity)
    returns &= (back - start[rows]).norm(dim=1) <= tolerance
    return there.to(points.dtype), found.index_copy(0, rows, found[rows] & returns)


def _descend(
    source: Sequence[torch.Tensor],
    target: Sequence[torch.Tensor],
    points: torch.Tensor,
    radius: int,
    least_similarity: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the patches around points (n, 2) of one image are on another, level by level, and which (n,), bool, were found on the finest."""
    kernels, places, found = alignment_for(source[0]), points, torch.zeros_like(points[:, 0], dtype=torch.bool)
    weights = patch_weights(radius, points.device).to(points.dtype)
    for level in reversed(range(len(source))):
        scale = 2**level
        patches = kernels.sample(source[level], points / scale, radius)
        moved, growth, similarity = kernels.align(target[level], patches, weights, places / scale, ITERATIONS)
        found = (similarity >= least_similarity) & (growth > GROWTH[0]) & (growth < GROWTH[1])
        found &= (moved - places / scale).norm(dim=1) <= 2 * radius
        places = torch.where(found[:, None], moved * scale, places)
    return places, found


def align_points(
    image: torch.Tensor,
    points: torch.Tensor,
    patches: torch.Tensor,
    known: torch.Tensor,
    least_similarity: float,
    reach: float,
) -> torch.Tensor:
    """Where points are, by the mean of where their patches of K earlier frames are found.

    Args:
        image (`torch.Tensor` of shape `(H, W)`, float32): The frame, in any unit of brightness.
        points (`torch.Tensor` of shape `(n, 2)`): Where they are by their features, (x, y) in pixels.
        patches (`torch.Tensor` of shape `(K, n, S, S)`, float32): By [`image_patches`].
        known (`torch.Tensor` of shape `(K, n)`, bool): Which of them there are.
        least_similarity (`float`): Normalised cross-correlation from which a patch counts as found.
        reach (`float`): Pixels that a patch may be found from where its point is by features.

    Returns:
        Points (n, 2); those of which no patch is found stay where they are.
    """
    count, n = known.shape
    start = points.to(image.dtype).repeat(count, 1)  # (K * n, 2)
    weights = patch_weights((patches.shape[-1] - 3) // 2, image.device).to(image.dtype)
    places, growth, similarity = alignment_for(image).align(image, patches.flatten(0, 1), weights, start, ITERATIONS)
    found = known.flatten() & (similarity >= least_similarity) & ((places - start).norm(dim=1) <= reach)
    found &= (growth > GROWTH[0]) & (growth < GROWTH[1])
    votes = torch.where(found, similarity**VOTE, 0).view(count, n, 1)
    total = votes.sum(dim=0)  # (n, 1)
    places = torch.where(found[:, None], places, start).view(count, n, 2)  # those that have no vote may be infinite
    mean = (votes * places).sum(dim=0) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, mean.to(points.dtype), points)


__all__ = ["align_points", "carry_points", "image_patches"]
