"""Sequences whose files are named, ordered or mixed otherwise than in the official data."""

import numpy as np
import pytest
from PIL import Image

from fgvc_hf.evaluation.davis import load_davis, segment
from fgvc_hf.evaluation.vip import label_parts, load_vip
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
    with pytest.raises(OSError, match="goat: the frame 2 is there twice"):
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
