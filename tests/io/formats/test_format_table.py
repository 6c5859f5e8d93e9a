"""The table of formats: which file is of which, names and arguments, missing libraries, objects of other libraries."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from labelled_clips import NAMES, SIZE, example_tracks

from fgvc_hf import (
    PointName,
    boxes_from_supervision,
    points_from_supervision,
    read_boxes,
    read_labels,
    save_boxes,
    save_tracks,
)
from fgvc_hf.cli.label_formats import READ, WRITTEN
from fgvc_hf.cli.main import main
from fgvc_hf.io.formats.point_labels import BoxLabels
from fgvc_hf.io.formats.table import TABLE, names_that
from fgvc_hf.tracking.box_results import BoxTracks


DLC = "scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n{}\n"


def test_the_command_line_names_the_formats_of_the_table():
    assert set(READ) == {*names_that("read"), *names_that("read_boxes")}
    assert set(WRITTEN) == {*names_that("write"), *names_that("write_boxes")} == set(TABLE)
    for form in TABLE.values():
        for does in form.does:
            assert callable(form.function(does))


def test_own_files_are_labels_too(tmp_path):
    (tmp_path / "p.csv").write_text("t,x,y\n0,5,6\n2,7,8\n")
    labels = read_labels(tmp_path / "p.csv")
    assert labels.prompts() == {0: (0, 5, 6), 1: (2, 7, 8)} and labels.names[1] == PointName("1")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("l.h5", (), r"\.h5 is of several formats; name one of dlc, sleap"),
        (
            "l.txt",
            (),
            r"the name must end in \.csv, \.json or \.npz, or, for another tool's format, in \.h5, \.slp or \.xml\.",
        ),
        ("l.csv", ("excel",), "format must be one of dlc, sleap, coco, posemark, cvat, got 'excel'"),
        ("l.nk", ("nuke",), "got 'nuke', and Nuke is not one that is read for points"),
        ("l.txt", ("mot",), "got 'mot', and MOTChallenge is not one that is read for points"),
        ("l.json", ("dlc",), r"the name of a file of DeepLabCut must end in \.csv or \.h5"),
        ("l.csv", ("cvat",), r"the name of a file of CVAT for video must end in \.xml"),
    ],
)
def test_which_format_a_file_is_of(tmp_path, name, arguments, message):
    (tmp_path / name).write_text("anything")
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / name, *arguments)


def test_missing_files_and_odd_paths(tmp_path):
    for name, form in (("l.csv", "dlc"), ("l.xml", None), ("l.slp", None)):
        with pytest.raises(FileNotFoundError, match="there is no such points file"):
            read_labels(tmp_path / name, form)
    with pytest.raises(FileNotFoundError, match="there is no such points file"):
        read_boxes(tmp_path / "l.txt")
    with pytest.raises(ValueError, match="is a URL"):
        read_labels("https://example.org/l.xml")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({4: "nose"}, "names must have a name for every point, but 11 has none"),
        ({4: "nose", 11: "tail", 12: "ear"}, "names has one for point 12, but the tracks are of 4, 11"),
        ({4: "nose", 11: "nose"}, "names must differ, but nose is there twice"),
        ({4: ("a", "b", "c"), 11: "tail"}, "names must be text, or a PointName of part and individual, got"),
        ({4: 5, 11: "tail"}, "names must be text, or a PointName of part and individual, got 5"),
        ({4: "", 11: "tail"}, "is not a name of a point"),
        ({4: "no\nse", 11: "tail"}, "is not a name of a point"),
        ({4: "n" * 1000, 11: "tail"}, "is not a name of a point"),
    ],
)
def test_names_are_checked(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        save_tracks(example_tracks(), tmp_path / "t.csv", "dlc", names=names)
    assert not list(tmp_path.iterdir())


def test_arguments_of_another_format_are_refused(tmp_path):
    tracks = example_tracks()
    for form, arguments, message in (
        (None, {"fps": 25}, "fps is not an argument of this package's own format"),
        ("dlc", {"fps": 25}, "fps is not an argument of DeepLabCut, which takes images"),
        ("blender", {"first_frame": 1.5}, "first_frame must be a whole number, got 1.5"),
        ("dlc", {"first_frame": 1}, "first_frame is not an argument of DeepLabCut"),
    ):
        with pytest.raises(ValueError, match=message):
            save_tracks(tracks, tmp_path / "t.csv", form, **arguments)
    with pytest.raises(
        ValueError, match="format must be one of cvat, mot, got 'dlc', and DeepLabCut is not one that is written for"
    ):
        save_boxes(None, tmp_path / "t.csv", "dlc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [name for name in TABLE if "write" in TABLE[name].does and name != "posemark"])
def test_nothing_is_half_written(tmp_path, form, monkeypatch):
    path = tmp_path / f"t{TABLE[form].suffixes[0]}"
    path.write_text("an earlier result")

    def fail(tracks, temporary, *_, **__):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"fgvc_hf.io.formats.{TABLE[form].module}.write", fail)
    with pytest.raises(OSError, match="cannot be written .No space left"):
        save_tracks(example_tracks(), path, form, fps=25 if "fps" in TABLE[form].options else None)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier result"]


MISSING = [
    ("sleap_io", lambda path: save_tracks(example_tracks(), path / "t.slp"), "writing files of SLEAP needs sleap_io"),
    ("sleap_io", lambda path: read_labels(path / "l.slp"), "reading files of SLEAP needs sleap_io"),
    ("h5py", lambda path: read_labels(path / "l.h5", "dlc"), "reading H5 of DeepLabCut needs h5py"),
    (
        "pandas",
        lambda path: save_tracks(example_tracks(), path / "t.h5", "dlc"),
        "writing H5 of DeepLabCut needs pandas",
    ),
    (
        "tables",
        lambda path: save_tracks(example_tracks(), path / "t.h5", "dlc"),
        "writing H5 of DeepLabCut needs tables",
    ),
    ("pandas", lambda path: example_tracks().to_frame(), "a table of tracks needs pandas"),
    ("supervision", lambda path: example_tracks().to_supervision(), "objects of supervision need it"),
]


@pytest.mark.parametrize(("library", "action", "message"), MISSING)
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, library, action, message):
    for name in ("l.slp", "l.h5"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError) as caught:
        action(tmp_path)
    assert str(caught.value) == f'{message}: pip install "fgvc-hf[formats]"'
    assert {path.name for path in tmp_path.iterdir()} == {"l.slp", "l.h5"}


READABLE = [
    *((name, suffix) for name in names_that("read") for suffix in TABLE[name].suffixes if name != "posemark"),
    ("mot", ".txt"),
]


@pytest.mark.parametrize(("form", "suffix"), READABLE)
def test_damage_anywhere_is_one_sentence(tmp_path, form, suffix):
    """Bytes that are changed, cut off, taken out and put in."""
    path, random = tmp_path / f"l{suffix}", np.random.default_rng(0)
    if form == "mot":
        path.write_text("1,3,11,11,10,10,1,-1,-1,-1\n3,3,11,6,10,20,1,-1,-1,-1\n")
    else:
        save_tracks(example_tracks(), path, form, names=NAMES)
    whole, read = path.read_bytes(), read_boxes if form == "mot" else read_labels
    read(path, form)
    put_in = [b"9" * 400, b"nan", b"-1", b",", b"\n", b'"', b"null", b"[]", b"1e999", b"\0", b"\xe9", b"<a>", b"&x;"]
    refused = 0
    for _ in range(60):
        at, length = int(random.integers(len(whole))), int(random.integers(30))
        changed = whole[:at] + bytes([random.integers(256)]) + whole[at + 1 :]
        inserted = whole[:at] + put_in[random.integers(len(put_in))] + whole[at:]
        path.write_bytes([changed, inserted, whole[:at], whole[:at] + whole[at + length :]][random.integers(4)])
        try:
            read(path, form)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500
    assert refused > 20


# ---- labels ---------------------------------------------------------------------------------------------------------


def labels_of(tmp_path, rows: str):
    (tmp_path / "l.csv").write_text(DLC.format(rows))
    return read_labels(tmp_path / "l.csv", "dlc")


def test_labels_of_another_clip_are_named(tmp_path):
    labels = labels_of(tmp_path, "0,5,5\n9,6,6")
    labels.check(10, (48, 64))
    labels.check(None, (48, 64))
    with pytest.raises(ValueError, match=r"nose is labelled at \(6, 6\) on frame 9, but the clip ends with frame 8"):
        labels.check(9, (48, 64))
    with pytest.raises(
        ValueError, match=r"nose is labelled at \(6, 6\) on frame 9, but the frame is 6x64 .height x width."
    ):
        labels.check(10, (6, 64))


def test_points_are_chosen_by_name(tmp_path):
    labels = labels_of(tmp_path, "0,5,5")
    assert len(labels.select(["nose"])) == 1
    with pytest.raises(ValueError, match="no point is called 'tail'; the labels are of nose"):
        labels.select(["nose", "tail"])
    with pytest.raises(ValueError, match="labels hold no visible point"):
        replace(labels, visible=np.zeros(1, bool)).prompts()


# ---- other libraries ------------------------------------------------------------------------------------------------


def test_a_table_of_pandas():
    pytest.importorskip("pandas", reason="pandas is not installed")
    tracks = example_tracks()
    table = tracks.to_frame(NAMES)
    assert list(table) == ["point", "name", "t", "x", "y", "visible", "confidence", "uncertainty", "outside"]
    row = table[(table.point == 11) & (table.t == 2)].iloc[0]
    assert (row["name"], row.x, row.y, row.visible, row.confidence) == ("tail tip", 9.5, 10.5, True, 0.625)
    assert len(table) == 8 and np.isnan(table[(table.point == 11) & (table.t == 0)].x.item())
    assert "name" not in tracks.to_frame()


def test_supervision_draws_points_where_they_are():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    tracks = example_tracks()
    frames = tracks.to_supervision()
    assert len(frames) == 4 and frames[0].visible.tolist() == [[True, False]]
    np.testing.assert_array_equal(frames[1].xy[0], tracks.tracks[:, 1])
    assert np.isnan(tracks.tracks[1, 0]).all() and frames[0].xy[0, 1].tolist() == [0, 0]
    np.testing.assert_array_equal(frames[1].keypoint_confidence, [[0.75, 1]])
    black = np.zeros((*SIZE, 3), np.uint8)
    drawn = supervision.VertexAnnotator(radius=0).annotate(black.copy(), frames[2])
    lit = np.argwhere(drawn.any(axis=-1))
    assert [10, 9] in lit.tolist() and np.abs(
        lit - [10, 9]
    ).max() <= 1  # around the pixel of (9.5, 10.5); the hidden point is not drawn
    labels = points_from_supervision(frames, SIZE)
    assert labels.points[labels.ids == 1].tolist() == [[1, 7, 8], [2, 9.5, 10.5]] and labels.confidence.min() == 0.5
    with pytest.raises(ValueError, match="key points: holds no labelled point"):
        points_from_supervision([supervision.KeyPoints.empty()])


def test_supervision_has_boxes():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    corners = np.array([[[(1, 2), (5, 2), (5, 8), (1, 8)]], [[(10, 10), (20, 10), (20, 20), (10, 20)]]], np.float32)
    visible = np.array([[True], [False]])
    frames = BoxTracks([3, 7], corners, visible, np.ones((2, 1), np.float32), SIZE).to_supervision()
    assert frames[0].xyxy.tolist() == [[1, 2, 5, 8]] and frames[0].tracker_id.tolist() == [3]
    boxes = boxes_from_supervision([supervision.Detections.empty(), *frames])
    assert isinstance(boxes, BoxLabels) and boxes.ids.tolist() == [3] and boxes.frames.tolist() == [1]
    with pytest.raises(ValueError, match="detections of frame 0 have no tracker_id"):
        boxes_from_supervision([supervision.Detections(xyxy=np.array([[0, 0, 1, 1.0]]))])


def test_detections_of_no_track_yet_are_left_out():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    sides = np.array([[50, 50, 55, 55], [1, 1, 4, 4.0]])
    frames = [supervision.Detections(xyxy=sides, tracker_id=np.array(ids)) for ids in ((-1, 7), (-1, -1))]
    boxes = boxes_from_supervision(frames)
    assert boxes.ids.tolist() == [7] and boxes.frames.tolist() == [0]


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_projects_labels_are_tracked_and_written_back(folder_with_clip, capsys):
    (folder_with_clip / "labels.csv").write_text(
        "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\nlabeled-data/clip/img00.png,20,30,,\nlabeled-data/clip/img02.png,,,40,10\n"
    )
    command = ["track", "clip.mp4", "--points-file", "labels.csv", "--format", "dlc", "--preset", "fast", "--output"]
    assert main([*command, "tracked.csv", "--output-format", "dlc", "--overlay", "overlay.mp4"]) == 0
    assert capsys.readouterr().out.split() == ["tracked.csv", "overlay.mp4"]
    found = read_labels("tracked.csv", "dlc")
    assert [str(name) for name in found.names.values()] == ["nose", "tail"]
    assert found.points[0].tolist() == [0, 20.5, 30.5] and found.points[found.ids == 1][0].tolist() == [2, 40.5, 10.5]
    assert main([*command, "tracked.nk", "--parts", "nose", "--first-frame", "10"]) == 0
    assert "x10 20.5" in (folder_with_clip / "tracked.nk").read_text()
    (folder_with_clip / "predicted.csv").write_text(
        "scorer,a,a,a,a,a,a\nbodyparts,nose,nose,nose,tail,tail,tail\ncoords,x,y,likelihood,x,y,likelihood\n0,20,30,0.95,40,10,0.5\n"
    )
    command[3] = "predicted.csv"
    assert main([*command, "sure.csv", "--output-format", "dlc", "--min-confidence", "0.9"]) == 0
    assert [str(name) for name in read_labels("sure.csv", "dlc").names.values()] == ["nose"]
    capsys.readouterr()
    assert main([*command, "none.csv", "--output-format", "dlc", "--min-confidence", "0.99"]) == 2
    assert "predicted.csv: holds no label of a confidence of 0.99 or more." in capsys.readouterr().err
    (folder_with_clip / "gt.txt").write_text("1,3,10,12,20,18,1,-1,-1,-1\n")
    assert (
        main(
            [
                "track",
                "clip.mp4",
                "--boxes-file",
                "gt.txt",
                "--output",
                "found.txt",
                "--sheet",
                "s.png",
                "--preset",
                "fast",
            ]
        )
        == 0
    )
    assert read_boxes("found.txt").ids.tolist() == [3] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points-file", "labels.csv", "--format", "dlc"], "nose is labelled at (5, 5) on frame 9, but the clip ends with frame 4."),
        (["--points-file", "labels.csv", "--format", "dlc", "--parts", "tail"], "no point is called 'tail'; the labels are of nose."),
        (["--points-file", "labels.csv", "--format", "mot"], "format must be one of dlc, sleap, coco, posemark, cvat, got 'mot'"),
        (["--points-file", "labels.csv"], "the header must be t,x,y"),
        (["--grid", "2", "--parts", "nose"], "--parts, --clip and --min-confidence are of labels of another tool"),
        (["--grid", "2", "--min-confidence", "0.9"], "--min-confidence are of labels of another tool, which are read by"),
        (["--points-file", "labels.csv", "--format", "dlc", "--min-confidence", "1.5"], "must be from 0 to 1, got 1.5"),
        (["--points-file", "labels.csv", "--format", "dlc", "--min-confidence", "nan"], "must be from 0 to 1, got nan"),
        (["--points-file", "labels.csv", "--format", "dlc", "--min-confidence", "0.9"], "no label with a confidence below 1; leave out"),
        (["--grid", "2", "--output-format", "mot"], "format must be one of dlc, sleap, coco"),
        (["--boxes-file", "labels.csv", "--format", "mot", "--output-format", "mot"], "labels.csv, line 1: expected frame,id,left"),
        (["--boxes-file", "labels.csv", "--compare", "paper"], "--compare is of points"),
        (["--boxes-file", "labels.csv", "--suggest", "2"], "--suggest is of points; leave it out to track boxes."),
        (["--boxes-file", "labels.csv", "--output-format", "mot", "--fps", "3"], "fps is not an argument of MOTChallenge."),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_wrong(folder_with_clip, capsys, arguments, message):
    (folder_with_clip / "labels.csv").write_text(DLC.format("9,5,5"))
    assert main(["track", "clip.mp4", *arguments, "--output", "t.csv"]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1 and not (folder_with_clip / "t.csv").exists()


@pytest.mark.parametrize("option", [["--output-format", "dlc"], ["--fps", "25"], ["--first-frame", "0"], ["--images", "a/b"]])  # fmt: skip
def test_options_of_an_output_that_is_not_written_are_refused(folder_with_clip, capsys, option):
    assert main(["track", "clip.mp4", "--grid", "2", "--sheet", "s.png", *option]) == 2
    assert "--output-format, --fps, --first-frame and --images are of --output" in capsys.readouterr().err
    assert not (folder_with_clip / "s.png").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (["t.csv", "--fps", "25"], "fps is not an argument of this package's own format"),
        (["t.csv", "--images", "a/b"], "images is not an argument of this package's own format"),
        (["t.csv", "--output-format", "dlc", "--images", "clip"], "images must be a folder as labeled-data/clip, got 'clip'"),
        (["t.txt", "--output-format", "after-effects", "--fps", "nan"], "fps must be a positive number of frames per second"),
        (["t.txt", "--output-format", "after-effects", "--fps", "-1"], "fps must be a positive number of frames per second"),
        (["t.slp"], "the individual of animal/nose must be called otherwise"),
        (["sub-M_ses-1_cam-top_start-0_dur-5_cliplabels.json", "--output-format", "posemark"], "must have no individual"),
        (["t.xml"], "a/b/nose has a slash"),
        (["t.json", "--output-format", "posemark"], "must be named sub-X_ses-Y_cam-Z_start"),
        (["sub-M_ses-1_cam-top_start-0_dur-7_cliplabels.json", "--output-format", "posemark"], "names a clip of 7 frames, but this one has 5."),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_said_before_any_work(folder_with_clip, capsys, monkeypatch, output, message):
    monkeypatch.setattr("fgvc_hf.cli.track.load_tracker", lambda *_: pytest.fail("the tracker was loaded"))
    owner = "a/b" if "t.xml" in output else "animal"
    text = DLC.format("0,5,5").replace("bodyparts", f"individuals,{owner},{owner}\nbodyparts")
    (folder_with_clip / "labels.csv").write_text(text)
    assert main(["track", "clip.mp4", "--points-file", "labels.csv", "--format", "dlc", "--output", *output]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1 and not (folder_with_clip / output[0]).exists()


@pytest.mark.parametrize(("library", "output"), [("sleap_io", "t.slp"), ("tables", "t.h5"), ("pandas", "t.h5")])
def test_a_library_that_a_format_needs_is_missed_before_any_work(
    folder_with_clip, capsys, monkeypatch, library, output
):
    monkeypatch.setattr("fgvc_hf.cli.track.load_tracker", lambda *_: pytest.fail("the tracker was loaded"))
    monkeypatch.setitem(sys.modules, library, None)
    form = ["--output-format", "dlc"] if output == "t.h5" else []
    assert main(["track", "clip.mp4", "--grid", "2", "--output", output, *form]) == 2
    printed = capsys.readouterr().err
    assert f'needs {library}: pip install "fgvc-hf[formats]"' in printed and printed.count("\n") == 1
    assert not (folder_with_clip / output).exists()
