"""Re-detection: points that were not found nearby are looked for in the whole frame."""

import torch
import torch.nn.functional as F

from .patches import patch_weights, rows_to_compute, window_scores
from .pyramid import BLOCK_SIDE, BLOCK_STRIDE, FeaturePyramid
from .template_search import Match, MotionPrior, refine


# Queries that are multiplied with all blocks at once. Always as many, padded with zeros: the last bit of a product depends on the size of
# the batch, and a track must not depend on how many points there are
QUERIES_AT_ONCE = 32


def redetect(
    pyramid: FeaturePyramid,
    anchor: torch.Tensor,
    mean: torch.Tensor,
    weights: torch.Tensor,
    match: Match,
    recall_similarity: float,
    recall_below: float,
    recall_share: float,
    recall_radius: int,
    anchor_radius: int,
    rival_distance: int,
    least_share: float,
) -> tuple[Match, torch.Tensor]:
    """Look for the points whose match resembles their first patch too little in the whole frame.

    The block of cells most similar to the first patch is searched at full resolution. A place found there is taken if its distance from
    the first patch, 1 - similarity, is at most `recall_share` of the local match's. The share, not the difference, tells a point that was
    lost from one whose looks have changed: what covers a point may carry it off and resemble it by 0.85, where its true place has 0.95;
    the legs of an animal all resemble the first patch of one of them about as well. The mean template is not asked, for it has
    learnt the looks of what carries the point off.

    Args:
        pyramid ([`FeaturePyramid`]): The frame.
        anchor, mean (`torch.Tensor` of shape `(N, P, C)`): First patches and mean templates.
        weights (`torch.Tensor` of shape `(N, P)`): How much each of their cells counts.
        match ([`Match`]): What the local search found.
        recall_similarity (`float`): Score of the first patch that a new place must reach.
        recall_below (`float`): Score of the first patch below which a point is looked for.
        recall_share (`float`): As above.
        recall_radius (`int`): Cells around the best block that are searched.
        anchor_radius, rival_distance, least_share: As of [`refine`].

    Returns:
        The match with the points that were found again, and which these are (N,), bool.
    """
    lost = match.anchor < recall_below  # (N,)
    rows = rows_to_compute(lost)  # (n,)
    if recall_similarity > 1 or not len(rows) or pyramid.blocks is None:
        return match, torch.zeros_like(lost)
    features, radius = pyramid.features, (round(anchor.shape[1] ** 0.5) - 1) // 2
    places = best_blocks(pyramid.blocks, anchor[rows], radius)  # (n, 2)
    scores = window_scores(features, places, anchor[rows], weights[rows], recall_radius).scores  # (n, D, D)
    least = (1 - recall_share * (1 - match.anchor[rows])).clamp_min(recall_similarity)  # (n,)
    possible = lost[rows] & (scores.flatten(1).amax(dim=1) >= least)  # mean templates are compared for these alone
    few = rows_to_compute(possible)
    rows, places, scores, least, possible = (of[few] for of in (rows, places, scores, least, possible))
    window = window_scores(features, places, mean[rows], weights[rows], recall_radius)
    anywhere = MotionPrior(places, torch.zeros_like(least))
    far = refine(window, scores, anywhere, torch.ones_like(least), anchor_radius, rival_distance, least_share)
    better = possible & (far.anchor >= least)
    return match.replaced(rows, better, far), torch.zeros_like(lost).index_copy(0, rows, better)


def best_blocks(blocks: torch.Tensor, patches: torch.Tensor, radius: int) -> torch.Tensor:
    """Centres (N, 2), in cells (x, y), of the blocks (rows, columns, C) most similar to the weighted means of patches (N, P, C)."""
    columns = blocks.shape[1]
    queries = (patches.float() * patch_weights(radius, blocks.device)[:, None]).sum(dim=1)  # (N, C)
    missing = -len(queries) % QUERIES_AT_ONCE
    parts = F.pad(queries, (0, 0, 0, missing)).split(QUERIES_AT_ONCE)
    best = torch.cat([(part @ blocks.flatten(0, 1).T).argmax(dim=1) for part in parts])[: len(queries)]
    return torch.stack([best % columns, best // columns], dim=1).float() * BLOCK_STRIDE + (BLOCK_SIDE - 1) / 2


__all__ = ["best_blocks", "redetect"]
