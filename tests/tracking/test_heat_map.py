"""The probability map of one point over another frame."""

import numpy as np
import pytest
import torch
from feature_fields import unit_features
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcProcessor, Tracker, render_clip
from fgvc_hf.matching.patches import patch_weights, sample_patches, window_scores
from fgvc_hf.tracking.heat_map import match_cells, patch_similarity
from fgvc_hf.tracking.label_maps import read_masks
from fgvc_hf.tracking.template_constants import TemplateConstants


@pytest.fixture(scope="module")
def texture():
    return render_clip(num_frames=1, height=160, width=200, num_points=1, num_bodies=0, seed=3).frames[0]


@pytest.mark.parametrize("matching", ["templates", "labels"])
def test_the_peak_is_where_the_point_went(bundled_model, processor, texture, matching, monkeypatch):
    first, second = texture[20:140, 30:170], texture[26:146, 10:190]  # (x, y) goes to (x + 20, y - 6)
    monkeypatch.setattr(bundled_model.config, "point_matching", matching)
    for x, y in ((70.5, 60.5), (31.0, 90.25), (120.5, 20.5)):
        probability = Tracker(bundled_model, processor).match(first, Image.fromarray(second), (x, y))
        assert probability.shape == (120, 180) and probability.dtype == np.float32
        assert probability.min() >= 0 and probability.sum() == pytest.approx(1, abs=1e-4)
        row, column = np.unravel_index(probability.argmax(), probability.shape)
        assert abs(column + 0.5 - (x + 20)) <= 1.5 and abs(row + 0.5 - (y - 6)) <= 1.5


def test_the_map_has_the_size_of_frame_1_and_the_point_that_of_frame_0(bundled_model, texture):
    small = FgvcProcessor(FgvcImageProcessorPil(size={"height": 96, "width": 128}))
    double = np.asarray(Image.fromarray(texture).resize((400, 320), Image.Resampling.BICUBIC))
    probability = Tracker(bundled_model, small).match(texture, double, (120.5, 70.5))
    row, column = np.unravel_index(probability.argmax(), probability.shape)
    assert probability.shape == (320, 400) and abs(column - 241) <= 5 and abs(row - 141) <= 5


def test_similarity_is_that_by_which_points_are_followed():
    noise = torch.randn(12, 15, 8, generator=torch.Generator().manual_seed(0))
    features = torch.nn.functional.normalize(noise, dim=-1)
    radius, cells = FgvcConfig().template_radius, torch.tensor([[7.0, 5.0]])
    patch = sample_patches(features, cells, radius)
    window = window_scores(features, cells, patch, patch_weights(radius), 15)
    followed = window.similarity(TemplateConstants().least_share)[0][window.share[0] > 0].view(12, 15)
    torch.testing.assert_close(patch_similarity(features, patch, radius), followed)


@pytest.mark.parametrize("matching", ["templates", "labels"])
def test_templates_are_compared_or_single_cells(matching):
    """The softmax of similarity / temperature, and what it is at pixels; frame 0 is seen at half its size."""
    features_0, features_1 = unit_features(10, 14), unit_features(12, 9, seed=1)
    config = FgvcConfig(point_matching=matching, temperature=0.2)
    found = match_cells(features_0, features_1, (25.0, 13.0), ((40, 56), (20, 28)), ((24, 18), (24, 18)), config)
    radius, cell = config.template_radius if matching == "templates" else 0, torch.tensor([[6.0, 3.0]])
    similarity = patch_similarity(features_1, sample_patches(features_0, cell, radius), radius)
    probability = torch.exp(similarity / 0.2)
    expected = read_masks((probability / probability.sum())[None], (24, 18), (24, 18), 2)[0]
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-4)
    single = features_1 @ features_0[3, 6]
    assert torch.allclose(similarity, single) == (matching == "labels")


@pytest.mark.parametrize("point", [(-1, 5), (5, 41), (57, 5), (np.nan, 5), (5,), "here", None, [[5, 5]]])
def test_points_outside_frame_0_are_refused(tiny_model, processor, noise_clip, point):
    with pytest.raises(ValueError, match=r"point must be \(x, y\) inside frame 0, x in 0..56 and y in 0..40, got"):
        Tracker(tiny_model, processor).match(noise_clip[0], noise_clip[1], point)
