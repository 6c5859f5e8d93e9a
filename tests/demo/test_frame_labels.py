"""Handlers of labels on several frames, of files for other tools, and of points that are looked for by a picture."""

import math
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.demo import frame_labels, limits, views, work
from fgvc_hf.demo import handlers as on
from fgvc_hf.demo.limits import MAX_LABELS, Point
from fgvc_hf.demo.server_state import Workspace
from fgvc_hf.tracking.results import LabelDisagreement, PointTracks


def click(index) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": None})


def quiet(*_, **__) -> None:
    """In the place of a progress bar."""


@pytest.fixture(scope="module")
def tracker():
    """A model that takes no time."""
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4, point_matching="templates")).eval()
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(size={"height": 48, "width": 80})))


@pytest.fixture
def pointed(workspace, monkeypatch, tracker):
    monkeypatch.setattr(work, "loaded", lambda preset, checkpoint=None: tracker)
    workspace.points = [Point(0, 30.5, 20.5, "eye", 0), Point(2, 60.5, 40.5, "ear", 1)]
    return workspace


@pytest.fixture
def pictures(server_state):
    return frame_labels.Pictures(server_state)


@pytest.fixture
def pictured(pointed, pictures, upload_of, tmp_path):
    """A session with the last frame of its clip as a picture."""
    Image.fromarray(pointed.clip.frame(5)).save(tmp_path / "look.png")
    shown = pictures.take_picture(pointed, upload_of((tmp_path / "look.png").read_bytes(), "look.png"))
    assert shown[0].shape == (432, 720, 3) and len(shown) == 2 + 3 + len(on.POINT_FILES) + len(on.NO_EXPORT)
    return pointed


# ---- labels ----


def test_clicks_label_the_point_that_is_chosen_and_replace_its_label_of_the_frame(pointed):
    assert frame_labels.choose_target(pointed, 0)["label"] == "Click where eye is"
    for column, frame in ((60, 4), (120, 4), (240, 5)):
        _, legend, table, target, _ = on.add_point(pointed, frame, "", click([column, 60]))
    assert table == [[0, 0, 30.5, 20.5], [1, 2, 60.5, 40.5], [0, 4, 20, 10], [0, 5, 40, 10]]
    assert target["value"] == 0 and ("ear (id 1)", 1) in target["choices"] and "2 more" in legend
    assert legend.count("<li>") == 2
    assert frame_labels.choose_target(pointed, -1)["label"] == frame_labels.CLICK
    on.add_point(pointed, 0, "nose", click([6, 6]))
    assert pointed.points[-1] == Point(0, 1, 1, "nose", 2)


def test_an_id_is_not_used_again_while_its_tracks_are_shown(pointed):
    on.track(pointed, "fast", "forward", quiet)
    on.undo_point(pointed, 0)
    on.add_point(pointed, 0, "", click([6, 6]))
    assert [point.obj_id for point in pointed.points] == [0, 2]
    on.clear_points(pointed, 0)
    assert pointed.tracks is None and pointed.next_id() == 0


def test_the_table_is_taken_over_but_for_rows_that_are_not_complete(pointed):
    rows = [[0, 1, 5, 6], ["0", "3", "7.5", "8"], [9, 2, 1, 1], [3, "", None, ""], [4, 2, 1, ""]]
    picture, legend, target = frame_labels.edit_labels(
        pointed, 1, {"data": rows, "headers": ["id", "frame", "x", "y"]}
    )
    assert pointed.points == [Point(1, 5, 6, "eye"), Point(3, 7.5, 8, "eye"), Point(2, 1, 1, "point 10", 9)]
    assert picture.shape == (432, 720, 3) and legend.count("<li>") == 2 and len(target["choices"]) == 3


