"""Whether a point is visible, and by how far it may be off: two linear models of the evidence of its template match.

The evidence of a frame are three numbers ([`EVIDENCE`]). A point that turns or blurs is visible at a similarity at which another is covered,
so the models see two exponential moving averages (EMA) of the evidence on earlier frames as well: a fast one, what the point looked like just
before, and a slow one, what is usual for it. `training/calibration.py` fits the weights of both models on rendered clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration_fgvc import FgvcConfig
from ..kernels.constants import constant_like
from .template_constants import TemplateConstants


EVIDENCE = (
    "anchor",
    "mean",
    "margin",
)  # score of the first patch and of the mean template; lead over the next best place


@dataclass(frozen=True)
class Judgement:
    """
    What the evidence of a frame says about N points.

    Args:
        confidence (`torch.Tensor` of shape `(N,)`): Probability that the point is visible.
        uncertainty (`torch.Tensor` of shape `(N,)`): Expected error in pixels of the model's input where it is visible.
        evidence (`torch.Tensor` of shape `(N, 9)`): What both were computed from: the frame's three, and the fast and the slow EMA of earlier frames.
        averages (`torch.Tensor` of shape `(N, 2, 3)`): The EMAs with this frame.
    """

    confidence: torch.Tensor
    uncertainty: torch.Tensor
    evidence: torch.Tensor
    averages: torch.Tensor


def judge(shown: torch.Tensor, averages: torch.Tensor, config: FgvcConfig, constants: TemplateConstants) -> Judgement:
    """Judge points by the evidence of a frame (N, 3) and its EMAs on earlier frames (N, 2, 3).

    EMAs are infinite before the first frame. They start from its evidence, but from no less than `constants.least_evidence`.
    """
    first = shown.maximum(constant_like(constants.least_evidence, shown))  # (N, 3)
    averages = torch.where(averages.isinf(), first[:, None], averages)
    evidence = torch.cat([shown, averages.flatten(1)], dim=1)  # (N, 9)
    rates = constant_like(constants.evidence_rates, averages)[:, None]  # (2, 1)
    return Judgement(
        visibility(evidence, config.visibility_weights),
        expected_error(evidence, config.error_weights),
        evidence,
        torch.lerp(averages, shown[:, None], rates),
    )


def visibility(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Probability (N,) that points are visible: a logistic model.

    Args:
        evidence (`torch.Tensor` of shape `(N, E)`): The frame's and its averages.
        weights (sequence of E + 1 `float`): `config.visibility_weights`, with the constant last.
    """
    parameters = constant_like(weights, evidence)
    return torch.sigmoid((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


def expected_error(evidence: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Distance (N,) in pixels of the model's input by which visible points are expected to be off: a log-linear model.

    Args:
        evidence (`torch.Tensor` of shape `(N, E)`): The frame's and its averages.
        weights (sequence of E + 1 `float`): `config.error_weights`, with the constant last.
    """
    parameters = constant_like(weights, evidence)
    return torch.exp((evidence * parameters[:-1]).sum(dim=1) + parameters[-1])


__all__ = ["EVIDENCE", "Judgement", "expected_error", "judge", "visibility"]
