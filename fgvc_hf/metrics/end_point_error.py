"""End-point error (EPE), outlier rate (Fl of KITTI) and occlusion of optical flow.

[`count_flow`] reduces one pair of frames to counts, and [`aggregate_flow`] turns the counts of many pairs into averages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from .inputs import flags, numbers
from .ratios import divide, mean_of_known


# Pixels by true speed in pixels per frame, as in MPI-Sintel, and by whether they are occluded in the second frame
REGIONS = ("all", "s0-10", "s10-40", "s40+", "visible", "occluded")
IN_PIXELS = ("EPE", "EPE_noc", "EPE_occ", "s0-10", "s10-40", "s40+")  # the metrics that are no fractions


@dataclass(frozen=True, eq=False)
class FlowCounts:
    """Counts of one pair of frames; entry k of the (6,) arrays is for the pixels of `REGIONS[k]`.

    Args:
        pixels (`numpy.ndarray` of shape `(6,)`): Pixels that are scored; none are visible or occluded where that is not known.
        error (`numpy.ndarray` of shape `(6,)`): Sum of their end-point errors, in pixels.
        outliers (`numpy.ndarray` of shape `(6,)`): Those off by more than 3 pixels and by more than 5 % of the true length, as in KITTI.
        off_by_one (`numpy.ndarray` of shape `(6,)`): Those off by more than 1 pixel.
        occlusion (`numpy.ndarray` of shape `(3,)`): Pixels that are occluded and predicted so, only predicted so, and only occluded.
    """

    pixels: np.ndarray
    error: np.ndarray
    outliers: np.ndarray
    off_by_one: np.ndarray
    occlusion: np.ndarray

    def to_lists(self) -> dict[str, list]:
        """The counts as lists of numbers, ready for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list]) -> "FlowCounts":
        """The inverse of [`to_lists`]."""
        return cls(**{name: np.asarray(values) for name, values in lists.items()})


def count_flow(
    flow: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray | None = None,
    predicted_occlusion: np.ndarray | None = None,
    occluded: np.ndarray | None = None,
) -> FlowCounts:
    """Compare the flow of one pair of frames with the truth.

    Args:
        flow, truth (`numpy.ndarray` of shape `(..., 2)`): Displacements in pixels.
        valid (`numpy.ndarray` of shape `(...)`, bool, *optional*): Vectors that are scored; all if not given.
        predicted_occlusion (`numpy.ndarray` of shape `(...)`, bool, *optional*): Pixels predicted to be occluded; none if not given.
        occluded (`numpy.ndarray` of shape `(...)`, bool, *optional*): Pixels that are truly occluded, if that is known.

    Raises:
        `ValueError`: the shapes do not match, or a vector that is scored is not finite.
    """
    error, length, valid = _compared(flow, truth, valid)
    predicted_occlusion = _flags("predicted_occlusion", predicted_occlusion, valid.shape)
    occluded = _flags("occluded", occluded, valid.shape)
    covered, occlusion = np.zeros((2, error.size), bool), np.zeros(3, np.int64)
    if occluded is not None:
        hidden = occluded[valid]
        claimed = np.zeros_like(hidden) if predicted_occlusion is None else predicted_occlusion[valid]
        covered = np.stack([~hidden, hidden])
        occlusion = np.array([(claimed & hidden).sum(), (claimed & ~hidden).sum(), (~claimed & hidden).sum()])
    fast = np.stack([np.ones_like(length, bool), length < 10, (length >= 10) & (length < 40), length >= 40])
    regions = np.concatenate([fast, covered])  # (6, pixels)
    off = np.stack([_outliers(error, length), error > 1])
    outliers, off_by_one = (regions & off[:, None]).sum(axis=-1)
    return FlowCounts(regions.sum(axis=1), regions @ error, outliers, off_by_one, occlusion)


