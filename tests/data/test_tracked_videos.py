import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import PointTracks, read_tracks, save_tracks
from fgvc_hf.data import tracked_videos
from fgvc_hf.data.scene import pixel_centres
from fgvc_hf.data.tracked_videos import TrackedVideos
from fgvc_hf.data.video_folder import View


STEP = np.array([3.0, -1.0])  # pixels per frame
HEIGHT, WIDTH, LENGTH = 60, 80, 6


@pytest.fixture
def moving(tmp_path):
    """A video of a picture that moves, tracks of a grid of its points, and the folders of both."""
    generator = np.random.default_rng(0)
    big = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    videos, tracks = tmp_path / "videos" / "clip", tmp_path / "tracks"
    videos.mkdir(parents=True)
    tracks.mkdir()
    for t in range(LENGTH):
        left, top = np.array([40, 30]) - t * STEP
        big.crop((int(left), int(top), int(left) + WIDTH, int(top) + HEIGHT)).save(videos / f"{t:05d}.png")
    x, y = np.meshgrid(np.arange(4.5, WIDTH, 8), np.arange(4.5, HEIGHT, 8))
    first = np.stack([x.ravel(), y.ravel()], axis=1)
    positions = first[:, None] + np.arange(LENGTH)[None, :, None] * STEP
    inside = ((positions >= 0) & (positions < (WIDTH, HEIGHT))).all(-1)
    truth = PointTracks(
        object_ids=list(range(len(first))),
        queries=np.concatenate([np.zeros((len(first), 1)), first], axis=1).astype(np.float32),
        tracks=positions.astype(np.float32),
        visible=inside,
        confidence=inside.astype(np.float32),
        uncertainty=np.full(inside.shape, 0.5, np.float32),
        outside=~inside,
        size=(HEIGHT, WIDTH),
    )
    save_tracks(truth, tracks / "clip.npz")
    return videos.parent, tracks, truth


def pairs(moving, **settings):
    return TrackedVideos(moving[0], moving[1], size=48, gap=(1, 3), area=(0.4, 0.8), aspect=(1.0, 1.0), **settings)


def test_flow_leads_to_the_same_place_of_the_picture(moving):
    data, far = pairs(moving), []
    for number in range(12):
        frames, flow, known = data[number]
        assert frames.shape == (2, 3, 48, 48) and flow.shape == (2, 24, 24, 2) and known.shape == (2, 24, 24)
        assert frames.min() >= 0 and frames.max() <= 1 and known.any(dim=(1, 2)).all()
        assert all(map(torch.equal, data[number], (frames, flow, known)))  # by number alone
        centres = pixel_centres(48, 48, 2).view(24, 24, 2)
        for query, key in ((0, 1), (1, 0)):
            shifts = flow[query][known[query]]
            assert (shifts - shifts[0]).abs().max() < 1e-3  # all move alike
            far.append(shifts[0].abs().max())
            ends = centres[known[query]] + shifts
            there = bilinear(frames[key], ends) - bilinear(frames[query], centres[known[query]])
            still = bilinear(frames[key], centres[known[query]]) - bilinear(frames[query], centres[known[query]])
            kept = ((ends > 2) & (ends < 46)).all(-1)
            assert there[:, kept].abs().mean() < 0.02 < still[:, kept].abs().mean()
        assert torch.allclose(flow[0][known[0]].mean(0), -flow[1][known[1]].mean(0), atol=1e-3)
    assert max(far) > 6


