"""Sessions and tracking: what must be exact."""

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, load
from fgvc_hf.data.synthetic import render_clip, translating_texture


QUERIES = np.array([(0, 12.3, 20.1), (0, 40.0, 8.5), (2, 30.2, 30.7), (5, 20.0, 15.0)])


@pytest.fixture(params=["labels", "templates"])
def tiny_model(tiny_model, request) -> FgvcModel:
    """The same promises hold however points are followed."""
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": request.param})
    model = FgvcModel(config).eval()
    model.load_state_dict(tiny_model.state_dict())
    return model


def assert_same(a, b, rows=slice(None), other_rows=slice(None)):
    np.testing.assert_array_equal(a.tracks[rows], b.tracks[other_rows])
    np.testing.assert_array_equal(a.confidence[rows], b.confidence[other_rows])


def stream(model, processor, frames, queries, late: bool):
    """Step through the frames; prompts come just before the frame they are on, or just after it."""
    session, outputs = processor.init_video_session(), []
    for t, frame in enumerate(frames):
        now = [i for i, query in enumerate(queries) if query[0] == t]
        if late:
            outputs.append(model.step(session, frame))
        if now:
            processor.add_inputs_to_inference_session(session, t, now, queries[now, 1:])
        if not late:
            outputs.append(model.step(session, frame))
    return processor.post_process_point_tracking(outputs, session)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 64, "width": 48}},
        {"resize_policy": "short_side", "size": {"shortest_edge": 51}},
        {"resize_policy": "none"},
    ],
)
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_the_query_is_returned_on_its_frame(tiny_model, noise_clip, settings, direction):
    processor = FgvcProcessor(FgvcImageProcessorPil(**settings))
    result = Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction=direction)
    for n, (t, x, y) in enumerate(QUERIES.astype(np.float32)):
        assert result.tracks[n, int(t)].tolist() == [x, y]
        assert result.visible[n, int(t)] and result.confidence[n, int(t)] == 1
    np.testing.assert_array_equal(result.queries, QUERIES)


def test_streaming_equals_offline(tiny_model, processor, noise_clip):
    offline = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    assert_same(stream(tiny_model, processor, noise_clip, QUERIES, late=False), offline)


def test_prompts_on_the_frame_that_has_just_been_seen(tiny_model, processor, noise_clip):
    offline = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    streamed = stream(tiny_model, processor, noise_clip, QUERIES, late=True)
    for n, t in enumerate(QUERIES[:, 0].astype(int)):
        np.testing.assert_array_equal(streamed.tracks[n, t + 1 :], offline.tracks[n, t + 1 :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_queries_change_nothing(tiny_model, processor, noise_clip, dtype):
    model = FgvcModel(tiny_model.config).eval()
    model.load_state_dict(tiny_model.state_dict())
    model = model.to(dtype)
    together = Tracker(model, processor).track(noise_clip, QUERIES)
    for n in range(len(QUERIES)):
        assert_same(Tracker(model, processor).track(noise_clip, QUERIES[n : n + 1]), together, 0, n)
    shuffled = [2, 0, 3, 1]
    assert_same(Tracker(model, processor).track(noise_clip, QUERIES[shuffled]), together, slice(None), shuffled)


def test_many_queries_change_nothing(tiny_model, processor, noise_clip):
    grid = np.array([(0, x, y) for x in range(3, 56, 4) for y in range(3, 40, 4)], dtype=float)
    crowd = Tracker(tiny_model, processor).track(noise_clip, np.concatenate([grid, QUERIES]))
    assert_same(crowd, Tracker(tiny_model, processor).track(noise_clip, QUERIES), slice(-4, None))


def test_backward_is_forward_on_the_reversed_clip(tiny_model, processor, noise_clip):
    last = len(noise_clip) - 1
    mirrored = QUERIES * [-1, 1, 1] + [last, 0, 0]
    backward = Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction="backward")
    forward = Tracker(tiny_model, processor).track(noise_clip[::-1], mirrored, direction="forward")
    np.testing.assert_array_equal(backward.tracks, forward.tracks[:, ::-1])


def test_both_directions_are_the_two_together(tiny_model, processor, noise_clip):
    both = Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction="both")
    forward, backward = (
        Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction=d) for d in ("forward", "backward")
    )
    assert not np.isnan(both.tracks).any()
    for n, t in enumerate(QUERIES[:, 0].astype(int)):
        np.testing.assert_array_equal(both.tracks[n, t:], forward.tracks[n, t:])
        np.testing.assert_array_equal(both.tracks[n, : t + 1], backward.tracks[n, : t + 1])
        assert np.isnan(forward.tracks[n, :t]).all() and not forward.visible[n, :t].any()


