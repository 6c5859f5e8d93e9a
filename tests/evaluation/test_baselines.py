import numpy as np
import pytest

from fgvc_hf import render_clip
from fgvc_hf.evaluation.baselines import BASELINES, ChainedTracker


def shifted_clip():
    """A picture that moves by (3, 2) pixels per frame, and six points on it, two of them from frame 2 on."""
    picture = render_clip(num_frames=1, height=200, width=240, num_points=1, seed=4).frames[0]
    frames = [picture[40 - 2 * t : 168 - 2 * t, 50 - 3 * t : 210 - 3 * t] for t in range(6)]
    queries = np.array([(2 * (i > 3), 40 + 15 * i, 30 + 10 * i) for i in range(6)], float)
    since = np.arange(6) - queries[:, :1]
    truth = queries[:, None, 1:] + since[..., None] * [3, 2]
    return np.stack(frames), queries, truth


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_motion_is_followed_from_the_query_on(name):
    frames, queries, truth = shifted_clip()
    found = ChainedTracker(name, None).track(frames, queries)
    assert np.isnan(found.tracks[4:, :2]).all() and not found.visible[4:, :2].any()
    np.testing.assert_allclose(found.tracks[4, 2], queries[4, 1:])
    error = np.linalg.norm(found.tracks - truth, axis=-1)[:, 2:]
    if name == "stand-still":
        assert error[0, -1] == pytest.approx(np.hypot(15, 10))
    else:
        assert np.nanmean(error) < 0.7


def test_positions_are_those_of_the_original_video():
    frames, queries, truth = shifted_clip()
    found = ChainedTracker("lucas-kanade", (96, 120)).track(frames, queries)
    assert np.nanmean(np.linalg.norm(found.tracks - truth, axis=-1)) < 1.2
    assert found.size == (128, 160)


@pytest.mark.parametrize("name", ["dis", "lucas-kanade"])
def test_backward_and_both_directions(name):
    frames, queries, truth = shifted_clip()
    queries[:, 0] += 2
    truth -= [6, 4]
    tracker = ChainedTracker(name, None)
    forward, backward, both = (
        tracker.track(frames, queries, direction=way) for way in ("forward", "backward", "both")
    )
    known = np.arange(6) >= queries[:, :1]
    assert (np.isnan(forward.tracks[..., 0]) == ~known).all()
    assert (np.isnan(backward.tracks[..., 0]) == (np.arange(6) > queries[:, :1])).all()
    np.testing.assert_array_equal(both.tracks, np.where(known[..., None], forward.tracks, backward.tracks))
    np.testing.assert_array_equal(both.visible, np.where(known, forward.visible, backward.visible))
    assert np.linalg.norm(both.tracks - truth, axis=-1).mean() < 0.7


def test_a_covered_point_is_lost():
    frames, queries, _ = shifted_clip()
    frames = frames.copy()
    frames[3:, :, :80] = np.random.default_rng(0).integers(0, 255, (3, 128, 80, 3))
    found = ChainedTracker("lucas-kanade", None).track(frames, queries[:2])
    assert found.visible[:, :3].all() and not found.visible[:, 3].any()


def test_unknown_baselines():
    with pytest.raises(ValueError, match="baseline must be one of stand-still, lucas-kanade, dis"):
        ChainedTracker("raft")
    with pytest.raises(ValueError, match="direction must be 'forward', 'backward' or 'both', got 'sideways'"):
        ChainedTracker("stand-still").track(*shifted_clip()[:2], direction="sideways")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(6, 1, 1)], "with t from 0 to 5"),
        ([(-1, 1, 1)], "with t from 0 to 5"),
        ([(0, float("nan"), 1)], "points must be finite"),
        ([(float("nan"), 1, 1)], "whole frame numbers"),
        ([(0.5, 1, 1)], "whole frame numbers"),
        ([(0, 1)], r"points must be an array \(N, 3\)"),
        ([0, 1, 1], r"points must be an array \(N, 3\)"),
        ([], r"points must be an array \(N, 3\)"),
        ("text", r"points must be an array \(N, 3\)"),
    ],
)
def test_points_that_are_on_no_frame_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        ChainedTracker("stand-still", None).track(np.zeros((6, 8, 8, 3), np.uint8), points)
