"""Handlers as the functions that they are, and the table of what they refuse."""

import math
import sys
import types
import zipfile

import gradio as gr
import numpy as np
import pytest

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, open_video, read_points_file
from fgvc_hf.demo import handlers as on
from fgvc_hf.demo import limits, views, work
from fgvc_hf.demo.examples import EXAMPLES
from fgvc_hf.demo.jobs import Cancelled
from fgvc_hf.demo.limits import MAX_POINTS, Point
from fgvc_hf.demo.server_state import Workspace
from fgvc_hf.io.drawing import draw_flow
from fgvc_hf.io.flow_files import read_flo


NAN, INFINITE = math.nan, math.inf


def click(index) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": None})


def quiet(*_, **__) -> None:
    """In the place of a progress bar."""


@pytest.fixture
def tiny(monkeypatch):
    """A model that takes no time."""
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4, point_matching="templates")).eval()
    processor = FgvcProcessor(FgvcImageProcessorPil(size={"height": 48, "width": 80}))
    monkeypatch.setattr(work, "loaded", lambda preset, checkpoint=None: Tracker(model, processor))


@pytest.fixture
def pointed(workspace):
    workspace.points = [Point(0, 30.5, 20.5, "a", 0), Point(2, 60.5, 40.5, "b", 1)]
    return workspace


# ---- what is refused ----------------------------------------------------------------------------------------------

STROKE = '[[1, "brush", 3, [20, 20, 40, 30]]]'
BAD_NUMBERS = (None, "0", "../../etc", [], {}, True, 0.5, NAN, INFINITE, -1, 6, 1e300, 10**400)
BAD_CLICKS = (
    None,
    5,
    "1,2",
    [],
    [1],
    [1, 2, 3],
    ["1", "2"],
    [NAN, 1],
    [-1, 0],
    [720, 0],
    [0, 432],
    [1e300, 1],
    [[1], 2],
)
BAD_WORDS = (None, 3, "", "best", "../../etc/passwd", ["fast"], {"a": 1}, NAN, "x" * 10**6)
BAD_PAINTINGS = (
    5,
    ["brush"],
    "{",
    "{}",
    "[1]",
    "[[]]",
    "[" * 10_000,
    '[[1, "brush", 3]]',
    '[[1, "brush", 3, []]]',
    '[[1, "brush", 3, [1]]]',
    '[[1, "brush", NaN, [1, 2]]]',
    '[[1, "brush", 3, [1e300, 2]]]',
    '[[1, "brush", 1e9, [1, 2]]]',
    '[[1, "circle", 3, [1, 2]]]',
    '[[9, "brush", 3, [1, 2]]]',
    '[[1, "box", 3, [1, 2]]]',
    '[[1, "brush", 3, "1234"]]',
    f"[{','.join([STROKE[1:-1]] * 201)}]",
    f'[[1, "brush", 3, [{",".join(["1,2"] * 4001)}]]]',
    "9" * 500_000,
)
CALLS = (
    [("frame", lambda d, v=v: on.show_frame(d, v)) for v in BAD_NUMBERS]
    + [("frame of flow", lambda d, v=v: on.flow(d, 0, v, "fast")) for v in BAD_NUMBERS[:4]]
    + [("frame of match", lambda d, v=v: on.match(d, v, 0, "fast", click([1, 1]))) for v in BAD_NUMBERS[:4]]
    + [("click", lambda d, v=v: on.add_point(d, 0, "", click(v))) for v in BAD_CLICKS]
    + [("click to match", lambda d, v=v: on.match(d, 0, 1, "fast", click(v))) for v in BAD_CLICKS[:4]]
    + [("preset", lambda d, v=v: on.track(d, v, "forward", quiet)) for v in BAD_WORDS]
    + [("direction", lambda d, v=v: on.track(d, "fast", v, quiet)) for v in BAD_WORDS]
    + [("preset of flow", lambda d, v=v: on.flow(d, 0, 1, v)) for v in ("paper", None)]
    + [("name", lambda d, v=v: on.add_point(d, 0, v, click([1, 1]))) for v in (5, ["a"], "x" * 10**6)]
    + [("grid", lambda d, v=v: on.add_grid(d, 0, v)) for v in (*BAD_NUMBERS[:9], 0, 9, 10**9)]
    + [("painting", lambda d, v=v: on.follow(d, 0, v, "fast", "forward", quiet)) for v in BAD_PAINTINGS]
    + [("nothing painted", lambda d, v=v: on.follow(d, 0, v, "fast", "forward", quiet)) for v in (None, "", "[]")]
)