def test_features_are_computed_once_per_frame_and_memory_is_bounded(tiny_model, processor, noise_clip):
    calls = []
    hook = tiny_model.encoder.register_forward_hook(lambda *_: calls.append(1))
    session = processor.init_video_session(np.concatenate([noise_clip] * 3))
    for n, (t, x, y) in enumerate(QUERIES):
        processor.add_inputs_to_inference_session(session, int(t), n, [(x, y)])
    held = []
    for _ in tiny_model.propagate_in_video_iterator(session):
        held.append(session.memory_bytes)
    hook.remove()
    assert len(calls) == 30
    assert len(set(held[6:])) == 1


def test_start_and_number_of_frames(tiny_model, processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 4, 7, [(20, 20)])

    def visited(**arguments):
        return [output.frame_idx for output in tiny_model.propagate_in_video_iterator(session, **arguments)]

    assert visited() == [4, 5, 6, 7, 8, 9]
    assert visited(reverse=True) == [4, 3, 2, 1, 0]
    assert visited(max_frame_num_to_track=2) == [4, 5, 6]
    assert visited(max_frame_num_to_track=2, reverse=True) == [4, 3, 2]
    assert visited(start_frame_idx=8) == [8, 9]


def test_iterators_and_one_frame_clips(tiny_model, processor, noise_clip):
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    assert_same(Tracker(tiny_model, processor).track(iter(noise_clip), QUERIES), expected)
    single = Tracker(tiny_model, processor).track(noise_clip[:1], QUERIES[:1], direction="both")
    assert single.tracks.shape == (1, 1, 2) and single.visible.all()


def test_a_lost_point_stays_where_it_was_seen(tiny_model, processor, noise_clip, monkeypatch):
    if tiny_model.config.point_matching == "templates":
        pytest.skip("a template always has a best match")
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, 1, [(20, 20)])
    outputs = []
    for output in tiny_model.propagate_in_video_iterator(session, max_frame_num_to_track=2):
        outputs.append(output)
        if output.frame_idx == 1:
            with torch.inference_mode():
                for group in session.labels.groups:
                    group.labels.zero_()
    assert outputs[2].points.tolist() == outputs[1].points.tolist()
    assert outputs[2].confidence.tolist() == [0]


@pytest.mark.parametrize("velocity", [(2, -2), (3, -1)])  # by whole cells, and by half cells
def test_a_translating_texture_is_tracked(bundled_model, processor, velocity):
    texture = render_clip(num_frames=1, height=256, width=320, num_points=1, seed=3).frames[0]
    dx, dy = velocity
    frames = [texture[60 - dy * t : 188 - dy * t, 100 - dx * t : 228 - dx * t] for t in range(8)]
    queries = np.array([(0, x, y) for x in range(40, 80, 10) for y in range(40, 90, 10)], dtype=float)
    truth = queries[:, None, 1:] + np.arange(8)[None, :, None] * velocity
    result = Tracker(bundled_model, processor).track(frames, queries)
    assert np.linalg.norm(result.tracks - truth, axis=-1)[:, 1:].mean() < 0.3
    assert result.visible.all()


@pytest.mark.parametrize(
    ("frame_idx", "ids", "points", "message"),
    [
        (0, [1], [(np.nan, 3)], "input_points must be finite"),
        (0, [1], [(57, 3)], "input_points must lie inside the frame"),
        (0, [2, 1], [(5, 3), (5, -1)], "input_points must lie inside the frame"),
        (10, [1], [(5, 3)], "frame_idx must be a frame of the video, 0 to 9"),
        (-1, [1], [(5, 3)], "frame_idx must be a frame of the video"),
        (0, [9], [(5, 3)], "target 9 exists already"),
        (0, [1, 2], [(5, 3)], "one|each of 2 obj_ids"),
        (0, [1], [(5, 3, 2)], "each of 1 obj_ids"),
    ],
)
def test_bad_prompts_leave_the_session_as_it_was(tiny_model, processor, noise_clip, frame_idx, ids, points, message):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, 9, [(20, 20)])
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, frame_idx, ids, points)
    assert session.obj_ids == [9]
    assert len(list(tiny_model.propagate_in_video_iterator(session))) == 10


def test_points_may_be_nested_as_in_sam2(processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, [1, 2], [[[[10, 20]], [[30, 5]]]])
    assert [target.point for target in session.targets.values()] == [(10, 20), (30, 5)]


