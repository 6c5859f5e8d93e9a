"""Textures that are carried along."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import Tracker, VideoWriter, open_video, paint, render_clip
from fgvc_hf.applications.painting import agreement, moving_least_squares, points_on, warp
from fgvc_hf.cli.main import main


def disc(height, width, y, x, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def chequered(height, width, inside):
    rows, columns = np.mgrid[:height, :width]
    texture = np.zeros((height, width, 4), np.uint8)
    texture[..., 0] = np.where((rows // 8 + columns // 8) % 2, 255, 0)
    texture[..., 2] = 255 - texture[..., 0]
    texture[..., 3] = 255 * inside
    return texture


@pytest.fixture(scope="module")
def fast():
    tracker = Tracker.from_pretrained(preset="fast")
    tracker.processor.image_processor.resize_policy = "none"
    return tracker


def moving_clip(frames=6):
    """The view moves by (-4, -2) per frame."""
    world = render_clip(num_frames=1, height=140, width=180, num_points=1, num_bodies=0, seed=3).frames[0]
    return np.stack([world[10 + 2 * t : 106 + 2 * t, 10 + 4 * t : 138 + 4 * t] for t in range(frames)])


def test_the_texture_moves_with_the_scene(fast):
    clip = moving_clip()
    texture = chequered(96, 128, disc(96, 128, 50, 70, 28))
    painted = list(paint(fast, clip, texture))
    assert [t for t, _ in painted] == list(range(6))
    for t, frame in painted:
        expected = clip[t].copy()
        moved = np.roll(texture, (-2 * t, -4 * t), axis=(0, 1))
        expected[moved[..., 3] > 0] = moved[moved[..., 3] > 0][:, :3]
        off = np.abs(frame.astype(float) - expected).mean(axis=-1)
        assert off[~disc(96, 128, 50 - 2 * t, 70 - 4 * t, 34)].max() == 0
        inner = disc(96, 128, 50 - 2 * t, 70 - 4 * t, 24)
        assert np.mean(off[inner] > 60) < 0.1, t


def test_what_passes_in_front_hides_it(fast):
    clip = moving_clip()[[0] * 6].copy()
    cover = render_clip(num_frames=1, height=96, width=128, num_points=1, num_bodies=0, seed=8).frames[0]
    clip[3:, :, 60:] = cover[:, 60:]
    texture = chequered(96, 128, disc(96, 128, 48, 60, 28))
    frames = dict(paint(fast, clip, texture))
    behind = disc(96, 128, 48, 60, 26) & (np.arange(128) > 76)
    before = disc(96, 128, 48, 60, 26) & (np.arange(128) < 46)
    assert np.abs(frames[5].astype(float) - clip[5])[behind].mean() < 12
    assert np.abs(frames[5].astype(float) - frames[0])[before].mean() < 12


def test_an_affine_motion_is_exact():
    torch.manual_seed(0)
    source = 60 * torch.rand(40, 2, dtype=torch.float64)
    matrix = torch.tensor([[1.1, 0.2], [-0.1, 0.9]], dtype=torch.float64)
    places = 60 * torch.rand(9, 2, dtype=torch.float64)
    weights = 1 / (torch.cdist(places, source) + 1)
    found = moving_least_squares(places, source, source @ matrix + 3, weights, 1e-3)
    torch.testing.assert_close(found, places @ matrix + 3, atol=1e-6, rtol=0)


def test_one_that_goes_its_own_way_has_no_say():
    source = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)).double() * 8
    target = source + torch.tensor([3.0, -1.0])
    target[12] += 40
    weights = agreement(source, target, torch.ones(25, dtype=torch.float64), 8.0)
    assert float(weights[12]) < 0.1 and float(weights[[0, 4, 20, 24]].min()) > 0.5


@pytest.mark.parametrize(("distance", "halved"), [(8.0, 8.0), (2.0, 3.0)])
def test_a_point_is_compared_with_its_neighbours_and_not_with_itself(distance, halved):
    """Where these move alike it is off by its whole way; the weight is halved at the distance of the points, or at 3 pixels."""
    source = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)).double() * 8
    target = source + torch.tensor([3.0, -1.0])
    target[12] += torch.tensor([3.0, 4.0])
    weights = agreement(source, target, torch.ones(25, dtype=torch.float64), distance)
    assert float(weights[12]) == pytest.approx(1 / (1 + (5 / halved) ** 2), rel=1e-6)


def test_points_without_confidence_move_nothing():
    ramp = torch.cat([(torch.arange(50) + 0.5).expand(1, 40, 50), torch.ones(3, 40, 50)])
    points = torch.cartesian_prod(torch.arange(5.0), torch.arange(4.0)).double() * 10 + 5
    target, confidence = points + torch.tensor([2.0, 0.0]), torch.ones(20, dtype=torch.float64)
    target[9], confidence[9] = target[9] + 4, 0.0
    found = warp(ramp, points, target, confidence, 10.0)
    shown = found[3] > 0.2
    assert shown.float().mean() > 0.5
    where = (found[0] / found[3])[:, 6:44]
    expected = (torch.arange(50) + 0.5 - 2).expand(40, 50)[:, 6:44]
    torch.testing.assert_close(where[shown[:, 6:44]], expected[shown[:, 6:44]], atol=0.02, rtol=0)


def test_nothing_moves_and_nothing_changes():
    colours = torch.rand(4, 40, 50)
    points = torch.from_numpy(points_on(np.full((40, 50), 255, np.uint8))[0])
    same = warp(colours, points, points, torch.ones(len(points), dtype=torch.float64), 3.0)
    torch.testing.assert_close(same[:, 4:-4, 4:-4], colours[:, 4:-4, 4:-4], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("texture", "message"),
    [
        (np.zeros((96, 128, 3), np.uint8), "RGBA image"),
        (np.zeros((96, 128, 4), np.float32), "RGBA image"),
        (np.zeros((90, 128, 4), np.uint8), "must be 96x128 like the video"),
        (np.zeros((96, 128, 4), np.uint8), "transparent everywhere"),
        (None, "RGBA image"),
        (Image.new("RGB", (128, 96)), "RGBA image"),
    ],
)
def test_bad_textures(fast, texture, message):
    with pytest.raises(ValueError, match=message):
        next(paint(fast, moving_clip(2), texture))


def test_no_video_is_refused(fast):
    with pytest.raises(ValueError, match="video"):
        next(paint(fast, None, np.full((96, 128, 4), 255, np.uint8)))


def test_textures_and_frame_numbers_of_every_kind_agree(fast):
    texture, video = np.zeros((96, 128, 4), np.uint8), moving_clip(2)
    texture[40:56, 50:70] = 200
    expected = next(paint(fast, video, texture, 1))
    for given in (Image.fromarray(texture), torch.from_numpy(texture)):
        t, frame = next(paint(fast, video, given, np.float64(1)))
        assert t == expected[0] == 1
        np.testing.assert_array_equal(frame, expected[1])


def test_a_thin_shape_has_points_too():
    alpha = np.zeros((60, 80), np.uint8)
    alpha[30, 5:70] = 255
    points, _ = points_on(alpha)
    assert len(points) and set(points[:, 1]) == {30.5}


def test_command(tmp_path, capsys):
    with VideoWriter(tmp_path / "clip.mp4", 12, 96, 128) as writer:
        for frame in moving_clip(3):
            writer.write(frame)
    Image.fromarray(chequered(96, 128, disc(96, 128, 50, 70, 28))).save(tmp_path / "good.png")
    Image.fromarray(chequered(90, 128, disc(90, 128, 50, 70, 28))).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out.mp4"
    for name, frame, message in (
        ("good", "0", ""),
        ("other", "0", "texture must be 96x128 like the video"),
        ("text", "0", "is no image"),
        ("absent", "0", "No such file"),
        ("good", "3", "frame_idx must be a frame of the video"),
    ):
        arguments = ["paint", str(tmp_path / "clip.mp4"), "--texture", str(tmp_path / f"{name}.png"), "--frame", frame]
        code = main([*arguments, "--output", str(out), "--preset", "fast"])
        error = capsys.readouterr().err
        assert code == (2 if message else 0) and message in error and out.is_file() == (not message), error
        if not message:
            assert open_video(out).num_frames == 3
            out.unlink()
