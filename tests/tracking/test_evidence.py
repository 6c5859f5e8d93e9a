"""Visibility and expected error by the evidence of matches."""

import math

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, default_checkpoint
from fgvc_hf.tracking.evidence import expected_error, judge, visibility
from fgvc_hf.tracking.template_constants import TemplateConstants


def test_visibility_is_a_logistic_model_and_the_error_a_log_linear_one():
    evidence, weights = torch.tensor([[0.5, 0.25, 0.1]]), [1.0, 2.0, 3.0, -1.0]
    assert float(visibility(evidence, weights)) == pytest.approx(1 / (1 + np.exp(-(0.5 + 0.5 + 0.3 - 1))))
    assert float(expected_error(evidence, weights)) == pytest.approx(np.exp(0.5 + 0.5 + 0.3 - 1))


def test_averages_start_from_the_first_evidence_but_not_below_the_least_and_follow_at_their_rates():
    config, constants = FgvcConfig(), TemplateConstants(evidence_rates=(0.4, 0.05), least_evidence=(0.7, 0.7, 0.0))
    shown = torch.tensor([[0.9, 0.2, -0.1], [0.9, 0.2, -0.1]])
    averages = torch.stack([torch.full((2, 3), math.inf), torch.full((2, 3), 0.5)])  # the first point is new
    judged = judge(shown, averages, config, constants)
    torch.testing.assert_close(judged.evidence[0], torch.tensor([0.9, 0.2, -0.1] + 2 * [0.9, 0.7, 0.0]))
    torch.testing.assert_close(judged.evidence[1], torch.tensor([0.9, 0.2, -0.1] + 6 * [0.5]))
    fast, slow = 0.6 * 0.5 + 0.4 * shown[1], 0.95 * 0.5 + 0.05 * shown[1]
    torch.testing.assert_close(judged.averages[1], torch.stack([fast, slow]))
    torch.testing.assert_close(judged.confidence, visibility(judged.evidence, config.visibility_weights))
    torch.testing.assert_close(judged.uncertainty, expected_error(judged.evidence, config.error_weights))
    assert averages[0].isinf().all()


def test_evidence_is_weighed_by_default_as_the_bundled_checkpoint_does():
    default, bundled = FgvcConfig(), FgvcConfig.from_pretrained(default_checkpoint())
    assert default.visibility_weights == bundled.visibility_weights and default.error_weights == bundled.error_weights