def bilinear(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Colours (3, N) of an image (3, H, W) at points (N, 2) in pixels, whose first centre is at 0.5."""
    grid = (2 * points / image.shape[-1] - 1)[None, None]
    return torch.nn.functional.grid_sample(image[None], grid, align_corners=False)[0, :, 0]


def test_positions_that_are_not_sure_are_left_out(moving):
    folder, tracks, truth = moving
    assert pairs(moving)[0][2].any()
    doubtful = np.arange(len(truth.tracks)) % 2 == 1
    truth.confidence[doubtful] = 0.8
    save_tracks(truth, tracks / "clip.npz")
    halved = pairs(moving)[0][2].sum()
    assert 0 < halved < pairs(moving, least_confidence=0.7)[0][2].sum()
    truth.uncertainty[:] = 5
    save_tracks(truth, tracks / "clip.npz")
    assert not pairs(moving)[0][2].any()
    assert pairs(moving, largest_error=6.0)[0][2].sum() == halved


def test_videos_without_tracks(moving, caplog):
    folder, tracks, _ = moving
    other = folder / "other"
    other.mkdir()
    for t in range(2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(other / f"{t:05d}.png")
    pairs(moving)
    assert "left out 1 videos without tracks" in caplog.text
    (tracks / "clip.npz").unlink()
    with pytest.raises(OSError, match="holds no tracks"):
        pairs(moving)


def test_tracks_of_another_video(moving):
    folder, _, _ = moving
    (folder / "clip" / f"{LENGTH - 1:05d}.png").unlink()
    with pytest.raises(ValueError, match="has tracks of 6 frames"):
        pairs(moving)


def test_tracks_of_two_videos_of_one_name_are_refused(moving):
    """They would be taken for both."""
    folder, _, _ = moving
    (folder / "sub" / "clip").mkdir(parents=True)
    for t in range(LENGTH):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "sub" / "clip" / f"{t:05d}.png")
    with pytest.raises(ValueError, match=r"clip\.npz: may be the tracks of .*videos/clip or of .*sub/clip"):
        pairs(moving)


def test_a_folder_has_its_whole_name(moving):
    folder, tracks, _ = moving
    for name in ("clip.v1", "clip.v2"):
        (folder / name).mkdir()
        for t in range(LENGTH):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name / f"{t:05d}.png")
    assert len(pairs(moving).clips) == 1
    (tracks / "clip.v2.npz").write_bytes((tracks / "clip.npz").read_bytes())
    assert len(pairs(moving).clips) == 2


def test_the_folder_that_one_is_in_has_its_name(moving, monkeypatch):
    folder, tracks, _ = moving
    monkeypatch.chdir(folder / "clip")
    assert len(TrackedVideos(".", tracks, size=48).clips) == 1


def test_tracks_of_another_aspect_or_of_one_frame_are_refused(moving):
    _, tracks, truth = moving
    truth.size = (WIDTH, HEIGHT)
    save_tracks(truth, tracks / "clip.npz")
    with pytest.raises(ValueError, match=r"clip\.npz: has tracks in frames of 80x60, but .* has another aspect"):
        pairs(moving)
    truth.size = (HEIGHT, WIDTH)
    for name in ("tracks", "visible", "confidence", "uncertainty", "outside"):
        setattr(truth, name, getattr(truth, name)[:, :1])
    save_tracks(truth, tracks / "clip.npz")
    with pytest.raises(ValueError, match="has tracks of 1 frame; two or more are needed"):
        pairs(moving)


def test_tracks_are_read_as_they_were_written(moving, tmp_path):
    _, tracks, truth = moving
    found = read_tracks(tracks / "clip.npz")
    assert found.object_ids == truth.object_ids and found.size == truth.size
    for name in ("queries", "tracks", "visible", "confidence", "uncertainty", "outside"):
        assert np.array_equal(getattr(found, name), getattr(truth, name))
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="must be an NPZ file with the arrays"):
        read_tracks(tmp_path / "bad.npz")
    truth.visible = truth.visible[:, :3]
    save_tracks(truth, tmp_path / "short.npz")
    with pytest.raises(ValueError, match="visible must be numbers of shape"):
        read_tracks(tmp_path / "short.npz")
    with pytest.raises(FileNotFoundError, match="no such file of tracks"):
        read_tracks(tmp_path / "none.npz")


@pytest.mark.parametrize("mirrored", [False, True])
def test_flow_by_value_at_the_cells_nearest_to_points_that_are_sure_and_shown_on_both_frames(
    moving, monkeypatch, mirrored
):
    folder, tracks, truth = moving
    rng = np.random.default_rng(1)
    truth.tracks[:] = rng.uniform(0, (WIDTH, HEIGHT), truth.tracks.shape)
    truth.visible[:] = rng.random(truth.visible.shape) < 0.8
    truth.confidence[:], truth.uncertainty[:] = 0.95, 1.0
    save_tracks(truth, tracks / "clip.npz")
    view = View([1, 4], (3.0, 2.0, 33.0, 26.0), mirrored, 24)
    monkeypatch.setattr(tracked_videos, "choose_view", lambda *_: view)
    data = TrackedVideos(folder, tracks, size=24, short_side=31, stride=4)
    _, flow, known = data[0]
    places = truth.tracks[:, [1, 4]] * np.array([41 / 80, 31 / 60])  # frames of 31 x 41
    places = (places - (3, 2)) * np.array([24 / 30, 24 / 24])
    places[..., 0] = 24 - places[..., 0] if mirrored else places[..., 0]
    sure = truth.visible[:, [1, 4]].all(1) & ((places >= 0) & (places < 24)).all((1, 2))
    assert 5 < sure.sum() < len(sure) - 5
    for query, key in ((0, 1), (1, 0)):
        expected = {}
        for own, other in zip(places[sure, query], places[sure, key]):
            x, y = (min(max(round((at - 0.5) / 4), 0), 5) for at in own.tolist())
            expected.setdefault((y, x), []).append(other - own)
        assert {tuple(cell) for cell in known[query].nonzero().tolist()} == set(expected)
        for cell, shifts in expected.items():
            assert min(np.abs(flow[query][cell].numpy() - shift).max() for shift in shifts) < 1e-4
