"""Several labelled frames of one point: what is given, passes from label to label, and how they are blended."""

import itertools
import math

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.tracking.blending import blended, gaps
from fgvc_hf.tracking.labels import LabelPass, labels_of
from fgvc_hf.tracking.results import PointTracks
from fgvc_hf.tracking.session import FgvcInferenceSession
from fgvc_hf.tracking.suggestions import suggest_frames


def drift(t, x=40.0, y=25.0):
    """Where a point of the noise clip is on frame t: its content moves by (-1, -1) a frame."""
    return (t, x - t, y - t)


@pytest.fixture(scope="module", params=["labels", "templates"])
def tracker(tiny_model, request) -> Tracker:
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": request.param})
    model = FgvcModel(config).eval()
    model.load_state_dict(tiny_model.state_dict())
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


# ---- what is given --------------------------------------------------------------------------------------------------


def test_labels_in_every_form():
    rows = [(5, 1, 2), (0, 3, 4), (2, 5, 6)]
    forms = [
        labels_of(np.array(rows), [7, 3, 7]),
        labels_of(rows, (7, 3, 7)),
        labels_of({7: [rows[0], rows[2]], 3: rows[1]}),
        labels_of({7: np.array([rows[2], rows[0]]), 3: [rows[1]]}),
    ]
    for labels in forms:
        assert labels.object_ids == [7, 3] and labels.ids == [7, 7, 3] and labels.several
        np.testing.assert_array_equal(labels.table, [(7, 2, 5, 6), (7, 5, 1, 2), (3, 0, 3, 4)])
    assert not labels_of(rows).several and labels_of(rows).object_ids == [0, 1, 2]


def test_labels_know_those_of_the_same_point_before_and_after():
    labels = labels_of({7: [(5, 1, 2), (0, 3, 4), (2, 5, 6)], 3: (1, 9, 9), 9: [(8, 7, 7), (4, 8, 8)]})
    assert labels.rows.tolist() == [0, 0, 0, 1, 2, 2] and labels.positions[:, 0].tolist() == [0, 2, 5, 1, 4, 8]
    assert [labels.beside(label) for label in range(6)] == [[1], [0, 2], [1], [], [5], [4]]
    inf = math.inf
    assert labels.ends(reverse=False).tolist() == [2, 5, inf, inf, 8, inf]
    assert labels.ends(reverse=True).tolist() == [inf, 0, 2, inf, inf, 4]
    assert labels.first == {7: (0, 3, 4), 3: (1, 9, 9), 9: (4, 8, 8)}


@pytest.mark.parametrize(
    ("points", "ids", "message"),
    [
        ([(0, 1, 2), (0, 3, 4)], [3, 3], "points: id 3 has two positions on frame 0"),
        ({3: [(0, 1, 2), (0, 1, 2)]}, None, "points: id 3 has two positions on frame 0"),
        ({3: [(0, 1, 2), (9, 1, 2)], 8: [(7, 1, 2), (7, 3, 4)]}, None, "points: id 8 has two positions on frame 7"),
        ([(0, 1, 2)], [1, 2], "ids must hold a whole number for each of 1 points"),
        ([(0, 1, 2)], [1.5], "ids must be a whole number, got 1.5"),
        ([(0, 1, 2)], "1", "ids must hold a whole number for each of 1 points"),
        ({1: (0, 1, 2)}, [1], "ids are given beside an array"),
        ({1: [(0, 1), (1, 2)]}, None, "points must be an array"),
        ({1: []}, None, "points must be an array"),
        ({}, None, "points must be an array"),
        ((0, 1, 2), None, r"points must be an array \(N, 3\) of \(t, x, y\), got shape \(3,\)"),
        ([(0.5, 1, 2)], None, "whole frame numbers"),
        ([(np.nan, 1, 2)], None, "whole frame numbers"),
        ([(np.inf, 1, 2)], None, "whole frame numbers"),
    ],
)
def test_what_are_no_labels(points, ids, message):
    with pytest.raises(ValueError, match=message):
        labels_of(points, ids)


