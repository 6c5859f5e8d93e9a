import numpy as np
import pytest

from fgvc_hf.metrics.mean_iou import confusion, mean_iou
from fgvc_hf.metrics.pck import BadjaCounts, JhmdbCounts, aggregate_badja, aggregate_jhmdb, count_badja, count_jhmdb


def badja(offset, frames=3, joints=4, first=0.0):
    truth = np.full((frames, joints, 2), 50.0)
    points = truth + [offset, 0]
    points[0] = truth[0] + [first, 0]
    return count_badja(
        points, truth, np.ones((frames, joints), bool), np.full(frames, 400.0)
    )  # root 20: limits 2, 4, 6, 8


def test_badja_is_strict_at_the_limit():
    scores = aggregate_badja({"a": badja(4.0)})["pips"]
    assert scores == {"PCK@0.1": 0, "PCK@0.2": 0, "PCK@0.3": 1, "PCK@0.4": 1}


def test_badja_with_and_without_the_first_frame():
    scores = aggregate_badja({"a": badja(100.0)})
    assert scores["fgvc"]["PCK@0.2"] == pytest.approx(1 / 3) and scores["pips"]["PCK@0.2"] == 0


def test_badja_pools_joints_or_averages_videos():
    videos = {"long": badja(0.0, frames=5), "short": badja(100.0, frames=2, first=100.0)}
    scores = aggregate_badja(videos)
    assert scores["fgvc"]["PCK@0.2"] == pytest.approx(5 / 7)
    assert scores["pips"]["PCK@0.2"] == pytest.approx(1 / 2)


def test_badja_counts_visible_joints_only():
    truth = np.full((2, 2, 2), 50.0)
    points = truth.copy()
    points[:, 1] += 100
    visible = np.array([[True, False], [True, False]])
    counts = count_badja(points, truth, visible, np.full(2, 400.0))
    assert aggregate_badja({"a": counts})["pips"]["PCK@0.2"] == 1
    hidden = count_badja(points, truth, np.zeros((2, 2), bool), np.full(2, 400.0))
    assert np.isnan(aggregate_badja({"a": hidden})["pips"]["PCK@0.2"])
    with pytest.raises(ValueError, match="areas must be positive"):
        count_badja(points, truth, visible, np.zeros(2))
    with pytest.raises(ValueError, match="were expected"):
        count_badja(points, truth, visible[:1], np.ones(2))


def test_counts_come_back_from_lists_without_a_joint_too():
    for counts in (badja(4.0), badja(4.0, joints=0)):
        again = BadjaCounts.from_lists(counts.to_lists())
        for array in ("correct", "counted"):
            np.testing.assert_array_equal(getattr(again, array), getattr(counts, array), strict=True)
    points, truth = jhmdb(6.0)
    points[1] = -1  # without a bounding box
    for counts in (count_jhmdb(points, truth), count_jhmdb(points[:, :0], truth[:, :0])):
        lists = counts.to_lists()
        again = JhmdbCounts.from_lists(lists)
        for array in ("distance", "counted"):
            np.testing.assert_array_equal(getattr(again, array), getattr(counts, array), strict=True)


def jhmdb(offset):
    """Joints on the corners of a 30 by 40 box: the diagonal is 50, the unit 30."""
    truth = np.tile(np.array([[10.0, 10], [40, 10], [10, 50], [40, 50]]), (3, 1, 1))
    points = truth.copy()
    points[1:] += [offset, 0]
    return points, truth


def test_jhmdb_counts_the_limit_itself():
    clip = count_jhmdb(*jhmdb(6.0))  # 0.2 of the unit
    assert aggregate_jhmdb([clip], first_frame=False) == {
        "PCK@0.1": 0,
        "PCK@0.2": 1,
        "PCK@0.3": 1,
        "PCK@0.4": 1,
        "PCK@0.5": 1,
    }
    assert aggregate_jhmdb([clip])["PCK@0.1"] == pytest.approx(1 / 3)


def test_jhmdb_with_a_joint_missing():
    points, truth = jhmdb(0.0)
    points[1, 3] = -1  # lost: it neither counts nor spans the box
    points[1, 0] = truth[1, 0] + [6, 0]
    clip = count_jhmdb(points, truth)
    assert not clip.counted[1, 3] and clip.counted[0, 3]
    assert clip.distance[1, 0] == pytest.approx(6 / 30)  # the three left span the same box
    scores = aggregate_jhmdb([clip])
    assert scores["PCK@0.1"] == pytest.approx((2 / 3 + 1 + 1 + 1) / 4)
    everything_lost = count_jhmdb(np.full_like(points, -1), truth)
    assert np.isnan(aggregate_jhmdb([everything_lost])["PCK@0.1"])
    with pytest.raises(ValueError, match="must both be"):
        count_jhmdb(points[0], truth[0])


def test_jhmdb_measures_the_box_of_the_joints_that_are_scored():
    """Without the last joint the box is 30 by 40, whose diagonal is 50 and the unit 30; with it the unit is 90."""
    truth = np.tile(np.array([[10.0, 10], [40, 10], [10, 50], [100, 130]]), (2, 1, 1))
    points = truth + [6, 0]
    points[1, 3] = -1
    clip = count_jhmdb(points, truth)
    assert clip.distance[0].tolist() == pytest.approx([6 / 90] * 4)
    assert clip.distance[1, :3].tolist() == pytest.approx([6 / 30] * 3)
    chosen = count_jhmdb(points, truth, np.array([[True] * 3 + [False]] * 2))
    assert chosen.distance[0].tolist() == pytest.approx([6 / 30] * 4)


def test_a_joint_at_the_left_edge_is_not_scored():
    points, truth = jhmdb(0.0)
    points[1, :2, 0] = 0.0, 0.01
    assert count_jhmdb(points, truth).counted[1].tolist() == [False, True, True, True]


def test_mean_iou_of_classes_that_occur():
    truth = np.array([[0, 0, 1, 1], [0, 0, 2, 255]])
    labels = np.array([[0, 1, 1, 1], [0, 0, 0, 3]])
    matrix = confusion(labels, truth, num_classes=5, ignore=255)
    scores = mean_iou(matrix + 0)
    assert scores["iou_0"] == pytest.approx(3 / 5) and scores["iou_1"] == pytest.approx(2 / 3) and scores["iou_2"] == 0
    assert np.isnan(scores["iou_4"])
    assert scores["mIoU"] == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)
    np.testing.assert_array_equal(mean_iou(2 * matrix)["mIoU"], scores["mIoU"])
    with pytest.raises(ValueError, match="truth must hold classes 0 to 4, got 0 to 255"):
        confusion(labels, truth, num_classes=5)
    with pytest.raises(ValueError, match="one shape"):
        confusion(labels[:1], truth)
    assert np.isnan(mean_iou(np.zeros((3, 3), int))["mIoU"])


def test_what_is_left_out_by_its_annotation_may_still_be_predicted():
    """Of a pixel of class 1 that is taken for the class that is ignored, class 1 loses."""
    matrix = confusion(np.array([0, 1, 2]), np.array([1, 1, 0]), num_classes=3, ignore=0)
    assert matrix.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
