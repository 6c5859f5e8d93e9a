import logging

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard
from PIL import Image
from torch.utils.data import DataLoader

from fgvc_hf.data.dataset_card import write_dataset_card
from fgvc_hf.data.flying_things import LabelledCrops, LabelledPair
from fgvc_hf.data.shards import (
    ShardedClips,
    ShardedPairs,
    StreamedClips,
    clip_rows,
    labelled_rows,
    load_shards,
    row_to_labelled_pair,
    write_shards,
)
from fgvc_hf.data.tracked_videos import TrackedVideos
from fgvc_hf.data.video_folder import (
    HeldClips,
    VideoFolder,
    View,
    choose_clip,
    choose_view,
    random_crop_box,
    scaled_frames,
    video_sources,
)
from fgvc_hf.io.video import VideoWriter
from fgvc_hf.training.loop import NumberedPairs


def write_video(path, value, length=6, size=(48, 64)):
    with VideoWriter(path, 10, *size) as writer:
        for t in range(length):
            writer.write(np.full((*size, 3), value + 10 * t, np.uint8))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    (root / "sub" / "frames").mkdir(parents=True)
    write_video(root / "a.mp4", 40)
    write_video(root / "sub" / "b.mkv", 150)
    for t in range(4):
        Image.fromarray(np.full((96, 128, 3), 240 + t, np.uint8)).save(root / "sub" / "frames" / f"{t * 5:05d}.png")
    return root


def test_pairs_are_frames_of_one_clip_within_the_gap(folder):
    videos = VideoFolder(folder, size=32, gap=(1, 2))
    assert len(videos.clips) == 3
    kinds = set()
    for number in range(60):
        pair = videos[number]
        assert pair.shape == (2, 3, 32, 32) and pair.dtype == torch.uint8
        first, second = pair.float().mean((1, 2, 3)).tolist()
        kinds.add(0 if first < 110 else 1 if first < 225 else 2)
        unit = 1 if first > 225 else 10
        assert round(abs(second - first) / unit) in (1, 2)
        assert torch.equal(pair, videos[number])
    assert kinds == {0, 1, 2}


def test_a_link_that_leads_nowhere_is_told(folder, caplog):
    (folder / "c.mp4").symlink_to(folder / "gone.mp4")
    assert len(VideoFolder(folder, size=32).clips) == 3
    assert "left out 1 videos, the first is c.mp4" in caplog.text