# ---- tracks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_tracks_go_through_every_label_exactly(tracker, noise_clip, direction):
    labels = {4: [drift(1), drift(5), (8, 30.25, 18.5)], 9: drift(3, 50, 20)}
    tracks = tracker.track(noise_clip, labels, direction=direction)
    assert tracks.object_ids == [4, 9] and len(tracks.labels) == 4
    for obj_id, t, x, y in tracks.labels:
        row = tracks.object_ids.index(obj_id)
        np.testing.assert_array_equal(tracks.tracks[row, int(t)], np.float32([x, y]))
        assert tracks.visible[row, int(t)] and tracks.uncertainty[row, int(t)] == 0
    processed = ~np.isnan(tracks.tracks[0, :, 0])
    assert processed.tolist() == [direction != "forward", *[True] * 8, direction != "backward"]


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_tracks_are_in_pixels_of_the_video_and_not_of_the_input(tracker, noise_clip, direction):
    smaller = FgvcImageProcessorPil(resize_policy="stretch", size={"height": 32, "width": 32})
    tracks = Tracker(tracker.model, FgvcProcessor(smaller)).track(
        noise_clip, {4: [drift(1), drift(5)]}, direction=direction
    )
    assert tracks.size == noise_clip.shape[1:3]


def test_a_point_with_one_label_is_not_changed_by_one_with_several(tracker, noise_clip):
    alone = tracker.track(noise_clip, {9: drift(3, 50, 20)}, direction="both")
    among = tracker.track(noise_clip, {4: [drift(1), drift(5)], 9: drift(3, 50, 20)}, direction="both")
    for name in ("tracks", "confidence", "uncertainty", "visible", "outside"):
        np.testing.assert_array_equal(getattr(among, name)[1], getattr(alone, name)[0])


@pytest.mark.parametrize("several", [False, True])
def test_tracks_keep_the_labels_that_they_go_through(tracker, noise_clip, several):
    given = {5: [drift(2), drift(6)] if several else [drift(2)], 3: [drift(1)]}
    expected = [(obj_id, *label) for obj_id, labels in given.items() for label in labels]
    tracks = tracker.track(noise_clip, given, direction="both" if several else "forward")
    assert tracks.labels.tolist() == [list(label) for label in expected] and tracks.labels.dtype == np.float64
    rows, positions = tracks.prompts
    assert [tracks.object_ids[row] for row in rows] == [label[0] for label in expected]
    assert positions.tolist() == [list(label[1:]) for label in expected]


def test_each_label_starts_with_the_looks_of_those_beside_it(tiny_model, noise_clip, monkeypatch):
    """In both directions, in the order of their frames; a point with one label has no other looks."""
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})
    model = FgvcModel(config).eval()
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    started, add = [], FgvcInferenceSession.add_point

    def spy(session, obj_id, frame_idx, point, looks=None):
        started.append((obj_id, frame_idx, looks))
        add(session, obj_id, frame_idx, point, looks)

    given = {5: [drift(6), drift(2), drift(9)], 3: [drift(1)], 8: [drift(2, 30, 12), drift(6, 30, 12)]}
    labels = [drift(2), drift(6), drift(9), drift(1), *given[8]]
    own = [tracker.describe(noise_clip[t], {0: point}).looks()[0] for t, *point in labels]
    monkeypatch.setattr(FgvcInferenceSession, "add_point", spy)
    tracker.track(noise_clip, given, direction="both")
    assert [label for label, _, _ in started[-12:]] == 2 * list(range(6))
    for label, t, looks in started[-12:]:
        beside = [[1], [0, 2], [1], [], [5], [4]][label]
        assert t == labels[label][0] and (looks is None) == (not beside)
        for name, atol in (("templates", 1e-3), ("images", 2e-3)) if beside else ():
            expected = torch.cat([getattr(own[other], name) for other in beside]).float()
            torch.testing.assert_close(getattr(looks, name).float(), expected, atol=atol, rtol=0)


def test_labels_on_neighbouring_frames(tracker, noise_clip):
    labels = [drift(t) for t in range(10)]
    tracks = tracker.track(noise_clip, labels, ids=[0] * 10, direction="both")
    np.testing.assert_array_equal(tracks.tracks[0], np.float32(labels)[:, 1:])


def test_an_iterator_is_read_once(tracker, noise_clip):
    with pytest.raises(ValueError, match="video is an iterator, which is read once"):
        tracker.track(iter(noise_clip), {1: [drift(0), drift(5)]})


@pytest.mark.parametrize("wrong", [(99, 5, 5), (3, 70, 5), (3, np.nan, 5)])
def test_labels_that_do_not_fit_the_video(tracker, noise_clip, wrong):
    with pytest.raises(ValueError, match="frame_idx must be|input_points must"):
        tracker.track(noise_clip, {1: [drift(0), wrong]}, direction="both")


# ---- blending -------------------------------------------------------------------------------------------------------

