"""Visibility from what matching shows."""

import numpy as np
import pytest
import torch
from scripts_as_functions import run_here

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, render_clip
from fgvc_hf.tracking.evidence import expected_error, visibility
from fgvc_hf.training.calibration import calibration_error, collect_evidence, fit_error, fit_visibility


def test_the_weights_that_made_the_data_are_found():
    generator = torch.Generator().manual_seed(0)
    evidence = torch.rand(200_000, 3, generator=generator)
    weights = [2.0, -1.0, 4.0, -1.5]
    visible = torch.rand(len(evidence), generator=generator) < visibility(evidence, weights)
    np.testing.assert_allclose(fit_visibility(evidence, visible), weights, atol=0.1)


def test_the_weights_that_made_the_errors_are_found():
    generator = torch.Generator().manual_seed(0)
    evidence = torch.rand(200_000, 3, generator=generator)
    weights = [-1.0, 0.5, -2.0, 1.5]
    errors = expected_error(evidence, weights) * -torch.rand(len(evidence), generator=generator).log()
    visible = torch.rand(len(evidence), generator=generator) < 0.7
    np.testing.assert_allclose(fit_error(evidence, visible, errors + 100 * ~visible), weights, atol=0.05)


def test_one_visible_point_gives_its_own_error():
    """One row has no standard deviation; the constant is then the logarithm of the error."""
    weights = fit_error(torch.rand(2, 3), torch.tensor([True, False]), torch.tensor([4.0, 9.0]))
    assert weights[:-1] == [0.0, 0.0, 0.0] and weights[-1] == pytest.approx(np.log(4.0), rel=1e-3)


def test_a_fit_needs_both_cases():
    with pytest.raises(ValueError, match="no point is visible"):
        fit_error(torch.rand(5, 3), torch.zeros(5, dtype=torch.bool), torch.rand(5))
    with pytest.raises(ValueError, match="always visible, or never"):
        fit_visibility(torch.rand(5, 3), torch.ones(5, dtype=torch.bool))


def test_nothing_is_no_good_calibration():
    with pytest.raises(ValueError, match="a calibration error is of at least one outcome, got none"):
        calibration_error(np.empty(0), np.empty(0, bool))
    with pytest.raises(ValueError, match="evidence is collected from clips, but there is none"):
        collect_evidence(tiny("templates"), [])


def test_calibration_error_known_answers():
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == pytest.approx(0)
    assert calibration_error(
        np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, False, True, False])
    ) == pytest.approx(0.4)


def tiny(point_matching):
    torch.manual_seed(0)
    config = FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], point_matching=point_matching)
    return Tracker(FgvcModel(config).eval(), FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


def test_evidence_is_of_frames_after_the_query():
    clip = render_clip(num_frames=6, height=64, width=64, num_points=5, seed=2)
    evidence, visible, errors = collect_evidence(tiny("templates"), [clip, clip])
    later = np.arange(6) > clip.queries[:, :1]
    assert evidence.shape == (2 * later.sum(), 9) and visible.shape == (2 * later.sum(),)
    assert int(visible.sum()) == 2 * clip.visible[later].sum()
    tracks = tiny("templates").track(clip.frames, clip.queries).tracks
    off = np.linalg.norm(tracks - clip.tracks, axis=-1)
    assert float(errors.sum()) == pytest.approx(2 * off[later].sum(), rel=1e-4)


def test_labels_have_no_evidence():
    with pytest.raises(ValueError, match="templates"):
        collect_evidence(tiny("labels"), [])


def test_the_script_refuses_what_it_cannot_write_or_fit_before_it_tracks(tmp_path, videos):
    for options, message in (
        (["fgvc-coarse", "--videos", videos], "error: fgvc-coarse: must be a folder with a config.json, which is"),
        ([tmp_path, "--videos", videos, "--clips", 1], "error: --clips must be 2 or more, one of which is held out"),
    ):
        done = run_here("calibrate.py", *options)
        assert done.returncode and message in done.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())
