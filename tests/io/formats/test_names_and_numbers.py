"""Names and numbers of all formats: a name comes back or is refused, and a whole number is read exactly or refused."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from labelled_clips import NAMES, example_tracks, positions_of, tracked

from fgvc_hf import PointName, points_from_supervision, read_boxes, read_labels, read_points_file, save_tracks
from fgvc_hf.io.formats.point_labels import Label, gather_points
from fgvc_hf.io.text_numbers import frame_in, number_in, whole_in


READABLE = [("dlc", ".csv"), ("dlc", ".h5"), ("sleap", ".h5"), ("sleap", ".slp"), ("coco", ".json"), ("cvat", ".xml")]
TAKEN = {"dlc": "single", "sleap": "animal"}  # what the tool calls an individual where there is none
PAIRS = [
    ("nose", ("nose", "animal")),
    ("nose", ("nose", "single")),
    ("nose", ("nose", "track0")),
    ("nose", ("nose", "mouse")),
    (("nose", "mouse"), ("tail", "mouse")),
    (("nose", "mouse"), ("nose", "rat")),
    (("nose", "animal"), ("nose", "track1")),
    (("nose", "single"), ("tail", "mouse")),
    ("a/b", ("b", "a")),
    (("b/c", "a"), "nose"),
    (("c", "a/b"), "nose"),
    ("Schwanzspitze, links", ("ñose", "Mäuschen")),
    ("7", "12"),
]


@pytest.mark.parametrize(("form", "suffix"), READABLE)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_name_comes_back_or_is_refused(tmp_path, form, suffix, pair):
    names = [PointName(one) if isinstance(one, str) else PointName(*one) for one in pair]
    tracks, path = example_tracks(), tmp_path / f"t{suffix}"
    taken = any(name.individual == TAKEN.get(form) for name in names)
    unclear = form == "cvat" and any(
        name.individual.count("/") or (not name.individual and "/" in name.part) for name in names
    )
    if taken or unclear:
        with pytest.raises(ValueError, match="stands for no individual" if taken else "has a slash") as caught:
            save_tracks(tracks, path, form, names=dict(zip(tracks.object_ids, names, strict=True)))
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
        return
    save_tracks(tracks, path, form, names=dict(zip(tracks.object_ids, names, strict=True)))
    labels = read_labels(path, form)
    assert set(labels.names.values()) == set(names)
    for row, name in enumerate(names):
        inside = np.flatnonzero(~np.isnan(tracks.tracks[row, :, 0]) & ~(tracks.outside[row] & (form == "cvat")))
        (obj_id,) = [i for i, of in labels.names.items() if of == name]
        found = {int(t): (x, y) for t, x, y in labels.points[labels.ids == obj_id].tolist()}
        assert found == tracked(tracks, row, inside)


def test_names_with_spaces_around_them_are_refused(tmp_path):
    """Most tools strip them, and two would be one."""
    for name in (" nose", ("nose", "mouse ")):
        with pytest.raises(ValueError, match="names must not begin or end with a space"):
            save_tracks(example_tracks(), tmp_path / "t.csv", "dlc", names={4: name, 11: "nose"})


def test_names_that_are_no_text_are_refused(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "img1.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]}],
        "categories": [{"id": 1, "keypoints": [5]}],
    }
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="5 is not a name of a point"):
        read_labels(tmp_path / "l.json", "coco")


def test_names_that_are_one_in_nuke_get_numbers(tmp_path):
    save_tracks(example_tracks(), tmp_path / "t.nk", names={4: "näse", 11: "nöse"})
    text = (tmp_path / "t.nk").read_text()
    assert '"n_se"' in text and '"n_se_2"' in text
    with pytest.raises(ValueError, match="has a slash"):
        save_tracks(example_tracks(), tmp_path / "t.csv", "blender", names={4: "a/b", 11: ("b", "a")})


WHOLE = {"7": 7, " 07 ": 7, "+7": 7, "-1": -1, "7.0": 7, "7.": 7, "7e0": 7, "1.5e1": 15, "9007199254740992": 2**53}
WHOLE |= dict.fromkeys(
    ["1.5", "1e-3", "1_0", "٣", "", "x", "nan", "inf", "9007199254740993", "1e300", "9" * 5000, "0x7"]
)


@pytest.mark.parametrize(("text", "number"), WHOLE.items(), ids=lambda value: str(value)[:20])
def test_whole_numbers_of_text_are_exact_or_none(text, number):
    assert whole_in(text) == number


IMAGES = {
    "3": 3,
    "-1": -1,
    "1.5": None,
    "1e3": 1000,
    "1e-3": None,
    "labeled-data/clip/img0012.png": 12,
    "a\\img007": 7,
}
IMAGES |= {
    "000000397133.jpg": 397133,
    "shot.0012.exr": 12,
    "img12_left.png": None,
    "0003_jpg.rf.a8f3c.jpg": 3,
    "clip_mp4-0007_png.rf.0a1b4e99.jpg": 7,
    "name-7_jpeg.rf.Zx81c0a1b2C3.JPG": 7,
    "img7.rf.0a1b4e99": 7,
    "img.rf.0a1b4e99.jpg": None,
    "img-0a1b4e99.jpg": None,
    "face0007.jpg": 7,
    "img7.jpg?size=200": 7,
    "https://host/a/img0012.png?path=/b/9#top": 12,
    "view.php?file=img7": None,
    "take#7.png": 7,
    "img.png": None,
}


@pytest.mark.parametrize(("name", "frame"), IMAGES.items())
def test_frames_in_names_of_images(name, frame):
    assert frame_in(name) == frame


def test_numbers_of_text():
    assert [number_in(text) for text in ("1.5", " -2 ", "1e3")] == [1.5, -2, 1000]
    for text in ("1_0", "٣", "", "x"):
        with pytest.raises(ValueError):
            number_in(text)


DLC = "scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n{},1,2\n"
COCO = '{{"images": [{{"id": 1, "file_name": "{}"}}], "annotations": [{{"image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]}}], "categories": [{{"id": 1, "keypoints": ["nose"]}}]}}'
CVAT = '<annotations><track id="{}" label="a"><box frame="{}" xtl="1" ytl="1" xbr="2" ybr="2"/></track></annotations>'


def test_frames_are_exact_in_every_format(tmp_path):
    def frame(form, suffix, text):
        (tmp_path / f"l{suffix}").write_text(text)
        return read_labels(tmp_path / f"l{suffix}", form).points[0, 0]

    assert frame("dlc", ".csv", DLC.format("1e3")) == 1000 and frame("dlc", ".csv", DLC.format("7.0")) == 7
    assert frame("coco", ".json", COCO.format("000000397133.jpg")) == 397133
    for wrong in ("-1", "1.5", "1e-3", "img1234567890123456789.png", "img99999999999.png"):
        for form, suffix, text in (("dlc", ".csv", DLC.format(wrong)), ("coco", ".json", COCO.format(wrong))):
            with pytest.raises(ValueError, match="frame number"):
                frame(form, suffix, text)
    assert frame(None, ".csv", "t,x,y\n7.0,1,2\n") == 7
    for wrong in ("1.5", "-1", "1_0", "٣"):
        with pytest.raises(ValueError, match="point 0 must be a frame number|expected three numbers"):
            frame(None, ".csv", f"t,x,y\n{wrong},1,2\n")


def test_ids_are_exact_in_every_format(tmp_path):
    largest = 2**53
    for name, text in (
        ("p.csv", "id,t,x,y\n{},0,1,2\n"),
        ("p.json", '{{"ids": [{}], "queries": [[0, 1, 2]]}}'),
    ):
        (tmp_path / name).write_text(text.format(largest))
        assert list(read_points_file(tmp_path / name)) == [largest]
        for wrong in (largest + 1, 1.5, 10**30):
            (tmp_path / name).write_text(text.format(wrong))
            with pytest.raises(ValueError, match=f"{name}: ids must be a whole number"):
                read_points_file(tmp_path / name)
    np.savez(tmp_path / "p.npz", ids=np.array([largest + 1]), queries=np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="ids must be a whole number of at most"):
        read_points_file(tmp_path / "p.npz")
    for number, frame in (("1.5", "0"), ("1", "0.5"), (str(largest + 1), "0"), ("1_0", "0")):
        (tmp_path / "b.xml").write_text(CVAT.format(number, frame))
        with pytest.raises(ValueError, match="must be a whole number"):
            read_boxes(tmp_path / "b.xml")
        (tmp_path / "b.txt").write_text(f"{float(frame) + 1},{number},1,1,2,2\n")
        with pytest.raises(ValueError, match="line 1: expected frame,id,left"):
            read_boxes(tmp_path / "b.txt")
    (tmp_path / "b.txt").write_text(f"1.0,{largest},1,1,2,2\n")
    assert read_boxes(tmp_path / "b.txt").ids.tolist() == [largest]


def test_confidence_is_a_probability(tmp_path):
    text = DLC.replace("me,me", "me,me,me").replace("nose,nose", "nose,nose,nose").replace("x,y", "x,y,likelihood")
    for value in ("1.5", "-0.25", "57"):
        (tmp_path / "l.csv").write_text(text.format(0).replace("0,1,2", f"0,1,2,{value}"))
        with pytest.raises(ValueError, match=f"nose must have a confidence from 0 to 1 on frame 0, got {value}"):
            read_labels(tmp_path / "l.csv", "dlc")


@pytest.mark.parametrize("form", ["dlc", "sleap", "supervision"])
def test_rounding_past_0_and_1_is_of_every_format_and_more_of_none(tmp_path, form):
    for value, expected in ((1.0000001, 1), (-1e-8, 0), (0.5, 0.5), (-0.01, None)):
        if form == "dlc":
            text = "scorer,me,me,me\nbodyparts,nose,nose,nose\ncoords,x,y,likelihood\n0,1,2,{}\n"
            (tmp_path / "l.csv").write_text(text.format(value))
            read = partial(read_labels, tmp_path / "l.csv", "dlc")
        elif form == "sleap":
            pytest.importorskip("sleap_io", reason="sleap_io is not installed")
            tracks = example_tracks()
            save_tracks(replace(tracks, confidence=tracks.confidence * 0 + value), tmp_path / "t.slp", names=NAMES)
            read = partial(read_labels, tmp_path / "t.slp")
        else:
            sv = pytest.importorskip("supervision", reason="supervision is not installed")
            points = sv.KeyPoints(np.ones((1, 1, 2), np.float32), keypoint_confidence=np.full((1, 1), value))
            read = partial(points_from_supervision, [points])
        if expected is None:
            with pytest.raises(ValueError, match="must have a confidence from 0 to 1 on frame"):
                read()
        else:
            assert set(read().confidence.tolist()) == {expected}


def test_frames_of_a_pose_model_may_come_one_by_one():
    frames = [
        SimpleNamespace(xy=np.full((1, 2, 2), t + 1.0), visible=None, keypoint_confidence=None) for t in range(3)
    ]
    expected, found = points_from_supervision(frames), points_from_supervision(iter(frames))
    assert len(found) == 6
    np.testing.assert_array_equal(found.points, expected.points)


def test_scores_of_sleap_may_pass_one(tmp_path):
    """They are heights of a confidence map."""
    pytest.importorskip("sleap_io", reason="sleap_io is not installed")
    tracks = example_tracks()
    save_tracks(replace(tracks, confidence=tracks.confidence * 1.25), tmp_path / "t.slp", names=NAMES)
    labels = read_labels(tmp_path / "t.slp")
    assert labels.confidence.max() == 1 and labels.confidence.min() == 0.125 * 1.25


def test_coco_images_of_several_folders_are_of_several_clips(tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{folder}/img{i}.png"} for i, folder in enumerate(["a", "b"])],
        "annotations": [{"image_id": i, "category_id": 1, "keypoints": [1, 2, 2]} for i in (0, 1)],
        "categories": [{"id": 1, "keypoints": ["nose"]}],
    }
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds labels of 2 clips, say which .*: a, b"):
        read_labels(tmp_path / "l.json", "coco")
    assert positions_of(read_labels(tmp_path / "l.json", "coco", "b"), "nose") == {1: (1.5, 2.5)}


def test_two_points_of_a_file_of_one_name_are_refused():
    names = [PointName("tail", "cat"), PointName("nose", "cat"), PointName("nose", "dog"), PointName("nose", "cat")]
    rows = [Label(name, 0, 1.0, 2.0) for name in names]
    with pytest.raises(ValueError, match=r"^l.csv: cat/nose is there twice; every point needs a name of its own\.$"):
        gather_points(rows, names, "l.csv", None, None)
    assert len(gather_points(rows[:3], names[:3], "l.csv", None, None)) == 3