def test_hidden_files_are_no_videos_and_images_have_any_suffix_in_any_case(folder, tmp_path, caplog):
    for name in (
        "._a.mp4",
        ".DS_Store",
        "sub/frames/._00000.png",
        ".trash/00000.png",
        ".trash/b.mp4",
        "sub/.hidden/0.jpg",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name, suffix in (("upper", "JPG"), ("scan", "tif"), ("flat", "bmp")):
        (folder / name).mkdir()
        for t in (1, 2, 10):
            Image.fromarray(np.full((48, 64, 3), 10 * t, np.uint8)).save(folder / name / f"{t}.{suffix}")
    found = [path.relative_to(folder).as_posix() for path in video_sources(folder)]
    assert found == ["a.mp4", "flat", "scan", "sub/b.mkv", "sub/frames", "upper"]
    assert [len(clip) for clip in VideoFolder(folder, size=32).clips] == [6, 3, 3, 6, 4, 3] and not caplog.text
    assert [int(frame.mean()) for frame in scaled_frames(folder / "scan", 32)] == [10, 20, 100]
    hidden = tmp_path / ".home" / "videos"  # above the folder, it says nothing
    (hidden / "c").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(hidden / "c" / "0.png")
    assert video_sources(hidden) == [hidden / "c"]


def test_rows_of_folders_have_their_whole_names(folder):
    for name in ("clip.1", "clip.2"):
        (folder / name).mkdir()
        for t in range(2):
            Image.new("RGB", (64, 48)).save(folder / name / f"{t}.png")
    assert [row["name"] for row in clip_rows(folder)] == ["a/0", "clip.1/0", "clip.2/0", "b/0", "frames/0"]


@pytest.mark.parametrize("short_side", [0, -5])
def test_a_side_of_no_pixels_is_refused(folder, short_side):
    for read in (lambda: VideoFolder(folder, short_side=short_side), lambda: list(clip_rows(folder, short_side))):
        with pytest.raises(ValueError, match=f"short_side must be at least 1, got {short_side}"):
            read()


def test_a_seed_gives_its_pairs(folder):
    one, same, other = (VideoFolder(folder, size=32, length=12, seed=seed) for seed in (3, 3, 4))
    pairs = torch.stack([one[number] for number in range(12)])
    assert torch.equal(pairs, torch.stack([same[number] for number in range(12)]))
    assert not torch.equal(pairs, torch.stack([other[number] for number in range(12)]))


@pytest.mark.slow
def test_workers_change_no_pair(folder):
    videos = VideoFolder(folder, size=32, length=12)
    loader = DataLoader(NumberedPairs(videos), 4, sampler=range(12), num_workers=2)
    assert torch.equal(torch.cat([pairs for _, pairs in loader]), torch.stack([videos[n] for n in range(12)]))


def test_clips_are_frames_at_the_offsets_or_spread_where_a_video_is_short(folder):
    videos = VideoFolder(folder, size=32, offsets=(0, 1, 3, 4))
    for number in range(30):
        clip = videos[number]
        assert clip.shape == (4, 3, 32, 32) and torch.equal(clip, videos[number])
        means = clip.float().mean((1, 2, 3))
        unit = 1 if means[0] > 225 else 10
        steps = ((means[1:] - means[:-1]).abs() / unit).round().int().tolist()
        assert steps in ([[1, 1, 1]] if unit == 1 else [[1, 2, 1]])  # four frames are too few for the offsets
    with pytest.raises(OSError, match="holds no video of at least 7 frames"):
        VideoFolder(folder, size=32, offsets=tuple(range(7)))
    with pytest.raises(ValueError, match="a clip has 4 frames, but 5 are needed"):
        choose_clip(videos.clips[-1], lambda frame: frame, np.random.default_rng(0), *videos.settings[:-1], range(5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"gap": (5, 1)},
        {"gap": (0, 3)},
        {"gap": (-2, 3)},
        {"area": (0, 1)},
        {"area": (0.5, 1.5)},
        {"area": (1, 0.5)},
        {"aspect": (0, 1)},
        {"aspect": (2, 1)},
        {"aspect": (1, float("inf"))},
        {"offsets": (0, 2, 1)},
        {"offsets": (-1, 2)},
        {"seed": -1},
    ],
)
def test_settings_without_a_view_are_refused_before_anything_is_read(tmp_path, wrong):
    """Shares above 1 would be taken for the middle square of every frame, and other settings end a run in its middle."""
    held = [np.zeros((4, 8, 8, 3), np.uint8)]
    readers = [VideoFolder, lambda _, **s: HeldClips("clips", held, **s), lambda _, **s: ShardedClips([{}], **s)]
    readers += [lambda _, **s: StreamedClips(["x"], **s)]
    readers += [] if "offsets" in wrong else [lambda folder, **s: TrackedVideos(folder, folder, **s)]
    for reader in readers:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            reader(tmp_path / "absent", **wrong)


def test_textures_come_from_all_clips(folder):
    textures = VideoFolder(folder, size=32).texture_images(7, 40, 72)
    assert textures.shape == (7, 3, 40, 72) and textures.dtype == torch.uint8
    means = textures.float().mean((1, 2, 3))
    assert (means < 110).any() and (means > 225).any()


def test_unusable_videos_are_counted_in_one_line(folder, caplog):
    write_video(folder / "short.mp4", 10, length=1)
    (folder / "text.mp4").write_text("no video")
    with caplog.at_level(logging.WARNING):
        assert len(VideoFolder(folder, size=32).clips) == 3
    (message,) = caplog.messages
    assert "left out 2 videos" in message and "short.mp4" in message


def test_unusable_videos_of_one_name_are_counted_each(folder, caplog):
    for name in ("text.mp4", "sub/text.mp4"):
        (folder / name).write_text("no video")
    assert len(VideoFolder(folder, size=32).clips) == 3 and "left out 2 videos" in caplog.text


