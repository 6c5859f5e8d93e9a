"""Tracker: one object for videos, live sources and pairs of frames, with everything in pixels of the original video."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    PointTracks,
    Tracker,
    load,
    render_clip,
)
from fgvc_hf.io.checkpoints import PRESETS, fast_dtype


QUERIES = np.array([(0, 12.3, 20.1), (3, 40.0, 8.5), (3, 30.2, 30.7), (6, 20.0, 15.0)])
FIELDS = ("queries", "tracks", "visible", "confidence", "uncertainty", "outside")


@pytest.fixture(params=["labels", "templates"])
def tracker(tiny_model, request) -> Tracker:
    """Frames are enlarged, so that pixels of the video and of the model's input differ."""
    model = FgvcModel(FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": request.param})).eval()
    model.load_state_dict(tiny_model.state_dict())
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(size={"height": 64, "width": 72})))


@pytest.fixture
def ids() -> np.ndarray:
    """Two objects (40, 56), 3 and 7."""
    ids = np.zeros((40, 56), np.uint8)
    ids[8:24, 10:30], ids[20:36, 34:50] = 3, 7
    return ids


# ---- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_used_by_everything(preset):
    tracker = Tracker.from_pretrained(preset=preset)
    resizing, method = PRESETS[preset]
    settings = tracker.processor.image_processor.to_dict()
    assert settings["resize_policy"] == resizing["resize_policy"]
    assert {name: settings["size"][name] for name in resizing["size"]} == resizing["size"]
    assert tracker.model.config.point_matching == method["point_matching"]
    sizes = {"paper": (256, 256), "fast": (256, 256), "balanced": (256, 344), "accurate": (480, 640)}
    live = tracker.stream()
    live.session.preprocess(np.zeros((90, 120, 3), np.uint8))
    assert live.session.sizes[1] == sizes[preset]


