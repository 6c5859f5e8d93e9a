"""Self-made labels: what both passes agree on is kept, in the pixels and at the frames of the video, and training learns from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from scripts_as_functions import forget_accelerators

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, render_clip
from fgvc_hf.data.tracked_videos import TrackedVideos
from fgvc_hf.data.training_clips import TrainingClips
from fgvc_hf.io.tracks import read_tracks, save_tracks
from fgvc_hf.tracking.results import PointTracks
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import RECIPES, Recipe
from fgvc_hf.training.self_labels import agreed_tracks


class Scripted:
    """A tracker whose points move by one pixel a frame; backward, some come back elsewhere."""

    def __init__(self, off=(), unsure=()):
        self.off, self.unsure, self.asked = list(off), list(unsure), []

    def track(self, video, points=None, grid=None, direction="forward"):
        self.asked.append((len(video), direction, None if points is None else np.array(points)))
        n, length, size = (grid or 4) ** 2, len(video), video.shape[1:3]
        axis = (np.arange(grid or 4) + 0.5) / (grid or 4)
        start = np.stack(np.meshgrid(axis * size[1], axis * size[0]), axis=-1).reshape(-1, 2)
        tracks = start[:, None] + np.arange(length)[None, :, None] * np.array([1.0, 0.0])
        confidence = np.ones((n, length), np.float32)
        if direction == "backward":
            tracks[self.off] += 3.0
            confidence[self.unsure, 1] = 0.3
        queries = np.column_stack([np.zeros(n), start]).astype(np.float32)
        flags = np.zeros((n, length), bool)
        return PointTracks(
            list(range(n)), queries, tracks.astype(np.float32), ~flags, confidence, 0.5 * confidence, flags, size
        )


def video(frames=9, height=40, width=60):
    return np.zeros((frames, height, width, 3), np.uint8)


def write_frames(frames, folder):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")


def test_points_whose_passes_disagree_are_no_labels():
    found = agreed_tracks(Scripted(off=[2], unsure=[5]), video(5), length=5, grid=4)
    assert found.tracks.shape == (16, 5, 2) and found.size == (40, 60)
    assert not found.visible[2].any() and found.visible[[0, 1, 3, 4]].all()
    assert found.visible[5].tolist() == [True, False, True, True, True]
    np.testing.assert_allclose(found.tracks[0, :, 0], 7.5 + np.arange(5))
    np.testing.assert_allclose(found.tracks[2, 0], [37.5 + 1.5, 5 + 1.5])  # the mean of both
    assert found.confidence[5, 1] == np.float32(0.3) and (found.uncertainty == 0.5).all()  # the greater of both


def test_parts_are_spread_over_the_video_and_keep_their_frames():
    tracker = Scripted()
    found = agreed_tracks(tracker, video(20), length=6, windows=3, grid=4)
    assert found.tracks.shape == (48, 20, 2)
    assert found.queries[::16, 0].tolist() == [0, 7, 14]
    for part, start in enumerate((0, 7, 14)):
        rows, inside = slice(16 * part, 16 * part + 16), np.zeros(20, bool)
        inside[start : start + 6] = True
        assert (found.visible[rows] == inside).all() and (np.isnan(found.tracks[rows, :, 0]) == ~inside).all()
    assert [asked[:2] for asked in tracker.asked] == [(6, "forward"), (6, "backward")] * 3


def test_the_way_back_begins_where_the_way_there_ended_inside_the_frame():
    tracker = Scripted()
    agreed_tracks(tracker, video(30), length=30, grid=4)
    (_, _, labels) = tracker.asked[1]
    assert (labels[:, 0] == 29).all() and labels[:, 1].max() == 60  # 52.5 + 29 is beyond the frame
    np.testing.assert_allclose(labels[0, 1:], [7.5 + 29, 5])


@pytest.mark.parametrize(("frames", "windows", "parts"), [(4, 4, 1), (25, 4, 1), (50, 4, 2), (49, 4, 1), (200, 4, 4)])
def test_a_video_has_as_many_parts_as_fit(frames, windows, parts):
    found = agreed_tracks(Scripted(), video(frames, 8, 8), windows=windows, grid=4)
    assert len(found.object_ids) == 16 * parts and found.tracks.shape[1] == frames


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="two or more frames, got 1"):
        agreed_tracks(Scripted(), video(1))


def test_they_are_right_on_a_rendered_clip_and_training_reads_them(tmp_path):
    """Where the shipped tracker's passes agree, it is within two pixels of the truth almost always."""
    clip = render_clip(12, 96, 128, num_bodies=2, num_points=4, seed=3)
    tracker = Tracker.from_pretrained("fgvc-coarse", "fast")
    found = agreed_tracks(tracker, clip.frames, length=12, grid=6)
    assert found.visible[:, 0].mean() > 0.3
    save_tracks(found, tmp_path / "clip.npz")
    back = read_tracks(tmp_path / "clip.npz")
    assert np.array_equal(back.visible, found.visible) and back.size == (96, 128)
    write_frames(clip.frames, tmp_path / "videos" / "clip")
    pairs = TrackedVideos(tmp_path / "videos", tmp_path, 64, (1, 5), (0.5, 1.0), (0.8, 1.2), short_side=96)
    frames, flow, known = pairs[0]
    assert known.any() and frames.shape == (2, 3, 64, 64) and flow[known].abs().max() < 64


