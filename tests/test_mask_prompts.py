"""Masks in memory: a map of ids, or masks of 0 and 1; everything else is one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import Tracker
from fgvc_hf.tracking.prompts import masks_of_ids


IDS = np.zeros((40, 56), np.uint8)
IDS[10:20, 10:20], IDS[10:20, 30:40] = 1, 4
ONE_HOT = np.stack([IDS == 1, IDS == 4])


@pytest.fixture(scope="module")
def tracker(tiny_model, processor):
    return Tracker(tiny_model, processor)


@pytest.mark.parametrize(
    "same",
    [
        IDS.astype(np.int64),
        torch.from_numpy(IDS),
        IDS.astype(np.uint64),
        Image.fromarray(IDS),
        IDS.tolist(),
        IDS[::-1][::-1],
    ],
    ids=["int64", "tensor", "uint64", "PIL", "list", "strided"],
)
def test_ids_of_every_kind_agree(tracker, noise_clip, same):
    expected, found = (dict(tracker.propagate_masks(noise_clip[:3], masks)) for masks in (IDS, same))
    assert all((found[t] == expected[t]).all() for t in expected)


def test_bool_is_one_object(tracker, noise_clip):
    first = dict(tracker.propagate_masks(noise_clip[:1], IDS == 4))[0]
    np.testing.assert_array_equal(first, IDS == 4)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (IDS / 1.0, r"got float64 .*masks.astype\(np.int32\)"),
        (np.where(IDS > 0, np.nan, 0), "got float64"),
        (IDS.astype(int) - 1, "ids from 0 to 2147483647, got -1 to 3"),
        (IDS.astype(np.int64) << 40, "ids from 0 to 2147483647"),
        (ONE_HOT, "one mask per object"),
        ([ONE_HOT[0], ONE_HOT[1]], "one mask per object"),
        ([ONE_HOT[0], ONE_HOT[1][:9]], "unequal size"),
        (IDS.astype(object), "got object"),
        (IDS * 0, "hold no object"),
        (IDS[:0], "hold no object"),
        (np.arange(40 * 56).reshape(40, 56), "hold 2239 objects, a session holds at most 255"),
        (IDS[:20], "40x56 like the video"),
        (None, "got object"),
        ("mask.png", "must hold integer object ids"),
    ],
)
def test_what_is_no_map_of_ids_is_one_sentence(tracker, noise_clip, masks, message):
    with pytest.raises(ValueError, match=message):
        list(tracker.propagate_masks(noise_clip, masks))
    live = tracker.stream()
    live.step(noise_clip[0])
    with pytest.raises(ValueError, match=message.replace(" like the video", "")):
        live.add_masks(masks)


@pytest.mark.parametrize(
    "same", [ONE_HOT, ONE_HOT * 1.0, torch.from_numpy(ONE_HOT), list(ONE_HOT), [torch.from_numpy(m) for m in ONE_HOT]]
)
def test_masks_of_0_and_1_agree(tiny_model, processor, noise_clip, same):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, [1, 4], input_masks=same)
    first = next(iter(tiny_model.propagate_in_video_iterator(session)))
    np.testing.assert_array_equal(first.masks, IDS)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.where(ONE_HOT, np.nan, 0), "of 0 and 1"),
        (ONE_HOT * 255, "of 0 and 1"),
        (ONE_HOT * 0.5, "of 0 and 1"),
        (-1 * ONE_HOT, "of 0 and 1"),
        ([ONE_HOT[0], ONE_HOT[1][:3]], "unequal size"),
        (ONE_HOT[:1], "for each of 2 obj_ids"),
        (ONE_HOT.astype(object), "of 0 and 1"),
        ("masks", "of 0 and 1"),
    ],
)
def test_other_masks_are_one_sentence(processor, noise_clip, masks, message):
    session = processor.init_video_session(noise_clip)
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, 0, [1, 4], input_masks=masks)
    assert session.obj_ids == []


@pytest.mark.parametrize("number", [2**63, -(10**300), "7", b"7", None, 1.5, float("nan"), float("inf"), 1e300])
def test_ids_and_frame_numbers_are_whole_numbers_of_64_bits(processor, noise_clip, number):
    session = processor.init_video_session(noise_clip)
    with pytest.raises(ValueError, match="obj_ids must be a whole number"):
        processor.add_inputs_to_inference_session(session, 0, [number], [(20, 20)])
    with pytest.raises(ValueError, match="frame_idx must be a whole number"):
        processor.add_inputs_to_inference_session(session, number, [0], [(20, 20)])


def test_ids_reach_to_the_end_of_int32_and_are_at_most_255():
    ids, masks = masks_of_ids(np.array([[0, 2**31 - 1], [3, 0]]))
    assert ids == [3, 2**31 - 1] and masks.tolist() == [
        [[False, False], [True, False]],
        [[False, True], [False, False]],
    ]
    with pytest.raises(ValueError, match="ids from 0 to 2147483647, got 0 to 2147483648"):
        masks_of_ids(np.array([[0, 2**31]]))
    ids, masks = masks_of_ids(np.arange(256).reshape(16, 16))
    assert ids == list(range(1, 256)) and (masks.sum(axis=(1, 2)) == 1).all()
    with pytest.raises(ValueError, match="hold 256 objects, a session holds at most 255"):
        masks_of_ids(np.arange(257)[None])


def test_a_session_of_255_masks_takes_new_masks_of_these_alone(processor, noise_clip):
    session, mask = processor.init_video_session(noise_clip), np.ones((40, 56), bool)
    for obj_id in range(1, 256):
        session.add_mask(obj_id, 0, mask)
    session.add_mask(7, 3, mask)
    with pytest.raises(ValueError, match="a session holds at most 255 masks"):
        session.add_mask(256, 0, mask)
    assert session.obj_ids == list(range(1, 256)) and (7, 3) in session.prompts


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.zeros((40, 56), bool), "is empty"),
        (np.ones(56, bool), r"is bool of \(56,\)"),
        (np.ones((40, 56), np.uint8), r"is uint8 of \(40, 56\)"),
    ],
)
def test_what_is_no_mask_is_told(processor, noise_clip, mask, problem):
    session = processor.init_video_session(noise_clip)
    with pytest.raises(ValueError, match=rf"bool \(H, W\) with a pixel set, but that of target 1 {problem}\.$"):
        session.add_mask(1, 0, mask)


def test_an_id_beyond_int32_is_refused_for_a_mask(processor, noise_clip):
    session = processor.init_video_session(noise_clip[:1])
    with pytest.raises(ValueError, match=f"at most 2147483647 for masks, whose ids are int32, got {2**31}"):
        processor.add_inputs_to_inference_session(session, 0, [1, 2**31], input_masks=ONE_HOT)
    assert not session.obj_ids
    processor.add_inputs_to_inference_session(session, 0, [2**31 - 1], input_masks=ONE_HOT[:1])
    processor.add_inputs_to_inference_session(session, 0, [2**31], input_points=[(5, 5)])
    assert session.obj_ids == [2**31 - 1, 2**31]