BAD_TABLES = [
    None,
    [],
    {"data": None},
    {"data": [5]},
    {"data": [[0, 0, 1, 1], [0, 0, 2, 2]]},
    {"data": [[0, 6, 1, 1]]},
    {"data": [[0, 0.5, 1, 1]]},
    {"data": [[-1, 0, 1, 1]]},
    {"data": [["a", 0, 1, 1]]},
    {"data": [[0, 0, 121, 1]]},
    {"data": [[0, 0, math.nan, 1]]},
    {"data": [[0, 0, {}, 1]]},
    {"data": [[i, 0, 1, 1] for i in range(65)]},
    {"data": [[i % 64, i // 64, 1, 1] for i in range(MAX_LABELS + 1)]},
    {"data": [[0, 0, 1, 1]] * 10**4},
]


@pytest.mark.parametrize("table", BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_a_table_that_makes_no_sense_is_one_sentence_and_changes_nothing(pointed, table):
    before = pointed.points
    with pytest.raises(gr.Error) as refused:
        frame_labels.edit_labels(pointed, 0, table)
    assert refused.value.message.endswith(".") and len(refused.value.message) < 200
    assert "went wrong" not in refused.value.message and pointed.points == before


@pytest.mark.parametrize("value", [None, "0", 7, -2, 0.5, [0]])
def test_only_points_that_there_are_can_be_chosen(pointed, value):
    with pytest.raises(gr.Error):
        frame_labels.choose_target(pointed, value)
    assert pointed.target is None


def test_points_go_through_all_of_their_labels(pointed):
    pointed.points = [*pointed.points, Point(5, 36.5, 23.5, "eye", 0)]
    answer = frame_labels.track_between(pointed, "fast", quiet)
    np.testing.assert_allclose(pointed.tracks.tracks[0, [0, 5]], [[30.5, 20.5], [36.5, 23.5]], atol=1e-3)
    assert pointed.tracks.object_ids == [0, 1] and not np.isnan(pointed.tracks.tracks).any()
    assert "points={0: [(0, 30.5, 20.5), (5, 36.5, 23.5)], 1: [(2, 60.5, 40.5)]}, direction='both'" in answer[2]
    assert len(answer) == len(on.NO_POINTS) and answer[1].count('class="row"') == 2


def test_suggestions_lead_to_their_frame_and_point(pointed):
    answer = on.track(pointed, "fast", "forward", quiet)
    buttons = answer[3 + len(on.POINT_FILES) :][: on.SUGGESTIONS]
    assert buttons[0]["visible"] and buttons[0]["value"].startswith("Frame ")
    t, picture, target = frame_labels.jump_to(0)(pointed)
    assert buttons[0]["value"].startswith(f"Frame {t}: ") and target["value"] == pointed.target
    assert picture["label"].startswith("Click where e") and picture["value"].shape == (432, 720, 3)
    pointed.tracks = None
    with pytest.raises(gr.Error, match="no such suggestion any more"):
        frame_labels.jump_to(0)(pointed)


def test_the_picture_shows_where_points_were_followed_to(pointed):
    on.track(pointed, "fast", "forward", quiet)
    frame = pointed.clip.frame(3)
    pointed.tracks.tracks[0, 3], pointed.tracks.visible[0, 3] = (90.5, 30.5), True
    before, after = (
        views.picture_of(frame, pointed.points, 3),
        views.picture_of(frame, pointed.points, 3, pointed.tracks),
    )
    assert (after[183, 543] == views.point_colours([0])[0]).all() and (before[183, 543] == frame[30, 90]).all()


@pytest.mark.parametrize("width", [64, 240, 854, 1920])
def test_labels_are_seen_however_large_the_clip_is(width):
    """A picture is shown as wide as its column, of about 520 pixels."""
    frame = np.full((width // 2, width, 3), 128, np.uint8)
    drawn = (views.picture_of(frame, [Point(0, width / 2, width / 4, "a", 0)], 0) != 128).any(axis=-1)
    assert 520 * drawn.any(axis=0).mean() > 9


# ---- files for other tools ----


@pytest.mark.parametrize("choice", list(on.EXPORTS))
def test_tracks_are_written_in_every_format(pointed, choice):
    pointed.points = [Point(0, 30.5, 20.5, "same", 0), Point(2, 60.5, 40.5, "same", 1)]
    with pytest.raises(gr.Error, match="no tracks yet"):
        frame_labels.export_tracks(pointed, choice)
    pointed.tracks = work.loaded("fast").track(pointed.clip.video, work.prompts(pointed.points), direction="both")
    update = frame_labels.export_tracks(pointed, choice)
    name, suffix = on.EXPORTS[choice]
    assert (
        update["value"].endswith(suffix) and update["interactive"] and (name == "posemark" or name in update["value"])
    )
    with open(update["value"], "rb") as file:
        assert len(file.read()) > 50


def test_an_unknown_format_is_refused(pointed):
    for choice in (None, "xml", 5, ["nuke"]):
        with pytest.raises(gr.Error, match="The format must be one of"):
            frame_labels.export_tracks(pointed, choice)


# ---- points of a picture ----


def test_points_of_a_picture_are_looked_for_and_followed(pictured):
    picture, legend = frame_labels.add_look(pictured, click([363, 243]))
    assert pictured.looks == [Point(0, 60.5, 40.5, "point 1", 0)] and "60.5, 40.5" in legend
    assert picture.shape == (432, 720, 3)
    with pytest.raises(gr.Error, match="There are no tracks yet: click on a picture, and press Find in the clip"):
        frame_labels.export_found(pictured, "Nuke (*.nk)")
    said, video, timeline, *files, chosen, file = frame_labels.find(pictured, "fast", "both", quiet)
    assert chosen["value"] is None and not file["interactive"]
    assert said.startswith("point 1 ") and video.endswith("tracked.mp4") and timeline.count('class="row"') == 1
    assert len(files) == len(on.POINT_FILES) and pictured.points[0].name == "eye"
    for choice, (name, suffix) in on.EXPORTS.items():
        update = frame_labels.export_found(pictured, choice)
        assert update["interactive"] and update["value"].endswith(suffix)
        assert update["label"] == f"↓ {Path(update['value']).name}"
        assert name != "dlc" or "point 1" in open(update["value"], encoding="latin-1").read()
    frame_labels.clear_looks(pictured)
    with pytest.raises(gr.Error, match="There are no points yet: click on the picture"):
        frame_labels.find(pictured, "fast", "forward", quiet)


def test_where_points_are_seen_is_a_sentence_each():
    visible = np.array([[False, True, True], [False, False, False]])
    assert frame_labels.where_found(["a", "b"], visible) == "a is seen on 2 frames, 1 to 2. b was not found."


def test_what_is_no_picture_is_refused(pointed, pictures, upload_of, tmp_path):
    Image.new("RGB", (4000, 40)).save(tmp_path / "wide.png")
    for content, said in (
        (b"no picture", r"look.png: is no picture that can be read"),
        ((tmp_path / "wide.png").read_bytes(), "The picture is 4000×40 pixels"),
    ):
        with pytest.raises(gr.Error, match=said):
            pictures.take_picture(pointed, upload_of(content, "look.png"))
    for file in (None, {"path": "/etc/passwd"}):
        with pytest.raises(gr.Error, match="must be a file that was uploaded"):
            pictures.take_picture(pointed, file)
    with pytest.raises(gr.Error, match="There is no picture yet"):
        frame_labels.add_look(pointed, click([1, 1]))


def test_a_picture_goes_with_its_clip(pictured, server_state, clip_file):
    folder = pictured.clip.video.path.parent
    assert (folder / "picture" / "picture.png").is_file()
    server_state.place(pictured, server_state.clip_store.copy(clip_file, "other.mp4"), [])
    assert not folder.exists() and pictured.looks == [] and pictured.tracks is None and pictured.found is None


@pytest.mark.parametrize(
    "call",
    [
        lambda d: frame_labels.edit_labels(d, 0, {"data": []}),
        lambda d: frame_labels.jump_to(0)(d),
        lambda d: frame_labels.export_tracks(d, "Nuke (*.nk)"),
        lambda d: frame_labels.export_found(d, "Nuke (*.nk)"),
        lambda d: frame_labels.add_look(d, click([1, 1])),
        lambda d: frame_labels.find(d, "fast", "forward", quiet),
    ],
)
def test_without_a_clip_there_is_a_hint(call):
    with pytest.raises(gr.Error, match="There is no clip yet"):
        call(Workspace())


def test_labels_keep_their_order_by_point():
    labels = [Point(3, 1, 1, "a", 5), Point(0, 1, 1, "b", 2), Point(1, 1, 1, "a", 5)]
    assert {obj_id: [one.t for one in of] for obj_id, of in limits.by_point(labels).items()} == {5: [3, 1], 2: [0]}


def test_labels_of_two_points_are_one_message_by_names_however_many_and_near_they_are(monkeypatch):
    """Frames that have none between them are no reason to ask for a label there; a name is text, and no HTML."""
    said = []
    monkeypatch.setattr(gr, "Warning", said.append)
    pairs = [LabelDisagreement(1, t, t + 1, 50.0, 50.0) for t in range(8)]
    tracks = PointTracks([1], np.zeros((1, 3)), np.zeros((1, 9, 2)), *[np.zeros((1, 9))] * 4, (64, 64), None, pairs)
    on.suggestion_buttons(tracks, {1: "<i>eye"})
    (message,) = said
    assert message.startswith("Look again: ") and "&lt;i&gt;eye on frames 0 and 1; " in message
    assert "between" not in message and message.count("eye on frames") == 5 and message.endswith(", and 3 more.")
