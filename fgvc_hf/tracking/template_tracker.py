"""The template tracker: points followed by patches of features around them, one row of the probabilistic map (Eq. 1) each.

Label maps carry every cell of a neighbourhood along; a point needs one row of the map alone. Its query is a template, the patch of
features around it, and its search window moves with it. One step, for every point by itself ([`TemplateTracker.step`]):

1. Cell weights. The cells of a patch that stayed similar while the point was visible (an EMA) count more: around a thin object most
   cells of a patch show the background, which moves in another way.
2. Mean template. The mean of the first patch and of the trusted ones of five frames up to 16 back, which finds the point through
   changes of its appearance.
3. Prediction. The patch of the last image around a point that was followed there is aligned with the new image (pyramidal
   Lucas–Kanade with a forward–backward check). Where that fails, the point is expected where it was.
4. Coarse search. The mean template is correlated with a window around the expected position at half resolution (the next pyramid
   level); a quadratic motion prior is subtracted, and the two best places are candidates.
5. Verification. The candidates are compared at full resolution, the second only where the first does not lead by far.
6. Refinement. Within two cells, the first patch counts one half, because recent patches are a little off and those errors add up;
   a parabola gives the fraction of a cell.
7. Re-detection. A point that resembles its first patch too little is looked for in the whole frame, by pooled blocks of cells.
8. Alignment. Patches of the image around the point on its first frame and on the trusted ones about 1, 2 and 8 frames back are
   aligned with the image (Lucas–Kanade), and place the point to a fraction of a pixel. What follows goes by the match of the
   features, which does not drift.
9. Evidence. The scores and the margin over the next best place, with their fast and slow EMAs, give the probability that the point is
   visible (logistic) and its expected error (log-linear).
10. Memory. A patch becomes a template only if it is similar enough to the mean template, so that what covers a point is not learnt.
   A point that is probably hidden stays where it was last seen.

Numbers that belong to a checkpoint or to the user are fields of [`FgvcConfig`]; all others are in [`TemplateConstants`].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import cell_to_point, exact, exact_dtype, point_to_cell
from ..kernels.chunks import limit_for
from ..kernels.constants import constant_like
from ..kernels.patches_torch import POINTS_AT_ONCE
from ..matching.alignment import align_points, carry_points, image_patches
from ..matching.patches import replace_rows, rows_to_compute, sample_patches, search_cells, window_scores
from ..matching.pyramid import FeaturePyramid
from ..matching.redetection import redetect
from ..matching.template_search import Match, MotionPrior, refine, search_coarse, verify
from .encoded_frame import EncodedFrame
from .evidence import judge
from .point_search import PointSearch
from .point_state import PointState
from .prompts import PointLooks
from .results import PointReadout
from .template_constants import TemplateConstants
from .template_memory import TemplateMemory


@dataclass
class TemplateTracker:
    """
    N points followed by their templates.

    Args:
        config ([`FgvcConfig`]): Its group of fields for template tracking, and `output_stride` and `cell_origin`.
        ids (`list[int]`): Id of each point. Points may share one, and are dropped together then.
        memory ([`TemplateMemory`]): Their patches.
        state ([`PointState`]): What else is known of them.
        search ([`PointSearch`]): Points that are known by their looks alone, until they are found.

    Attributes:
        constants ([`TemplateConstants`]): Of all trackers.
    """

    constants: ClassVar[TemplateConstants] = TemplateConstants()

    config: FgvcConfig
    ids: list[int]
    memory: TemplateMemory
    state: PointState
    search: PointSearch

    # ---- interface of a tracker ---------------------------------------------------------------------------------

    @classmethod
    def empty(cls, features: torch.Tensor, config: FgvcConfig) -> "TemplateTracker":
        """A tracker without points. Patches are kept with the channels, the dtype and the device of these features (h, w, C)."""
        patch = features.new_zeros((0, (2 * config.template_radius + 1) ** 2, features.shape[-1]))
        image = features.new_zeros((0, patch_side(), patch_side()), dtype=torch.float32)
        memory = TemplateMemory.of(patch, image, cls.constants.slots)
        points = features.new_zeros((0, 2), dtype=exact_dtype(features.device))
        search = PointSearch(config, [], replace(memory))
        return cls(config, [], memory, PointState.first(points, points.float()), search)

    def start(
        self,
        ids: list[int],
        points: torch.Tensor,
        frame: EncodedFrame,
        looks: Sequence[PointLooks | None] | None = None,
    ) -> None:
        """Begin to follow points.

        Args:
            ids (`list[int]`): Their ids, of which none is followed yet.
            points (`torch.Tensor` of shape `(n, 2)`, float64): (x, y) in pixels of the model's input.
            frame ([`EncodedFrame`]): The frame that the points are given on.
            looks (sequence of [`PointLooks`], *optional*): What each point looks like elsewhere; `None` where that is not known.
        """
        cells = point_to_cell(points, self.config.output_stride, self.config.cell_origin).float()
        here = looks_of(points, frame, self.config)
        memory = TemplateMemory.of(here.templates, here.images, self.memory.slots, looks)
        self._follow(ids, memory, PointState.first(points, cells))

    def seek(self, ids: list[int], looks: Sequence[PointLooks], frame: EncodedFrame) -> None:
        """Begin to look for points by their looks, on a frame and on those that come, until they are found.

        Args:
            ids (`list[int]`): Their ids, of which none is followed or looked for yet.
            looks (sequence of [`PointLooks`]): What each looks like.
            frame ([`EncodedFrame`]): The first frame.
        """
        new = PointSearch.of(self.config, ids, looks, self.memory)
        found = new.step(FeaturePyramid(frame.features), frame)
        self.search.join(new)
        self._follow(*found)

    def _follow(self, ids: list[int], memory: TemplateMemory, state: PointState) -> None:
        """Follow points with these patches from this state on."""
        self.memory.join(memory)
        self.state = self.state.joined(state)
        self.ids = self.ids + ids

    def step(self, frame: EncodedFrame) -> None:
        """Find all points on the next frame, and learn from what was found."""
        pyramid, at_once = FeaturePyramid(frame.features), limit_for(frame.features, POINTS_AT_ONCE)
        for start in range(0, len(self.ids), at_once):
            self._step_rows(slice(start, start + at_once), pyramid, frame)
        if self.search.ids:
            self._follow(*self.search.step(pyramid, frame))

    def read(self) -> PointReadout:
        """Where the points are on the last frame, in pixels of the model's input; NaN of those that have not been found yet."""
        state = self.state.joined(PointState.unknown(len(self.search.ids), self.state))
        parts = state.points, state.confidence, state.uncertainty, state.expected
        return PointReadout(self.ids + self.search.ids, *parts)

    def drop(self, ids: set[int]) -> None:
        """Forget points; the others go on as if these had never been there."""
        self.search.drop(ids)
        rows = [row for row, obj_id in enumerate(self.ids) if obj_id not in ids]
        if len(rows) == len(self.ids):  # spares copies
            return
        self.ids = [self.ids[row] for row in rows]
        self.memory.keep(rows)
        self.state = self.state.rows(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the patches in memory."""
        return self.memory.nbytes + self.search.memory.nbytes

    def bytes_of(self, number: int, looks: int = 0) -> int:
        """Bytes of the patches of a number of points more, that have at most so many other looks each."""
        return self.memory.bytes_of(number, looks)

    # ---- one step ------------------------------------------------------------------------------------------------

    def _step_rows(self, rows: slice, pyramid: FeaturePyramid, frame: EncodedFrame) -> None:
        """The numbered steps of this module's docstring for n of the points; P cells of a patch, windows of D x D cells."""
        config, constants, memory, before = self.config, self.constants, self.memory, self.state.rows(rows)
        features, anchor = pyramid.features, memory.anchor[rows]  # (h, w, C), (n, P, C)
        fine, rival, share = constants.fine_radius, constants.rival_distance, constants.least_share
        # 1. Cell weights (n, P)
        weights = memory.cell_weights(rows, config.template_radius, constants.cell_temperature)
        # 2. Mean template (n, P, C)
        mean = memory.mean(rows, constants.anchor_share)
        # 3. Prediction (n, 2) in cells
        expected = self._predict(before, frame)
        # 4. Coarse search: two candidates for each point
        search, prior = self._search_window(expected, before.lost, features)
        coarse_rival = constants.coarse_rival_distance
        candidates = search_coarse(pyramid.coarse, mean, weights, search, prior, coarse_rival, share)
        # 5. Verification at full resolution: the window around the better one, and its lead (n,) over the other
        window, margin = verify(features, candidates, mean, weights, prior, fine, constants.close_margin, share)
        # 6. Refinement: by the first patch, and to a fraction of a cell
        scores = window_scores(features, window.corner + fine, anchor, weights, fine).scores  # (n, D, D)
        match = refine(window, scores, prior, margin, constants.anchor_radius, rival, share)
        # 7. Re-detection in the whole frame
        match, recalled = redetect(pyramid, anchor, mean, weights, match, **self._redetection_numbers)
        # 8. Alignment: positions (n, 2) in pixels by the image
        points = self._align(rows, frame.image, match)
        # 9. Evidence: visibility and expected error
        judged = judge(match.evidence, before.averages, config, constants)
        visible = judged.confidence >= config.visibility_threshold  # (n,)
        hidden = (judged.confidence < config.hidden_threshold) & ~recalled  # (n,)
        # 10. Memory: new templates, and the state for the next frame
        trusted = match.mean >= config.template_trust  # (n,)
        images = image_patches(frame.image, points, constants.image_radius)
        memory.update(rows, features, match.cells, images, mean, trusted, visible, constants.cell_rate)
        after = PointState(
            cells=torch.where(hidden[:, None], before.cells, match.cells),
            lost=torch.where(trusted, 0, before.lost + 1),
            points=points.clamp_min(0).minimum(constant_like(frame.size[::-1], points)),
            expected=torch.where(visible[:, None], self._ahead(before.cells, match.cells), before.expected),
            confidence=judged.confidence,
            uncertainty=judged.uncertainty,
            evidence=judged.evidence,
            averages=judged.averages,
        )
        self.state.write(rows, after)

    def _predict(self, before: PointState, frame: EncodedFrame) -> torch.Tensor:
        """Where n points are expected, cells (n, 2): where the images carry them from the last frame, else where they were."""
        config, constants = self.config, self.constants
        if frame.previous_levels is None:
            return before.cells
        followed = (before.lost == 0) & (before.confidence >= config.hidden_threshold)  # (n,)
        rows = rows_to_compute(followed)
        numbers = constants.image_radius, constants.image_similarity, constants.image_return
        places, good = carry_points(frame.previous_levels, frame.levels, before.points[rows], *numbers)
        cells = point_to_cell(places, config.output_stride, config.cell_origin).to(before.cells.dtype)
        return replace_rows(before.cells, rows, followed[rows] & good, cells)

    def _search_window(
        self, expected: torch.Tensor, lost: torch.Tensor, features: torch.Tensor
    ) -> tuple[int, MotionPrior]:
        """Radius in cells of the search window, and the motion prior, which is weaker the longer a point was not matched.

        `config.motion_prior` is what a shift by the mean side of the frame costs, sqrt(h * w) cells.
        """
        h, w, _ = features.shape
        cost = self.config.motion_prior / (h * w) / (1 + self.constants.lost_growth * lost)  # (n,)
        return search_cells(h, w, self.config.search_radius), MotionPrior(expected, cost)

    @property
    def _redetection_numbers(self) -> dict[str, Any]:
        """The numbers that [`redetect`] takes."""
        shared = "recall_below", "recall_share", "recall_radius", "anchor_radius", "rival_distance", "least_share"
        numbers = {name: getattr(self.constants, name) for name in shared}
        return numbers | {"recall_similarity": self.config.recall_similarity}

    def _align(self, rows: slice, image: torch.Tensor, match: Match) -> torch.Tensor:
        """[`align_points`] with this tracker's numbers: positions (n, 2) in pixels, float64."""
        constants = self.constants
        patches, known = self.memory.images(rows, constants.image_frames_back)
        reach, least = constants.image_reach, constants.image_similarity
        return align_points(image, self._points(match.cells), patches, known, least, reach)

    def _points(self, cells: torch.Tensor) -> torch.Tensor:
        """Positions (n, 2) in pixels, float64, of cells (n, 2)."""
        return cell_to_point(exact(cells), self.config.output_stride, self.config.cell_origin)

    def _ahead(self, before: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Positions (n, 2) in pixels, float64, on the next frame of what moved from cells `before` to `cells` (n, 2), at constant velocity."""
        return self._points(2 * exact(cells) - before)


def patch_side() -> int:
    """Pixels along a side of a patch of the image."""
    return 2 * TemplateTracker.constants.image_radius + 3


def looks_of(points: torch.Tensor, frame: EncodedFrame, config: FgvcConfig) -> PointLooks:
    """What points (n, 2), in pixels of the model's input, look like on a frame: a look of each."""
    cells = point_to_cell(points, config.output_stride, config.cell_origin).float()
    images = image_patches(frame.image, points, TemplateTracker.constants.image_radius)
    return PointLooks(sample_patches(frame.features, cells, config.template_radius), images)


__all__ = ["TemplateTracker", "looks_of", "patch_side"]