def test_live_frames_must_keep_their_size_and_hold_the_prompts(tiny_model, processor, noise_clip):
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, 1, [(50, 20)])
    with pytest.raises(ValueError, match="input_points must lie inside the frame"):
        tiny_model.step(session, noise_clip[0][:, :30])
    tiny_model.step(session, noise_clip[0])
    with pytest.raises(ValueError, match="frame must be of size"):
        tiny_model.step(session, noise_clip[0][:, :30])
    assert tiny_model.step(session, noise_clip[1]).frame_idx == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [(0, 5, 5)], "direction": "up"}, "direction must be"),
        ({"points": [(5, 5)]}, "points must be an array"),
        ({"points": [(0.5, 5, 5)]}, "whole frame numbers"),
        ({"points": np.zeros((0, 3))}, "points must be an array"),
    ],
)
def test_bad_arguments_to_track(tiny_model, processor, noise_clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        Tracker(tiny_model, processor).track(noise_clip, **arguments)


def test_nothing_to_propagate(tiny_model, processor, noise_clip):
    with pytest.raises(ValueError, match="no targets"):
        list(tiny_model.propagate_in_video_iterator(processor.init_video_session(noise_clip)))
    with pytest.raises(ValueError, match="no video"):
        list(tiny_model.propagate_in_video_iterator(processor.init_video_session()))


def test_strides_and_windows_are_settings(noise_clip, processor):
    for settings in ({"output_stride": 4}, {"output_stride": 8}, {"propagation_window": "square"}):
        model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4, **settings)).eval()
        result = Tracker(model, processor).track(noise_clip[:3], QUERIES[:2])
        assert np.isfinite(result.tracks).all()


def run(model, processor, session, frames, at):
    """Step through frames; `at` maps a frame number to what is done before it. Gives the outputs."""
    outputs = []
    for t, frame in enumerate(frames):
        if t in at:
            at[t](session)
        outputs.append(model.step(session, frame))
    return outputs


def test_a_removed_target_changes_nothing_for_the_others(tiny_model, processor, noise_clip):
    points = [(12 + 4 * i, 10 + 2 * i) for i in range(10)]
    live = processor.init_video_session()
    processor.add_inputs_to_inference_session(live, 0, range(10), points)
    outputs = run(tiny_model, processor, live, noise_clip, {5: lambda session: session.remove(3)})
    session = processor.init_video_session()
    others = [i for i in range(10) if i != 3]
    processor.add_inputs_to_inference_session(session, 0, others, [points[i] for i in others])
    expected = run(tiny_model, processor, session, noise_clip, {})
    for t, (with_it, without) in enumerate(zip(outputs, expected, strict=True)):
        assert with_it.ids == (list(range(10)) if t < 5 else others)
        rows = [with_it.ids.index(i) for i in others]
        np.testing.assert_array_equal(with_it.points[rows], without.points)
        np.testing.assert_array_equal(with_it.confidence[rows], without.confidence)


def test_a_target_that_was_removed_may_come_back_on_the_same_frame(tiny_model, processor, noise_clip):
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [1], [(20, 20)])
    tiny_model.step(session, noise_clip[0])
    session.remove(1)
    processor.add_inputs_to_inference_session(session, 0, [1], [(40, 25)])
    output = tiny_model.step(session, noise_clip[1])
    assert output.ids == [1] and np.abs(output.points[0] - (39, 24)).max() < 4


def test_removing_an_unknown_target(processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, [4, 2], [(5, 5), (6, 6)])
    with pytest.raises(ValueError, match=r"there is no target 3; there are \[4, 2\]"):
        session.remove(3)
    assert session.obj_ids == [4, 2]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_corrected_target_goes_on_from_the_correction(tiny_model, processor, noise_clip, reverse):
    def tracks(prompts, ids):
        session = processor.init_video_session(noise_clip)
        for obj_id, (t, x, y) in zip(ids, prompts, strict=True):
            processor.add_inputs_to_inference_session(session, t, obj_id, [(x, y)])
        outputs = list(tiny_model.propagate_in_video_iterator(session, reverse=reverse))
        return processor.post_process_point_tracking(outputs, session)

    both = tracks([(2, 20.5, 20.5), (6, 31.2, 12.7)], [1, 1])
    first, second = tracks([(2, 20.5, 20.5), (6, 31.2, 12.7)], [1, 2]).tracks
    before, after = (first, second) if not reverse else (second, first)
    turn = 6 if not reverse else 2
    np.testing.assert_array_equal(both.queries, [[2, 20.5, 20.5]])
    if reverse:
        np.testing.assert_array_equal(both.tracks[0, : turn + 1], after[: turn + 1])
        np.testing.assert_array_equal(both.tracks[0, turn + 1 :], before[turn + 1 :])
    else:
        np.testing.assert_array_equal(both.tracks[0, turn:], after[turn:])
        np.testing.assert_array_equal(both.tracks[0, :turn], before[:turn])
    assert both.tracks[0, 6].tolist() == np.float32([31.2, 12.7]).tolist()
    assert both.confidence[0, 6] == 1


