"""The constants of the template tracker in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TemplateConstants:
    """
    Constants of [`TemplateTracker`] that are the same for every checkpoint.

    What a user may want to change is in [`FgvcConfig`] instead (radius of a template, size of the search window, motion prior,
    thresholds). The values here were chosen by hand for the highest delta_avg, AJ and OA on the 12 development sequences of
    TAP-Vid-DAVIS-32 and on rendered clips, with the bundled checkpoints at stride 2; no data set beyond these was looked at.
    `scripts/ablate_tracker.py` measures what each is worth. `visibility_weights` and `error_weights` of a checkpoint are fitted to
    these values: after a change, fit them again by `scripts/calibrate.py`.

    A cell is a feature cell of the full resolution, `config.output_stride` pixels; similarities are cosines in [-1, 1].

    Args:
        slots (`int`, patches):
            Patches that are remembered beside the first one; the mean template is made of them. Near ones know the pose, far ones have drifted
            less. Frame t goes into slot k where 2^k is the largest power of two that divides t, so five slots hold patches of 1 to 16 frames back,
            and cost a third of a ring of all 16.
        anchor_share (`float`, relative to 1 for each other patch):
            Weight of the first patch in the mean template; it is the only one without drift.
        cell_temperature (`float`, similarity):
            Temperature of the softmax that weighs the cells of a patch by their average similarity. Lower follows thin objects by
            their own cells; infinite weighs by the Gaussian of [`patch_weights`] alone.
        cell_rate (`float`, share of a frame):
            Rate of the EMA of the similarity of each cell of a patch, over frames on which the point was visible.
        lost_growth (`float`, per frame):
            The motion prior of a point that was not matched for n frames is divided by `1 + lost_growth * n`.
        coarse_rival_distance (`int`, cells of the coarse pyramid level):
            The second candidate of the coarse search is farther than this from the best one, along x or y.
        close_margin (`float`, similarity):
            The second candidate is verified at full resolution only where the best one leads by at most this. 0 saves its time, 1
            verifies always.
        fine_radius (`int`, cells):
            Radius of the window around a candidate that is searched at full resolution.
        rival_distance (`int`, cells):
            A maximum farther than this from the match, along x or y, is a rival, and lowers the margin that is evidence of visibility.
        least_share (`float`, share of a template by weight):
            Similarities are divided by the share of the template inside the frame, but by no less than this: a match at the border is
            found, and one by a few cells is not trusted.
        anchor_radius (`int`, cells):
            Cells around the best match of the mean template within which the first patch counts one half. This removes drift.
        recall_radius (`int`, cells):
            Radius of the window around the best block of the frame that is searched at full resolution in re-detection.
        recall_below (`float`, similarity):
            A point is looked for in the whole frame where its match resembles its first patch by less than this. Higher finds more points
            again that something covered and carried off, and takes longer.
        recall_share (`float`, share of a distance):
            A place found by re-detection is at most this share as far from the first patch (1 - similarity) as the local match. Higher
            finds more points again, and confuses more look-alikes.
        found_similarity (`float`, similarity):
            From which the best place in a whole frame is that of a point that is looked for by what it looks like.
        found_margin (`float`, similarity):
            By how much that place leads over the next best one, at least.
        image_frames_back (`tuple[int, ...]`, frames):
            Of the remembered patches of the image, those nearest to these ages are aligned beside the first one.
        image_radius (`int`, pixels of the model's input):
            Radius of the patches of the image that are aligned. Larger ones hold on to more texture, and to more of what moves otherwise.
        image_similarity (`float`, normalised cross-correlation):
            From which an aligned patch places its point.
        image_return (`float`, pixels of the model's input):
            Tolerance of the forward–backward check of points that the images carry from the last frame to the next.
        image_reach (`float`, pixels of the model's input):
            How far from the match by features a patch may be aligned.
        evidence_rates (`tuple[float, float]`, share of a frame):
            Rates of the fast and the slow EMA of the evidence that visibility is judged by.
        least_evidence (`tuple[float, float, float]`, similarity):
            Both EMAs start from the evidence of the first matched frame, but from no less than this: the point may be covered there
            already. In the order of [`EVIDENCE`].
    """

    slots: int = 5
    anchor_share: float = 1.5
    cell_temperature: float = 0.1
    cell_rate: float = 0.6
    lost_growth: float = 0.1
    coarse_rival_distance: int = 2
    close_margin: float = 0.1
    fine_radius: int = 3
    rival_distance: int = 3
    least_share: float = 0.25
    anchor_radius: int = 2
    recall_radius: int = 5
    recall_below: float = 0.9
    recall_share: float = 0.5
    found_similarity: float = 0.75
    found_margin: float = 0.05
    image_frames_back: tuple[int, ...] = (1, 2, 8)
    image_radius: int = 5
    image_similarity: float = 0.8
    image_return: float = 2.0
    image_reach: float = 3.0
    evidence_rates: tuple[float, float] = (0.4, 0.05)
    least_evidence: tuple[float, float, float] = (0.7, 0.7, 0.0)


__all__ = ["TemplateConstants"]