@pytest.mark.parametrize("number", range(len(CALLS)), ids=lambda number: f"{CALLS[number][0]} {number}")
def test_what_makes_no_sense_is_one_sentence_and_changes_nothing(workspace, monkeypatch, number):
    monkeypatch.setattr(work, "loaded", lambda *arguments, **config_fields: pytest.fail("work was started"))
    workspace.points = [Point(0, 1.5, 1.5, "there before")]
    with pytest.raises(gr.Error) as refused:
        CALLS[number][1](workspace)
    message = refused.value.message
    assert message.endswith(".") and "\n" not in message and len(message) < 200
    assert "went wrong" not in message and refused.value.print_exception is False
    assert [point.name for point in workspace.points] == ["there before"]


@pytest.mark.parametrize(
    "call",
    [
        lambda d: on.show_frame(d, 0),
        lambda d: on.add_point(d, 0, "", click([1, 1])),
        lambda d: on.undo_point(d, 0),
        lambda d: on.track(d, "fast", "forward", quiet),
        lambda d: on.follow(d, 0, STROKE, "fast", "forward", quiet),
        lambda d: on.match(d, 0, 0, "fast", click([1, 1])),
    ],
)
def test_without_a_clip_there_is_a_hint(call):
    with pytest.raises(gr.Error, match="There is no clip yet: upload or record one, or take an example."):
        call(Workspace())


def test_without_points_there_is_a_hint(workspace):
    with pytest.raises(gr.Error, match="There are no points yet"):
        on.track(workspace, "fast", "forward", quiet)


def test_errors_of_the_package_name_the_clip_as_the_user_does(pointed, tiny):
    content = pointed.clip.video.path.read_bytes()
    pointed.clip.video.path.unlink()  # it is a link
    pointed.clip.video.path.write_bytes(content[:2000] + bytes(len(content) - 2000))
    with pytest.raises(gr.Error) as refused:
        on.track(pointed, "fast", "forward", quiet)
    assert refused.value.message.startswith("my clip.mp4: is") and "damaged" in refused.value.message


def test_what_is_not_expected_is_logged_and_not_shown(pointed, monkeypatch, caplog):
    monkeypatch.setattr(on, "track_points", lambda *arguments: 1 / 0)
    with pytest.raises(gr.Error, match="Something went wrong on the server, and was logged there."):
        on.track(pointed, "fast", "forward", quiet)
    assert "division by zero" in caplog.text and "Traceback" in caplog.text


# ---- what is done -------------------------------------------------------------------------------------------------


def test_an_upload_takes_the_place_of_the_clip_before(workspace, server_state, clip_file, upload_of):
    before = workspace.clip
    workspace.points = [Point(0, 1, 1, "old")]
    shown = on.Intake(server_state).upload(workspace, upload_of(clip_file.read_bytes()))
    assert (
        len(shown) == 16 + (7 + 5 + 2) + 4 + 1 + 4 + (9 + 2)
        and workspace.points == []
        and not before.video.path.exists()
    )
    assert shown[0] == "**clip.mp4** · 6 frames of 120×72 pixels, 12 frames per second"
    assert shown[2].shape == (432, 720, 3) and shown[1].maximum == 5


def test_a_refused_upload_leaves_the_clip_before(workspace, server_state, upload_of):
    refused = upload_of(b"hello", "text.mp4")
    with pytest.raises(gr.Error, match=r"^'text.mp4: is no video"):
        on.Intake(server_state).upload(workspace, refused)
    assert workspace.clip.video.path.exists()
    assert not [path for path in server_state.cache.rglob("*") if path.is_file()]


def test_clicks_become_points(workspace):
    """The picture is shown 6 times as large as the clip."""
    picture, legend, table, target, name = on.add_point(workspace, 2, "  left   <eye> ", click([717, 3]))
    assert workspace.points == [Point(2, 119.5, 0.5, "left <eye>")] and name == ""
    assert table == [[0, 2, 119.5, 0.5]] and target["value"] == -1
    assert "left &lt;eye&gt;" in legend and "<eye>" not in legend
    assert picture.shape == (432, 720, 3) and (picture[::6, ::6] != workspace.clip.frame(2)).any()
    on.add_point(workspace, 0, None, click([3, 4]))
    assert workspace.points[1].name == "point 2"
    on.undo_point(workspace, 0)
    assert len(workspace.points) == 1
    picture, legend, table, target = on.clear_points(workspace, 0)
    assert (
        workspace.points == [] and (picture[5::6, 5::6] == workspace.clip.frame(0)).all() and "No points yet" in legend
    )


