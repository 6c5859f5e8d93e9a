"""Smoothing by uncertainty, and velocity."""

from dataclasses import replace

import numpy as np
import pytest
from labelled_clips import example_tracks

from fgvc_hf import PointTracks, smooth, suggest_frames, velocity


def swinging(noise: float = 1.0, number: int = 40, length: int = 60) -> tuple[PointTracks, np.ndarray]:
    """Points that swing slowly, measured with noise that their uncertainty tells, and where they really are."""
    random = np.random.default_rng(0)
    t = np.arange(length)
    phases = random.uniform(0, 6, (number, 1, 2))
    truth = 60 + 20 * np.sin(t[:, None] / 9 + phases)  # (N, T, 2)
    sigma = noise * random.uniform(0.2, 2, (number, length))
    sigma[:, 0] = 0  # the prompt
    tracks = (truth + sigma[..., None] * random.normal(size=truth.shape)).astype(np.float32)
    queries = np.column_stack([np.zeros(number), tracks[:, 0]])
    seen = np.ones((number, length), bool)
    certain = seen.astype(np.float32)
    return (
        PointTracks(list(range(number)), queries, tracks, seen, certain, sigma.astype(np.float32), ~seen, (120, 120)),
        truth,
    )


def error(tracks: PointTracks, truth: np.ndarray) -> float:
    return float(np.sqrt(((tracks.tracks - truth) ** 2).sum(axis=-1).mean()))


def test_noise_becomes_less_and_prompts_stay():
    tracks, truth = swinging()
    found = smooth(tracks)
    assert error(found, truth) < 0.45 * error(tracks, truth)
    np.testing.assert_array_equal(found.tracks[:, 0], tracks.queries[:, 1:].astype(np.float32))
    for name in ("visible", "confidence", "uncertainty", "outside", "queries"):
        assert getattr(found, name) is getattr(tracks, name)


def test_it_is_the_best_estimate_of_its_model():
    """The same as the least squares that the model says, solved at once."""
    tracks, _ = swinging(number=2, length=12)
    tracks.visible[0, 4:7] = False
    acceleration, length = 0.7, 12
    noise = acceleration**2 * np.array([[1 / 3, 1 / 2], [1 / 2, 1]])
    root = np.linalg.inv(np.linalg.cholesky(noise))
    for row in range(2):
        equations, values = [], []
        for t in range(length - 1):  # states (position, velocity) of neighbouring frames
            step = np.zeros((2, 2 * length))
            step[:, 2 * t : 2 * t + 2], step[:, 2 * t + 2 : 2 * t + 4] = -np.array([[1, 1], [0, 1]]), np.eye(2)
            equations += [*(root @ step)]
            values += [(0, 0), (0, 0)]
        for t in range(length):
            if tracks.visible[row, t]:
                sigma = 1e-7 if t == 0 else max(float(tracks.uncertainty[row, t]), 0.05)
                measured = np.zeros(2 * length)
                measured[2 * t] = 1 / sigma
                equations.append(measured)
                values.append(tracks.tracks[row, t].astype(float) / sigma)
        expected = np.linalg.lstsq(np.array(equations), np.array(values), rcond=None)[0][::2]
        np.testing.assert_allclose(smooth(tracks, acceleration).tracks[row], expected, atol=2e-3)


def test_hidden_frames_are_bridged_and_do_not_count():
    tracks, truth = swinging(noise=0.1)
    wild = replace(tracks, tracks=tracks.tracks.copy(), visible=tracks.visible.copy())
    wild.tracks[:, 20:26], wild.visible[:, 20:26] = 1000, False
    assert np.abs(smooth(wild).tracks[:, 20:26] - truth[:, 20:26]).max() < 3
    assert error(smooth(wild), truth) < 0.5


def test_frames_without_a_position_stay_without():
    tracks = example_tracks()
    found = smooth(tracks)
    np.testing.assert_array_equal(np.isnan(found.tracks), np.isnan(tracks.tracks))
    np.testing.assert_array_equal(found.tracks[1, 1], (7, 8))
    never = replace(tracks, visible=np.zeros_like(tracks.visible), queries=np.full((2, 3), np.nan, np.float32))
    never.queries[:, 0] = 0
    np.testing.assert_array_equal(
        smooth(never).tracks, tracks.tracks
    )  # of a query that was never found: nothing to go by


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, True, "1"])
def test_settings_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="acceleration must be a positive number of pixels per frame, got"):
        smooth(example_tracks(), value)
    with pytest.raises(ValueError, match="fps must be a positive number of frames per second, got"):
        velocity(example_tracks(), value)


@pytest.mark.parametrize("value", [9e-5, 1e-12, 1.1e6, 1e300])
def test_an_acceleration_that_cannot_be_computed_with_is_refused(value):
    with pytest.raises(ValueError, match="acceleration must be from 0.0001 to 1000000 pixels per frame, got"):
        smooth(example_tracks(), value)


def test_the_smallest_and_largest_acceleration_are_computed_with():
    tracks = example_tracks()
    for value in (1e-4, 1e6):
        found = smooth(tracks, value).tracks
        np.testing.assert_array_equal(np.isnan(found), np.isnan(tracks.tracks))


def test_velocity_of_even_motion_and_at_the_ends():
    t = np.arange(5, dtype=np.float32)
    tracks = replace(example_tracks(), tracks=np.stack([np.stack([3 * t, -2 * t], -1), np.stack([t**2, t], -1)]))
    tracks.tracks[0, 0] = tracks.tracks[1, 3] = np.nan
    found = velocity(tracks)
    np.testing.assert_allclose(found[0], [(np.nan, np.nan), *[(3, -2)] * 4])
    np.testing.assert_allclose(found[1], [(1, 1), (2, 1), (3, 1), (np.nan, np.nan), (np.nan, np.nan)])
    np.testing.assert_allclose(velocity(tracks, fps=25), 25 * found)


@pytest.mark.parametrize("shape", [(2, 0), (0, 4), (0, 0), (2, 1)])
def test_tracks_without_frames_or_points(shape):
    n, length = shape
    one = example_tracks()
    fields = {
        name: getattr(one, name)[:n, :length] for name in ("tracks", "visible", "confidence", "uncertainty", "outside")
    }
    tracks = replace(one, object_ids=one.object_ids[:n], queries=one.queries[:n], **fields)
    assert smooth(tracks).tracks.shape == velocity(tracks).shape == (*shape, 2)
    assert np.isnan(velocity(tracks)).all()


def test_prompts_of_any_ids_stay():
    """Also of ids that float64 does not hold, of labels of other points, and of labels on frames that are cut off."""
    one = example_tracks()
    tracks = replace(one, object_ids=[2**60 + 1, 2**60 + 2])
    assert tracks.prompts[0].tolist() == [0, 1] and tracks.prompts[1].tolist() == one.queries.tolist()
    np.testing.assert_array_equal(smooth(tracks).tracks, smooth(one).tracks)
    assert [s.frame_idx for s in suggest_frames(tracks)] == [s.frame_idx for s in suggest_frames(one)]
    labels = np.array([(11, 2, 9, 10), (4, 0, 1.5, 2.25), (5, 0, 1, 1), (4, 9, 1, 1)], np.float64)
    labelled = replace(one, labels=labels)
    assert labelled.prompts[0].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(smooth(labelled).tracks[[1, 0], [2, 0]], labels[:2, 2:])
    assert all(set(s.object_ids) <= {4, 11} for s in suggest_frames(labelled))
