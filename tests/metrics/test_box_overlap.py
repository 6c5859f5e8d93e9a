import numpy as np
import pytest

from fgvc_hf.metrics.box_overlap import aggregate_boxes, box_iou, mask_box


def test_the_box_of_a_mask():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:17] = True
    mask[12, 11] = True
    assert mask_box(mask).tolist() == [10, 4, 17, 13]


@pytest.mark.parametrize(
    ("other", "iou"),
    [((0, 0, 4, 2), 1.0), ((2, 0, 6, 2), 1 / 3), ((4, 0, 8, 2), 0.0), ((9, 9, 10, 10), 0.0), ((1, 0, 3, 2), 0.5)],
)
def test_overlaps(other, iou):
    assert box_iou(np.array([0.0, 0, 4, 2]), np.array(other, float)) == pytest.approx(iou)


def test_means_are_over_objects_and_leave_out_what_is_not_seen():
    videos = {"a": {1: [1.0, 0.5, None]}, "b": {1: [0.0, 0.0], 2: [None, None]}}
    found = aggregate_boxes(videos)
    assert found["IoU"] == pytest.approx((0.75 + 0) / 2) and found["IoU>0.5"] == pytest.approx(0.25)
    assert found["success"] == pytest.approx((20 / 21 + 10 / 21) / 4)