def test_a_grid_covers_the_frame_and_the_number_of_points_is_bounded(workspace):
    on.add_grid(workspace, 1, 2)
    assert [(p.t, p.x, p.y) for p in workspace.points] == [(1, 30, 18), (1, 90, 18), (1, 30, 54), (1, 90, 54)]
    with pytest.raises(gr.Error, match=f"At most {MAX_POINTS} points are followed at a time; there are 4 already."):
        on.add_grid(workspace, 1, 8)
    assert len(workspace.points) == 4


@pytest.mark.parametrize("direction", limits.DIRECTIONS)
def test_tracking_gives_video_timeline_files_and_code(pointed, tiny, direction):
    shares = []
    video, timeline, code, *files = on.track(
        pointed, "fast", direction, lambda share, desc: shares.append((share, desc))
    )
    files = [button["value"] for button in files[: len(on.POINT_FILES)]]
    overlay = open_video(video)
    assert (overlay.num_frames, overlay.fps, overlay.height, overlay.width) == (6, 12, 72, 120)
    assert [file.rpartition(".")[2] for file in files] == ["csv", "json", "npz", "mp4"]
    with np.load(files[2]) as arrays:
        assert arrays["queries"].tolist() == [[0, 30.5, 20.5], [2, 60.5, 40.5]]
        assert arrays["tracks"].shape == (2, 6, 2)
    read = read_points_file(files[1])
    assert {obj_id: of.tolist() for obj_id, of in read.items()} == {0: [[0, 30.5, 20.5]], 1: [[2, 60.5, 40.5]]}
    assert timeline.count('class="row"') == 2 and timeline.count("<svg") == 2 and ">a</b>" in timeline
    assert f"points=[(0, 30.5, 20.5), (2, 60.5, 40.5)], direction='{direction}'" in code and "'my clip.mp4'" in code
    assert [share for share, _ in shares] == sorted(share for share, _ in shares) and shares[-1] == (1.0, "drawing")
    assert {what for _, what in shares} == {"following points", "drawing"}


