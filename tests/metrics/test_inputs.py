"""What metrics are given, in every form that counts the same, and what they refuse."""

import numpy as np
import pytest
import torch

from fgvc_hf.metrics.average_jaccard import count_tapvid, queries_strided
from fgvc_hf.metrics.box_overlap import box_iou, mask_box
from fgvc_hf.metrics.end_point_error import count_flow, end_point_error
from fgvc_hf.metrics.mean_iou import confusion
from fgvc_hf.metrics.pck import aggregate_jhmdb, count_badja, count_jhmdb
from fgvc_hf.metrics.region_contour import boundary_f, count_davis, jaccard


POINTS = np.array([[[2.0, 3], [4, 3], [9, 9]], [[1, 1], [5, 1], [8, 1]]])  # (tracks, frames, 2)
HIDDEN = np.array([[False, False, True], [False, True, False]])
MASKS = np.zeros((4, 8, 8), np.uint8)
MASKS[:, 2:5, 2:6] = 1
FLOW = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
NAN, YES = np.nan, np.ones((2, 3), bool)
FORMS = {
    "arrays": lambda a: a,
    "lists": lambda a: a.tolist(),
    "tensors": torch.tensor,
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "gradients": lambda a: torch.tensor(a).float().requires_grad_(),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_numbers_counts_the_same(form):
    of = FORMS[form]
    counts = count_tapvid(of(np.zeros(2)), of(POINTS), of(HIDDEN), of(POINTS + [1, 0]), of(~HIDDEN))
    assert counts.hits.tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1]] and counts.agreement.tolist() == [2, 2]
    assert count_davis(of(MASKS), of(MASKS))[1].jaccard.tolist() == [1, 1]
    assert np.diag(confusion(of(MASKS), of(MASKS), 2)).tolist() == [4 * 52, 4 * 12]
    assert end_point_error(of(FLOW + [3, 4]), of(FLOW), of(np.ones((3, 4)))) == {"EPE": 5, "Fl": pytest.approx(1)}
    animals = count_badja(of(POINTS + [4, 0]), of(POINTS), of(YES), of(np.full(2, 225.0)))  # limits 1.5, 3, 4.5, 6
    assert animals.correct[:, 0, 0].tolist() == [False, False, True, True]
    people = count_jhmdb(of(POINTS + [1, 0]), of(POINTS), of(YES))
    assert people.distance[1].tolist() == pytest.approx([1 / (0.6 * 7)] * 3)  # the box of the second row is 7 by 0
    assert box_iou(of(np.array([0, 0, 4, 4])), of(np.array([2, 0, 6, 4]))) == pytest.approx(8 / 24)
    assert mask_box(of(MASKS[0])).tolist() == [2, 2, 6, 5]


def test_small_integers_do_not_overflow():
    far, near = np.array([250, 250, 255, 255], np.uint8), np.array([0, 0, 3, 3], np.uint8)
    assert box_iou(far, near) == 0
    limits = count_badja(
        np.uint8([[[3, 3]]]), np.uint8([[[5, 3]]]), np.ones((1, 1)), np.array([100])
    )  # 2 pixels of 10
    assert limits.correct[:, 0, 0].tolist() == [False, False, True, True]
    assert count_jhmdb(np.uint8([[[3, 3], [9, 3]]]), np.uint8([[[5, 3], [15, 3]]])).distance[0, 0] == pytest.approx(
        2 / 6
    )


def test_ids_are_not_bits():
    """1 and 2 have no bit in common."""
    assert jaccard(MASKS[0], 2 * MASKS[0]) == 1 == boundary_f(MASKS[0], 2 * MASKS[0])


