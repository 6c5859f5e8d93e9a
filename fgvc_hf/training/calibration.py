"""When a followed point is visible, and by how much it is off: small models of what its matching shows, fitted where the truth is exact."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from ..coordinates import rescale_points
from ..data.synthetic import SyntheticClip
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor


BINS = 10  # of the calibration error
PENALTY = 1e-4  # on the weights of the standardised evidence, for evidence that tells all


def collect_evidence(
    model: FgvcModel, processor: FgvcProcessor, clips: Iterable[SyntheticClip]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follow the points of clips by their templates.

    Returns:
        Evidence (M, E) of every point on every frame after its first, whether it was visible there (M,), bool, and by how many pixels of
        the model's input it was off (M,).

    Raises:
        `ValueError`: the model follows points by labels.
    """
    if model.config.point_matching != "templates":
        raise ValueError("visibility is calibrated for point_matching='templates'.")
    evidence, visible, errors = [], [], []
    for clip in clips:
        session = processor.init_video_session(clip.frames)
        for i, (t, x, y) in enumerate(clip.queries.astype(float)):
            processor.add_inputs_to_inference_session(session, int(t), i, [(x, y)])
        for output in model.propagate_in_video_iterator(session):
            assert session.templates is not None
            ids = np.array(session.templates.ids)
            later = clip.queries[ids, 0] < output.frame_idx
            evidence.append(session.templates.evidence.cpu()[torch.from_numpy(later)])
            visible.append(torch.from_numpy(clip.visible[ids, output.frame_idx][later]))
            truth = rescale_points(torch.from_numpy(clip.tracks[ids, output.frame_idx]), *session.sizes)
            errors.append((session.templates.points.cpu() - truth).norm(dim=1)[torch.from_numpy(later)])
    return torch.cat(evidence), torch.cat(visible), torch.cat(errors)


def fit_visibility(evidence: torch.Tensor, visible: torch.Tensor) -> list[float]:
    """Weights of the logistic model of most likelihood, with the constant last: `FgvcConfig.visibility_weights`.

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
    """Weights of the log-linear model of the error where points are visible, with the constant last: `FgvcConfig.error_weights`.

    Of most likelihood if errors are distributed exponentially: a single point that was lost weighs no more than its distance.

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
    """Slopes and constant of the linear function of the evidence whose values have the least loss."""
    mean, std = evidence.double().mean(dim=0), evidence.double().std(dim=0).clamp_min(1e-6)
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
    """Expected calibration error over ten bins: mean gap between what is foretold and what is so, weighted by their sizes.

    Args:
        probability, truth (`numpy.ndarray` of one shape): Probabilities in [0, 1], and what they are of, bool.
    """
    probability, truth = np.ravel(probability), np.ravel(truth)
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [
        abs(probability[which == b].mean() - truth[which == b].mean()) * (which == b).mean()
        for b in range(BINS)
        if (which == b).any()
    ]
    return float(sum(gaps))
