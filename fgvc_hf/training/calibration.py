"""Calibration of a tracked point's visibility and expected error: small linear models of its matching evidence, fitted on exact truth."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from ..coordinates import rescale_points
from ..data.synthetic import SyntheticClip
from ..tracker import Tracker


BINS = 10  # of the calibration error
PENALTY = 1e-4  # L2, on the weights of the standardised evidence: they stay finite on separable data


def collect_evidence(
    tracker: Tracker, clips: Iterable[SyntheticClip]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Track the points of clips by templates.

    Returns:
        Of every point on every frame after its query: evidence (M, E), whether it was visible (M,), bool, and its error (M,) in pixels of the
        model's input.

    Raises:
        `ValueError`: the model tracks points by label maps, or there is no clip.
    """
    if tracker.model.config.point_matching != "templates":
        raise ValueError("visibility is calibrated for point_matching='templates'.")
    evidence, visible, errors = [], [], []
    for clip in clips:
        session = tracker.processor.init_video_session(clip.frames)
        for i, (t, x, y) in enumerate(clip.queries.astype(float)):
            tracker.processor.add_inputs_to_inference_session(session, int(t), i, [(x, y)])
        for output in tracker.model.propagate_in_video_iterator(session):
            assert session.templates is not None
            ids, state = np.array(session.templates.ids), session.templates.state
            later = clip.queries[ids, 0] < output.frame_idx
            truth = rescale_points(torch.from_numpy(clip.tracks[ids, output.frame_idx]), *session.sizes)
            evidence.append(state.evidence.cpu()[later])
            visible.append(torch.from_numpy(clip.visible[ids, output.frame_idx][later]))
            errors.append((state.points.cpu() - truth).norm(dim=1)[later])
    if not evidence:
        raise ValueError("evidence is collected from clips, but there is none.")
    return torch.cat(evidence), torch.cat(visible), torch.cat(errors)


def fit_visibility(evidence: torch.Tensor, visible: torch.Tensor) -> list[float]:
    """Logistic regression by maximum likelihood; the constant is the last weight: `FgvcConfig.visibility_weights`.

    Args:
        evidence (`torch.Tensor` of shape `(M, E)`), visible (`torch.Tensor` of shape `(M,)`, bool): As [`collect_evidence`] gives them.

    Raises:
        `ValueError`: all points are visible, or none is.
    """
    if visible.all() or not visible.any():
        raise ValueError("visibility cannot be fitted where points are always visible, or never.")
    target = visible.double()
    return _fit(evidence, lambda logits: F.binary_cross_entropy_with_logits(logits, target))


def fit_error(evidence: torch.Tensor, visible: torch.Tensor, errors: torch.Tensor) -> list[float]:
    """Log-linear regression of the error of visible points; the constant is the last weight: `FgvcConfig.error_weights`.

    By maximum likelihood of an exponential distribution, in which a lost point counts by its distance and not its square.

    Args:
        evidence (`torch.Tensor` of shape `(M, E)`), visible (`torch.Tensor` of shape `(M,)`, bool), errors (`torch.Tensor` of shape
            `(M,)`): As [`collect_evidence`] gives them.

    Raises:
        `ValueError`: no point is visible.
    """
    if not visible.any():
        raise ValueError("errors cannot be fitted where no point is visible.")
    target = errors[visible].double()
    return _fit(evidence[visible], lambda logs: (logs + target * torch.exp(-logs)).mean())


def _fit(evidence: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> list[float]:
    """Slopes and constant of the linear function of the evidence that minimises the loss."""
    mean = evidence.double().mean(dim=0)
    std = evidence.double().std(dim=0, correction=int(len(evidence) > 1)).clamp_min(1e-6)  # one row deviates by 0
    standard = (evidence.double() - mean) / std
    weights = torch.zeros(evidence.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(standard @ weights[:-1] + weights[-1]) + PENALTY * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    slopes = weights.detach()[:-1] / std
    return [*slopes.tolist(), float(weights.detach()[-1] - slopes @ mean)]


def calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error: the gap between mean probability and frequency in ten bins, weighted by their sizes.

    Args:
        probability, truth (`numpy.ndarray` of one shape): Predicted probabilities in [0, 1], and the outcomes, bool.

    Raises:
        `ValueError`: there is none.
    """
    probability, truth = np.ravel(probability), np.ravel(truth)
    if not len(truth):
        raise ValueError("a calibration error is of at least one outcome, got none.")
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [
        abs(probability[which == b].mean() - truth[which == b].mean()) * (which == b).mean()
        for b in range(BINS)
        if (which == b).any()
    ]
    return float(sum(gaps))