def test_empty_folders_are_named(tmp_path):
    with pytest.raises(OSError, match="empty: holds no videos"):
        (tmp_path / "empty").mkdir()
        VideoFolder(tmp_path / "empty")
    with pytest.raises(OSError, match="absent: there is no such folder"):
        VideoFolder(tmp_path / "absent")
    (tmp_path / "empty" / "a.mp4").write_text("no video")
    with pytest.raises(OSError, match="no video of at least two frames"):
        VideoFolder(tmp_path / "empty")


def write_ramp(path, length=6, size=(48, 64)):
    """Red tells x, green y and blue the frame: a pixel elsewhere, mirrored or of another time differs by 3 or more."""
    y, x = np.mgrid[: size[0], : size[1]]
    with VideoWriter(path, 10, *size) as writer:
        for t in range(length):
            writer.write(np.stack([30 + 3 * x, 30 + 4 * y, np.full(size, 40 + 30 * t)], -1).astype(np.uint8))


def test_clips_in_shards_give_pairs_like_the_folder(folder, tmp_path):
    for name in ("a.mp4", "sub/b.mkv"):
        write_ramp(folder / name)
    files = write_shards(clip_rows(folder, short_side=40), tmp_path / "shards", rows_per_shard=2)
    assert [file.name for file in files] == ["data-00000.parquet", "data-00001.parquet"]
    clips = ShardedClips(load_shards(tmp_path / "shards"), size=32, gap=(1, 2))
    videos = VideoFolder(folder, size=32, gap=(1, 2), short_side=40)
    for number in range(8):  # but for the compression as JPEG
        assert (clips[number].float() - videos[number].float()).abs().mean((0, 2, 3)).max() < 1.5
    streamed = list(load_shards(tmp_path / "shards", streaming=True))
    assert len(streamed) == 3 and len(streamed[0]["frames"]) == 6


def test_labelled_pairs_in_shards_keep_their_flow(tmp_path):
    frames = torch.randint(0, 255, (2, 3, 40, 48), dtype=torch.uint8)
    flow = torch.rand(2, 40, 48, 2) * 8
    pair = LabelledPair(frames, flow, torch.ones(2, 40, 48, dtype=torch.bool))
    write_shards(labelled_rows([pair]), tmp_path)
    rows = load_shards(tmp_path)
    found = ShardedPairs(rows)[0]
    assert torch.equal(found.frames, frames)
    torch.testing.assert_close(found.flow, flow, atol=0.005, rtol=0)
    assert LabelledCrops(ShardedPairs(rows), size=32)[0][0].shape == (2, 3, 32, 32)
    with pytest.raises(OSError, match="000000: is damaged"):
        row_to_labelled_pair({**rows[0], "flow": rows[0]["flow"][:50]})


def test_the_card_of_shards_is_what_datasets_loads_them_by(folder, tmp_path):
    write_shards(clip_rows(folder, short_side=40), tmp_path, rows_per_shard=2)
    (tmp_path / "other.parquet").write_bytes((tmp_path / "data-00000.parquet").read_bytes())
    write_dataset_card(tmp_path, "clips of a test", "cc-by-4.0")
    card = DatasetCard.load(tmp_path / "README.md")
    rows = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3  # as the card says, without the file that is not of the shards
    info = card.data.dataset_info
    assert (card.data.license, info["splits"][0]["num_examples"], info["splits"][0]["name"]) == (
        "cc-by-4.0",
        3,
        "train",
    )
    assert [feature["name"] for feature in info["features"]] == list(rows.features) == ["name", "frames"]
    assert "# 3 clips" in card.text and "not stated" not in card.text
    write_dataset_card(tmp_path, "clips of a test")
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown" and "licence of the frames was not stated" in card.text


def test_nothing_to_write_or_to_load(folder, tmp_path):
    with pytest.raises(ValueError, match="there is nothing to write"):
        write_shards([], tmp_path / "out")
    write_shards(clip_rows(folder, short_side=40), tmp_path / "full")
    before = sorted((tmp_path / "full").iterdir())
    with pytest.raises(OSError, match="holds shards already; choose another folder"):
        write_shards(clip_rows(folder, short_side=40), tmp_path / "full", rows_per_shard=1)
    assert sorted((tmp_path / "full").iterdir()) == before
    with pytest.raises(OSError, match="holds no shards"):
        load_shards(tmp_path / "out")


# ---- views by value: which frames, which part of them, and where points are in it --------------------------------------