@pytest.mark.parametrize("checkpoint", [None, "fgvc-joint", "folder"])
def test_a_revision_of_a_folder_is_refused(tiny_model, processor, tmp_path, checkpoint):
    if checkpoint == "folder":
        checkpoint = str(tmp_path)
        tiny_model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
    for same in (None, "main"):
        Tracker.from_pretrained(checkpoint, revision=same)
    with pytest.raises(ValueError, match="revision 'v1.0' is of a Hub id, but .* is a folder"):
        Tracker.from_pretrained(checkpoint, revision="v1.0")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, fast_dtype(torch.device("cpu"))),
        ("bfloat16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        ("torch.float32", torch.float32),
        ("auto", None),
    ],
)
def test_precision_as_in_transformers(tiny_model, tmp_path, dtype, expected):
    tiny_model.save_pretrained(tmp_path)
    FgvcProcessor(FgvcImageProcessorPil()).save_pretrained(tmp_path)
    assert Tracker.from_pretrained(tmp_path, dtype=dtype).model.dtype == (expected or tiny_model.dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "slow"}, "preset must be one of paper, fast, balanced, accurate, got 'slow'"),
        ({"dtype": "int8"}, "dtype must be 'auto' or one of float32, bfloat16, float16, got 'int8'"),
        ({"dtype": torch.int8}, "dtype must be"),
        ({"device": "abacus"}, "device abacus is not available here"),
        ({"device": 3.5}, "device 3.5 is not available here"),
        ({"checkpoint": "fgvc-unknown"}, "fgvc-unknown: is no checkpoint"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temprature": 0.1}, "FgvcConfig has no field 'temprature'"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Tracker.from_pretrained(**arguments)
    assert "\n" not in str(error.value)


def test_load_is_the_same():
    tracker = load("fgvc-coarse", preset="fast", dtype="float32", temperature=0.05)
    assert isinstance(tracker, Tracker) and tracker.model.config.temperature == 0.05 and tracker.model.head is not None
    assert not tracker.model.training


# ---- points ---------------------------------------------------------------------------------------------------------


def same(a: PointTracks, b: PointTracks) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_tracking_is_a_session_over_the_video(tracker, noise_clip, direction):
    session = tracker.processor.init_video_session(noise_clip)
    for n, (t, x, y) in enumerate(QUERIES):
        tracker.processor.add_inputs_to_inference_session(session, int(t), n, [(x, y)])
    outputs = []
    for reverse in {"forward": [False], "backward": [True], "both": [False, True]}[direction]:
        outputs += tracker.model.propagate_in_video_iterator(session, reverse=reverse)
    expected = tracker.processor.post_process_point_tracking(outputs, session)
    same(tracker.track(noise_clip, QUERIES, direction=direction), expected)


def test_ids_are_those_of_the_caller_in_the_order_given(tracker, noise_clip):
    named = tracker.track(noise_clip, {30: QUERIES[3], -2: QUERIES[0], 7: QUERIES[1]})
    assert named.object_ids == [30, -2, 7]
    same(named, tracker.track(noise_clip, QUERIES[[3, 0, 1]]))


@pytest.mark.parametrize(("grid", "number"), [(3, 9), ((2, 4), 8)])
def test_a_grid_of_points(tracker, noise_clip, grid, number):
    tracks = tracker.track(noise_clip[:2], grid=grid)
    assert tracks.tracks.shape == (number, 2, 2) and (tracks.queries[:, 0] == 0).all()
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    assert np.unique(tracks.queries[:, 1]).size == columns and np.unique(tracks.queries[:, 2]).size == rows
    np.testing.assert_allclose(tracks.queries[:, 1:].mean(axis=0), [28, 20], rtol=1e-6)  # the centre of the frame


@pytest.mark.parametrize(
    ("video", "arguments", "message"),
    [
        (None, {}, "exactly one of points, grid and queries must be given"),
        (None, {"points": QUERIES, "grid": 3}, "exactly one of points, grid and queries"),
        (None, {"grid": 0}, "grid must be"),
        (None, {"points": [(0, 5, 5)], "threshold": 7}, "threshold must be a probability from 0 to 1, got 7"),
        (None, {"points": [(0, 5, 5)], "threshold": np.nan}, "threshold must be a probability"),
        (None, {"points": "here"}, "points must be an array"),
        (None, {"points": {1: (0, 5)}}, "points must be an array"),
        (["a.mp4", "b.mp4"], {"points": [(0, 5, 5)]}, "video must be one video, got a list of paths"),
    ],
)
def test_bad_arguments_are_one_sentence(tracker, noise_clip, video, arguments, message):
    with pytest.raises(ValueError, match=message):
        tracker.track(noise_clip if video is None else video, **arguments)


# ---- live -----------------------------------------------------------------------------------------------------------


def test_a_stream_gives_what_tracking_gives(tracker, noise_clip):
    expected, live = tracker.track(noise_clip, QUERIES[:1]), tracker.stream()
    live.add_points({5: QUERIES[0, 1:]})
    for t, frame in enumerate(noise_clip):
        result = live.step(Image.fromarray(frame) if t % 2 else frame)
        assert result.frame_idx == t and result.ids == [5] and result.masks is None
        np.testing.assert_array_equal(result.points.astype(np.float32), expected.tracks[:, t])
        for name in ("confidence", "visible", "outside", "uncertainty"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name)[:, t])


def test_prompts_are_for_the_frame_seen_last(tracker, noise_clip, ids):
    live = tracker.stream()
    live.add_points({1: (5.25, 6.5)})
    assert live.step(noise_clip[0]).points.tolist() == [[5.25, 6.5]]
    live.add_points({2: (30, 20)})
    live.add_masks(np.where(ids == 7, 7, 0))
    live.add_boxes({9: (10, 10, 30, 30)})
    result = live.step(noise_clip[1])
    assert result.ids == [1, 2] and result.queries.tolist() == [[0, 5.25, 6.5], [0, 30, 20]]
    assert np.unique(result.masks).tolist() == [0, 7] and result.masks.shape == (40, 56)
    assert result.box_ids == [9] and result.boxes.shape == (1, 4, 2)
    live.remove(1)
    live.remove(7)
    result = live.step(noise_clip[2])
    assert result.ids == [2] and result.masks is None and live.session.obj_ids == [2, 9]


