"""Tracks between two labels of a point: what the passes from either label found, blended.

A pass is exact on its label, and errors add up from there on. So the variance of a pass is taken for the sum of the squares of its expected errors
since its label, and where it arrived on the frame of the other label tells whether that is too small. The weight of a pass is the variance
of the other one, relative to both: it falls from 1 on its own label to 0 on the other, most where errors add up, for instance while the point
is hidden.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .labels import LabelPass, Labels
from .results import LabelDisagreement, PointTracks


# Of the mean side of the frame: a pass that arrives as far from the other label has followed something else
FAR = 0.05
LEAST_CONFIDENCE = 0.05  # that variances are divided by: expected errors are those of visible points
ARRIVAL = 0.5  # power by which the error on arrival scales the variance of a pass: 1 goes by it alone, 0 not at all
LEAST_ERROR = 1.0  # pixels of the video; errors on arrival are of labels as well, which are no more exact than that
TINY = 1e-9  # squared pixels
SHOWN = 5  # disagreements that a warning names
SAID = "labels may be of different points"


@dataclass(frozen=True)
class Gap:
    """
    What lies between two labels of a point.

    Args:
        row (`int`): The point.
        earlier, later (`int`): The labels.
        first, last (`int`): Their frames.
    """

    row: int
    earlier: int
    later: int
    first: int
    last: int

    @property
    def frames(self) -> slice:
        """The frames between."""
        return slice(self.first + 1, self.last)


def gaps(labels: Labels) -> Iterator[Gap]:
    """Every two labels of one point that follow each other."""
    frames = labels.positions[:, 0].astype(int).tolist()
    for label in np.flatnonzero(labels.rows[1:] == labels.rows[:-1]).tolist():
        yield Gap(int(labels.rows[label]), label, label + 1, frames[label], frames[label + 1])


def blended(forward: LabelPass, backward: LabelPass, labels: Labels, threshold: float) -> PointTracks:
    """
    One track of each point from the passes in both directions.

    Args:
        forward, backward ([`LabelPass`]): The passes.
        labels ([`Labels`]): Where they started.
        threshold (`float`): Confidence from which a point counts as visible.
    """
    ahead, back = forward.tracks, backward.tracks
    only_back = np.isnan(ahead.tracks[..., 0])  # (N, T) before the first label
    names = "confidence", "uncertainty", "outside"
    values = {name: np.where(only_back, getattr(back, name), getattr(ahead, name)) for name in names}
    tracks, disagreements = np.where(only_back[..., None], back.tracks, ahead.tracks), []
    for gap in gaps(labels):
        at = gap.row, gap.frames
        apart = disagreement(forward, backward, labels, gap)
        disagreements += [] if apart is None else [apart]
        share = forward_weights(forward, backward, labels, gap)  # (F,)
        weight = share if apart is None else np.round(share)  # two points have no mean: each frame goes by one of them
        distance = np.linalg.norm(ahead.tracks[at] - back.tracks[at], axis=-1)
        tracks[at] = _mean(weight[:, None], ahead.tracks[at], back.tracks[at])
        values["confidence"][at] = _mean(weight, ahead.confidence[at], back.confidence[at])
        # The point is put 1 - weight of the distance from the forward pass, and weight of it from the other
        variance = _mean(share, ahead.uncertainty[at] ** 2, back.uncertainty[at] ** 2)
        away = _mean(share, (1 - weight) ** 2, weight**2) * distance**2
        values["uncertainty"][at] = np.sqrt(variance + away)
        values["outside"][at] = np.where(weight > 0.5, ahead.outside[at], back.outside[at])
    visible = (values["confidence"] >= threshold) & ~np.isnan(tracks[..., 0])
    values["outside"] &= ~visible
    return replace(ahead, tracks=tracks, visible=visible, disagreements=disagreements, **values)


def forward_weights(forward: LabelPass, backward: LabelPass, labels: Labels, gap: Gap) -> np.ndarray:
    """The weight (F,) of the forward pass on the frames of a gap; that of the backward pass is the rest to 1."""
    steps = _variances(forward, gap), _variances(backward, gap)[::-1]
    errors = arrival_errors(forward, backward, labels, gap)
    ahead, back = (
        np.cumsum(step) * (max(error, LEAST_ERROR) ** 2 / max(step.sum(), TINY)) ** ARRIVAL
        for step, error in zip(steps, errors, strict=True)
    )
    return back[::-1] / (ahead + back[::-1])


def _variances(one: LabelPass, gap: Gap) -> np.ndarray:
    """By how much the variance of a pass grows on each frame (F,) of a gap."""
    at = gap.row, gap.frames
    return one.tracks.uncertainty[at].astype(np.float64) ** 2 / one.tracks.confidence[at].clip(LEAST_CONFIDENCE)


def arrival_errors(forward: LabelPass, backward: LabelPass, labels: Labels, gap: Gap) -> tuple[float, float]:
    """Pixels from where each pass arrived to the other label."""
    arrived = forward.arrivals[gap.earlier], backward.arrivals[gap.later]
    other = labels.positions[gap.later, 1:], labels.positions[gap.earlier, 1:]
    return math.dist(arrived[0], other[0]), math.dist(arrived[1], other[1])


def disagreement(forward: LabelPass, backward: LabelPass, labels: Labels, gap: Gap) -> LabelDisagreement | None:
    """Whether two labels may be of two points: no pass from one of them arrives near the other.

    Confidence is not asked for: from a wrong label on plain ground a pass is rarely sure of anything. `scripts/label_rates.py` measures how many
    labels that were moved by a fifth of the frame or more this tells, and how many right ones it names as well.
    """
    errors = arrival_errors(forward, backward, labels, gap)
    if min(errors) < FAR * math.sqrt(math.prod(forward.tracks.size)):
        return None
    return LabelDisagreement(labels.object_ids[gap.row], gap.first, gap.last, *errors)


def report(disagreements: Sequence[LabelDisagreement]) -> None:
    """A warning that names labels which may be of two points."""
    if disagreements:
        warnings.warn(f"{disagreement_sentence(disagreements)}.", stacklevel=4)


def disagreement_sentence(
    disagreements: Sequence[LabelDisagreement], names: Mapping[int, object] | None = None
) -> str:
    """What to say of labels which may be of two points; of each point its name, or else its id."""
    named = [
        f"{f'id {one.object_id}' if names is None else names[one.object_id]} on frames {one.first_frame} and {one.last_frame}"
        for one in disagreements[:SHOWN]
    ]
    rest = f", and {len(disagreements) - SHOWN} more" if len(disagreements) > SHOWN else ""
    return f"{SAID}, for none was reached from the other: {'; '.join(named)}{rest}"


def say_otherwise(module: str) -> None:
    """Leave the warning out where a module that calls [`Tracker.track`] says the sentence itself: in each run, and by names."""
    warnings.filterwarnings("ignore", SAID, UserWarning, re.escape(module))


def _mean(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return weight * first + (1 - weight) * second


__all__ = ["blended", "disagreement_sentence", "report", "say_otherwise"]