SETTINGS = (0.3, 0.8), (1.25, 2.0)  # area and aspect


def views(length, gap=(1, 5), offsets=(), count=400):
    draws = (np.random.default_rng(seed) for seed in range(count))
    return [choose_view(length, (60, 90), draw, 32, gap, *SETTINGS, offsets) for draw in draws]


@pytest.mark.parametrize(
    ("length", "gap", "pairs"),
    [
        (6, (1, 2), {(t, t + 1) for t in range(5)} | {(t, t + 2) for t in range(4)}),
        (6, (2, 2), {(t, t + 2) for t in range(4)}),
        (4, (2, 9), {(0, 2), (1, 3), (0, 3)}),
        (2, (3, 5), {(0, 1)}),
    ],
)
def test_all_pairs_of_a_clip_within_the_gap_come_in_either_order(length, gap, pairs):
    found = {tuple(view.numbers) for view in views(length, gap)}
    assert found == pairs | {pair[::-1] for pair in pairs}


@pytest.mark.parametrize(
    ("length", "offsets", "clips"),
    [
        (8, (0, 1, 5), {(0, 1, 5), (1, 2, 6), (2, 3, 7)}),
        (6, (0, 1, 5), {(0, 1, 5)}),
        (5, (0, 1, 5), {(0, 2, 4)}),  # shorter than the last offset: spread evenly
        (3, (0, 1, 5), {(0, 1, 2)}),
    ],
)
def test_clips_at_offsets_begin_wherever_they_fit(length, offsets, clips):
    found = {tuple(view.numbers) for view in views(length, offsets=offsets)}
    assert found == clips | {clip[::-1] for clip in clips}


def test_views_are_mirrored_whatever_their_order():
    found = [(view.mirrored, view.numbers[0] > view.numbers[1]) for view in views(6)]
    assert all(70 < found.count(kind) < 130 for kind in set(found)) and len(set(found)) == 4


def test_boxes_are_shares_of_the_frame_by_width_and_height_anywhere_in_it():
    boxes = np.array([view.box for view in views(6)])
    left, top, right, bottom = boxes.T
    share, aspect = (right - left) * (bottom - top) / 5400, (right - left) / (bottom - top)
    assert 0.3 <= share.min() < 0.33 and 0.7 < share.max() <= 0.8
    assert 1.25 <= aspect.min() < 1.3 and 1.9 < aspect.max() <= 2.0
    assert boxes.min() >= 0 and right.max() <= 90 and bottom.max() <= 60
    assert left.min() < 2 and top.min() < 2 and right.max() > 88 and bottom.max() > 58
    whole = random_crop_box(60, 90, (1.0, 1.0), (9.0, 9.0), np.random.default_rng(0))  # no such box fits
    assert whole == (15, 0, 75, 60)


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_are_where_the_crop_shows_them(mirrored):
    """A picture whose red is 2 x and whose green is 3 y at every place (x, y)."""
    y, x = np.mgrid[:60, :90] + 0.5
    frame = np.stack([2 * x, 3 * y, 0 * x], axis=-1).astype(np.uint8)
    view = View([0, 1], (12.0, 6.0, 76.0, 38.0), mirrored, 32)
    crop = view.crop(frame).numpy().astype(float)
    points = np.array([[20.0, 10.0], [45.0, 22.5], [70.0, 35.0]])
    found = view.positions(points)
    across, down = ((points - (12, 6)) * (0.5, 1)).T
    np.testing.assert_allclose(found, np.stack([32 - across if mirrored else across, down], axis=1))
    for (u, v), place in zip(found, points, strict=True):
        shown = crop[:2, int(v), int(u)]  # within a pixel of the crop: two of the frame across, one down
        assert abs(shown[0] - 2 * place[0]) <= 5 and abs(shown[1] - 3 * place[1]) <= 4


def test_textures_are_spread_over_clips_and_over_their_frames():
    clips = [
        np.full((length, 8, 8, 3), start, np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None]
        for start, length in ((10, 4), (100, 8))
    ]
    held = HeldClips("clips", clips, 8)
    assert held.texture_images(4, 8, 8)[:, 0, 0, 0].tolist() == [11, 102, 13, 106]
    assert held.texture_images(1, 8, 8)[:, 0, 0, 0].tolist() == [12]