def test_a_cancelled_job_says_why_and_leaves_no_result(pointed, tiny, monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Info", lambda text, duration: said.append(text))

    def cancel_at_once(share, desc):
        raise Cancelled("Cancelled.")

    assert on.track(pointed, "fast", "forward", cancel_at_once) == gr.skip()
    assert said == ["Cancelled."]
    assert not list(pointed.clip.video.path.parent.glob("points/*"))
    assert on.track(pointed, "fast", "forward", quiet)[0].endswith("tracked.mp4")  # and the next time it works


def test_points_that_are_placed_meanwhile_are_for_the_next_time(pointed, tiny):
    _, timeline, code, *_ = on.track(pointed, "fast", "forward", lambda share, desc: on.clear_points(pointed, 0))
    assert timeline.count('class="row"') == 2 and "points=[(0, 30.5, 20.5), (2, 60.5, 40.5)]" in code
    assert pointed.points == []


def test_errors_of_the_system_name_no_paths(pointed, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device", "/srv/secret")

    monkeypatch.setattr(on, "track_points", full)
    with pytest.raises(gr.Error, match="Something went wrong on the server, and was logged there.") as refused:
        on.track(pointed, "fast", "forward", quiet)
    assert "secret" not in refused.value.message and "secret" in caplog.text


def test_painted_objects_are_followed(workspace, tiny):
    painted = '[[1, "brush", 4, [20, 20, 40, 30]], [3, "box", 1, [90, 60, 70, 30]]]'
    video, timeline, *files = on.follow(workspace, 1, painted, "fast", "both", quiet)
    files = [button["value"] for button in files]
    assert open_video(video).num_frames == 6 and [file.rpartition("/")[2] for file in files] == [
        "masks.zip",
        "masks.mp4",
    ]
    assert "object 1" in timeline and "object 3" in timeline and "object 2" not in timeline
    with zipfile.ZipFile(files[0]) as archive:
        assert sorted(archive.namelist()) == [f"{t:05d}.png" for t in range(6)]


@pytest.mark.parametrize("preset, checkpoint", [
    ("fast", "fgvc-coarse"), ("balanced", "fgvc-coarse"), ("accurate", "fgvc-joint"),
])  # fmt: skip
def test_masks_are_propagated_by_the_fast_checkpoint_unless_accuracy_is_asked_for(preset, checkpoint):
    size = {"height": 256, "width": 256} if preset == "fast" else {"shortest_edge": 256}
    tracker = work.loaded_for_masks(preset)
    assert dict(tracker.processor.image_processor.size) == size
    assert tracker.model.config.fine_size == {"fgvc-coarse": 48, "fgvc-joint": 0}[checkpoint]
    assert tracker is work.loaded_for_masks(preset)  # loaded once


def test_shapes_are_rasterised_where_they_were_painted():
    read = limits.shapes(
        '[[2, "box", 1, [10, 5, 20, 9]], [1, "brush", 2, [40, 30, 60, 30]], [0, "brush", 1, [50, 30]]]', 60, 80
    )
    ids = work.rasterize(read, 60, 80)
    assert (ids[5:9, 10:20] == 2).all() and (ids == 2).sum() <= 6 * 12 and (ids[5:9, 22:] == 0).all()
    assert ids[29, 45] == ids[30, 58] == 1 and ids[35, 50] == 0
    assert ids[29, 49] == 0  # erased
    assert set(np.unique(ids)) == {0, 1, 2}


def test_flow_between_two_frames(workspace, tiny):
    picture, *files = on.flow(workspace, 0, 2, "fast")
    files = [button["value"] for button in files]
    assert picture.shape == (432, 720 + 112, 3) and picture.dtype == np.uint8  # a margin with the colour wheel
    with np.load(files[1]) as arrays:
        expected = draw_flow(arrays["flow"], occluded=arrays["occluded"])
    np.testing.assert_array_equal(picture[::6, :720:6], expected)
    assert read_flo(files[0]).shape == (72, 120, 2) and [file[-4:] for file in files] == [".flo", ".npz", ".png"]


def test_matching_a_frame_with_itself_finds_the_pixel(workspace):
    """With the bundled checkpoint, through everything that the page goes through."""
    crossed, heat, said = on.match(workspace, 3, 3, "fast", click([363, 243]))
    x, y = (float(v) for v in said.partition("probably at (")[2].partition(")")[0].split(", "))
    assert abs(x - 60.5) <= 1 and abs(y - 40.5) <= 1
    assert heat.shape == crossed.shape == (432, 720, 3)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.key)
def test_examples_show_with_the_tracks_that_ship(example, server_state):
    workspace = server_state.workspace("me")
    shown = on.Intake(server_state).example(workspace, click(EXAMPLES.index(example)))
    assert open_video(shown[16]).num_frames == workspace.clip.num_frames == example.tracks().tracks.shape[1]
    assert example.tracks().queries.tolist() == [[point.t, point.x, point.y] for point in example.points]
    assert shown[17].count('class="row"') == len(example.points) and example.thumbnail.is_file()


@pytest.mark.slow
def test_tracks_that_ship_are_those_of_the_tracker(server_state):
    """If this fails, the tracker or the checkpoint has changed: run `python scripts/demo_examples.py`."""
    example = EXAMPLES[0]
    workspace = server_state.workspace("me")
    on.Intake(server_state).example(workspace, click(0))
    held = example.tracks()
    points = [(point.t, point.x, point.y) for point in example.points]
    tracks = work.loaded("balanced").track(workspace.clip.video.frames(0, 8), points)
    off = np.linalg.norm(tracks.tracks - held.tracks[:, :8], axis=-1)
    assert np.median(off) < 0.5 and (tracks.visible == held.visible[:, :8]).mean() > 0.9


def test_a_timeline_says_where_a_target_is_hidden():
    confidence = np.array([[np.nan, 1.0, 0.9, 0.1, 0.2, 0.8]])
    visible = np.array([[False, True, True, False, False, True]])
    html = views.timeline(['<b>"eye"'], [0], confidence, visible)
    rectangles = [part.split('"')[0] for part in html.split('<rect class="')[1:]]
    assert rectangles == ["off", "seen", "hidden", "seen"]
    assert 'x="3" y="0" width="2"' in html and "seen on 3 of 5 frames" in html
    assert "&lt;b&gt;&quot;eye&quot;" in html and '<b>"eye"' not in html


def test_on_zero_gpu_heavy_work_is_marked(monkeypatch):
    spaces = types.ModuleType("spaces")
    spaces.GPU = lambda duration: lambda handler: ("on the GPU", duration, handler)
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    assert on.on_gpu(len) == ("on the GPU", on.GPU_SECONDS, len)
    monkeypatch.delitem(sys.modules, "spaces")
    assert on.on_gpu(len) is len
