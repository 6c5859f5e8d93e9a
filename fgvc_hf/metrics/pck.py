"""Percentage of correct keypoints (PCK) as in BADJA and JHMDB. Positions are (x, y) in pixels of any one image size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .inputs import flags, numbers
from .ratios import divide, mean_of_known


BADJA_ALPHAS = (0.1, 0.2, 0.3, 0.4)
JHMDB_ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
BOX_SHARE = 0.6  # JHMDB's unit of length is this share of the diagonal of the joints' bounding box


@dataclass(frozen=True)
class BadjaCounts:
    """Joints of one video: which are correct, and which are scored.

    Args:
        correct (`numpy.ndarray` of shape `(len(BADJA_ALPHAS), T, N)`, bool): Closer than alpha times the square root of the area.
        counted (`numpy.ndarray` of shape `(T, N)`, bool): Annotated and visible.
    """

    correct: np.ndarray
    counted: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """The flags as lists, ready for JSON."""
        return {"correct": self.correct.tolist(), "counted": self.counted.tolist()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "BadjaCounts":
        """The inverse of [`to_lists`]."""
        return cls(np.array(lists["correct"], dtype=bool), np.array(lists["counted"], dtype=bool))


def count_badja(points: np.ndarray, truth: np.ndarray, visible: np.ndarray, areas: np.ndarray) -> BadjaCounts:
    """Compare the joints of the annotated frames of a video with the ground truth.

    Args:
        points, truth (`numpy.ndarray` of shape `(T, N, 2)`): Predicted and annotated joints (x, y), in pixels of one image size.
        visible (`numpy.ndarray` of shape `(T, N)`, bool): Joints annotated as visible; the others are not scored.
        areas (`numpy.ndarray` of shape `(T,)`): Area of the animal in each frame, in square pixels at that size.

    Raises:
        `ValueError`: the shapes do not match, an area is not positive, or a visible annotated joint is not finite.
    """
    points, truth, visible, areas = *_joints(points, truth), flags("visible", visible), numbers("areas", areas)
    if points.shape != (*visible.shape, 2) or points.shape != truth.shape or areas.shape != points.shape[:1]:
        shapes = f"{points.shape}, {truth.shape}, {visible.shape} and {areas.shape}"
        raise ValueError(f"points and truth (T, N, 2), visible (T, N) and areas (T,) were expected, got {shapes}.")
    if not ((areas > 0) & np.isfinite(areas)).all():
        raise ValueError("areas must be positive.")
    _check_finite(truth[visible])
    distance = np.linalg.norm(points - truth, axis=-1)
    limits = np.array(BADJA_ALPHAS)[:, None] * np.sqrt(areas)
    return BadjaCounts(distance < limits[..., None], visible)


def _joints(points, truth) -> tuple[np.ndarray, np.ndarray]:
    return numbers("points", points).astype(np.float64), numbers("truth", truth).astype(np.float64)


def _check_finite(truth: np.ndarray) -> None:
    if not np.isfinite(truth).all():
        raise ValueError("truth must be finite where a joint is scored, but it holds NaN or infinity there.")


def aggregate_badja(videos: Mapping[str, BadjaCounts]) -> dict[str, dict[str, float]]:
    """PCK in the two averages in use.

    | name | what is scored | average |
    |---|---|---|
    | `"fgvc"` | all annotated frames, including the first, on which the joints are given | over all joints of all videos |
    | `"pips"` | all annotated frames after the first | over the joints of a video, then over videos |

    Returns:
        `dict`: for each, `"PCK@0.1"` to `"PCK@0.4"` as fractions; NaN if no joint is scored.
    """
    pooled = {
        f"PCK@{alpha}": float(
            divide(
                sum(int((c.correct[i] & c.counted).sum()) for c in videos.values()),
                sum(int(c.counted.sum()) for c in videos.values()),
            )
        )
        for i, alpha in enumerate(BADJA_ALPHAS)
    }
    later = {
        f"PCK@{alpha}": float(
            mean_of_known([divide((c.correct[i] & c.counted)[1:].sum(), c.counted[1:].sum()) for c in videos.values()])
        )
        for i, alpha in enumerate(BADJA_ALPHAS)
    }
    return {"fgvc": pooled, "pips": later}


@dataclass(frozen=True)
class JhmdbCounts:
    """Joints of one clip: errors `(T, N)` in units of the bounding box, and which joints are scored `(T, N)`."""

    distance: np.ndarray
    counted: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """Distances and flags as lists, ready for JSON; the distance on a frame without a bounding box is null."""
        distance = [[value if np.isfinite(value) else None for value in row] for row in self.distance.tolist()]
        return {"distance": distance, "counted": self.counted.tolist()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "JhmdbCounts":
        """The inverse of [`to_lists`]."""
        return cls(np.array(lists["distance"], dtype=float), np.array(lists["counted"], dtype=bool))


def count_jhmdb(points: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> JhmdbCounts:
    """Compare the joints of a clip with the ground truth.

    The unit of a frame is 0.6 of the diagonal of the bounding box of its scored annotated joints.

    Args:
        points, truth (`numpy.ndarray` of shape `(T, N, 2)`): Predicted and annotated joints (x, y).
        counted (`numpy.ndarray` of shape `(T, N)`, bool, *optional*): Joints that are scored; if not given, those whose predicted x is
            positive, as in the evaluation code of VFS and FGVC.

    Raises:
        `ValueError`: the shapes do not match, or a scored annotated joint is not finite.
    """
    points, truth = _joints(points, truth)
    if points.shape != truth.shape or points.ndim != 3 or points.shape[2] != 2 or not len(points):
        raise ValueError(f"points and truth must both be (T, N, 2), got {points.shape} and {truth.shape}.")
    counted = points[..., 0] > 0 if counted is None else flags("counted", counted)
    if counted.shape != points.shape[:2]:
        raise ValueError(f"counted must be {points.shape[:2]}, one for each joint, got {counted.shape}.")
    _check_finite(truth[counted])
    mask = np.where(counted[..., None], 0.0, np.nan)
    with np.errstate(invalid="ignore"):
        extent = np.array(
            [
                np.ptp(row[~np.isnan(row).any(-1)], axis=0) if c.any() else (np.nan,) * 2
                for row, c in zip(truth + mask, counted, strict=True)
            ]
        )  # (T, 2)
        unit = BOX_SHARE * np.linalg.norm(extent, axis=-1)
        return JhmdbCounts(np.linalg.norm(points - truth, axis=-1) / unit[:, None], counted)


def aggregate_jhmdb(clips: Sequence[JhmdbCounts], first_frame: bool = True) -> dict[str, float]:
    """PCK pooled over clips and frames for each joint, then averaged over joints.

    Args:
        first_frame (`bool`, defaults to `True`): Whether to score the first frame, on which the joints are given. VFS, FGVC and TAPNet do;
            CRW, UVC and TimeCycle do not.

    Returns:
        `dict`: `"PCK@0.1"` to `"PCK@0.5"` as fractions.
    """
    if not clips:
        raise ValueError("There are no clips to aggregate: at least one is needed.")
    start = 0 if first_frame else 1
    distance = np.concatenate([clip.distance[start:] for clip in clips])
    counted = np.concatenate([clip.counted[start:] for clip in clips])
    totals = counted.sum(axis=0)
    return {
        f"PCK@{alpha}": float(mean_of_known(divide(((distance <= alpha) & counted).sum(axis=0), totals)))
        for alpha in JHMDB_ALPHAS
    }
