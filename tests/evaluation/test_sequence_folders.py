"""Sequences whose files are named, ordered or mixed otherwise than in the official data."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fgvc_hf import Tracker
from fgvc_hf.evaluation.badja import follow_joints, load_badja
from fgvc_hf.evaluation.box_following import follow_boxes
from fgvc_hf.evaluation.davis import DavisVideo, load_davis, segment
from fgvc_hf.evaluation.flow_layouts import load_flow
from fgvc_hf.evaluation.jhmdb import follow_people, load_jhmdb
from fgvc_hf.evaluation.tapvid import load_tapvid
from fgvc_hf.evaluation.vip import label_parts, load_vip
from fgvc_hf.io.flow_files import save_flow
from fgvc_hf.io.masks import write_mask
from fgvc_hf.io.video import open_video


NUMBERS = (1, 2, 10, 11)
LAYOUTS = {
    "davis": (load_davis, "JPEGImages/480p/goat", "Annotations/480p/goat", "ImageSets/2017/val.txt"),
    "vip": (load_vip, "Images/goat", "Annotations/Category_ids/goat", "lists/val_videos.txt"),
}


@pytest.fixture(params=LAYOUTS)
def sequence(request, tmp_path):
    """(function that loads, folder of frames, folder of masks): each frame has its number as its brightness, each mask as its id."""
    load, *places = LAYOUTS[request.param]
    frames, masks, split = (tmp_path / place for place in places)
    for folder in (frames, masks, split.parent):
        folder.mkdir(parents=True)
    split.write_text("goat")
    for number in NUMBERS:
        Image.new("RGB", (16, 12), (10 * number,) * 3).save(frames / f"{number}.jpg", quality=95)
        write_mask(masks / f"{number}.png", np.full((12, 16), number, np.uint8))
    return lambda: load(tmp_path), frames, masks


def masks_of(video):
    return video.masks if hasattr(video, "masks") else video.labels


def test_numbers_without_zeros_are_in_the_order_of_frames(sequence):
    load, frames, masks = sequence
    (video,) = load()
    shown = [round(int(frame[0, 0, 0]) / 10) for frame in open_video(video.frames).frames()]
    assert shown == [int(path.stem) for path in masks_of(video)] == list(NUMBERS)


def test_hidden_files_are_no_frames_and_no_masks(sequence):
    load, frames, masks = sequence
    for folder in (frames, masks, frames.parent):
        for name in (".DS_Store", "._1.png", "._1.jpg"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    (video,) = load()
    assert [path.name for path in masks_of(video)] == [f"{number}.png" for number in NUMBERS]
    assert open_video(video.frames).num_frames == len(NUMBERS)


def test_what_would_be_a_frame_of_its_own_is_refused(sequence):
    load, frames, masks = sequence
    Image.new("RGB", (16, 12)).save(frames / "2.png")
    with pytest.raises(OSError, match="goat: holds 2.jpg and 2.png"):
        load()
    (frames / "2.png").rename(frames / "cover.png")
    with pytest.raises(OSError, match="goat: the mask cover is missing"):
        load()
    (frames / "cover.png").unlink()
    (frames / "10.jpg").unlink()
    with pytest.raises(OSError, match="goat: the frame 10 is missing"):
        load()


def test_a_sequence_without_files_is_refused(sequence):
    load, frames, masks = sequence
    for path in [*frames.iterdir(), *masks.iterdir()]:
        path.unlink()
    with pytest.raises(OSError, match="goat: holds no images"):
        load()


def test_a_mask_of_another_size_is_named(sequence):
    load, frames, masks = sequence
    write_mask(masks / "11.png", np.zeros((6, 8), np.uint8))
    (video,) = load()
    with pytest.raises(ValueError, match="11.png: is 6x8, but its frame 12x16"):
        (segment if hasattr(video, "masks") else label_parts)(None, video)


# ---- joints: frames are known by their numbers ------------------------------------------------------------------------


class Recorded:
    """A tracker that is never wrong: each frame holds the place of all joints, as its brightness."""

    def track(self, frames, queries):
        self.shown = [round(int(frame[0, 0, 0]) / 10) for frame in frames]
        tracks = np.stack([np.full((len(queries), 2), 3.0 + shown) for shown in self.shown], axis=1)
        return SimpleNamespace(tracks=tracks)


def write_pictures(folder, numbers, name, size=(32, 32)):
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", size, (10 * number,) * 3).save(folder / name.format(number), quality=95)


def badja_rows(numbers):
    """All joints of a frame are at 3 plus its number, in pixels of 32x32."""
    rows = []
    for number in numbers:
        place = [1080 * (3 + number) / 32, 1920 * (3 + number) / 32]
        rows.append({"joints": [place] * 37, "visibility": [True] * 37, "image_path": f"DAVIS/bear/{number:05d}.jpg"})
    return rows


@pytest.fixture
def bear(tmp_path):
    """(annotation, frames) of a sequence of BADJA of the frames 1 to 12, of which 2, 5 and 11 are annotated."""
    frames, masks = (tmp_path / kind / "480p" / "bear" for kind in ("JPEGImages", "Annotations"))
    write_pictures(frames, range(1, 13), "{:05d}.jpg")
    masks.mkdir(parents=True)
    for number in (2, 5, 11):
        write_mask(masks / f"{number:05d}.png", np.ones((32, 32), np.uint8))
    file = tmp_path / "joint_annotations" / "bear.json"
    file.parent.mkdir()
    file.write_text(json.dumps(badja_rows((2, 5, 11))))
    return file, frames


def test_joints_of_animals_are_those_of_their_frame_in_any_order(bear):
    file, frames = bear
    (frames / "._00002.jpg").write_bytes(b"\0\5\x16\7")
    for path in frames.glob("0000*"):
        path.rename(path.with_name(path.name.lstrip("0")))
    for order in ((2, 5, 11), (11, 2, 5), (5, 11, 2)):
        file.write_text(json.dumps(badja_rows(order)))
        (video,) = load_badja(file.parents[1])
        tracker = Recorded()
        _, counts = follow_joints(tracker, video)
        assert tracker.shown == list(range(2, 12)) and video.numbers.tolist() == [2, 5, 11]
        assert counts.counted.all() and counts.correct.all()


def test_frames_of_animals_that_are_missing_or_there_twice_are_named(bear):
    file, frames = bear
    (frames / "00001.jpg").unlink()  # before the first that is annotated
    assert follow_joints(Recorded(), load_badja(file.parents[1])[0])[1].correct.all()
    (frames / "00007.jpg").rename(frames / "8.jpg")
    with pytest.raises(OSError, match="bear: the frame 00007 is missing"):
        load_badja(file.parents[1])
    (frames / "8.jpg").rename(frames / "00007.jpg")
    Image.new("RGB", (32, 32)).save(frames / "9.png")
    with pytest.raises(OSError, match="bear: the frame 00009 is there twice"):
        load_badja(file.parents[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_path": "bear/00005.jpg"}, "each row must name a frame of its own"),
        ({"image_path": "bear/first.jpg"}, "each row must name a frame of its own"),
        ({"image_path": 2}, ""),
        ({"joints": [[float("nan"), 3]] * 37}, "a joint that is visible must have a finite position"),
        ({"joints": [[1, 2, 3]] * 37}, ""),
        ({"joints": [7] * 37}, ""),
        ({"joints": []}, ""),
        ({"visibility": ["false"] * 37}, "its visibility true or false"),
        ({"visibility": [None] * 37}, "its visibility true or false"),
        ({"visibility": [float("nan")] * 37}, "its visibility true or false"),
    ],
)
def test_annotations_of_animals_that_say_nothing_are_refused(bear, change, message):
    file, _ = bear
    rows = badja_rows((2, 5, 11))
    rows[0] |= change
    file.write_text(json.dumps(rows))
    with pytest.raises(OSError, match=f"bear.json: is no annotation of BADJA .*{message}"):
        load_badja(file.parents[1])


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, "{}", "[1]", "\xff"])
def test_files_that_are_no_annotations_of_animals_are_refused(bear, content):
    file, _ = bear
    file.write_text(content, encoding="latin1")
    with pytest.raises(OSError, match="bear.json: is no annotation of BADJA"):
        load_badja(file.parents[1])


def test_a_hidden_joint_may_have_no_place(bear):
    file, _ = bear
    rows = badja_rows((2, 5, 11))
    for row in rows:
        row["joints"], row["visibility"] = [[float("nan")] * 2, *row["joints"][1:]], [False, *row["visibility"][1:]]
    file.write_text(json.dumps(rows))
    assert follow_joints(Recorded(), load_badja(file.parents[1])[0])[1].correct[:, :, 1:].all()


@pytest.fixture
def clip(tmp_path):
    """(root, frames, annotation) of a clip of JHMDB of the frames 1 to 11, of which all are annotated."""
    frames = tmp_path / "Rename_Images" / "run" / "clip"
    write_pictures(frames, range(1, 12), "{:05d}.png")
    file = tmp_path / "joint_positions" / "run" / "clip" / "joint_positions.mat"
    for folder in (file.parent, tmp_path / "splits"):
        folder.mkdir(parents=True)
    (tmp_path / "splits" / "run_test_split1.txt").write_text("clip.avi 2\n\nother.avi 1\n")
    places = 3.5 + np.arange(1, 12) + np.zeros((2, 15, 1))
    places[:, 0, :] -= 2  # so that the joints span a box
    savemat(file, {"pos_img": places})
    return tmp_path, frames, file


def test_joints_of_people_are_those_of_their_frame(clip):
    root, frames, _ = clip
    (frames / "._00001.png").write_bytes(b"\0\5\x16\7")
    Image.new("RGB", (32, 32)).save(frames / "00000.png")  # one before the first
    for path in frames.glob("0000[1-9]*"):
        path.rename(path.with_name(path.name.lstrip("0")))
    (video,) = load_jhmdb(root)
    tracker = Recorded()
    _, counts = follow_people(tracker, video)
    assert tracker.shown == list(range(1, 12))
    np.testing.assert_allclose(counts.distance[:, 1:], 0, atol=1e-6)


@pytest.mark.parametrize("number", [1, 4, 11])
def test_a_frame_of_people_that_is_missing_is_named(clip, number):
    root, frames, _ = clip
    (frames / f"{number:05d}.png").rename(frames / "00012.png")  # as many as before
    with pytest.raises(OSError, match=f"clip: the frame {number:05d} is missing"):
        load_jhmdb(root)


def test_annotations_of_people_that_are_not_finite_or_empty_are_refused(clip):
    root, _, file = clip
    places = np.ones((2, 15, 11))
    places[1, 3, 6] = np.nan
    savemat(file, {"pos_img": places})
    with pytest.raises(OSError, match="joint_positions.mat: holds a joint of frame 00007 that is NaN or infinite"):
        load_jhmdb(root)
    savemat(file, {"pos_img": places[..., :0]})
    with pytest.raises(OSError, match=r"holds pos_img of \(2, 15, 0\)"):
        load_jhmdb(root)
    (root / "splits" / "run_test_split1.txt").write_text("clip.avi\n")
    with pytest.raises(OSError, match="split1.txt: holds the line 'clip.avi', but"):
        load_jhmdb(root)


def test_hidden_files_are_no_flow_and_no_tracks(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a_1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a_2.png")
    save_flow(np.zeros((8, 8, 2), np.float32), np.zeros((8, 8), bool), tmp_path / "a_1.flo")
    (tmp_path / "._a_1.flo").write_bytes(b"\0\5\x16\7")
    assert [pair.name for pair in load_flow(tmp_path)] == ["a_1"]
    (tmp_path / "tapvid_davis_32").mkdir()
    (tmp_path / "tapvid_davis_32" / "._dev.npz").write_bytes(b"\0\5\x16\7")
    with pytest.raises(FileNotFoundError, match="was expected there"):
        load_tapvid(tmp_path)


def test_what_is_not_annotated_is_no_object_to_follow(tmp_path, tiny_model, processor):
    write_pictures(tmp_path / "frames", range(3), "{}.jpg")
    ids = np.zeros((32, 32), np.uint8)
    ids[4:12, 4:12], ids[20:] = 1, 255
    masks = [tmp_path / f"{number}.png" for number in range(3)]
    for path in masks:
        write_mask(path, ids)
    video = DavisVideo("goat", tmp_path / "frames", tuple(masks))
    boxes, overlaps = follow_boxes(Tracker(tiny_model, processor), video)
    assert boxes.keys() == overlaps.keys() == {1} and len(overlaps[1]) == 2
    write_mask(masks[0], 0 * ids)
    with pytest.raises(ValueError, match="shows no object to follow"):
        follow_boxes(Tracker(tiny_model, processor), video)
