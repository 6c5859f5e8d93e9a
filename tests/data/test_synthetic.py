import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.data.occlusion_clips import occlusion_clip
from fgvc_hf.data.scene import Random, top_layer
from fgvc_hf.data.synthetic import random_scene, render_clip, sample_queries, translating_texture
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.training_clips import render_training_clips


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


IMAGES = torch.full((2, 3, 40, 40), 128, dtype=torch.uint8)


@pytest.mark.parametrize("images", [IMAGES / 255, IMAGES.numpy(), IMAGES[0], IMAGES[:0], [IMAGES], IMAGES[..., :0]])
def test_images_for_textures_of_another_kind_are_refused(images):
    """Floats in [0, 1] would be taken for levels of 255, and make a clip that is black."""
    for render in (
        lambda: render_clip(2, 32, 32, images=images),
        lambda: occlusion_clip(0, images),
        lambda: render_pairs(images, [0], 32),
        lambda: render_training_clips(images, [0], 2, 32),
    ):
        with pytest.raises(ValueError, match="images must be .*uint8 of shape"):
            render()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 2.0}, "num_frames must be a whole number, got 2.0"),
        ({"width": "64"}, "width must be a whole number, got '64'"),
        ({"num_points": None}, "num_points must be a whole number, got None"),
        ({"seed": 1.5}, "a seed must be a whole number of 64 bits, got 1.5"),
        ({"seed": None}, "a seed must be a whole number of 64 bits, got None"),
        ({"seed": 2**64}, "a seed must be a whole number of 64 bits"),
        ({"device": "nowhere"}, "device nowhere is not available here"),
    ],
)
def test_numbers_and_devices_that_are_none_are_plain_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_clip(**{"num_frames": 2, "height": 32, "width": 32} | arguments)
    if not {"width", "num_points"} & set(arguments):
        with pytest.raises(ValueError, match=message):
            translating_texture(**{"num_frames": 2, "height": 64, "width": 64} | arguments)


def test_numbers_of_numpy_are_those_of_python():
    given = {"num_frames": 2, "height": 32, "width": 40, "seed": 3}
    clip = render_clip(**given)
    same = render_clip(**{name: np.int64(value) for name, value in given.items()})
    assert np.array_equal(clip.frames, same.frames) and np.array_equal(clip.tracks, same.tracks)


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (lambda: render_pairs(IMAGES, [], 32), "seeds must hold one or more"),
        (lambda: render_pairs(IMAGES, [0], 32, stride=0), "stride is 0, but it must be at least 1"),
        (lambda: render_training_clips(IMAGES, [0], 3, 32, times=[]), "times must be one or more frames, 0 to 2"),
        (lambda: render_training_clips(IMAGES, [0], 3, 32, times=[3]), "times must be one or more frames, 0 to 2"),
        (lambda: render_training_clips(IMAGES, [0], 3, 32, times=[-1]), "times must be one or more frames, 0 to 2"),
    ],
)
def test_seeds_strides_and_times_that_are_none_are_plain_errors(render, message):
    with pytest.raises(ValueError, match=message):
        render()