ZERO = np.zeros(2)
REFUSED = {
    "frames beyond the last": (lambda: count_tapvid(ZERO + 3, POINTS, HIDDEN, POINTS, YES), "must be below 3"),
    "frames before the first": (lambda: count_tapvid(ZERO - 1, POINTS, HIDDEN, POINTS, YES), "numbers from 0 on"),
    "frames in between": (lambda: count_tapvid(ZERO + 0.5, POINTS, HIDDEN, POINTS, YES), "whole numbers"),
    "frames that are NaN": (lambda: count_tapvid(ZERO * NAN, POINTS, HIDDEN, POINTS, YES), "whole numbers"),
    "probabilities": (lambda: count_tapvid(ZERO, POINTS, HIDDEN, POINTS, 0.2 * YES), "visible must be true or false"),
    "occlusion that is NaN": (lambda: count_tapvid(ZERO, POINTS, HIDDEN * NAN, POINTS, YES), "occluded must be true"),
    "text": (
        lambda: count_tapvid(ZERO, POINTS.astype(str), HIDDEN, POINTS, YES),
        "points must be an array of numbers",
    ),
    "ragged rows": (lambda: count_tapvid(ZERO, [[[1, 2]], []], HIDDEN, POINTS, YES), "rows are of unequal length"),
    "half a stride": (lambda: queries_strided(POINTS, HIDDEN, 2.5), "a whole number"),
    "ids below 0": (lambda: count_davis(MASKS.astype(int) - 1, MASKS), "masks must hold numbers from 0 on, got -1"),
    "ids that are NaN": (lambda: count_davis(MASKS * NAN, MASKS), "masks must hold whole numbers"),
    "no pixels": (lambda: count_davis(MASKS[:, :0], MASKS[:, :0]), "must both be"),
    "a mask of one row": (lambda: jaccard(MASKS[0], MASKS[0, :1]), "must both be"),
    "a contour of one row": (lambda: boundary_f(MASKS[0], MASKS[0, :1]), "must both be"),
    "classes in between": (lambda: confusion(MASKS + 0.7, MASKS), "labels must hold whole numbers"),
    "true classes that are NaN": (lambda: confusion(MASKS, MASKS * NAN), "truth must hold whole numbers"),
    "complex flow": (lambda: end_point_error(FLOW * 1j, FLOW), "flow must be an array of numbers"),
    "flow of nothing": (lambda: end_point_error(np.array(1.0), np.array(1.0)), "must both be"),
    "validity of another shape": (lambda: end_point_error(FLOW, FLOW, YES), r"and valid \(...\), got .* and \(2, 3\)"),
    "validity that is NaN": (lambda: end_point_error(FLOW, FLOW, FLOW[..., 0] * NAN), "valid must be true or false"),
    "occluded in part": (lambda: count_flow(FLOW, FLOW, occluded=FLOW[..., 0] / 3), "occluded must be true or false"),
    "joints of animals": (lambda: count_badja(POINTS, POINTS * NAN, YES, ZERO + 1), "truth must be finite"),
    "joints in space": (lambda: count_badja(np.ones((2, 3, 3)), np.ones((2, 3, 3)), YES, ZERO + 1), "were expected"),
    "endless areas": (lambda: count_badja(POINTS, POINTS, YES, ZERO + np.inf), "areas must be positive"),
    "joints of people": (lambda: count_jhmdb(POINTS, POINTS * NAN), "truth must be finite"),
    "people in space": (lambda: count_jhmdb(np.ones((2, 3, 3)), np.ones((2, 3, 3))), "must both be"),
    "people of one column": (lambda: count_jhmdb(POINTS, POINTS, YES[:, :1]), r"counted must be \(2, 3\)"),
    "no frames": (lambda: count_jhmdb(POINTS[:0], POINTS[:0]), "must both be"),
    "no clips": (lambda: aggregate_jhmdb([]), "no clips to aggregate"),
    "a box that is NaN": (lambda: box_iou([NAN] * 4, [0, 0, 1, 1]), "a box must be four numbers"),
    "a box from right to left": (lambda: box_iou([1, 0, 0, 1], [0, 0, 1, 1]), "a box must be four numbers"),
    "the box of nothing": (lambda: mask_box(0 * MASKS[0]), "mask must be"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_be_counted_wrongly_is_refused(what):
    measure, message = REFUSED[what]
    with pytest.raises(ValueError, match=message) as refusal:
        measure()
    assert "\n" not in str(refusal.value)


def test_what_is_not_scored_may_be_anything():
    animals = count_badja(POINTS, np.where(HIDDEN[..., None], NAN, POINTS), ~HIDDEN, ZERO + 1)
    assert animals.correct[0].tolist() == (~HIDDEN).tolist()
    people = count_jhmdb(POINTS, np.where(HIDDEN[..., None], NAN, POINTS), ~HIDDEN)
    assert (people.distance[~HIDDEN] == 0).all()
    lost = count_badja(POINTS * NAN, POINTS, YES, ZERO + 1)  # a point that was not found is a miss
    assert not lost.correct.any()