def aggregate_flow(counts: Mapping[str, FlowCounts]) -> dict[str, dict[str, float]]:
    """Averages over a benchmark: over all `"pixels"`, and over the averages of all `"pairs"`.

    A ratio with denominator 0 is undefined and left out of the average over pairs; a metric of which every ratio is undefined is NaN.

    Args:
        counts (`Mapping[str, FlowCounts]`): Counts by name of the pair.

    Returns:
        `dict`: for both averages `"EPE"`, mean end-point error in pixels; `"Fl"` and `"1px"`, fractions of [`FlowCounts`]' outliers and of
        those off by more than 1 pixel; `"EPE_noc"` and `"EPE_occ"`, EPE of visible and of occluded pixels; `"s0-10"`, `"s10-40"` and `"s40+"`,
        EPE by true speed; `"occ_P"`, `"occ_R"` and `"occ_F1"`, precision, recall and F1 of predicted occlusion.
    """
    if not counts:
        raise ValueError("There are no pairs to aggregate: at least one is needed.")
    pairs = list(counts.values())
    total = FlowCounts(
        **{field.name: sum(getattr(pair, field.name) for pair in pairs) for field in fields(FlowCounts)}
    )
    each = [_ratios(pair) for pair in pairs]
    means = {name: float(mean_of_known([ratios[name] for ratios in each])) for name in each[0]}
    return {"pixels": _ratios(total), "pairs": means}


def end_point_error(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, float]:
    """Mean end-point error and outlier rate.

    Args:
        flow, truth (`numpy.ndarray` of shape `(..., 2)`): Displacements in pixels.
        valid (`numpy.ndarray` of shape `(...)`, bool, *optional*): Vectors that are scored; all if not given.

    Returns:
        `dict`: `"EPE"`, the mean distance in pixels, and `"Fl"`, the fraction of vectors that are off by more than 3 pixels and by more
        than 5 % of their true length, as in KITTI; NaN if no vector is scored.

    Raises:
        `ValueError`: the shapes do not match, or a vector that is scored is not finite.
    """
    error, length, _ = _compared(flow, truth, valid)
    if not error.size:
        return {"EPE": float("nan"), "Fl": float("nan")}
    return {"EPE": float(error.mean()), "Fl": float(_outliers(error, length).mean())}


def _compared(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Errors and true lengths `(N,)` in pixels of the N vectors that are scored, and which these are, `(...)`."""
    flow, truth = numbers("flow", flow), numbers("truth", truth)
    valid = np.ones(flow.shape[:-1], bool) if valid is None else flags("valid", valid)
    if flow.shape != truth.shape or flow.shape != (*valid.shape, 2):
        shapes = f"{flow.shape}, {truth.shape} and {valid.shape}"
        raise ValueError(f"flow and truth must both be (..., 2), and valid (...), got {shapes}.")
    found, expected = flow[valid].astype(np.float64), truth[valid].astype(np.float64)
    error, length = np.linalg.norm(found - expected, axis=-1), np.linalg.norm(expected, axis=-1)
    if not np.isfinite(error).all():
        raise ValueError("flow and truth must be finite where they are scored, but one holds NaN or infinity there.")
    return error, length, valid


def _flags(name: str, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Bools, one for each vector, if they are given; a `ValueError` if they are of another shape."""
    array = None if values is None else flags(name, values)
    if array is not None and array.shape != shape:
        raise ValueError(f"{name} must be {shape}, one for each vector, got {array.shape}.")
    return array


def _outliers(error: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Which errors are outliers by the definition of KITTI."""
    return (error > 3) & (error > 0.05 * length)


def _ratios(counts: FlowCounts) -> dict[str, float]:
    """The metrics of counts, NaN where a denominator is zero."""
    error = dict(zip(REGIONS, divide(counts.error, counts.pixels), strict=True))
    hits, false, missed = counts.occlusion
    named = {
        "EPE": error["all"],
        "Fl": divide(counts.outliers, counts.pixels)[0],
        "1px": divide(counts.off_by_one, counts.pixels)[0],
        "EPE_noc": error["visible"],
        "EPE_occ": error["occluded"],
        **{name: error[name] for name in ("s0-10", "s10-40", "s40+")},
        "occ_P": divide(hits, hits + false),
        "occ_R": divide(hits, hits + missed),
        "occ_F1": divide(2 * hits, 2 * hits + false + missed),
    }
    return {name: float(value) for name, value in named.items()}
