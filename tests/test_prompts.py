"""Prompts: which are taken, and that a refused one changes nothing."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.tracking import prompts
from fgvc_hf.tracking.frames import host_array


QUERY = (0, 12.3, 20.1)


@pytest.mark.parametrize(
    ("obj_ids", "points"),
    [
        ([1, 2], [(10, 20), (30, 5)]),
        ((1, 2), [[[[10, 20]], [[30, 5]]]]),  # SAM 2: (1, N, 1, 2)
        (range(1, 3), np.array([(10, 20), (30, 5)], dtype=np.uint8)),
        (np.array([1, 2]), torch.tensor([(10.0, 20.0), (30.0, 5.0)])),
        (iter([1, 2]), [[[10, 20], [30, 5]]]),
        ([1, 2], [torch.tensor([10.0, 20.0], requires_grad=True), torch.tensor([30, 5])]),
        ([1, 2], [torch.tensor([10, 20], dtype=torch.bfloat16), (torch.tensor(30.0).bfloat16(), 5)]),
    ],
)
def test_prompts_of_every_kind_agree(processor, noise_clip, obj_ids, points):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, obj_ids, points)
    assert {obj_id: target.point for obj_id, target in session.targets.items()} == {1: (10, 20), 2: (30, 5)}


def test_a_tensor_without_values_is_no_prompt(processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    for points in (torch.ones(1, 2, device="meta"), [torch.ones(2, device="meta")]):
        with pytest.raises(ValueError, match="input_points must hold an"):
            processor.add_inputs_to_inference_session(session, 0, [1], points)


def test_prompts_do_not_change_with_what_they_were_given_as(processor):
    session = processor.init_video_session()
    point, mask = np.array([[12.0, 20.0]]), np.zeros((1, 40, 56), bool)
    sides, corners = np.array([[5.0, 6, 20, 30]]), np.array([[[5.0, 5], [20, 6], [19, 22], [4, 20]]])
    mask[0, 3:9, 4:8] = True
    kinds = {"input_points": point, "input_masks": mask, "input_boxes": sides}
    for obj_id, (name, given) in enumerate(kinds.items(), start=1):
        processor.add_inputs_to_inference_session(session, 0, [obj_id], **{name: given})
    processor.add_inputs_to_inference_session(session, 0, [4], input_boxes=corners)
    session.add_box(5, 0, corners[0])
    expected = [given.copy() for given in (mask[0], corners[0])]
    point += 9
    sides += 9
    corners += 9
    mask[:] = True
    assert session.targets[1].point == (12, 20) and (session.targets[2].mask == expected[0]).all()
    assert session.targets[3].corners.tolist() == [[5, 6], [20, 6], [20, 30], [5, 30]]
    for obj_id in (4, 5):
        np.testing.assert_array_equal(session.targets[obj_id].corners, expected[1])


@pytest.mark.parametrize("obj_id", [7, np.int64(7), np.array(7), torch.tensor(7)])
def test_one_prompt_needs_no_list(processor, noise_clip, obj_id):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 2, obj_id, (56, 40))  # the far corner is still in the frame
    assert session.obj_ids == [7] and session.targets[7].frame_idx == 2 and session.targets[7].point == (56, 40)


@pytest.mark.parametrize(
    ("frame_idx", "ids", "points", "message"),
    [
        (0, [1], [(np.nan, 3)], "input_points must be finite"),
        (0, [1], [(3, np.inf)], "input_points must be finite"),
        (0, [1], [(56.01, 3)], "input_points must lie inside the frame, x in 0..56 and y in 0..40"),
        (0, [1], [(5, 40.01)], "input_points must lie inside the frame"),
        (0, [1, 2, 3], [(5, 3), (5, 4), (-0.01, 3)], "input_points must lie inside the frame.* for target 3"),
        (10, [1], [(5, 3)], "frame_idx must be a frame of the video, 0 to 9, got 10"),
        (-1, [1], [(5, 3)], "frame_idx must be a frame of the video, 0 to 9, got -1"),
        (2.5, [1], [(5, 3)], "frame_idx"),
        (np.nan, [1], [(5, 3)], "frame_idx"),
        (0, [9], [(5, 3)], "obj_ids: target 9 exists already"),
        (0, [1, 1], [(5, 3), (6, 3)], "obj_ids: target 1 exists already"),
        (0, [1.5], [(5, 3)], "obj_ids"),
        (0, [1, 2], [(5, 3)], "input_points must hold an .* of 2 obj_ids"),
        (0, [1], [(5, 3), (6, 3)], "input_points must hold an .* of 1 obj_ids"),
        (0, [1], [(5, 3, 2)], "input_points must hold"),
        (0, [1, 2], [[5], [3], [6], [3]], "input_points must hold"),
        (0, [1, 2], [(5, 3), (6,)], "input_points"),
        (0, [], [], "input_points must hold"),
    ],
)
def test_bad_prompts_change_nothing(tiny_model, processor, noise_clip, frame_idx, ids, points, message):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, 0, [(20, 20)])
    expected = Tracker(tiny_model, processor).track(noise_clip, [(0, 20, 20)])
    processor.add_inputs_to_inference_session(session, 0, 9, [(20, 30)])
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, frame_idx, ids, points)
    assert session.obj_ids == [0, 9]
    outputs = list(tiny_model.propagate_in_video_iterator(session, max_frame_num_to_track=2))
    result = processor.post_process_point_tracking(outputs, session)
    np.testing.assert_array_equal(result.tracks[0, :3], expected.tracks[0, :3])


def test_bad_prompts_mid_stream_change_nothing(tiny_model, processor, noise_clip):
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, 0, [QUERY[1:]])
    outputs = []
    for frame in noise_clip:
        outputs.append(tiny_model.step(session, frame))
        with pytest.raises(ValueError, match="input_points must lie inside the frame"):
            processor.add_inputs_to_inference_session(session, session.next_frame_idx, [1, 2], [(5, 3), (57, 3)])
    result = processor.post_process_point_tracking(outputs, session)
    expected = Tracker(tiny_model, processor).track(noise_clip, [QUERY])
    np.testing.assert_array_equal(result.tracks, expected.tracks)
    np.testing.assert_array_equal(result.confidence, expected.confidence)


def test_a_frame_that_has_passed_takes_no_prompts(tiny_model, processor, noise_clip):
    session = processor.init_video_session()
    for frame in noise_clip[:5]:
        tiny_model.step(session, frame)
    with pytest.raises(ValueError, match="frame_idx"):
        processor.add_inputs_to_inference_session(session, 2, 1, [(5, 3)])
    processor.add_inputs_to_inference_session(session, 4, 1, [(5, 3)])  # the last one is still there
    assert tiny_model.step(session, noise_clip[5]).ids == [1]


@pytest.mark.parametrize("place", [(0, 0), (56, 0), (0, 40), (56, 40), (13.5, 22)])
def test_points_and_middles_of_boxes_may_lie_on_the_border_of_the_frame(place):
    box = np.array(place) + [(-9.0, -4), (9, -4), (9, 4), (-9, 4)]
    for target in (prompts.PointTarget(0, place), prompts.BoxTarget(0, box, False)):
        prompts.check_fits(3, target, (40, 56))


@pytest.mark.parametrize("place", [(-0.1, 5), (56.1, 5), (5, -0.1), (5, 40.1)])
def test_points_and_middles_of_boxes_beyond_the_border_are_refused(place):
    box = np.array(place) + [(-9.0, -4), (9, -4), (9, 4), (-9, 4)]
    x, y = (f"{at:g}" for at in place)
    with pytest.raises(ValueError, match=rf"x in 0..56 and y in 0..40, got \({x}, {y}\) for target 3"):
        prompts.check_fits(3, prompts.PointTarget(0, place), (40, 56))
    with pytest.raises(ValueError, match=rf"inside the frame, 40x56, but that of target 3 is \({x}, {y}\)"):
        prompts.check_fits(3, prompts.BoxTarget(0, box, True), (40, 56))


def test_masks_fit_frames_of_their_size_and_sought_points_all():
    mask = prompts.MaskTarget(0, np.zeros((40, 56), bool))
    prompts.check_fits(3, mask, (40, 56))
    prompts.check_fits(3, prompts.PointTarget(0), (40, 56))
    with pytest.raises(ValueError, match="input_masks must be 56x40 like the video, but that of target 3 is 40x56"):
        prompts.check_fits(3, mask, (56, 40))


def test_numbers_at_the_ends_of_their_ranges():
    assert [prompts.whole_number("a", of) for of in (2**53, -(2**53), 3.0, np.int32(4))] == [2**53, -(2**53), 3, 4]
    for wrong in (2**53 + 1, -(2**53) - 1):
        with pytest.raises(ValueError, match="a must be a whole number of at most 2\\^53, got one of 16 digits"):
            prompts.whole_number("a", wrong)
    for wrong in (True, np.True_, "1", b"1", 1.5, None, math.nan, math.inf, [1, 2]):
        with pytest.raises(ValueError, match="a must be a whole number"):
            prompts.whole_number("a", wrong)
    assert prompts.positive_number("a", 1e-9, "frames") == 1e-9 and isinstance(
        prompts.positive_number("a", 3, "x"), float
    )
    for wrong in (0, -1, math.inf, math.nan, True, np.True_, "1", None):
        with pytest.raises(ValueError, match="a must be a positive number of frames"):
            prompts.positive_number("a", wrong, "frames")
    for right in (None, 0, 1, 0.5):
        prompts.check_probability("a", right)
    for wrong in (-1e-9, 1 + 1e-9, True, "0.5", math.nan):
        with pytest.raises(ValueError, match="a must be a probability from 0 to 1"):
            prompts.check_probability("a", wrong)


def test_a_number_of_numpy_is_one_of_its_own_range():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (np.float16, np.float32, np.float64):
            assert prompts.positive_number("a", kind(0.5), "frames") == 0.5
            with pytest.raises(ValueError, match="a must be a positive number of frames"):
                prompts.positive_number("a", kind(np.inf), "frames")


def test_numbers_of_thousands_of_digits_are_one_sentence():
    huge = 10**5000
    with pytest.raises(ValueError, match="^a must be a whole number of at most 2\\^53, got one of 5001 digits"):
        prompts.whole_number("a", huge)
    with pytest.raises(ValueError, match="^a must be a whole number, got one of thousands of digits"):
        prompts.whole_number("a", Fraction(huge, 3))
    for wrong in (huge, 10**400):
        with pytest.raises(ValueError, match="^a must be a positive number of frames"):
            prompts.positive_number("a", wrong, "frames")
        with pytest.raises(ValueError, match="^a must be a probability"):
            prompts.check_probability("a", wrong)


def test_numbers_in_arrays_and_tensors_are_those_in_them():
    assert [prompts.whole_number("a", of) for of in (np.array(3), torch.tensor(3.0))] == [3, 3]
    for wrong in (np.array(True), torch.tensor(True), torch.empty((), device="meta"), np.eye(2)):
        with pytest.raises(ValueError, match="^a must be a whole number, got .*$") as caught:
            prompts.whole_number("a", wrong)
        assert "\n" not in str(caught.value)


PLACE = [20.25, 30.1]
PLACES = {
    "tensor with gradient": torch.tensor(PLACE, dtype=torch.float64, requires_grad=True),
    "other order of bytes": np.array(PLACE, ">f8"),
    "objects": np.array([Fraction(81, 4), 30.1], dtype=object),
    "nothing masked": np.ma.array(PLACE, mask=[False, False]),
}
NO_PLACES = {
    "text": ["20", "30"],
    "bytes": [b"20", b"30"],
    "truths": [True, False],
    "complex": np.array([20 + 1j, 30]),
    "dates": np.array(["1970-01-21", "1970-01-31"], "M8[D]"),
    "masked": np.ma.array(PLACE, mask=[True, False]),
    "beyond float64": [20, 10**400],
    "nothing": [20, None],
}


@pytest.fixture(scope="module")
def templates(tiny_model):
    """A tracker that follows points by their templates."""
    model = FgvcModel(FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})).eval()
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))


@pytest.mark.parametrize("kind", PLACES)
def test_positions_of_every_kind_are_exact_and_in_memory_of_their_own(kind):
    found = prompts.numbers_of(PLACES[kind])
    assert found is not None and found.dtype == np.float64 and found.tolist() == PLACE
    assert not np.shares_memory(found, host_array(PLACES[kind]))


@pytest.mark.parametrize("kind", NO_PLACES)
def test_what_is_no_position(kind):
    assert prompts.numbers_of(NO_PLACES[kind]) is None


def test_positions_are_read_by_one_rule_at_every_entry(templates):
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    session = templates.processor.init_video_session([frame])

    def add(**given):
        templates.processor.add_inputs_to_inference_session(session, 0, [len(session.prompts)], **given)
        return session.prompts[len(session.prompts) - 1, 0]

    for entry, numbers in (
        (lambda given: templates.track([frame], given).labels[:, 1:].tolist(), [[0.0, *PLACE]]),
        (lambda given: templates.describe(frame, given).points.tolist(), [PLACE]),
        (lambda given: templates.match(frame, frame, given) is not None and PLACE, PLACE),
        (lambda given: [add(input_points=given).point], [tuple(PLACE)]),
        (lambda given: [[*(corners := add(input_boxes=given).corners)[0], *corners[2]]], [[1.0, 2.0, *PLACE]]),
    ):
        assert entry(torch.tensor(numbers, dtype=torch.float64, requires_grad=True)) == numbers
        for wrong in (np.array(numbers).astype(str), np.array(numbers) + 1j, np.ma.masked_greater(numbers, 25)):
            with pytest.raises(ValueError, match=r"^\w+ must .*"):
                entry(wrong)


def test_described_points_stay_where_they_were_described(templates):
    points = np.array([PLACE])
    queries = templates.describe(np.zeros((48, 64, 3), np.uint8), points)
    points[:] = 0
    np.testing.assert_array_equal(queries.points, [PLACE])
