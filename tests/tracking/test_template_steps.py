"""What the steps of the template tracker are given and what they keep, by value."""

import inspect
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from feature_fields import frame_of, shifted, smooth_field, unit_features

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.matching.alignment import image_patches
from fgvc_hf.tracking import point_search, template_tracker
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.point_search import PointSearch
from fgvc_hf.tracking.prompts import PointLooks
from fgvc_hf.tracking.session import FgvcInferenceSession
from fgvc_hf.tracking.template_memory import TemplateMemory
from fgvc_hf.tracking.template_tracker import TemplateTracker, looks_of


def started(frame, points, **fields):
    """A tracker of points (x, y) that are given on a frame."""
    tracker = TemplateTracker.empty(frame.features, FgvcConfig(point_matching="templates", **fields))
    tracker.start(list(range(len(points))), torch.tensor(points, dtype=torch.float64).view(-1, 2), frame)
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


def test_a_point_that_the_image_does_not_show_again_is_expected_where_it_was(monkeypatch):
    """Wherever its patch was found: the second of two does not come back from there."""
    image, features = moving_image(40, 50, (0, 0), 0), unit_features(40, 50)
    tracker = started(EncodedFrame(features, image), [(40.5, 36.5), (52.5, 42.5)])
    there = lambda previous, current, points, *numbers: (points + 8, torch.tensor([True, False]))  # noqa: E731
    monkeypatch.setattr(template_tracker, "carry_points", there)
    cells = tracker._predict(tracker.state, EncodedFrame(features, image, image))
    assert cells.tolist() == [[24, 22], [26, 21]]


def test_a_point_of_a_session_starts_with_what_it_looks_like_elsewhere(tiny_model, processor, noise_clip):
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})
    model, session = FgvcModel(config).eval(), processor.init_video_session()
    session.add_point(3, 0, (20.0, 15.0))
    session.add_point(8, 0, (30.0, 12.0), PointLooks(torch.full((1, 49, 32), 0.5), torch.full((1, 13, 13), 7.0)))
    model.step(session, noise_clip[0])
    memory = session.templates.memory
    torch.testing.assert_close(memory.references, torch.stack([memory.anchor[0], memory.anchor[1] / 2 + 0.25]))
    assert memory.known.tolist() == [[False, True]] and (memory.look_images[0, 1] == 7).all()


def test_a_frame_is_matched_by_its_grey_levels_and_by_those_of_the_frame_before(
    tiny_model, processor, noise_clip, monkeypatch
):
    """The means of the channels of the model's input."""
    session, seen = processor.init_video_session(), []
    propagate = FgvcInferenceSession.propagate
    monkeypatch.setattr(session, "propagate", lambda frame, t: seen.append(frame) or propagate(session, frame, t))
    for frame in noise_clip[:2]:
        tiny_model.step(session, frame)
    first, second = (session.preprocess(frame)[0] for frame in noise_clip[:2])
    for image, channels in zip((seen[0].image, seen[1].previous, seen[1].image), (first, first, second), strict=True):
        torch.testing.assert_close(image, (channels[0] + channels[1] + channels[2]) / 3)
    assert seen[0].previous is None


def test_cells_are_learnt_while_the_point_is_visible_and_patches_while_they_are_trusted():
    """Which are two things; and frames without trust are counted."""
    frames = [frame_of(unit_features(20, 24, seed=seed)) for seed in range(3)]
    for visible, trusted in ((True, False), (False, True)):
        fields = {"visibility_threshold": 0.0 if visible else 1.0, "template_trust": -1.0 if trusted else 1.0}
        tracker = started(frames[0], [(20.5, 18.5)], recall_similarity=2.0, **fields)
        for frame in frames[1:]:
            tracker.step(frame)
        assert tracker.memory.trusted.any() == trusted and (tracker.memory.similarity < 1).any() == visible
        assert tracker.state.lost.tolist() == [0 if trusted else 2]


