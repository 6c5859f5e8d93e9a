"""CVAT and MOTChallenge: points and boxes of annotators, there and back, and boxes that are tracked."""

import numpy as np
import pytest
from labelled_clips import NAMES, SIZE, example_tracks, positions_of, tracked, two_animals

from fgvc_hf import BoxTracks, Tracker, read_boxes, read_labels, render_clip, save_boxes, save_tracks, track_boxes


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>mice</name><size>20</size><mode>interpolation</mode>
    <original_size><width>64</width><height>48</height></original_size></task></meta>
  <track id="0" label="nose" source="manual">
    <points frame="3" outside="0" occluded="0" keyframe="1" points="10.50,21.00" z_order="0"></points>
    <points frame="4" outside="0" occluded="0" keyframe="0" points="11.00,21.10" z_order="0"></points>
    <points frame="5" outside="0" occluded="1" keyframe="1" points="11.75,21.50" z_order="0"></points>
    <points frame="6" outside="1" occluded="0" keyframe="1" points="11.75,21.50" z_order="0"></points>
  </track>
  <track id="1" label="car" source="manual">
    <box frame="2" outside="0" occluded="0" keyframe="1" xtl="1.5" ytl="2" xbr="20" ybr="30.25" z_order="0"></box>
    <box frame="3" outside="0" occluded="0" keyframe="0" xtl="2" ytl="2" xbr="21" ybr="30" z_order="0"></box>
    <box frame="9" outside="1" occluded="0" keyframe="1" xtl="2" ytl="2" xbr="21" ybr="30" z_order="0"></box>
  </track>
  <track id="2" label="mouse" source="manual">
    <skeleton frame="3" keyframe="1" z_order="0">
      <points label="ear" keyframe="1" outside="0" occluded="0" points="5.00,6.00"></points>
      <points label="tail" keyframe="1" outside="1" occluded="0" points="7.00,8.00"></points>
    </skeleton>
  </track>
