"""Formats by value: what a file says, and which label a message is about."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from labelled_clips import example_tracks, two_animals

from fgvc_hf import read_points_file, save_tracks
from fgvc_hf.io.formats import coco_keypoints, cvat, sleap
from fgvc_hf.io.formats.coco_keypoints import _bounds, keypoint_file
from fgvc_hf.io.formats.point_labels import BoxLabels, PointName, names_of
from fgvc_hf.io.formats.table import TABLE


def test_where_each_tool_has_the_centre_of_the_first_pixel():
    """As the docstring of the table says, with what each is known by."""
    found = {name: (form.centre, form.first_frame) for name, form in TABLE.items()}
    zero = dict.fromkeys(("dlc", "sleap", "coco", "posemark"), (0.0, 0))
    assert {name: found[name] for name in (*zero, "cvat", "mot")} == zero | {"cvat": (0.5, 0), "mot": (1.5, 1)}


def test_an_animal_that_is_not_there_yet_hides_no_other():
    tracks, names = two_animals()
    tracks.tracks[:2, 0] = np.nan  # the first animal
    of = [PointName(*names[i]) for i in tracks.object_ids]
    found = keypoint_file(tracks, of, [(7, "a.png"), (8, "b.png"), (9, "c.png"), (10, "d.png")])["annotations"]
    assert [row["individual"] for row in found if row["image_id"] == 7] == ["mouse2"]
    assert [row["id"] for row in found] == list(range(1, len(found) + 1))
    assert {row["iscrowd"] for row in found} == {0} and {row["category_id"] for row in found} == {1}


def test_a_box_holds_the_pixels_that_points_are_in():
    """Pixels have whole numbers in their centres: (1.2, 3.6) is in pixel (1, 4), and (4.4, 7.5) in (4, 8)."""
    assert _bounds(np.array([[1.2, 7.5], [4.4, 3.6]])) == {"bbox": [1.0, 4.0, 4.0, 5.0], "area": 20.0}
    assert _bounds(np.array([[2.5, 0.0]], np.float32)) == {"bbox": [3.0, 0.0, 1.0, 1.0], "area": 1.0}


@pytest.mark.parametrize("name", [("leg", 3), (3, "leg"), ("a", "b", "c"), (), 3, ["leg", "dog"]])
def test_a_name_is_one_text_or_two(name):
    with pytest.raises(ValueError, match="names must be text, or a PointName of part and individual, got "):
        names_of([1], {1: name})
    assert names_of([1, 2], {1: "leg", 2: ("leg", "dog")}) == [PointName("leg"), PointName("leg", "dog")]


@pytest.mark.parametrize("row, frame, problem", [
    (1, 2, "its middle is outside the frame, 48x64 (height x width)."),
    (2, 9, "the clip ends with frame 4."),
])  # fmt: skip
def test_the_message_is_about_the_box_that_is_wrong(row, frame, problem):
    boxes, frames = np.tile([[4.0, 4.0, 20.0, 20.0]], (4, 1)), np.array([0, 1, 2, 3])
    boxes[row] = (60, 40, 90, 70) if "outside" in problem else boxes[row]
    frames[row] = frame
    with pytest.raises(ValueError) as error:
        BoxLabels(np.array([5, 6, 7, 8]), frames, boxes).check(5, (48, 64))
    place = ", ".join(f"{side:g}" for side in boxes[row])
    assert str(error.value) == f"the box of {5 + row} is labelled at ({place}) on frame {frame}, but {problem}"


@pytest.mark.parametrize("row", ["4,0,1200000000,2.25", "4,0,1.5,-1200000000", "4,1200000000,1.5,2.25"])
def test_points_of_no_video_are_refused(row, tmp_path):
    (tmp_path / "points.csv").write_text(f"id,t,x,y\n3,0,1,2\n{row}\n")
    with pytest.raises(ValueError, match="must be a frame number t of 0 or more and a finite position"):
        read_points_file(tmp_path / "points.csv")


@pytest.mark.parametrize("axis", [1, 2])
def test_a_point_without_one_coordinate_is_not_one_that_was_looked_for(axis, tmp_path):
    tracks = example_tracks()
    tracks.queries[1, axis] = np.nan
    save_tracks(tracks, tmp_path / "tracks.npz")
    with pytest.raises(ValueError) as error:
        read_points_file(tmp_path / "tracks.npz")
    assert "no position" not in str(error.value)


@pytest.mark.parametrize(
    ("shapes", "size"),
    [([(9, 48, 64, 3)], (48, 64)), ([(9, 48, 64, 3), (5, 48, 64, 1)], (48, 64)), ([(9, 48, 64, 3), (9, 64, 48, 3)], None), ([None], None)],
)  # fmt: skip
def test_frames_of_sleap_have_a_size_if_all_videos_have_it(tmp_path, monkeypatch, shapes, size):
    sleap_io = pytest.importorskip("sleap_io", reason="sleap_io is not installed")
    save_tracks(example_tracks(), tmp_path / "t.slp")
    load = sleap_io.load_slp

    def load_with_videos(*arguments, **options):
        labels = load(*arguments, **options)
        return SimpleNamespace(
            labeled_frames=labels.labeled_frames,
            tracks=labels.tracks,
            skeletons=labels.skeletons,
            videos=[SimpleNamespace(shape=shape) for shape in shapes],
        )

    monkeypatch.setattr(sleap_io, "load_slp", load_with_videos)
    assert sleap.read(tmp_path / "t.slp")[2] == size


@pytest.mark.parametrize(
    ("length", "first"),
    [(1, "img0.png"), (10, "img0.png"), (11, "img00.png"), (100, "img00.png"), (101, "img000.png")],
)
def test_images_of_coco_have_as_many_digits_as_the_last_one(tmp_path, length, first):
    tracks = example_tracks()
    fields = {
        name: np.repeat(getattr(tracks, name)[:, :1], length, axis=1)
        for name in ("tracks", "visible", "confidence", "uncertainty", "outside")
    }
    coco_keypoints.write(replace(tracks, **fields), tmp_path / "t.json", [PointName("nose"), PointName("tail")])
    names = [image["file_name"] for image in json.loads((tmp_path / "t.json").read_text())["images"]]
    assert names[0] == first and len(set(map(len, names))) == 1 and names[-1] == f"img{length - 1}.png"


def test_tracks_of_cvat_without_an_id_are_told_apart_by_their_label(tmp_path):
    def file(*tracks):
        points = '<points frame="0" outside="0" occluded="0" keyframe="1" points="3.0,4.0"/>'
        content = "".join(f"<track {track}>{points}</track>" for track in tracks)
        (tmp_path / "a.xml").write_text(f"<annotations>{content}</annotations>")
        return cvat._parse(tmp_path / "a.xml")

    assert len(file('label="nose"', 'label="tail"', 'label="nose" task_id="2"').findall("track")) == 3
    for twice in (('label="nose"', 'label="nose"'), ('id="1" label="nose"', 'id="1" label="tail"')):
        with pytest.raises(ValueError, match="two tracks have the id (nose|1); of two, one would be lost"):
            file(*twice)
