"""Clips that a bar crosses: what it hides, and which points count."""

import numpy as np
import pytest

from fgvc_hf.data.occlusion_clips import FRAMES_AFTER, NUM_FRAMES, SIZE, occluded_once, occlusion_clip
from fgvc_hf.data.synthetic import SyntheticClip


@pytest.fixture(scope="module")
def clip():
    return occlusion_clip(5000)


def test_a_bar_hides_most_points_once_for_about_eight_frames(clip):
    assert clip.frames.shape == (NUM_FRAMES, SIZE, SIZE, 3) and clip.frames.dtype == np.uint8
    chosen = occluded_once(clip)
    assert len(chosen) >= 20
    durations = (~clip.visible[chosen]).sum(axis=1)
    assert set(durations.tolist()) <= {7, 8, 9}
    assert (clip.queries[chosen, 0] == 0).all() and clip.visible[chosen, -FRAMES_AFTER:].all()
    # The bar moves from left to right: points further right are hidden later
    first, x = (~clip.visible[chosen]).argmax(axis=1), clip.tracks[chosen, 0, 0]
    assert np.corrcoef(first, x)[0, 1] > 0.8


@pytest.mark.slow
def test_a_seed_gives_its_clip(clip):
    again, other = occlusion_clip(5000), occlusion_clip(5001)
    assert (again.frames == clip.frames).all() and (again.tracks == clip.tracks).all()
    assert (other.frames != clip.frames).any()


@pytest.mark.parametrize(
    ("hidden", "query", "counts"),
    [
        (range(5, 13), 0, True),
        (range(5, 12), 0, True),
        (range(5, 14), 0, True),
        (range(5, 15), 0, False),  # too long
        (range(5, 11), 0, False),  # too short
        ([*range(5, 9), *range(12, 16)], 0, False),  # twice
        (range(NUM_FRAMES - 9, NUM_FRAMES - 1), 0, False),  # too close to the end
        (range(5, 13), 1, False),  # queried later
    ],
)
def test_points_that_are_hidden_once_for_long_enough_count(hidden, query, counts):
    visible = np.ones((1, NUM_FRAMES), dtype=bool)
    visible[0, list(hidden)] = False
    clip = SyntheticClip(np.zeros(0), np.array([[query, 1.0, 1.0]]), np.zeros((1, NUM_FRAMES, 2)), visible)
    assert occluded_once(clip).tolist() == ([0] if counts else [])