def test_removed_points_stay_readable(tracker, noise_clip):
    live, outputs = tracker.stream(), []
    live.add_points({1: (12, 20), 2: (30, 20)})
    for t, frame in enumerate(noise_clip[:6]):
        if t == 3:
            live.remove(1)
        outputs.append(live.step(frame))
    tracks = tracker.processor.post_process_point_tracking(outputs, live.session)
    assert tracks.object_ids == [2, 1] and tracks.queries.tolist() == [[0, 30, 20], [0, 12, 20]]
    assert np.isfinite(tracks.tracks[1, :3]).all() and np.isnan(tracks.tracks[1, 3:]).all()
    same(
        tracker.track(noise_clip[:6], [(0, 30, 20)]),
        PointTracks([2], *(getattr(tracks, n)[:1] for n in FIELDS), size=tracks.size),
    )


@pytest.mark.slow
def test_what_a_frame_costs_does_not_grow(tracker, noise_clip, ids):
    """What a session holds, and the size of its results, at frame 10 and at frame 210."""
    live, held = tracker.stream(), []
    live.add_points({1: (12, 20), 2: (30, 20)})
    live.add_masks(ids)
    for t in range(211):
        result = live.step(noise_clip[t % 10])
        if t in (10, 210):
            sizes = {name: np.asarray(value).nbytes for name, value in result.items()}
            held.append((live.session.memory_bytes, len(live.session.prompts), len(live.session.started), sizes))
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("add_points", [(5, 5)], "points must be a dict from id to"),
        ("add_boxes", [(5, 5, 9, 9)], "boxes must be a dict from id to"),
        ("add_points", {1: (70, 5)}, "input_points must lie inside the frame"),
        ("add_points", {1: (5, 5, 5)}, "input_points must hold"),
        ("add_masks", np.zeros((40, 56), int), "masks hold no object"),
        ("add_masks", np.ones((40, 56)), "masks must hold integer object ids"),
        ("add_masks", np.ones((40, 50), int), "input_masks must be 40x56 like the video"),
        ("remove", 4, "there is no target 4"),
    ],
)
def test_bad_prompts_change_nothing(tracker, noise_clip, name, argument, message):
    live = tracker.stream()
    live.step(noise_clip[0])
    with pytest.raises(ValueError, match=message):
        getattr(live, name)(argument)
    assert live.session.obj_ids == [] and live.step(noise_clip[1]).frame_idx == 1


def test_a_session_belongs_to_the_model_that_stepped_it_first(tracker, noise_clip):
    other = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 24], propagation_radius=5)).eval()
    live = tracker.stream()
    live.add_points({1: (12, 20)})
    live.step(noise_clip[0])
    before = live.session.memory_bytes
    for _ in range(2):
        with pytest.raises(ValueError, match="inference_session was started with another model"):
            other.step(live.session, noise_clip[1])
    assert live.session.memory_bytes == before and live.step(noise_clip[1]).frame_idx == 1
    live.session.reset_tracking_data()
    assert other.step(live.session, noise_clip[0]).ids == [1]


def test_a_session_keeps_the_configuration_that_it_started_with(tracker, noise_clip, monkeypatch):
    expected, live = tracker.track(noise_clip, QUERIES[:1]), tracker.stream()
    live.add_points({0: QUERIES[0, 1:]})
    live.step(noise_clip[0])
    monkeypatch.setattr(tracker.model.config, "output_stride", 4)
    monkeypatch.setattr(tracker.model.config, "visibility_threshold", 1.0)
    for t, frame in enumerate(noise_clip[1:], start=1):
        result = live.step(frame)
        np.testing.assert_array_equal(result.points.astype(np.float32), expected.tracks[:, t])
        assert result.visible.tolist() == expected.visible[:, t].tolist()