LABELS = labels_of([(2, 100.0, 100.0), (12, 120.0, 100.0)], [5, 5])
FRAMES = np.arange(16)


def one_pass(offsets, arrival, uncertainty=1.0, confidence=0.9, of=FRAMES):
    """A pass on the line between both labels plus offsets (T,) along y, which arrives at an offset."""
    x = 100.0 + 2 * (FRAMES - 2)
    tracks = np.stack([x, 100.0 + np.broadcast_to(offsets, 16)], axis=-1)[None].astype(np.float32)
    known = np.isin(FRAMES, of)
    tracks[:, ~known] = np.nan
    values = [np.full((1, 16), value, np.float32) * np.ones(16, np.float32) for value in (confidence, uncertainty)]
    for t, x in ((2, 100), (12, 120)):
        tracks[0, t], values[0][0, t], values[1][0, t] = (x, 100), 1, 0
    outside = np.zeros((1, 16), bool)
    return PointTracks([5], np.zeros((1, 3)), tracks, known[None] & True, *values, outside, (256, 256)), arrival


def passes(ahead, back):
    (first, there), (second, here) = ahead, back
    nothing = [np.nan] * 2
    forward = LabelPass(first, np.array([[120, 100 + there], nothing]))
    backward = LabelPass(second, np.array([nothing, [100, 100 + here]]))
    return blended(forward, backward, LABELS, 0.5)


def test_errors_that_add_up_are_shared_by_both_labels():
    """Either pass drifts by half a pixel a frame; their blend stays within what half the way costs, and is smooth."""
    ahead, back = (FRAMES - 2) * 0.5, (12 - FRAMES) * -0.5
    tracks = passes(one_pass(ahead, 5.0, of=FRAMES[2:]), one_pass(back, -5.0, of=FRAMES[:13]))
    error = tracks.tracks[0, 3:12, 1] - 100
    assert np.abs(error).max() < 1.6 and np.abs(np.diff(tracks.tracks[0, 2:13, 1])).max() < 1.5
    np.testing.assert_array_equal(tracks.tracks[0, [2, 12]], [(100, 100), (120, 100)])
    assert tracks.tracks[0, 15, 1] == pytest.approx(106.5) and tracks.tracks[0, 0, 1] == pytest.approx(94)
    assert not tracks.disagreements


def test_the_pass_that_arrives_counts_more():
    """The forward pass loses the point on frame 6 and ends 40 pixels off; the backward pass arrives at the label."""
    lost = np.where(FRAMES >= 6, 40.0, 0.0)
    tracks = passes(one_pass(lost, 40.0), one_pass(0.0, 0.5))
    assert np.abs(tracks.tracks[0, 3:12, 1] - 100).max() < 6 and not tracks.disagreements


def test_where_a_point_is_hidden_the_track_goes_over_from_one_pass_to_the_other():
    hidden = (FRAMES >= 6) & (FRAMES < 9)
    confidence, uncertainty = np.where(hidden, 0.05, 0.95), np.where(hidden, 5.0, 0.5)
    tracks = passes(
        one_pass(np.where(FRAMES >= 6, 9.0, 0.0), 9.0, uncertainty, confidence),
        one_pass(np.where(FRAMES < 9, -9.0, 0.0), -9.0, uncertainty, confidence),
    )
    assert np.abs(tracks.tracks[0, 2:13, 1] - 100)[~hidden[2:13]].max() < 1
    assert not tracks.visible[0, hidden].any() and tracks.visible[0, ~hidden].all()


def test_labels_of_two_points_are_reported_and_not_averaged():
    tracks = passes(one_pass(30.0, 30.0), one_pass(-30.0, -30.0))
    (one,) = tracks.disagreements
    assert (one.object_id, one.first_frame, one.last_frame) == (5, 2, 12)
    assert (one.forward_error, one.backward_error) == pytest.approx((30, 30))
    assert set(tracks.tracks[0, 3:12, 1]) == {130, 70}
    unsure = passes(one_pass(30.0, 30.0, confidence=0.3), one_pass(-30.0, -30.0))
    assert len(unsure.disagreements) == 1 and set(unsure.tracks[0, 3:12, 1]) == {130, 70}
    assert not passes(
        one_pass(30.0, 30.0), one_pass(-12.0, -12.0)
    ).disagreements  # nearer than a twentieth of the frame


