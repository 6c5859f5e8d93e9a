"""The search for points that are known by what they look like: in whole frames, until they are found.

A point that was described in another image has no position to start from. On every frame its templates are compared with all cells, as in a
step of the template tracker ([`TemplateTracker`]) with a search window of the whole frame and without a motion prior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import cell_to_point, exact
from ..matching.alignment import align_points
from ..matching.pyramid import FeaturePyramid
from ..matching.template_search import Match, MotionPrior, refine, search_coarse, verify
from .encoded_frame import EncodedFrame
from .evidence import judge
from .point_state import PointState
from .prompts import PointLooks
from .template_constants import TemplateConstants
from .template_memory import TemplateMemory


@dataclass
class PointSearch:
    """
    N points that are looked for.

    Args:
        config ([`FgvcConfig`]): As of [`TemplateTracker`].
        ids (`list[int]`): Id of each point.
        memory ([`TemplateMemory`]): What they look like, with which they are followed once they are found.

    Attributes:
        constants ([`TemplateConstants`]): Of all searches.
    """

    constants: ClassVar[TemplateConstants] = TemplateConstants()

    config: FgvcConfig
    ids: list[int]
    memory: TemplateMemory

    @classmethod
    def of(cls, config: FgvcConfig, ids: list[int], looks: Sequence[PointLooks], like: TemplateMemory) -> Self:
        """A search for points by their looks, the first of which becomes the first patch; tensors as those of a memory."""
        first = [torch.stack([getattr(look, name)[0] for look in looks]) for name in ("templates", "images")]
        others = [PointLooks(look.templates[1:], look.images[1:]) for look in looks]
        anchor, image = first[0].to(like.anchor), first[1].to(like.anchor_image)
        return cls(config, list(ids), TemplateMemory.of(anchor, image, like.slots, others))

    def join(self, other: "PointSearch") -> None:
        """Look for the points of another search as well."""
        self.memory.join(other.memory)
        self.ids = self.ids + other.ids

    def drop(self, ids: set[int]) -> None:
        """Look for points no longer."""
        rows = [row for row, obj_id in enumerate(self.ids) if obj_id not in ids]
        if len(rows) < len(self.ids):
            self.ids = [self.ids[row] for row in rows]
            self.memory.keep(rows)

    def step(self, pyramid: FeaturePyramid, frame: EncodedFrame) -> tuple[list[int], TemplateMemory, PointState]:
        """Look for all points on a frame.

        Returns:
            Ids, patches and state of those that were found; they are looked for no longer.
        """
        match = self.find(pyramid)
        state = self._state(match, frame)
        found = self.found(match)
        rows = found.nonzero()[:, 0].tolist()
        ids, memory = [self.ids[row] for row in rows], self.memory.rows(rows)
        self.drop(set(ids))
        return ids, memory, state.rows(found)

    def found(self, match: Match) -> torch.Tensor:
        """Which points (N,), bool, are at their best places: those that resemble them, while no other place does as much."""
        evidence = match.evidence.new_tensor([self.constants.found_similarity, -math.inf, self.constants.found_margin])
        return (match.evidence >= evidence).all(dim=1)

    def find(self, pyramid: FeaturePyramid) -> Match:
        """The best place of every point in the whole frame."""
        config, constants, memory = self.config, self.constants, self.memory
        rows, (h, w, _) = slice(None), pyramid.features.shape
        share, rival = constants.least_share, constants.rival_distance
        weights = memory.cell_weights(rows, config.template_radius, constants.cell_temperature)  # (n, P)
        mean = memory.references  # (n, P, C)
        middle = weights.new_tensor([w // 2, h // 2]).expand(len(weights), 2)
        prior = MotionPrior(middle, weights.new_zeros(len(weights)))
        candidates = search_coarse(
            pyramid.coarse, mean, weights, max(h, w) // 2 + 1, prior, constants.coarse_rival_distance, share
        )
        window, margin = verify(
            pyramid.features, candidates, mean, weights, prior, constants.fine_radius, constants.close_margin, share
        )
        return refine(window, window.scores, prior, margin, constants.anchor_radius, rival, share)

    def _state(self, match: Match, frame: EncodedFrame) -> PointState:
        """The state of points that were found at these places."""
        config, constants = self.config, self.constants
        points = cell_to_point(exact(match.cells), config.output_stride, config.cell_origin)
        patches, known = self.memory.images(slice(None), ())
        points = align_points(frame.image, points, patches, known, constants.image_similarity, constants.image_reach)
        points = points.clamp_min(0).minimum(points.new_tensor(frame.size[::-1]))
        first = PointState.first(points, match.cells)
        judged = judge(match.evidence, first.averages, config, constants)
        return replace(
            first,
            confidence=judged.confidence,
            uncertainty=judged.uncertainty,
            evidence=judged.evidence,
            averages=judged.averages,
        )


__all__ = ["PointSearch"]
