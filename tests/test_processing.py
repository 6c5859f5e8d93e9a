"""Processor and session, and what tracking with them keeps exact; the basics of the latter are in test_tracking.py."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, open_video
from fgvc_hf.data.synthetic import translating_texture
from fgvc_hf.tracking import label_tracker


QUERIES = np.array([(0, 12.3, 20.1), (3, 40.0, 8.5), (3, 30.2, 30.7), (6, 20.0, 15.0)])
POLICIES = [
    {"size": {"height": 64, "width": 48}},
    {"resize_policy": "short_side", "size": {"shortest_edge": 51}},
    {"resize_policy": "none"},
    {"do_resize": False},
]


def start(processor, video, queries=QUERIES):
    session = processor.init_video_session(video)
    for n, (t, x, y) in enumerate(queries):
        processor.add_inputs_to_inference_session(session, int(t), n, [(x, y)])
    return session


def assert_same(result, expected, rows=slice(None)):
    np.testing.assert_array_equal(result.tracks, expected.tracks[rows])
    np.testing.assert_array_equal(result.confidence, expected.confidence[rows])
    np.testing.assert_array_equal(result.visible, expected.visible[rows])


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", POLICIES)
@pytest.mark.parametrize(("height", "width"), [(33, 47), (24, 39)])
def test_prompts_are_returned_exactly_at_any_size(tiny_model, noise_clip, settings, height, width):
    """Corners, borders and odd fractions, equal as float32 in pixels of the original video."""
    video = np.ascontiguousarray(noise_clip[:2, :height, :width])
    inside = np.random.default_rng(0).uniform((0, 0), (width, height), (8, 2))
    points = np.concatenate([[(0, 0), (width, height), (width, 0), (0.5, height - 0.5), (1 / 3, np.pi)], inside])
    queries = np.concatenate([np.repeat([[0], [1]], len(points), axis=0), np.tile(points, (2, 1))], axis=1)
    result = Tracker(tiny_model, FgvcProcessor(FgvcImageProcessorPil(**settings))).track(
        video, queries, direction="both"
    )
    on_prompt = np.arange(len(queries)), queries[:, 0].astype(int)
    np.testing.assert_array_equal(result.tracks[on_prompt], queries[:, 1:].astype(np.float32))
    assert (result.confidence[on_prompt] == 1).all() and result.visible[on_prompt].all()
    assert (result.tracks >= 0).all() and (result.tracks <= [width, height]).all() and result.size == (height, width)


def test_cells_out_of_reach_are_left_out_without_a_trace(tiny_model, processor, noise_clip, monkeypatch):
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    skipped = []

    def everything(support, size, reach):
        skipped.append(int((~reach_of(support, size, reach)).sum()))
        return torch.ones(size, dtype=torch.bool)

    reach_of = label_tracker.label_reach
    monkeypatch.setattr(label_tracker, "label_reach", everything)
    assert_same(Tracker(tiny_model, processor).track(noise_clip, QUERIES), expected)
    assert sum(skipped) > 0


def test_start_frames_in_one_pass_equal_separate_passes(tiny_model, processor, noise_clip):
    together = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    for rows in ([0], [1, 2], [3]):  # those of one start frame
        assert_same(Tracker(tiny_model, processor).track(noise_clip, QUERIES[rows]), together, rows)


@pytest.mark.parametrize("late", [False, True])
def test_a_query_added_mid_stream_is_tracked_as_offline(tiny_model, processor, noise_clip, late):
    offline = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, 0, QUERIES[:1, 1:])
    outputs = []
    for t, frame in enumerate(noise_clip):
        if t == 3 + late:  # before the frame of the prompt is passed, or after
            processor.add_inputs_to_inference_session(session, 3, [1, 2], QUERIES[1:3, 1:])
        outputs.append(tiny_model.step(session, frame))
        assert outputs[-1].ids == ([0] if t < 3 + late else [0, 1, 2])
    streamed = processor.post_process_point_tracking(outputs, session)
    np.testing.assert_array_equal(streamed.tracks[0], offline.tracks[0])
    np.testing.assert_array_equal(streamed.tracks[1:, 3 + late :], offline.tracks[1:3, 3 + late :])
    np.testing.assert_array_equal(streamed.confidence[1:, 3 + late :], offline.confidence[1:3, 3 + late :])


def test_backward_is_forward_on_the_reversed_video_in_all_outputs(tiny_model, processor, noise_clip):
    mirrored = QUERIES * [-1, 1, 1] + [len(noise_clip) - 1, 0, 0]
    backward = Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction="backward")
    forward = Tracker(tiny_model, processor).track(noise_clip[::-1], mirrored, direction="forward")
    for name in ("tracks", "confidence", "visible"):
        np.testing.assert_array_equal(getattr(backward, name), getattr(forward, name)[:, ::-1])


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_every_frame_is_encoded_once_in_a_pass(tiny_model, processor, noise_clip, direction):
    sizes = []
    hook = tiny_model.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    try:
        Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction=direction)
    finally:
        hook.remove()
    assert sizes == [1] * {"forward": 10, "backward": 7, "both": 17}[direction]  # the last prompt is on frame 6


def test_an_iterator_is_read_as_frames_are_needed(tiny_model, processor, noise_clip):
    read = []

    def frames():
        for t, frame in enumerate(noise_clip):
            read.append(t)
            yield frame

    session = start(processor, frames())
    outputs = []
    for output in tiny_model.propagate_in_video_iterator(session):
        assert len(read) == output.frame_idx + 1
        outputs.append(output)
    result = processor.post_process_point_tracking(outputs, session)
    assert_same(result, Tracker(tiny_model, processor).track(noise_clip, QUERIES))


def test_an_iterator_may_start_late(tiny_model, processor, noise_clip):
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES[1:])
    assert_same(Tracker(tiny_model, processor).track(iter(noise_clip), QUERIES[1:]), expected)


def test_stored_features_do_not_grow_with_the_clip(tiny_model, processor, noise_clip):
    held = {}
    for repeats in (1, 4):
        session = start(processor, np.concatenate([noise_clip] * repeats), QUERIES[:3])
        list(tiny_model.propagate_in_video_iterator(session))
        labels = session.labels
        maps = [labels.memory.ring, *(tensor for group in labels.groups for tensor in (group.anchor, group.labels))]
        held[repeats] = [(tuple(tensor.shape), tensor.untyped_storage().nbytes()) for tensor in maps]
    assert held[1] == held[4]
    h, w, context = 20, 28, tiny_model.config.num_context_frames
    assert [shape for shape, _ in held[1]] == [
        (context, h, w, 32),
        *[(h, w, 32), (context + 1, h * w, 1)],
        *[(h, w, 32), (context + 1, h * w, 2)],
    ]


def test_bfloat16_tracks_as_float32_does(tiny_model, processor, noise_clip, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    half = FgvcModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    result = Tracker(half, processor).track(noise_clip, QUERIES, direction="both")
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES, direction="both")
    on_prompt = np.arange(len(QUERIES)), QUERIES[:, 0].astype(int)
    np.testing.assert_array_equal(result.tracks[on_prompt], QUERIES[:, 1:].astype(np.float32))
    assert np.abs(result.tracks - expected.tracks).mean() < 0.5
    session = start(processor, noise_clip)
    list(half.propagate_in_video_iterator(session))
    assert session.labels.memory.ring.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"output_stride": 8, "label_sigma": 1.0}, (63.9, 63.9)),  # between the cells, which are 8 pixels apart
        ({"output_stride": 2, "label_sigma": 0.1}, (1.5, 1.5)),
    ],
)
def test_a_label_too_narrow_for_the_cells_is_lost_at_once(processor, settings, arguments):
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], **settings)).eval()
    result = Tracker(model, processor).track(np.zeros((3, 64, 64, 3), np.uint8), [(0, *arguments)])
    np.testing.assert_array_equal(result.tracks[0], np.broadcast_to(np.float32(arguments), (3, 2)))
    assert result.confidence.tolist() == [[1, 0, 0]] and result.visible.tolist() == [[True, False, False]]


def test_subpixel_motion_of_band_limited_noise_is_tracked_within_half_a_pixel(bundled_model, processor):
    """Harder than whole and half cells of a natural texture, which test_tracking.py holds to 0.3 pixels."""
    clip = translating_texture(12, 128, 128, (1.3, -0.7), seed=0)
    result = Tracker(bundled_model, processor).track(clip.frames, clip.queries)
    assert result.visible.all()
    assert np.linalg.norm(result.tracks - clip.tracks, axis=-1)[:, 1:].mean() < 0.5


# ---- the order of frames --------------------------------------------------------------------------------------------


FRAMES = [
    ({}, range(4, 10)),
    ({"reverse": True}, range(4, -1, -1)),
    ({"max_frame_num_to_track": 0}, [4]),
    ({"max_frame_num_to_track": 2}, [4, 5, 6]),
    ({"max_frame_num_to_track": 99}, range(4, 10)),
    ({"max_frame_num_to_track": 2, "reverse": True}, [4, 3, 2]),
    ({"max_frame_num_to_track": 99, "reverse": True}, range(4, -1, -1)),
    ({"start_frame_idx": 2, "max_frame_num_to_track": 3}, [2, 3, 4, 5]),
    ({"start_frame_idx": 9}, [9]),
    ({"start_frame_idx": 9, "reverse": True}, range(9, -1, -1)),
]


@pytest.mark.parametrize(
    ("arguments", "expected", "live"),
    [(*case, live) for case in FRAMES for live in (False, True) if not (live and "reverse" in case[0])],
)
def test_which_frames_are_processed(tiny_model, processor, noise_clip, arguments, expected, live):
    if live and arguments.get("reverse"):
        pytest.skip("an iterator cannot be reversed")
    session = start(processor, iter(noise_clip) if live else noise_clip, [(4, 20, 20)])
    outputs = list(tiny_model.propagate_in_video_iterator(session, **arguments))
    assert [output.frame_idx for output in outputs] == list(expected)
    step = -1 if arguments.get("reverse") else 1
    for output in outputs:  # a target is there from its prompt on
        assert output.ids == ([0] if (output.frame_idx - 4) * step >= 0 and 4 in expected else [])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_frame_idx", -1),
        ("start_frame_idx", 10),
        ("start_frame_idx", 15),
        ("max_frame_num_to_track", -1),
        ("max_frame_num_to_track", -2),
    ],
)
def test_frames_that_are_not_there(tiny_model, processor, noise_clip, name, value, reverse):
    session = start(processor, noise_clip)
    with pytest.raises(ValueError, match=name):
        list(tiny_model.propagate_in_video_iterator(session, reverse=reverse, **{name: value}))
    assert len(list(tiny_model.propagate_in_video_iterator(session))) == 10


def test_frame_numbers_and_limits_are_whole_numbers_of_any_kind(tiny_model, processor, noise_clip):
    def numbers(**given):
        session = processor.init_video_session(noise_clip, max_memory_bytes=np.int64(2**40))
        processor.add_inputs_to_inference_session(session, 0, [1], input_points=[(10, 12)])
        return [output.frame_idx for output in tiny_model.propagate_in_video_iterator(session, **given)]

    assert numbers(start_frame_idx=np.float32(2), max_frame_num_to_track=torch.tensor(1.0)) == [2, 3]
    session = processor.init_video_session()
    assert type(tiny_model.step(session, noise_clip[0], np.int64(3)).frame_idx) is int and session.next_frame_idx == 4
    for name in ("start_frame_idx", "max_frame_num_to_track"):
        for wrong in ("1", 1.5, True):
            with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
                numbers(**{name: wrong})
    for wrong in ("a", 1.5, -1):
        with pytest.raises(ValueError, match="^frame_idx must be"):
            tiny_model.step(session, noise_clip[0], wrong)
    for name, wrong in (("max_memory_bytes", "5"), ("max_memory_bytes", math.nan), ("memory_device", "nowhere")):
        with pytest.raises(ValueError, match=f"^{name} must be|^device nowhere is not available"):
            processor.init_video_session(**{name: wrong})


def test_a_session_can_be_propagated_again_and_reset(tiny_model, processor, noise_clip):
    session = start(processor, noise_clip)
    first = processor.post_process_point_tracking(list(tiny_model.propagate_in_video_iterator(session)), session)
    list(tiny_model.propagate_in_video_iterator(session, max_frame_num_to_track=2))  # left behind half-way
    again = processor.post_process_point_tracking(list(tiny_model.propagate_in_video_iterator(session)), session)
    assert_same(again, first)
    session.reset_tracking_data()
    assert session.obj_ids == [0, 1, 2, 3] and session.next_frame_idx == 0
    session.reset_inference_session()
    assert session.obj_ids == []
    processor.add_inputs_to_inference_session(session, 0, 0, QUERIES[:1, 1:])
    assert len(list(tiny_model.propagate_in_video_iterator(session))) == 10


def test_frames_of_another_size_may_come_after_a_reset(tiny_model, processor, noise_clip):
    """Of a live source, where they need to fit the prompts that are kept; a video keeps its size."""
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [1, 2], [(50, 9), (12, 9)])
    tiny_model.step(session, noise_clip[0])
    session.reset_tracking_data()
    with pytest.raises(ValueError, match="inference_session has no frames yet"):
        session.sizes  # noqa: B018
    with pytest.raises(ValueError, match=r"x in 0..20 and y in 0..30, got \(50, 9\) for target 1"):
        tiny_model.step(session, noise_clip[0, :30, :20])
    session.remove(1)
    output = tiny_model.step(session, noise_clip[0, :30, :20])
    assert output.points.tolist() == [[12, 9]] and session.sizes[0] == (30, 20)
    session.reset_inference_session()
    assert tiny_model.step(session, noise_clip[0]).ids == [] and session.sizes[0] == (40, 56)
    of_video = processor.init_video_session(noise_clip)
    of_video.reset_inference_session()
    assert of_video.sizes[0] == (40, 56)


@pytest.mark.parametrize("bad", [np.zeros((30, 20)), np.zeros((30, 20, 7), np.uint8)])
def test_a_first_frame_that_is_none_leaves_the_session_usable(tiny_model, processor, noise_clip, bad):
    session = processor.init_video_session()
    with pytest.raises(ValueError):
        tiny_model.step(session, bad)
    assert tiny_model.step(session, noise_clip[0]).frame_idx == 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(15, 5, 5)], "frame_idx"),  # an iterator of ten frames, so it shows only at the end
        ([(0, 5, 5), (10, 5, 5)], "frame_idx"),
        ([(np.inf, 5, 5)], "points"),
        ([(np.nan, 5, 5)], "points"),
        ([(0, np.nan, 5)], "points"),
        ([(-1, 5, 5)], "frame_idx"),
    ],
)
def test_bad_points_to_track_in_an_iterator(tiny_model, processor, noise_clip, points, message):
    with pytest.raises(ValueError, match=message):
        Tracker(tiny_model, processor).track(iter(noise_clip), points)


# ---- results --------------------------------------------------------------------------------------------------------


def test_results_come_from_any_part_of_the_outputs_in_any_order(tiny_model, processor, noise_clip):
    session = start(processor, noise_clip)
    outputs = list(tiny_model.propagate_in_video_iterator(session))
    full = processor.post_process_point_tracking(outputs, session)
    assert_same(processor.post_process_point_tracking(outputs[::-1], session), full)
    single = processor.post_process_point_tracking(outputs[5], session)
    np.testing.assert_array_equal(single.tracks[:, 5], full.tracks[:, 5])
    assert np.isnan(np.delete(single.tracks, 5, axis=1)).all() and not np.delete(single.visible, 5, axis=1).any()
    empty = processor.post_process_point_tracking([], session)
    assert np.isnan(empty.tracks).all() and empty.tracks.shape == (4, 10, 2) and not empty.visible.any()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_visible_is_confident_enough(tiny_model, processor, noise_clip, threshold):
    result = Tracker(tiny_model, processor).track(noise_clip, QUERIES, threshold=threshold)
    np.testing.assert_array_equal(
        result.visible, (result.confidence >= threshold) & ~np.isnan(result.tracks).any(axis=-1)
    )
    assert result.visible[np.arange(4), QUERIES[:, 0].astype(int)].all()
    assert (result.confidence >= 0).all() and (result.confidence <= 1).all()


def test_ids_are_those_given_in_the_order_given(tiny_model, processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    for obj_id, (t, x, y) in zip((30, -2, 7, 0), QUERIES[::-1], strict=True):
        processor.add_inputs_to_inference_session(session, int(t), obj_id, [(x, y)])
    outputs = list(tiny_model.propagate_in_video_iterator(session))
    assert outputs[-1].ids == session.obj_ids == [30, -2, 7, 0]
    result = processor.post_process_point_tracking(outputs, session)
    assert result.object_ids == [30, -2, 7, 0]
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    assert_same(result, expected, slice(None, None, -1))
    np.testing.assert_array_equal(result.queries, expected.queries[::-1])


def test_frames_of_every_kind_agree(tiny_model, processor, noise_clip):
    expected = Tracker(tiny_model, processor).track(noise_clip, QUERIES)
    for video in (list(noise_clip), [Image.fromarray(frame) for frame in noise_clip], open_video(noise_clip)):
        assert_same(Tracker(tiny_model, processor).track(video, QUERIES), expected)
    live = processor.init_video_session()
    processor.add_inputs_to_inference_session(live, 0, 0, QUERIES[:1, 1:])
    outputs = [tiny_model.step(live, Image.fromarray(frame)) for frame in noise_clip]
    assert_same(processor.post_process_point_tracking(outputs, live), expected, [0])


# ---- processor ------------------------------------------------------------------------------------------------------


def test_calling_the_processor_is_calling_its_image_processor(processor, noise_clip):
    frames = list(noise_clip[:2])
    for arguments in ({}, {"resize_policy": "stretch", "size": {"height": 32, "width": 24}}):
        expected = processor.image_processor(frames, return_tensors="pt", **arguments).pixel_values
        assert torch.equal(processor(frames, return_tensors="pt", **arguments).pixel_values, expected)
    with pytest.raises(ValueError, match="images is missing"):
        processor()


def test_a_tracker_uses_the_processor_saved_beside_the_model(tiny_model, noise_clip, tmp_path):
    processor = FgvcProcessor(FgvcImageProcessorPil(size={"height": 48, "width": 40}))
    for part in (tiny_model, processor):
        part.save_pretrained(tmp_path)
    loaded = Tracker.from_pretrained(tmp_path, dtype="float32")
    assert loaded.processor.image_processor.to_dict() == processor.image_processor.to_dict()
    assert_same(loaded.track(noise_clip, QUERIES), Tracker(tiny_model, processor).track(noise_clip, QUERIES))


def test_a_session_without_frames_knows_no_sizes(processor):
    with pytest.raises(ValueError, match="no frames yet"):
        processor.post_process_point_tracking([], processor.init_video_session())
