"""What the steps of the template tracker are given and what they keep, by value."""

import pytest
import torch
import torch.nn.functional as F
from feature_fields import frame_of, shifted, smooth_field, unit_features

from fgvc_hf import FgvcConfig
from fgvc_hf.matching.alignment import image_patches
from fgvc_hf.tracking import template_tracker
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.template_tracker import TemplateTracker


def started(frame, points, **fields):
    """A tracker of points (x, y) that are given on a frame."""
    tracker = TemplateTracker.empty(frame.features, FgvcConfig(point_matching="templates", **fields))
    tracker.start(list(range(len(points))), torch.tensor(points, dtype=torch.float64), frame)
    return tracker


def moving_image(h, w, velocity, t):
    """A smooth image (2h, 2w) whose content has moved by t times a velocity in pixels."""
    x, y = (torch.arange(n, dtype=torch.float64) - v * t for n, v in zip((2 * w, 2 * h), velocity, strict=True))
    return (torch.sin(x / 2.3) * torch.cos(y[:, None] / 3.1) + torch.sin((x + 2 * y[:, None]) / 5)).float()


def test_motion_costs_by_the_mean_side_of_the_frame_and_less_the_longer_a_point_is_lost():
    """A frame of 16 x 64 cells, whose mean side is 32: a shift by that costs 40, and 1 + 0.1 n times less after n frames."""
    features, expected = torch.zeros(16, 64, 1), torch.tensor([[3.0, 4.0], [30.0, 2.0], [7.0, 9.0]])
    tracker = TemplateTracker.empty(features, FgvcConfig(motion_prior=40.0, search_radius=0.25))
    search, prior = tracker._search_window(expected, torch.tensor([0.0, 5.0, 10.0]), features)
    assert search == 8 and torch.equal(prior.last, expected)
    assert (prior.cost * 32**2).tolist() == pytest.approx([40, 40 / 1.5, 20])


def test_a_point_is_carried_from_where_the_image_placed_it():
    """Which is off the middle of the cell that its features are in."""
    h, w, velocity, off = 40, 50, (1.5, -0.75), (0.9, -0.6)
    previous, image = (moving_image(h, w, velocity, t) for t in (0, 1))
    tracker = started(EncodedFrame(unit_features(h, w), previous), [(40.5, 36.5)])
    tracker.state.points += torch.tensor([off], dtype=torch.float64)
    cells = tracker._predict(tracker.state, EncodedFrame(unit_features(h, w), image, previous))
    expected = torch.tensor([[20 + (1.5 + 0.9) / 2, 18 - (0.75 + 0.6) / 2]])
    torch.testing.assert_close(cells, expected, atol=0.05, rtol=0)


def test_the_patch_of_the_image_that_is_kept_is_that_around_the_point():
    """Features are at rest, while the image moves by fractions of a pixel."""
    h, w = 40, 50
    features = shifted(smooth_field(100, 100), 0, 0, h, w)
    first, second = (moving_image(h, w, (0.9, -0.7), t) for t in (0, 1))
    tracker = started(EncodedFrame(features, first), [(40.5, 36.5), (52.5, 42.5)])
    tracker.step(EncodedFrame(features, second, first))
    points = tracker.read().points
    assert (points - torch.tensor([[40.5, 36.5], [52.5, 42.5]])).norm(dim=1).min() > 0.5
    assert torch.equal(tracker.memory.recent_image[:, 0], image_patches(second, points, 5))


def test_refinement_and_the_search_of_the_whole_frame_go_by_the_first_patch(monkeypatch):
    """And not by the mean template, which has learnt other looks since."""
    world, noise = (shifted(smooth_field(100, 100, seed=seed), 0, 0, 40, 40) for seed in (0, 5))
    tracker = started(frame_of(world), [(40.5, 40.5), (30.5, 44.5)], template_trust=0.0)
    tracker.step(frame_of(F.normalize(world + 0.5 * noise, dim=-1)))
    first, constants, asked = tracker.memory.anchor.clone(), tracker.constants, []
    mean = tracker.memory.mean(slice(0, 2), constants.anchor_share)
    assert (first - mean).abs().max() > 0.05
    search, score = template_tracker.redetect, template_tracker.window_scores

    def redetect(pyramid, anchor, template, weights, match, **numbers):
        asked.append((anchor, template))
        return search(pyramid, anchor, template, weights, match, **numbers)

    def window_scores(features, centres, templates, weights, radius):
        asked.append((templates,))
        return score(features, centres, templates, weights, radius)

    monkeypatch.setattr(template_tracker, "redetect", redetect)
    monkeypatch.setattr(template_tracker, "window_scores", window_scores)
    tracker.step(frame_of(F.normalize(world + 0.6 * noise, dim=-1)))
    (refined,), (anchor, template) = asked
    assert torch.equal(refined, first) and torch.equal(anchor, first) and torch.equal(template, mean)