def test_a_point_is_no_mask(processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, 1, [(5, 5)])
    with pytest.raises(ValueError, match="target 1 exists already, as another kind"):
        processor.add_inputs_to_inference_session(session, 3, 1, input_masks=np.ones((40, 56), bool))


@pytest.mark.parametrize(
    "settings",
    [
        {"propagation_family": "per_reference", "propagation_window": "none"},
        {"propagation_family": "windowed", "propagation_window": "square"},
        {"propagation_family": "joint", "similarity": "dot", "temperature": 1.0},
    ],
)
def test_ways_of_the_compared_methods_follow_what_moves(bundled_model, processor, settings):
    """On features that tell cells apart well, all of them do; how well is for the benchmarks to say."""
    sharp = {"temperature": 0.01, "propagation_topk": 5, "propagation_radius": 8} | settings
    config = FgvcConfig.from_dict(bundled_model.config.to_dict() | {"point_matching": "labels"} | sharp)
    model = FgvcModel(config).eval()
    model.load_state_dict(bundled_model.state_dict())
    texture = render_clip(num_frames=1, height=128, width=128, num_points=1, seed=3).frames[0]
    frames = [texture[20 - 2 * t : 84 - 2 * t, 30 + 2 * t : 94 + 2 * t] for t in range(5)]
    queries = np.array([(0, x, y) for x in (20, 32, 44) for y in (20, 32, 44)], dtype=float)
    truth = queries[:, None, 1:] + np.arange(5)[None, :, None] * (-2, 2)
    result = Tracker(model, processor).track(frames, queries)
    assert np.linalg.norm(result.tracks - truth, axis=-1).mean() < 2


def test_points_that_leave_the_frame_are_hidden_and_most_of_them_outside():
    """A texture moves out of the frame to the right, and eighteen points with it."""
    world = render_clip(num_frames=1, height=96, width=260, num_points=1, num_bodies=0, seed=3).frames[0]
    frames = np.stack([world[:, 130 - 8 * t : 258 - 8 * t] for t in range(10)])
    queries = np.array([(0, x, y) for x in (80, 88, 96) for y in range(16, 90, 12)])
    tracker = load(preset="fast")
    tracker.processor.image_processor.resize_policy = "none"
    result = tracker.track(frames, queries)
    x = queries[:, 1:2] + 8 * np.arange(10)  # (18, 10)
    assert (~result.visible)[x > 134].mean() >= 0.95
    assert result.outside[x > 134].mean() >= 0.8 and not result.outside[x < 124].any()


def test_a_point_that_leaves_the_frame_is_outside_and_one_that_is_covered_is_not():
    """A patterned strip moves to the right, half of it out of the frame; another stays, and is covered."""
    world = render_clip(num_frames=1, height=96, width=200, num_points=1, num_bodies=0, seed=3).frames[0]
    still = render_clip(num_frames=1, height=96, width=200, num_points=1, num_bodies=0, seed=5).frames[0]
    frames = []
    for t in range(10):
        frame = np.empty((96, 128, 3), np.uint8)
        frame[:48] = world[:48, 60 - 6 * t : 188 - 6 * t]
        frame[48:] = still[48:, :128]
        if t >= 4:
            frame[56:88, 20:60] = world[60:92, 150:190]
        frames.append(frame)
    tracker = load(preset="fast")
    tracker.processor.image_processor.resize_policy = "none"
    result = tracker.track(np.stack(frames), [(0, 104, 24), (0, 40, 72), (0, 20, 24)])
    assert not result.visible[0, 7:].any() and result.outside[0, 7:].all() and not result.outside[0, :4].any()
    assert not result.visible[1, 5:].any() and not result.outside[1].any()
    assert result.visible[2].all() and not result.outside[2].any()
    assert (result.uncertainty[:, 0] == 0).all() and (result.uncertainty[:, 1:] > 0).all()
    assert result.uncertainty[2, 1:].max() < result.uncertainty[1, 6:].min()


@pytest.mark.parametrize("velocity", [(0.1, 0.05), (0.3, -0.2)])
def test_slow_motion_does_not_jitter_with_the_grid_of_cells(velocity):
    """Steps from frame to frame are off by much less than a cell of two pixels."""
    clip = translating_texture(12, 96, 96, velocity=velocity, seed=1)
    tracker = load(preset="fast", dtype="float32")
    tracker.processor.image_processor.resize_policy = "none"
    result = tracker.track(clip.frames, clip.queries)
    off = np.diff(result.tracks - clip.tracks, axis=1)
    assert np.sqrt((off**2).sum(axis=-1).mean()) < 0.2
    assert np.linalg.norm(result.tracks - clip.tracks, axis=-1).mean() < 0.25