def tiny():
    torch.manual_seed(0)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], output_stride=2, template_radius=1))


def test_tracked_clips_are_part_of_the_objective():
    recipe = Recipe(real=0.0, synthetic=0.0, adversarial=0.0, tracking=1.0, crop=32, tracking_search=4)
    module = JointTraining(tiny(), recipe).eval()
    frames = torch.rand(1, 1, 3, 32, 32).expand(-1, 2, -1, -1, -1)
    places, seen = 4 + 24 * torch.rand(1, 40, 1, 2), torch.ones(1, 40, 2, dtype=torch.bool)

    def loss(shift):
        tracks = torch.cat([places, places + shift], dim=2)
        clips = TrainingClips(frames, torch.zeros(1, 40), tracks, seen, ~seen)
        return float(module(None, None, [1], tracked=clips)["tracking"])

    assert loss(0.0) < loss(3.0) - 0.5  # nothing moves in equal frames


def test_the_loop_gives_tracked_clips_to_the_recipe_for_tracking(tmp_path, monkeypatch):
    class Clips(torch.utils.data.Dataset):
        def __getitem__(self, index):
            seen = torch.ones(5, 3, dtype=torch.bool)
            return torch.full((3, 3, 32, 32), 0.5), torch.ones(5, 3, 2), seen, ~seen

    forget_accelerators()
    changes = {"steps": 1, "batch_size": 2, "crop": 32, "tracking_search": 4, "textures": 2}
    recipe = replace(RECIPES["tracking-small"], **changes)
    textures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    module = JointTraining(tiny(), recipe)
    asked, forward = [], module.forward
    monkeypatch.setattr(module, "forward", lambda **named: asked.append(named) or forward(**named))
    Training(module, recipe, tmp_path, Accelerator(cpu=True), None, textures, Clips()).run()
    assert asked[0]["tracked"].frames.shape == (2, 3, 3, 32, 32) and asked[0]["clips"].frames.shape[1] == 4
    assert asked[0]["labelled"] is None and asked[0]["frames"] is None


def test_pairs_are_drawn_where_a_long_video_has_labels(tmp_path):
    """Labels of five frames of sixty: almost no pair drawn from the whole video has any."""
    found = agreed_tracks(Scripted(), video(60, 64, 64), length=5, windows=1, grid=4)
    save_tracks(found, tmp_path / "clip.npz")
    write_frames(video(60, 64, 64), tmp_path / "videos" / "clip")
    pairs = TrackedVideos(tmp_path / "videos", tmp_path, 32, (1, 4), (0.8, 1.0), (0.9, 1.1), short_side=64)
    assert np.mean([bool(pairs[index][2].any()) for index in range(20)]) >= 0.9
