import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.data.scene import Random, top_layer
from fgvc_hf.data.synthetic import random_scene, render_clip, sample_queries, translating_texture


@pytest.fixture(scope="module")
def clip():
    return render_clip()


def colours_at(clip, t: int) -> np.ndarray:
    """Colours (N, 3) under the points in frame t, bilinear."""
    frame = torch.from_numpy(clip.frames[t]).permute(2, 0, 1)[None].float()
    size = torch.tensor([frame.shape[3], frame.shape[2]])
    grid = torch.from_numpy(clip.tracks[:, t]) / size * 2 - 1
    return F.grid_sample(frame, grid[None, None].float(), align_corners=False)[0, :, 0].T.numpy()


def test_shapes_and_seeds(clip):
    assert clip.frames.shape == (32, 256, 256, 3) and clip.frames.dtype == np.uint8
    assert clip.queries.shape == (32, 3) and clip.tracks.shape == (32, 32, 2) and clip.visible.shape == (32, 32)
    short = render_clip(num_frames=3, num_points=4, seed=5)
    np.testing.assert_array_equal(short.frames, render_clip(num_frames=3, num_points=4, seed=5).frames)
    assert (short.frames != render_clip(num_frames=3, num_points=4, seed=6).frames).any()


def test_queries_are_on_their_tracks_and_visible(clip):
    t = clip.queries[:, 0].astype(int)
    np.testing.assert_allclose(clip.tracks[np.arange(len(t)), t], clip.queries[:, 1:], atol=1e-3)
    assert clip.visible[np.arange(len(t)), t].all()


def test_a_visible_point_keeps_its_colour(clip):
    colours = np.stack([colours_at(clip, t) for t in range(32)], axis=1)  # (N, T, 3)
    start = clip.queries[:, 0].astype(int)
    reference = colours[np.arange(len(start)), start][:, None]
    change = np.abs(colours - reference).mean(axis=-1)
    assert change[clip.visible].mean() < 6
    inside = (clip.tracks >= 1).all(-1) & (clip.tracks <= 255).all(-1)
    assert change[~clip.visible & inside].mean() > 25  # something else is there


def test_points_are_hidden_and_come_back(clip):
    hidden = ~clip.visible
    assert hidden.any()
    assert (hidden[:, :-1] & clip.visible[:, 1:]).any()
    outside = (clip.tracks < 0).any(-1) | (clip.tracks > 256).any(-1)
    assert hidden[outside].all()


def test_a_translating_texture_is_the_first_frame_shifted():
    clip = translating_texture(4, 96, 128, (3.0, -2.0), seed=1)
    np.testing.assert_allclose(clip.frames[2, :-4, 6:].astype(int), clip.frames[0, 4:, :-6].astype(int), atol=1)
    np.testing.assert_allclose(clip.tracks[:, 2] - clip.tracks[:, 0], np.broadcast_to([6, -4], (len(clip.tracks), 2)))
    assert clip.visible.all()


def test_too_small_a_frame():
    with pytest.raises(ValueError, match="height"):
        render_clip(height=8)


def test_queries_are_away_from_edges_even_over_the_layers_and_mostly_on_the_first_frame():
    layers = random_scene(8, 96, 96, 3, Random([0]))
    times, points = sample_queries(layers, 8, 96, 96, 64, Random([1]))
    for layer in layers:
        assert (layer.distance(points, times).abs() >= 3).all()
    assert points.min() >= 3 and points.max() <= 93
    assert top_layer(layers, points, times)[0].bincount(minlength=4).tolist() == [16] * 4
    assert 0.6 < (times == 0).float().mean() < 0.9 and times.max() > 4
