"""Clips to learn tracking from: their truth holds in the pictures, and what they promise is in them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.data import training_clips
from fgvc_hf.data.clip_disturbance import compress, disturb
from fgvc_hf.data.moving_scenes import RasterLayer, camera, limbs, training_scene, wave
from fgvc_hf.data.scene import Motion, Random, everywhere, expose
from fgvc_hf.data.synthetic import similarity
from fgvc_hf.data.textures import natural_image
from fgvc_hf.data.training_clips import bounding_box, follow, paint, render_training_clips, sample_points


SIZE, FRAMES = 96, 10


@pytest.fixture(scope="module")
def images():
    return (255 * natural_image(160, 40, 0.4, Random(range(5)))).byte()


@pytest.fixture(scope="module")
def clips(images):
    return render_training_clips(images, range(4), FRAMES, SIZE, num_points=64, strength=0)


def colours_at(frames, points):
    """Colours (N, T, 3) of frames (T, 3, H, W) at points (N, T, 2)."""
    grid = points.transpose(0, 1)[:, :, None] / SIZE * 2 - 1  # (T, N, 1, 2)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)[..., 0].permute(2, 0, 1)


def test_points_keep_their_colour_while_they_are_visible(clips):
    right, wrong = [], []
    for frames, tracks, visible, queries in zip(
        *(clips.frames, clips.tracks, clips.visible, clips.queries), strict=True
    ):
        for shift, errors in ((0.0, right), (4.0, wrong)):
            found = colours_at(frames, tracks + shift)
            first = colours_at(frames, tracks)[torch.arange(len(queries)), queries]
            errors.append((found - first[:, None]).abs().mean(-1)[visible])
    right, wrong = torch.cat(right), torch.cat(wrong)
    assert right.median() < 0.012 and right.mean() < 0.035  # shadows pass, and edges are mixed with what is behind
    assert wrong.mean() > 3 * right.mean()


def test_hidden_points_show_something_else(clips):
    hidden = []
    for frames, tracks, visible, queries in zip(
        *(clips.frames, clips.tracks, clips.visible, clips.queries), strict=True
    ):
        inside = ((tracks > 1) & (tracks < SIZE - 1)).all(-1)
        first = colours_at(frames, tracks)[torch.arange(len(queries)), queries]
        hidden.append((colours_at(frames, tracks) - first[:, None]).abs().mean(-1)[~visible & inside])
    assert torch.cat(hidden).mean() > 0.12


def test_shapes_and_queries(clips):
    assert clips.frames.shape == (4, FRAMES, 3, SIZE, SIZE) and clips.frames.min() >= 0 and clips.frames.max() <= 1
    assert clips.tracks.shape == (4, 64, FRAMES, 2) and clips.visible.shape == (4, 64, FRAMES)
    assert clips.visible.gather(2, clips.queries[..., None]).all()
    assert 0.2 < (clips.queries > 0).float().mean() < 0.6
    assert 0.5 < clips.visible.float().mean() < 0.99


def test_a_clip_depends_on_its_own_seed_alone(images, clips):
    alone = render_training_clips(images, [2], FRAMES, SIZE, num_points=64, strength=0)
    torch.testing.assert_close(alone.frames[0], clips.frames[2], atol=2e-3, rtol=0)
    several = render_training_clips(images, range(5), 3, SIZE, num_points=8)
    for seed in range(5):
        disturbed = render_training_clips(images, [seed], 3, SIZE, num_points=8)
        difference = (disturbed.frames[0] - several.frames[seed]).abs()
        assert difference.quantile(0.99) < 0.01  # coefficients of the compression may round to a neighbour
    torch.testing.assert_close(alone.tracks[0], clips.tracks[2], atol=1e-2, rtol=0)
    assert (alone.visible[0] == clips.visible[2]).float().mean() > 0.998
    assert not torch.equal(clips.frames[0], clips.frames[1])


def test_chosen_frames_are_those_of_the_whole_clip(images, clips):
    some = render_training_clips(images, [1], FRAMES, SIZE, num_points=64, strength=0, times=[0, 3, 9])
    torch.testing.assert_close(some.frames[0], clips.frames[1, [0, 3, 9]], atol=2e-3, rtol=0)
    assert some.tracks.shape == (1, 64, 3, 2) and some.visible.gather(2, some.queries[..., None]).all()
    disturbed = render_training_clips(images, [1], 24, SIZE, num_points=8, times=[0, 23])
    steady = render_training_clips(images, [1], 24, SIZE, num_points=8, times=[0, 1])
    torch.testing.assert_close(disturbed.frames[0, 0].mean(), steady.frames[0, 0].mean(), atol=0.02, rtol=0)


def test_some_bodies_are_fast_and_points_leave_and_come_back(images):
    scenes = training_scene(images, 24, 256, 4, Random(range(24)))
    times, points = sample_points(scenes, torch.arange(24), 256, 64, Random(range(24)))
    tracks, _ = follow(scenes, points, times, torch.arange(24), 256)
    speed = tracks.diff(dim=2).norm(dim=-1)
    assert speed.median() < 6 and 15 < speed.quantile(0.98) < 60
    inside = ((tracks > 0) & (tracks < 256)).all(-1)
    changes = inside.diff(dim=2).sum(-1)
    assert ((changes >= 2) & inside[..., -1]).any()


def test_every_third_body_looks_like_the_one_before(images):
    layers = training_scene(images, 4, SIZE, 3, Random([0, 1]))
    bodies = [layer for layer in layers[1:] if layer.raster.shape[-1] == layers[1].raster.shape[-1]]
    assert torch.equal(bodies[1].raster[:, :3], bodies[-1].raster[:, :3])
    assert not torch.equal(bodies[1].motion.pose, bodies[-1].motion.pose)


def test_limbs_hang_together(images):
    random = Random(range(3))
    trunk = similarity(torch.full((3, FRAMES, 2), 48.0), *(torch.zeros(3, FRAMES) for _ in range(3)))
    first, second = limbs(trunk, images, FRAMES, SIZE, random)
    first_to_second = torch.linalg.inv(second.motion.pose) @ first.motion.pose  # (3, T, 3, 3)
    along = torch.stack([torch.linspace(-20, 20, 2000), torch.zeros(2000), torch.ones(2000)])
    places = (first_to_second @ along)[:, :, :2]  # of points of the first part, in coordinates of the second
    moved = places.std(dim=1).norm(dim=1)  # (3, 2000)
    assert (moved.amin(dim=1) < 0.02).all()  # the joint
    assert (moved.amax(dim=1) > 0.1).all()  # it swings about it


def test_the_camera_shifts_near_layers_more(images):
    view = camera(24, 256, Random(range(16)))
    near, far = (
        view(torch.full((16,), nearness))[..., :2, 2].diff(dim=1).norm(dim=-1).mean() for nearness in (1.0, 0.25)
    )
    assert near > 1.5 * far
    still = view(torch.ones(16)).diff(dim=1).abs().amax((1, 2, 3)) < 1e-6
    assert 0 < still.sum() < 8  # on a tripod


@pytest.mark.parametrize("rate", [0.5, 40.0])
def test_waves_keep_their_rate_and_their_reach(rate):
    values = wave(500, torch.full((32,), rate), 100.0, Random(range(32)))
    assert values.diff(dim=1).abs().max() <= rate * 1.001 and values.abs().max() <= 200.001
    assert values.diff(dim=1).abs().max() > 0.7 * rate


def test_motion_blur_lies_along_the_motion(images):
    layers = training_scene(images, 6, SIZE, 3, Random([5]))
    sharp, draw = paint(layers, 3, SIZE), partial(paint, time=3, size=SIZE)
    blurred = expose(layers, 3, torch.tensor([0.9]), draw)
    assert torch.equal(expose(layers, 3, torch.tensor([0.0]), draw), sharp)
    instants = []
    for side in (-0.45, 0.0, 0.45):
        moved = []
        for layer in layers:
            pose = layer.motion.pose.clone()
            pose[:, 3] += side * (pose[:, 4] - pose[:, 2]) / 2
            motion = Motion(pose, layer.motion.frequencies, layer.motion.phases, layer.motion.amplitudes)
            moved.append(type(layer)(layer.shape, layer.texture, motion, layer.raster, layer.extent, layer.shadow))
        instants.append(paint(moved, 3, SIZE))
    torch.testing.assert_close(blurred, torch.stack(instants).mean(0))
    assert (blurred - sharp).abs().max() > 0.02


def test_disturbance_is_none_at_strength_0_and_smooth_in_time(images, clips):
    frames = clips.frames.clone()
    assert torch.equal(disturb(frames.clone(), Random(range(4))), disturb(frames.clone(), Random(range(4))))
    assert torch.equal(disturb(frames.clone(), Random(range(4)), 0.0), frames)
    still = torch.full((16, 24, 3, 32, 32), 0.5)
    changed = disturb(still.clone(), Random(range(16)))
    means = changed.mean((2, 3, 4))
    assert (means - 0.5).abs().max() > 0.05 and means.diff(dim=1).abs().max() < 0.1
    assert changed.min() >= 0 and changed.max() <= 1


def test_compression_removes_fine_detail_and_keeps_the_mean():
    random = torch.Generator().manual_seed(0)
    frames = 0.004 * torch.rand(8, 2, 3, 64, 64, generator=random) + 0.4
    steps = torch.tensor([0.0, 0.01, 0.03, 0.08] * 2)
    found = compress(frames.clone(), steps)
    touched = (found != frames).flatten(1).any(1)
    assert torch.equal(touched, steps > 0)
    for before, after in zip(frames[touched], found[touched], strict=True):
        assert (before.mean() - after.mean()).abs() < 0.01
        assert after.diff(dim=-1).square().mean() < before.diff(dim=-1).square().mean()
    smooth = torch.full((8, 2, 3, 16, 16), 0.5)
    torch.testing.assert_close(compress(smooth.clone(), steps), smooth, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 16}, "size is 16, but it must be at least 32"),
        ({"num_frames": 1}, "num_frames is 1, but it must be at least 2"),
        ({"num_points": 0}, "num_points is 0, but it must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(images, arguments, message):
    with pytest.raises(ValueError, match=message):
        render_training_clips(images, [0], **arguments)


def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match="images must be uint8 of shape"):
        render_training_clips(images.float(), [0])


def disc(scale, shadow=0.0, radius=10.0):
    """A grey disc in the middle of a white background, on a raster of a texel for each pixel of the layer."""
    side = 40
    places = (torch.arange(side) + 0.5 - side / 2).expand(side, side)
    distance = torch.hypot(places, places.T) - radius
    raster = torch.cat([torch.full((3, side, side), 0.5), distance[None]])[None]
    pose = torch.tensor([[[scale, 0, SIZE / 2], [0, scale, SIZE / 2], [0, 0, 1.0]]])[None]

    def shape(points):
        return points.norm(dim=-1) - radius

    white, extent = torch.ones(1, 3, side, side), torch.full((1,), side / 2)
    behind = RasterLayer(everywhere, shape, Motion(pose), white, None)
    return behind, RasterLayer(shape, shape, Motion(pose), raster, extent, shadow)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_edges_are_a_pixel_of_the_frame_wide_at_every_zoom(scale):
    image = paint(disc(scale), 0, SIZE)[0]
    places = (torch.arange(SIZE) + 0.5 - SIZE / 2).expand(SIZE, SIZE)
    alpha = (0.5 - (torch.hypot(places, places.T) - 10 * scale)).clamp(0, 1)
    torch.testing.assert_close(image, (1 - 0.5 * alpha).expand(3, -1, -1), atol=0.04, rtol=0)


def test_a_shadow_falls_to_the_right_and_below_and_not_on_the_body_itself():
    image, middle = paint(disc(1.0, shadow=0.4), 0, SIZE)[0, 0], SIZE // 2
    assert (
        image[middle, middle] == 0.5 and (image[: middle - 12] > 0.97).all() and (image[:, : middle - 12] > 0.97).all()
    )
    right, below = middle + 10 + 0.04 * SIZE, middle + 10 + 0.05 * SIZE  # where it ends, at half of its darkness
    for profile, end in ((image[middle + 5], right), (image[:, middle + 4], below)):
        outside = profile[middle + 12 :]
        assert middle + 12 + (outside < 0.8).sum() == pytest.approx(end, abs=1.5)
    assert image[image != 0.5].min() > 0.49


def test_layers_are_painted_wherever_they_are(images, monkeypatch):
    """The boxes that painting is confined to leave nothing out, of bodies that bend and of their shadows either."""
    scenes = [training_scene(images, 4, SIZE, 6, Random([seed])) for seed in range(12)]
    confined = [paint(layers, 2, SIZE) for layers in scenes]
    monkeypatch.setattr(training_clips, "bounding_box", lambda *_: (slice(0, SIZE), slice(0, SIZE)))
    for layers, image in zip(scenes, confined, strict=True):
        torch.testing.assert_close(image, paint(layers, 2, SIZE), atol=2e-3, rtol=0)


def test_the_box_of_a_layer_has_room_for_its_bending_and_holds_all_scenes_of_the_batch():
    """A twentieth of the extent more on every side; nothing of it is outside the frame."""
    pose = torch.eye(3).repeat(3, 2, 1, 1)
    pose[0, 1, :2, 2], pose[1, 1, :2, 2] = torch.tensor([40.0, 50.0]), torch.tensor([60.0, 30.0])
    pose[2, 1, :2, 2] = torch.tensor([90.0, 50.0])
    none = torch.zeros(0)
    layers = [
        RasterLayer(everywhere, everywhere, Motion(pose[rows]), none, torch.tensor([20.0, 10.0, 20.0])[rows])
        for rows in (slice(0, 1), slice(0, 2), slice(2, 3))
    ]
    boxes = [bounding_box(layer, 1, SIZE) for layer in layers]
    assert boxes[0] == (slice(29, 71), slice(19, 61))
    assert boxes[1] == (slice(19, 71), slice(19, 71))  # 30 - 10.5 and 60 + 10.5
    assert boxes[2] == (slice(29, 71), slice(69, SIZE))
    assert bounding_box(layers[0], 1, SIZE, (4, 5)) == (slice(34, 76), slice(23, 65))
    assert bounding_box(layers[0], 1, SIZE, (-80, 0))[1] == slice(0, 0)