def test_a_point_that_gets_hidden_is_expected_where_it_was_going():
    field = smooth_field(100, 100)
    frames = [frame_of(shifted(field, 2.0 * t, -1.0 * t, 40, 40)) for t in range(3)]
    tracker = started(frames[0], [(40.5, 38.5)])
    tracker.step(frames[1])
    ahead = tracker.read().expected
    torch.testing.assert_close(ahead, torch.tensor([[48.5, 34.5]]).double(), atol=0.5, rtol=0)
    tracker.config.visibility_threshold = 1.0
    tracker.step(frames[2])
    assert torch.equal(tracker.read().expected, ahead)


NUMBERS = {
    (TemplateMemory, "cell_weights"): {"radius": 3, "temperature": 0.13},
    (TemplateMemory, "mean"): {"anchor_share": 1.5},
    (template_tracker, "carry_points"): {"radius": 5, "least_similarity": 0.8, "tolerance": 2.0},
    (template_tracker, "search_coarse"): {"rival_distance": 1, "least_share": 0.25},
    (template_tracker, "verify"): {"radius": 4, "close_margin": 0.12, "least_share": 0.25},
    (template_tracker, "refine"): {"anchor_radius": 2, "rival_distance": 6, "least_share": 0.25},
    (template_tracker, "redetect"): {"recall_similarity": 0.7, "recall_below": 0.9, "recall_share": 0.5}
    | {"recall_radius": 7, "anchor_radius": 2, "rival_distance": 6, "least_share": 0.25},
    (template_tracker, "align_points"): {"least_similarity": 0.8, "reach": 3.0},
    (TemplateMemory, "images"): {"frames_back": (1, 2, 9)},
    (TemplateMemory, "update"): {"rate": 0.6},
}


SEARCH_NUMBERS = {
    (TemplateMemory, "cell_weights"): {"radius": 3, "temperature": 0.13},
    (point_search, "search_coarse"): {"search": 21, "rival_distance": 1, "least_share": 0.25},
    (point_search, "verify"): {"radius": 4, "close_margin": 0.12, "least_share": 0.25},
    (point_search, "refine"): {"anchor_radius": 2, "rival_distance": 6, "least_share": 0.25},
    (TemplateMemory, "images"): {"frames_back": ()},
    (point_search, "align_points"): {"least_similarity": 0.8, "reach": 3.0},
}


@pytest.mark.parametrize("numbers", [NUMBERS, SEARCH_NUMBERS], ids=["tracker", "search"])
def test_every_step_is_given_its_own_numbers(numbers, monkeypatch):
    """All of which differ here."""
    distances = {"coarse_rival_distance": 1, "fine_radius": 4, "rival_distance": 6, "recall_radius": 7}
    others = {"cell_temperature": 0.13, "close_margin": 0.12, "image_frames_back": (1, 2, 9)}
    for owner in (TemplateTracker, PointSearch):
        monkeypatch.setattr(owner, "constants", replace(owner.constants, **distances, **others))
    given, image, points = {}, moving_image(30, 40, (0, 0), 0), [(40.5, 30.5)]

    def recorded(key, function):
        def call(*args, **kwargs):
            given[key] = inspect.signature(function).bind(*args, **kwargs).arguments
            return function(*args, **kwargs)

        return call

    for owner, name in numbers:
        monkeypatch.setattr(owner, name, recorded((owner, name), getattr(owner, name)))
    frame = EncodedFrame(unit_features(30, 40), image, image)
    tracker = started(frame, points if numbers is NUMBERS else [], recall_similarity=0.7, template_radius=3)
    if numbers is SEARCH_NUMBERS:
        tracker.seek([5], [looks_of(torch.tensor(points).double(), frame, tracker.config)], frame)
    else:
        tracker.step(frame)
    assert {key: {name: given[key][name] for name in of} for key, of in numbers.items()} == numbers


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