# ---- masks, flow, match ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_masks_are_carried_both_ways(tracker, noise_clip, ids, direction):
    found = list(tracker.propagate_masks(noise_clip, ids, frame_idx=4, direction=direction))
    forward, backward = list(range(4, 10)), [4, 3, 2, 1, 0]
    order = {"forward": forward, "backward": backward, "both": forward + backward[1:]}[direction]
    assert [t for t, _ in found] == order
    np.testing.assert_array_equal(found[0][1], ids)
    for _, masks in found:
        assert masks.dtype == np.int32 and masks.shape == (40, 56) and set(np.unique(masks)) <= {0, 3, 7}


def test_bad_masks_are_refused_before_a_frame_is_asked_for(tracker, noise_clip):
    with pytest.raises(ValueError, match="masks hold no object"):
        tracker.propagate_masks(noise_clip, np.zeros((40, 56), int))
    with pytest.raises(ValueError, match="direction must be"):
        tracker.propagate_masks(noise_clip, np.ones((40, 56), int), direction="up")


def test_the_five_lines_on_a_rendered_clip():
    clip = render_clip(num_frames=6, height=96, width=128, num_points=8, seed=1)
    tracker = Tracker.from_pretrained()
    tracks = tracker.track(clip.frames, clip.queries)
    error = np.linalg.norm(tracks.tracks - clip.tracks, axis=-1)
    assert np.median(error[clip.visible & ~np.isnan(tracks.tracks[..., 0])]) < 1
    flow, heat = tracker.flow(*clip.frames[:2]), tracker.match(*clip.frames[:2], point=(64, 48))
    assert flow.flow.shape == (96, 128, 2) and heat.shape == (96, 128) and heat.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [(0, 5, 5)], "threshold": "0.5"}, "threshold must be a probability from 0 to 1, got '0.5'"),
        ({"points": [(0, 5, 5)], "threshold": True}, "threshold must be a probability from 0 to 1, got True"),
        ({"grid": 10**6}, "grid must not have more points than the frame has pixels, 40x56"),
        ({"grid": (41, 2)}, "grid must not have more points"),
    ],
)
def test_arguments_of_another_kind_are_refused(tiny_model, processor, noise_clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        Tracker(tiny_model, processor).track(noise_clip, **arguments)


def test_points_and_masks_after_the_end_of_an_iterator_are_refused(tiny_model, processor, noise_clip):
    tracker, number = Tracker(tiny_model, processor), len(noise_clip)
    for t in (99, number):  # frames are counted from 0
        with pytest.raises(ValueError, match=f"points start on frame_idx {t}, but the video ended before that frame"):
            tracker.track(iter(noise_clip), [(0, 9, 9), (t, 5, 5)])
        with pytest.raises(ValueError, match=f"masks start on frame_idx {t}, but the video ended before that frame"):
            list(tracker.propagate_masks(iter(noise_clip), np.ones(noise_clip[0].shape[:2], int), frame_idx=t))
    tracks = tracker.track(iter(noise_clip), [(number - 1, 5, 5)])
    assert tracks.tracks[0, -1].tolist() == [5, 5] and np.isnan(tracks.tracks[0, :-1]).all()


@pytest.mark.parametrize("wrong", ["swapped", "a name"])
def test_a_tracker_needs_a_model_and_a_processor(tiny_model, processor, wrong):
    parts = (processor, tiny_model) if wrong == "swapped" else ("fgvc-joint", None)
    with pytest.raises(ValueError, match="Tracker needs an FgvcModel and an FgvcProcessor"):
        Tracker(*parts)


def test_there_is_nothing_to_read_before_the_first_frame(tiny_model, processor):
    live = Tracker(tiny_model, processor).stream()
    live.add_points({1: (5, 5)})
    with pytest.raises(ValueError, match="has seen no frame yet"):
        live.session.read()


def test_a_point_outside_is_told_with_the_first_frame_and_can_be_removed(tiny_model, processor, noise_clip):
    live = Tracker(tiny_model, processor).stream()
    live.add_points({1: (5, 5), 2: (9999, 1)})
    with pytest.raises(ValueError, match="input_points must lie inside the frame.* for target 2"):
        live.step(noise_clip[0])
    live.remove(2)
    assert live.step(noise_clip[0]).ids == [1]
