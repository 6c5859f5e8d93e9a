"""Scores of video object segmentation: region similarity J and contour accuracy F of the DAVIS benchmark.

Masks are (T, H, W) integer ids, 0 for the background. As in its semi-supervised track, the objects are those of the first
frame, and the first and the last frame are not scored. Definitions as in Perazzi et al., 2016, and the davis2017 evaluation code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .inputs import flags, whole_numbers


BOUND = 0.008  # tolerance of a contour as a fraction of the image diagonal, as in the benchmark
VOID = 255  # id of unannotated pixels, scored as background


@dataclass(frozen=True)
class ObjectScores:
    """J (region similarity) and F (contour accuracy) of one object in each scored frame.

    Args:
        jaccard, boundary (`numpy.ndarray` of shape `(T - 2,)`): In [0, 1].
    """

    jaccard: np.ndarray
    boundary: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """The scores as lists, ready for JSON."""
        return {"jaccard": self.jaccard.tolist(), "boundary": self.boundary.tolist()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "ObjectScores":
        """The inverse of [`to_lists`]."""
        return cls(np.array(lists["jaccard"]), np.array(lists["boundary"]))


def jaccard(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two boolean masks `(H, W)`; 1 if both are empty."""
    mask, truth = _pair(mask, truth)
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def _pair(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as boolean masks of one shape, else a `ValueError`."""
    mask, truth = flags("mask", mask), flags("truth", truth)
    if mask.shape != truth.shape or mask.ndim != 2:
        raise ValueError(f"mask and truth must both be (H, W), got {mask.shape} and {truth.shape}.")
    return mask, truth


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a boolean mask `(H, W)` that differ from their right, lower or lower right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    # With the edge repeated, the last row is compared with its right neighbour only, the last column with its lower one
    return (padded[:-1, 1:] != mask) | (padded[1:, :-1] != mask) | _diagonal(mask)


def _diagonal(mask: np.ndarray) -> np.ndarray:
    different = np.zeros_like(mask)
    different[:-1, :-1] = mask[1:, 1:] != mask[:-1, :-1]
    return different


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate a boolean mask `(H, W)` by a disc of `radius` pixels, by running sums along rows: linear in the radius."""
    height, width = mask.shape
    grown = np.zeros((height + 2 * radius, width), bool)
    for dy in range(-radius, radius + 1):
        half = int(np.sqrt(radius**2 - dy**2))
        total = np.pad(mask, ((0, 0), (half + 1, half))).cumsum(axis=1)
        grown[radius + dy : radius + dy + height] |= total[:, 2 * half + 1 :] > total[:, :width]
    return grown[radius : radius + height]


def boundary_f(mask: np.ndarray, truth: np.ndarray, bound: float = BOUND) -> float:
    """F measure of the contours of two boolean masks `(H, W)`: the harmonic mean of precision and recall of contour pixels.

    A contour pixel matches if the other contour is within the tolerance: `bound` times the image diagonal, rounded up to pixels; a
    `bound` of 1 or more is in pixels.
    """
    mask, truth = _pair(mask, truth)
    pixels = int(bound) if bound >= 1 else int(np.ceil(bound * np.linalg.norm(mask.shape)))
    found, wanted = boundary(mask), boundary(truth)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())  # one empty: either precision or recall is 0
    precision = np.count_nonzero(found & dilate(wanted, pixels)) / np.count_nonzero(found)
    recall = np.count_nonzero(wanted & dilate(found, pixels)) / np.count_nonzero(wanted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def count_davis(masks: np.ndarray, truth: np.ndarray) -> dict[int, ObjectScores]:
    """J and F of every object of a video.

    Args:
        masks, truth (`numpy.ndarray` of shape `(T, H, W)`, integer): Predicted and annotated ids.

    Returns:
        `dict`: [`ObjectScores`] by object id, for the ids from 1 to the largest in the first annotated frame.

    Raises:
        `ValueError`: the shapes differ, there are fewer than three frames, ids are negative or not whole, or a predicted id is not in the first
            frame.
    """
    masks, truth = whole_numbers("masks", masks), whole_numbers("truth", truth)
    if masks.shape != truth.shape or truth.ndim != 3 or not truth[:1].size:
        raise ValueError(f"masks and truth must both be (T, H, W), got {masks.shape} and {truth.shape}.")
    if len(truth) < 3:
        raise ValueError(
            f"the first and the last frame are not scored: at least 3 frames are needed, got {len(truth)}."
        )
    truth, masks = (np.where(ids == VOID, 0, ids) for ids in (truth, masks))
    count = int(truth[0].max())
    if (largest := masks[1:-1].max(initial=0)) > count:
        raise ValueError(f"masks hold the id {largest}, but the first frame only has 1 to {count}.")
    scores = {}
    for obj_id in range(1, count + 1):
        pairs = [(m == obj_id, t == obj_id) for m, t in zip(masks[1:-1], truth[1:-1], strict=True)]
        region, contour = [jaccard(*pair) for pair in pairs], [boundary_f(*pair) for pair in pairs]
        scores[obj_id] = ObjectScores(np.array(region), np.array(contour))
    return scores


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean, recall (share above 0.5) and decay (mean of the first quarter minus that of the last) over frames."""
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = (
        values[edges[0] : edges[1] + 1],
        values[edges[3] : edges[4] + 1],
    )  # as in the benchmark, neighbouring quarters share a frame
    return {
        "mean": float(values.mean()),
        "recall": float((values > 0.5).mean()),
        "decay": float(first.mean() - last.mean()),
    }


def aggregate(videos: Mapping[str, Mapping[int, ObjectScores]]) -> dict[str, float]:
    """Scores over a benchmark, averaged over all objects of all videos.

    Returns:
        `dict`: `"J&F"`, the mean of `"J_mean"` and `"F_mean"`, these two, and `"J_recall"`, `"J_decay"`, `"F_recall"` and `"F_decay"`.

    Raises:
        `ValueError`: there is no object.
    """
    objects = [scores for video in videos.values() for scores in video.values()]
    if not objects:
        raise ValueError("there are no objects to average over.")
    result = {}
    for letter, name in (("J", "jaccard"), ("F", "boundary")):
        described = [describe(getattr(scores, name)) for scores in objects]
        result |= {f"{letter}_{key}": float(np.mean([d[key] for d in described])) for key in described[0]}
    return {"J&F": (result["J_mean"] + result["F_mean"]) / 2} | result