</annotations>
"""


def write(path, content: str):
    path.write_text(content)
    return path


def example_boxes() -> BoxTracks:
    """Two boxes over three frames: one that turns, and one from frame 1 on that is lost on frame 2."""
    corners = np.full((2, 3, 4, 2), np.nan, np.float32)
    corners[0] = [(10, 10), (20, 10), (20, 20), (10, 20)]
    corners[0, 2] = [(15, 5), (20, 15), (15, 25), (10, 15)]
    corners[1, 1:] = [(1.5, 2), (8, 2), (8, 9.25), (1.5, 9.25)]
    visible = np.array([[1, 1, 1], [0, 1, 0]], bool)
    return BoxTracks([3, 7], corners, visible, np.array([[1, 0.5, 0.75], [0, 1, 0.25]], np.float32), SIZE)


def test_cvat_points_and_skeletons_are_read(tmp_path):
    labels = read_labels(write(tmp_path / "a.xml", CVAT))
    assert labels.size == (48, 64) and {str(name) for name in labels.names.values()} == {"nose", "mouse/ear"}
    assert positions_of(labels, "nose") == {3: (10.5, 21), 5: (11.75, 21.5)}
    assert positions_of(labels, "mouse/ear") == {3: (5, 6)}
    assert labels.prompts() == {0: (3, 10.5, 21), 1: (3, 5, 6)}  # the second label of the nose is hidden


def test_cvat_boxes_are_read(tmp_path):
    boxes = read_boxes(write(tmp_path / "a.xml", CVAT))
    assert boxes.ids.tolist() == [1] and boxes.frames.tolist() == [2] and boxes.names == {1: "car"}
    np.testing.assert_array_equal(boxes.boxes, [[1.5, 2, 20, 30.25]])
    (t, sides) = boxes.first()[1]
    assert t == 2 and sides.tolist() == [1.5, 2, 20, 30.25]


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("false", "true"), ("False", "True")])
def test_flags_of_cvat_may_be_words_and_what_a_skeleton_is_its_points_are(tmp_path, no, yes):
    text = CVAT
    for flag in ("outside", "occluded", "keyframe"):
        text = text.replace(f'{flag}="0"', f'{flag}="{no}"').replace(f'{flag}="1"', f'{flag}="{yes}"')
    labels, boxes = read_labels(write(tmp_path / "a.xml", text)), read_boxes(tmp_path / "a.xml")
    assert positions_of(labels, "nose") == {3: (10.5, 21), 5: (11.75, 21.5)} and boxes.frames.tolist() == [2]
    assert positions_of(labels, "mouse/ear") == {3: (5, 6)} and labels.visible.tolist() == [True, False, True]
    whole = text.replace('<skeleton frame="3"', f'<skeleton frame="3" occluded="{yes}"')
    assert read_labels(write(tmp_path / "a.xml", whole)).visible.tolist() == [True, False, False]
    whole = text.replace('<skeleton frame="3"', f'<skeleton frame="3" outside="{yes}"')
    assert {str(name) for name in read_labels(write(tmp_path / "a.xml", whole)).names.values()} == {"nose"}


def test_of_a_turned_box_of_cvat_the_upright_box_around_it_is_read(tmp_path):
    sides = 'xtl="10" ytl="20" xbr="30" ybr="24"'  # about (20, 22)
    for degrees, expected in ((90, (18, 12, 22, 32)), (180, (10, 20, 30, 24)), (45, (11.515, 13.515, 28.485, 30.485))):
        text = CVAT.replace('xtl="1.5" ytl="2" xbr="20" ybr="30.25"', f'{sides} rotation="{degrees}"')
        np.testing.assert_allclose(read_boxes(write(tmp_path / "a.xml", text)).boxes, [expected], atol=1e-3)


def test_boxes_of_mot_that_count_for_nothing_or_show_nothing_are_not_read(tmp_path):
    rows = ["2,1,1,1,9,9,1,1,0.5", "3,1,2,1,9,9,0,1,1", "4,1,3,1,9,9,1,1,0", "5,1,4,1,9,9,1,-1,0,-1", "6,1,5,1,9,9"]
    boxes = read_boxes(write(tmp_path / "gt.txt", "\n".join(rows)))
    assert boxes.frames.tolist() == [1, 4, 5] and boxes.boxes[:, 0].tolist() == [0, 3, 4]


def test_boxes_of_another_clip_are_told_by_the_numbers_of_the_file(tmp_path):
    boxes = read_boxes(write(tmp_path / "gt.txt", "2,7,11,12,4,4\n"))
    boxes.check(2, (20, 20))
    with pytest.raises(
        ValueError,
        match=r"the box of 7 is labelled at \(11, 12, 15, 16\) on frame 2, but the clip ends with frame 1\.",
    ):
        boxes.check(1, (20, 20))
    with pytest.raises(
        ValueError, match=r"at \(11, 12, 15, 16\) on frame 2, but its middle is outside the frame, 9x20"
    ):
        boxes.check(None, (9, 20))


@pytest.mark.parametrize("several", [False, True])
def test_cvat_points_come_back(tmp_path, several):
    tracks, names = two_animals() if several else (example_tracks(), NAMES)
    save_tracks(tracks, tmp_path / "t.xml", names=names)
    labels = read_labels(tmp_path / "t.xml")
    for row, name in enumerate(names.values()):
        shown = f"{name[1]}/{name[0]}" if several else name
        inside = np.flatnonzero(~np.isnan(tracks.tracks[row, :, 0]) & ~tracks.outside[row])
        assert positions_of(labels, shown) == tracked(tracks, row, inside)
        hidden = labels.ids == list(map(str, labels.names.values())).index(shown)
        assert labels.visible[hidden].tolist() == tracks.visible[row, inside].tolist()


def test_cvat_boxes_come_back_and_end_where_they_are_lost(tmp_path):
    tracks = example_boxes()
    tracks.corners[0, 1] = np.nan
    save_boxes(tracks, tmp_path / "b.xml", names={3: "car"})
    boxes = read_boxes(tmp_path / "b.xml")
    np.testing.assert_array_equal(boxes.ids, [3, 3, 7, 7])
    np.testing.assert_array_equal(boxes.frames, [0, 2, 1, 2])
    np.testing.assert_array_equal(boxes.boxes, tracks.sides[[0, 0, 1, 1], [0, 2, 1, 2]])
    text = (tmp_path / "b.xml").read_text()
    assert 'frame="1" outside="1"' in text and boxes.names == {3: "car", 7: "box7"}


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
MALFORMED = {
    "": "is not valid XML",
    "<annotations>": "line 1: is not valid XML",
    "<annotations/>": "holds no track; export tracks as CVAT for video 1.1",
    "<kml><track/></kml>": "is not a file of CVAT, .* found kml",
    '<annotations><image id="0"/></annotations>': "is of CVAT for images; export tracks as CVAT for video",
    BOMB + "<annotations>&b;</annotations>": "declares a document type, which is not read",
    '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>': "declares a document type, which is not read",
    "<annotations>" + "<a>" * 100_000: "elements lie more than 32 deep",
    CVAT.replace(
        'points frame="3"', 'points frame="three"'
    ): "frame of a points must be a whole number, found 'three'",
    CVAT.replace('outside="0"', 'outside="maybe"', 1): "outside of a points must be 0 or 1, found 'maybe'",
    CVAT.replace('points frame="3"', "points"): "frame of a points must be a whole number, found 'nothing'",
    CVAT.replace("10.50,21.00", "10.50"): "points must be x,y;x,y;..., found '10.50'",
    CVAT.replace(
        "10.50,21.00", "1e300,21"
    ): r"nose must be labelled .* at a finite position, got frame 3, \(1e\+300, 21\)",
    CVAT.replace('points frame="5"', 'points frame="3"'): "nose is labelled twice on frame 3",
    CVAT.replace('points frame="3"', 'points frame="-3"'): "nose must be labelled on a frame number of 0 or more",
    CVAT.replace("nose", "no\0se"): "is not a XML text file in UTF-8",
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_malformed_xml_is_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(write(tmp_path / "a.xml", text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new"), [('id="1"', 'id="inf"'), ('xtl="1.5"', 'xtl="1e300"'), ('frame="2"', 'frame="nan"')]
)
def test_boxes_of_impossible_numbers_are_refused(tmp_path, old, new):
    name, value = new.replace('"', "").split("=")
    with pytest.raises(ValueError, match=f"{name} of a (track|box) must be a (whole )?number, found '{value}'"):
        read_boxes(write(tmp_path / "a.xml", CVAT.replace(old, new)))


def test_xml_of_another_encoding(tmp_path):
    (tmp_path / "a.xml").write_bytes(CVAT.replace("utf-8", "utf-16").encode("utf-16"))
    with pytest.raises(ValueError, match="is not a XML text file in UTF-8"):
        read_labels(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_bytes(CVAT.replace("\n", "\r\n").encode("utf-8-sig"))
    assert len(read_labels(tmp_path / "a.xml")) == 3


MOT = "1,3,11,11,10,10,1,-1,-1,-1\r\n3,3,11,6,10,20,1,-1,-1,-1\r\n\r\n2,7,2.5,3,6.5,7.25,1,-1,-1,-1\r\n2,9,2,3,4,5,0,-1,-1,-1\r\n"


PROJECT = """<annotations><version>1.1</version><meta><project><tasks>
<task><id>4</id><name>left.mp4</name><original_size><width>64</width><height>48</height></original_size></task>
<task><id>9</id><name>right.mp4</name><original_size><width>32</width><height>24</height></original_size></task>
</tasks></project></meta>
<track id="0" label="nose" task_id="4" subset="Train"><points frame="1" keyframe="1" points="1,2"/></track>
<track id="0" label="nose" task_id="9" subset="Train"><points frame="1" keyframe="1" points="3,4"/></track>
<track id="1" label="car" task_id="4"><box frame="0" keyframe="1" xtl="1" ytl="2" xbr="3" ybr="4"/></track>
<track id="1" label="bus" task_id="9"><box frame="0" keyframe="1" xtl="5" ytl="6" xbr="7" ybr="8"/></track>
</annotations>"""


def test_the_tasks_of_a_project_of_cvat_are_clips(tmp_path):
    path = write(tmp_path / "a.xml", PROJECT)
    for read in (read_labels, read_boxes):
        with pytest.raises(ValueError, match="holds labels of 2 clips, .* by clip= or --clip: left.mp4, right.mp4"):
            read(path)
    for clip, place, box in (("left.mp4", (1, 2), [1, 2, 3, 4]), ("9/right.mp4", (3, 4), [5, 6, 7, 8])):
        labels, boxes = read_labels(path, clip=clip), read_boxes(path, clip=clip)
        assert positions_of(labels, "nose") == {1: place} and len(labels) == 1 and labels.size is None
        assert boxes.boxes.tolist() == [box] and boxes.ids.tolist() == [1]
    write(path, PROJECT.replace("right.mp4", "left.mp4"))
    with pytest.raises(ValueError, match="--clip: 4/left.mp4, 9/left.mp4"):
        read_labels(path)
    write(path, PROJECT.replace(' task_id="9"', "", 1))
    with pytest.raises(ValueError, match="a track must have the task_id of one of the 2 tasks"):
        read_labels(path)


def test_two_tracks_of_one_id_are_refused(tmp_path):
    path = write(tmp_path / "a.xml", CVAT.replace('<track id="1"', '<track id="0"'))
    for read in (read_labels, read_boxes):
        with pytest.raises(ValueError, match="two tracks have the id 0"):
            read(path)


def test_a_file_of_polygons_says_so(tmp_path):
    path = write(
        tmp_path / "a.xml",
        '<annotations><track id="0" label="a"><polygon frame="0" points="1,2;3,4"/></track></annotations>',
    )
    with pytest.raises(ValueError, match="holds no points and no skeletons, only polygon"):
        read_labels(path)
    with pytest.raises(ValueError, match="holds no box"):
        read_boxes(path)


def test_boxes_of_little_confidence_count_in_mot(tmp_path):
    boxes = example_boxes()
    boxes.confidence[:] = 1e-5, 0, 1e-9
    save_boxes(boxes, tmp_path / "found.txt")
    assert len(read_boxes(tmp_path / "found.txt").ids) == boxes.visible.sum()


def test_mot_counts_from_one(tmp_path):
    boxes = read_boxes(write(tmp_path / "gt.txt", MOT))
    assert boxes.ids.tolist() == [3, 3, 7] and boxes.frames.tolist() == [0, 2, 1]
    np.testing.assert_array_equal(boxes.boxes, [[10, 10, 20, 20], [10, 5, 20, 25], [1.5, 2, 8, 9.25]])
    tracks = example_boxes()
    save_boxes(tracks, tmp_path / "found.txt")
    rows = [line.split(",") for line in (tmp_path / "found.txt").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["1", "3"], ["2", "3"], ["2", "7"], ["3", "3"]]
    assert all(len(row) == 10 and row[7:] == ["-1", "-1", "-1"] for row in rows)
    assert rows[1][2:7] == ["11.000", "11.000", "10.000", "10.000", "0.5000"]
    again = read_boxes(tmp_path / "found.txt")
    np.testing.assert_array_equal(again.boxes, tracks.sides[[0, 0, 1, 0], [0, 1, 1, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no box"),
        ("1,2,3\n", "line 1: expected frame,id,left,top,width,height"),
        ("t,x,y\n0,1,2\n", "line 1: expected frame,id,left"),
        ("0,1,2,3,4,5\n", "line 1: expected frame"),
        ("1.5,1,2,3,4,5\n", "line 1: expected frame"),
        ("1,nan,2,3,4,5\n", "line 1: expected frame"),
        ("1,1,2,3,0,5\n", "the box of 1 on frame 1 has no area"),
        ("1,1,2,3,nan,5\n", "must be of finite numbers"),
        ("1,1,2,3,1e300,5\n", "must be of finite numbers"),
        ("1,1,2,3,4,5\n1,1,9,9,4,5\n", "1 has two boxes on frame 1"),
        ("1,1,2,3,4,5\0\n", "is not a TXT text file"),
    ],
)
def test_malformed_mot_is_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_boxes(write(tmp_path / "gt.txt", text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_labelled_boxes_are_tracked(tmp_path, direction):
    """Exactly where labels are, in pixels of the video in between, and before the first only backward."""
    clip = render_clip(num_frames=6, height=64, width=64, num_points=1)
    rows = "2,5,11,13,24,20,1,-1,-1,-1\n5,5,13,15,24,20,1,-1,-1,-1\n"
    boxes = read_boxes(write(tmp_path / "gt.txt", rows))
    tracks = track_boxes(Tracker.from_pretrained(preset="fast"), clip.frames, boxes, direction)
    assert tracks.object_ids == [5] and tracks.corners.shape == (1, 6, 4, 2) and tracks.size == (64, 64)
    np.testing.assert_allclose(tracks.sides[0, [1, 4]], boxes.boxes, atol=1e-4)
    assert np.isnan(tracks.sides[0, 0]).any() == (direction == "forward")
    assert not np.isnan(tracks.sides[0, 1:]).any() and np.abs(tracks.sides[0, 2:4] - boxes.boxes[0]).max() < 20


def test_a_direction_or_a_threshold_that_is_none_is_refused(tmp_path):
    boxes = read_boxes(write(tmp_path / "gt.txt", MOT))
    with pytest.raises(ValueError, match="direction must be 'forward', 'backward' or 'both', got 'sideways'"):
        track_boxes(None, None, boxes, "sideways")
    for threshold in (7, "0.5", True, np.nan):
        with pytest.raises(ValueError, match="threshold must be a probability from 0 to 1, got"):
            track_boxes(None, None, boxes, threshold=threshold)


def test_the_size_of_one_task_of_a_project_of_cvat_is_not_that_of_another(tmp_path):
    size = "<original_size><width>32</width><height>24</height></original_size>"
    for change, found in (("", None), (size.replace("32", "64").replace("24", "48"), (48, 64))):  # images have none
        path = write(tmp_path / "p.xml", PROJECT.replace(size, change))
        for clip in ("left.mp4", "right.mp4"):
            assert read_labels(path, clip=clip).size == found


@pytest.mark.parametrize("width", ["", "wide", "-64", "64.5", "0", "640000000"])
def test_a_size_in_cvat_that_is_none_is_not_taken(tmp_path, width):
    labels = read_labels(write(tmp_path / "a.xml", CVAT.replace("<width>64", f"<width>{width}")))
    assert labels.size is None and positions_of(labels, "mouse/ear") == {3: (5, 6)}