def test_where_labels_disagree_the_expected_error_says_so_and_the_frame_is_suggested():
    """One of the passes is 60 pixels off, and which one is least known in the middle."""
    for confidence in (0.95, 0.3):
        ahead, back = (one_pass(off, off, confidence=confidence) for off in (30.0, -30.0))
        tracks = passes(ahead, back)
        error = tracks.uncertainty[0, 3:12]
        assert error[4] == pytest.approx(math.sqrt(0.5 * 60**2), rel=0.05) and error.argmax() in (3, 4, 5)
        assert (error > 10).all() and (tracks.uncertainty[0, [2, 12]] <= 1).all()
        (best,) = suggest_frames(tracks, 1)
        assert best.frame_idx in (6, 7, 8) and best.object_ids == [5]
    agreed = passes(one_pass(3.0, 3.0), one_pass(-3.0, -3.0))
    assert agreed.uncertainty[0, 7] == pytest.approx(math.sqrt(1 + 0.25 * 6**2), rel=0.05)


def test_two_labels_that_disagree_are_a_warning(tiny_model, noise_clip):
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})
    model = FgvcModel(config).eval()
    model.load_state_dict(tiny_model.state_dict())
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    with pytest.warns(UserWarning, match="labels may be of different points, .* id 8 on frames 0 and 6") as caught:
        tracks = tracker.track(
            noise_clip, {8: [drift(0), drift(6, 30, 32)], 2: [drift(0), drift(6)]}, direction="both"
        )
    assert [one.object_id for one in tracks.disagreements] == [8] and caught[0].filename == __file__


def test_gaps_are_between_labels_of_one_point():
    labels = labels_of({1: [drift(0), drift(5), drift(9)], 2: drift(3)})
    assert [(gap.row, gap.first, gap.last) for gap in gaps(labels)] == [(0, 0, 5), (0, 5, 9)]


def test_beside_a_label_are_those_of_the_same_point_before_and_after_it():
    one = labels_of({1: [drift(0), drift(5), drift(9)]})
    assert [one.beside(label) for label in range(3)] == [[1], [0, 2], [1]]
    two = labels_of({1: [drift(0), drift(5)], 2: drift(3)})
    assert [two.beside(label) for label in range(3)] == [[1], [0], []]


# ---- suggestions ----------------------------------------------------------------------------------------------------


def uncertain(errors, **changes):
    """Tracks (N, T) of points 1, 2, ... labelled on frame 0 with these expected errors."""
    errors = np.array(errors, np.float32)
    number, length = errors.shape
    full = {"tracks": np.zeros((number, length, 2)), "visible": errors >= 0, "confidence": errors * 0 + 1}
    full |= {"uncertainty": errors, "outside": errors < 0, "queries": np.zeros((number, 3)), "size": (256, 256)}
    return PointTracks(list(range(1, number + 1)), **full | changes)


def test_suggestions_are_spread_and_name_points():
    errors = np.full((2, 40), 1.0)
    errors[0, 18:23] = (5, 6, 7, 6, 5)
    errors[1, 30:33] = (4, 5, 4)
    first, second = suggest_frames(uncertain(errors), 2)
    assert (first.frame_idx, first.object_ids) == (20, [1]) and first.score == pytest.approx(8)
    assert (second.frame_idx, second.object_ids) == (31, [2])
    frames = [one.frame_idx for one in suggest_frames(uncertain(np.full((1, 40), 1.0)), 4)]
    assert len(frames) == 4 and np.diff(sorted(frames)).min() >= 5 and 0 not in frames


def test_suggestions_are_not_all_of_the_point_that_is_worst():
    """One point is lost from the middle on; the others drift a little. A label of the first one there answers most of it."""
    errors = np.linspace(0, 3, 72) * np.ones((4, 1))
    errors[0] = np.where(np.arange(72) < 30, 1, 30)
    found = suggest_frames(uncertain(errors), 5)
    frames = [one.frame_idx for one in found]
    assert found[0].object_ids == [1] and frames[0] >= 30 and np.diff(sorted(frames)).min() >= 7
    assert {obj_id for one in found for obj_id in one.object_ids} == {1, 2, 3, 4}
    assert sum(one.object_ids == [1] for one in found) <= 3


def test_frames_next_to_a_suggested_one_are_not_suggested():
    errors = 10 * np.ones((3, 16)) * np.arange(1, 4)[:, None]
    frames = sorted(one.frame_idx for one in suggest_frames(uncertain(errors), 5))
    assert len(frames) >= 3 and np.diff(frames).min() >= 4


