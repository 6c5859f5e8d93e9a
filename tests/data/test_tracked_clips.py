"""Clips of tracked videos with parts of others over them: pictures and points agree, exactly where the motion is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import PointTracks, save_tracks
from fgvc_hf.data import tracked_clips as data_module
from fgvc_hf.data.tracked_clips import LATER, PASTED, POINTS, TrackedClips, moved, outline
from fgvc_hf.training.joint import tracked_clips


HEIGHT, WIDTH, LENGTH, SIZE = 80, 112, 8, 64
STEPS = {"first": (3.0, -1.0), "second": (-2.0, 2.0)}  # pixels per frame
COLOURS = {"first": (60, 130), "second": (150, 240)}  # least and largest values of the pictures


def write_moving(folder, name, step, colours, length=LENGTH):
    """A picture that moves by a step each frame, and tracks of a grid of its points."""
    generator = np.random.default_rng(len(name))
    big = Image.fromarray(generator.integers(*colours, (18, 24, 3), dtype=np.uint8)).resize(
        (216, 162), Image.Resampling.BICUBIC
    )
    (folder / "videos" / name).mkdir(parents=True)
    (folder / "tracks").mkdir(exist_ok=True)
    for t in range(length):
        left, top = np.array([50, 40]) - t * np.array(step)
        big.crop((int(left), int(top), int(left) + WIDTH, int(top) + HEIGHT)).save(
            folder / "videos" / name / f"{t:05d}.png"
        )
    x, y = np.meshgrid(np.arange(4.5, WIDTH, 6), np.arange(4.5, HEIGHT, 6))
    start = np.stack([x.ravel(), y.ravel()], axis=1)
    places = start[:, None] + np.arange(length)[None, :, None] * np.array(step)
    inside = ((places >= 0) & (places < (WIDTH, HEIGHT))).all(-1)
    sure, unsure = inside.astype(np.float32), np.full(inside.shape, 0.5, np.float32)
    queries = np.concatenate([np.zeros((len(start), 1)), start], axis=1).astype(np.float32)
    numbers = list(range(len(start)))
    truth = PointTracks(numbers, queries, places.astype(np.float32), inside, sure, unsure, ~inside, (HEIGHT, WIDTH))
    save_tracks(truth, folder / "tracks" / f"{name}.npz")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, step in STEPS.items():
        write_moving(tmp_path, name, step, COLOURS[name])
    monkeypatch.setattr(data_module, "DISTURBED", 0.0)
    monkeypatch.setattr(data_module, "PASTES", 1.0)
    return tmp_path


def clips(folder, gap=(1, 5)):
    # Boxes of about 64 pixels: crops are close to their own scale
    return TrackedClips(folder / "videos", folder / "tracks", SIZE, gap, (0.4, 0.5), (1.0, 1.0), short_side=HEIGHT)


def colours_at(frames, tracks):
    """Colours (N, T, 3) of frames (T, 3, S, S) at tracks (N, T, 2)."""
    grid = (2 * tracks / frames.shape[-1] - 1).transpose(0, 1)[:, None]
    return torch.nn.functional.grid_sample(frames, grid, align_corners=False)[:, :, 0].permute(2, 0, 1)


def test_points_are_visible_where_their_colour_is_and_hidden_where_a_part_covers_them(folder):
    data, shown, covered, other_moves = clips(folder), 0, 0, 0
    far = []
    for number in range(40):
        frames, tracks, visible, hidden = data[number]
        assert frames.shape == (LATER + 1, 3, SIZE, SIZE) and tracks.shape == (POINTS, LATER + 1, 2)
        assert visible.shape == hidden.shape == (POINTS, LATER + 1) and not (visible & hidden).any()
        assert frames.min() >= 0 and frames.max() <= 1 and tracks.isfinite().all()
        assert ((tracks[visible] >= 2) & (tracks[visible] < SIZE - 2)).all()
        colours = colours_at(frames, tracks)
        own = (colours * visible[..., None]).sum(1) / visible.sum(1, keepdim=True).clamp_min(1)
        difference = (colours - own[:, None]).abs().mean(-1)
        two = visible.sum(1) >= 2
        far += difference[visible & two[:, None]].tolist()
        covered += int(hidden.sum())
        shown += int(visible[-PASTED:].sum()) if len(two) else 0
        if hidden.any():  # the other picture has other colours, or the same clip is pasted over itself
            other_moves += int((difference[hidden & visible.any(1, keepdim=True)] > 0.05).sum())
    assert np.median(far) < 0.02 and np.quantile(far, 0.9) < 0.06  # edges of parts are soft, and views are resized
    assert covered > 100 and shown > 40 and other_moves > 0.4 * covered


def test_a_clip_depends_on_its_number_and_seed_alone(folder):
    data, again = clips(folder), clips(folder)
    for number in (0, 5):
        assert all(map(torch.equal, data[number], again[number]))
    assert not torch.equal(data[0][0], data[1][0])
    other = TrackedClips(folder / "videos", folder / "tracks", SIZE, (1, 5), (0.4, 0.5), (1.0, 1.0), seed=1)
    assert not torch.equal(data[0][0], other[0][0])


def test_points_of_both_clips_move_as_they_do(folder, monkeypatch):
    """Without motion of its own, a part moves over a clip as in its own clip, up to the motion of both crops."""
    monkeypatch.setattr(data_module, "SPEEDS", (0.0,))
    data, moves = clips(folder, gap=(2, 3)), set()
    for number in range(30):
        _, tracks, visible, _ = data[number]
        for point in visible.all(1).nonzero()[:, 0].tolist():
            step = tracks[point, 1] - tracks[point, 0]
            moves.add(tuple(step.round().int().tolist()))
    assert len(moves) > 10  # of two clips, forward and backward, each in crops that follow a point


def test_a_batch_is_of_clips_to_train_on(folder):
    data = clips(folder)
    batch = tracked_clips([*map(data.__getitem__, range(5))], [3, 4], torch.device("cpu"))
    assert torch.equal(batch.frames[1], data[4][0]) and torch.equal(batch.hidden[0], data[3][3])
    seen = batch.visible.any(2)
    assert batch.visible.gather(2, batch.queries[..., None])[seen].all()


def test_without_a_part_no_point_is_hidden_and_light_may_change(folder, monkeypatch):
    monkeypatch.setattr(data_module, "PASTES", 0.0)
    plain = [clips(folder)[number] for number in range(6)]
    assert not any(hidden.any() for *_, hidden in plain) and all(visible[:-PASTED].any() for _, _, visible, _ in plain)
    assert not any(visible[-PASTED:].any() for _, _, visible, _ in plain)
    monkeypatch.setattr(data_module, "DISTURBED", 1.0)
    for number, (frames, tracks, *_) in enumerate(plain):
        other = clips(folder)[number]
        assert torch.equal(other[1], tracks) and not torch.allclose(other[0], frames, atol=0.01)


def test_short_gaps_and_short_videos(folder):
    assert clips(folder, gap=(3, 3))[0][0].shape[0] == 2
    write_moving(folder, "short", (1.0, 0.0), (0, 255), length=2)
    assert len(clips(folder).clips) == 2  # as before
    for name in STEPS:
        (folder / "tracks" / f"{name}.npz").unlink()
    with pytest.raises(OSError, match="no video of at least 3 frames that has tracks"):
        clips(folder)


def test_images_are_moved_by_whole_pixels_and_cut_at_the_border():
    image = np.arange(12.0).reshape(3, 4)
    for corner in ((0, 0), (2, 1), (-1, -2), (3, 4), (-9, 0), (9, 9), (1, -9)):
        expected = np.zeros((5, 5))
        for y in range(3):
            for x in range(4):
                if 0 <= y + corner[1] < 5 and 0 <= x + corner[0] < 5:
                    expected[y + corner[1], x + corner[0]] = image[y, x]
        assert np.array_equal(moved(image, np.array(corner), 5), expected)


def test_outlines_are_of_many_shapes_with_soft_edges():
    draw = np.random.default_rng(0)
    shapes = [outline(40, draw) for _ in range(60)]
    areas = [shape.mean() for shape in shapes]
    assert all(shape.shape == (40, 40) and shape.min() >= 0 and shape.max() <= 1 for shape in shapes)
    assert min(areas) < 0.1 and max(areas) > 0.35 and all(area > 0.01 for area in areas)
    assert all(((shape > 0.1) & (shape < 0.9)).any() for shape in shapes)