def test_a_frame_near_a_suggested_one_is_suggested_for_a_point_that_is_well_on_that():
    """Point 2 is lost for a moment beside the frame that point 1 needs; a point that is as bad on both is named once."""
    errors = np.zeros((3, 600))
    errors[0, 300], errors[1, 303], errors[2, 295:310] = 20, 10, 1
    found = [(one.frame_idx, one.object_ids) for one in suggest_frames(uncertain(errors), 5)]
    assert found == [(300, [1]), (303, [2])]


def test_no_frame_is_suggested_twice():
    """Points 2 to 4 have more of their errors beside frame 300 than on it, where they would gain most together."""
    errors = np.zeros((4, 600))
    errors[0, 300], errors[1:, 300] = 20, 4.9
    errors[1, 301] = errors[2, 299] = errors[3, 302] = 10
    found = [(one.frame_idx, one.object_ids) for one in suggest_frames(uncertain(errors), 5)]
    assert found == [(300, [1]), (299, [3]), (301, [2]), (302, [4])]


def test_a_point_that_was_named_is_served_even_if_it_is_worse_beside():
    errors = np.zeros((3, 600))
    errors[:, 300], errors[1, 303] = 10, 25
    found = [(one.frame_idx, one.object_ids) for one in suggest_frames(uncertain(errors), 5)]
    assert found == [(300, [1, 2, 3])]


def test_no_suggestion_where_nothing_would_gain():
    assert suggest_frames(uncertain(np.zeros((2, 10))), 3) == []
    gone = np.full((1, 10), 5.0)
    assert suggest_frames(uncertain(gone, outside=gone > 0), 3) == []
    assert suggest_frames(uncertain(np.full((1, 3), np.nan)), 3) == []
    with pytest.raises(ValueError, match="n must be 1 or more, got 0"):
        suggest_frames(uncertain(gone), 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [3, 7])
def test_suggestions_by_their_definition(seed, n):
    """Point by point and frame by frame: labels of some points, others that left or were not tracked, and errors of all sizes."""
    rng = np.random.default_rng(seed)
    number, length = 5, 48
    errors = (rng.gamma(1.0, 4.0, (number, length)) * rng.uniform(0.2, 8, (number, 1))).astype(np.float32)
    errors[rng.random(errors.shape) < 0.1] = np.nan
    outside = rng.random(errors.shape) < 0.15
    labels = np.array([(1, 0, 5, 5), (1, 30, 5, 5), (2, 12, 5, 5), (3, 47, 5, 5), (4, 0, np.nan, np.nan)], float)
    tracks = uncertain(np.nan_to_num(errors), uncertainty=errors, outside=outside, labels=labels, size=(90, 160))
    points, frames = range(number), range(length)
    worth = [
        [0.0 if outside[i, t] or np.isnan(errors[i, t]) else min(float(errors[i, t]), 15.0) for t in frames]
        for i in points
    ]
    labelled = {0: [0, 30], 1: [12], 2: [47]}  # by row; the last two points have no position that is known
    before = [[min([abs(t - s) for s in labelled.get(i, [])], default=length) for t in frames] for i in points]
    reach, new = max(4, length / (2 * n)), {i: [] for i in points}
    passed_over, expected = set(), []
    while len(expected) < n:
        gains = np.zeros((number, length))
        for i, t in itertools.product(points, frames):
            away = min([before[i][t], *(abs(t - s) for s in new[i])])
            share = 0 if (i, t) in passed_over else min(1, before[i][t] / reach)
            gains[i, t] = worth[i][t] * 0.5 ** len(new[i]) * share * away / max(before[i][t], 1)
        t = int(gains.sum(axis=0).argmax())
        if gains.sum(axis=0).max() <= 0:
            break
        close = [s for s in frames if abs(s - t) < reach]
        named = [i for i in sorted(points, key=lambda i: -gains[i, t]) if gains[i, t] >= gains[:, t].max() / 2]
        served = [i for i in points if i in named or gains[i, t] >= max(gains[i, s] for s in close) / 2]
        expected.append((t, [i + 1 for i in named], float(gains[:, t].sum())))
        passed_over |= {(i, s) for i in served for s in close} | {(i, t) for i in points}
        for i in named:
            new[i].append(t)
    found = suggest_frames(tracks, n)
    assert [(one.frame_idx, one.object_ids) for one in found] == [one[:2] for one in expected] and len(found) > 1
    assert [one.score for one in found] == pytest.approx([one[2] for one in expected])
