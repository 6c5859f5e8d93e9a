import json

import numpy as np
import pytest

from fgvc_hf.metrics.end_point_error import IN_PIXELS, FlowCounts, aggregate_flow, count_flow, end_point_error


def pair():
    """Six pixels: true speeds 0, 5, 10, 39, 40 and 100, and errors 0, 1, 2, 4, 5 and 5 pixels across the motion."""
    truth = np.array([(0, 0), (5, 0), (10, 0), (39, 0), (40, 0), (100, 0)], float)
    flow = truth + np.array([(0, 0), (0, 1), (0, -2), (0, 4), (0, 5), (0, 5)], float)
    return flow, truth


def test_mean_error_and_outliers():
    flow, truth = np.zeros((4, 6, 2)), np.zeros((4, 6, 2))
    flow[..., 0] = 5
    truth[:, 5], flow[:, 5] = (100, 0), (105, 0)
    assert end_point_error(flow, truth) == {"EPE": 5.0, "Fl": pytest.approx(5 / 6)}  # 5 is 5 % of 100, not more
    valid = np.zeros((4, 6), bool)
    assert np.isnan(end_point_error(flow, truth, valid)["EPE"])
    valid[:, 5] = True
    assert end_point_error(flow, truth, valid) == {"EPE": 5.0, "Fl": 0.0}
    with pytest.raises(ValueError, match="must both be"):
        end_point_error(flow, truth[0])


def test_an_outlier_is_off_by_more_than_three_pixels():
    flow, still = np.zeros((1, 4, 2)), np.zeros((1, 4, 2))
    flow[0, :, 1] = 2.9, 3.0, 3.1, -3.0
    assert end_point_error(flow, still)["Fl"] == 0.25


def test_every_metric_of_a_pair():
    flow, truth = pair()
    occluded = np.array([False, True, False, False, True, True])
    predicted = np.array([True, True, False, False, True, False])
    scores = aggregate_flow({"a": count_flow(flow, truth, None, predicted, occluded)})
    assert scores["pixels"] == scores["pairs"]
    expected = {
        "EPE": 17 / 6,
        "Fl": 2 / 6,  # 4 of 39 and 5 of 40; 5 of 100 are 5 % and not more
        "1px": 4 / 6,  # strictly more than 1
        "EPE_noc": 6 / 3,
        "EPE_occ": 11 / 3,
        "s0-10": 1 / 2,
        "s10-40": 6 / 2,
        "s40+": 10 / 2,
        "occ_P": 2 / 3,
        "occ_R": 2 / 3,
        "occ_F1": 2 / 3,
    }
    assert scores["pixels"] == pytest.approx(expected)
    assert list(scores["pixels"]) == list(expected) and set(IN_PIXELS) <= set(expected)


def test_what_is_not_valid_does_not_count():
    flow, truth = pair()
    truth[0], flow[5], valid = np.nan, np.nan, np.array([False, True, True, True, True, False])
    occluded = np.array([True, True, False, False, False, True])
    counts = count_flow(flow, truth, valid, ~occluded, occluded)
    np.testing.assert_array_equal(counts.pixels, [4, 1, 2, 1, 3, 1])
    np.testing.assert_array_equal(counts.error, [12, 1, 6, 5, 11, 1])
    np.testing.assert_array_equal(counts.occlusion, [0, 3, 1])
    with pytest.raises(ValueError, match="must be finite where they are scored"):
        count_flow(flow, truth)


def test_averages_over_pixels_and_over_pairs():
    flow, truth = pair()
    counts = {"a": count_flow(flow, truth), "b": count_flow(truth[:2] + 3, truth[:2], occluded=np.ones(2, bool))}
    scores = aggregate_flow(counts)
    far = 3 * np.sqrt(2)
    assert scores["pixels"]["EPE"] == pytest.approx((17 + 2 * far) / 8)
    assert scores["pairs"]["EPE"] == pytest.approx((17 / 6 + far) / 2)
    assert scores["pixels"]["EPE_occ"] == scores["pairs"]["EPE_occ"] == pytest.approx(far)  # only b knows occlusion
    assert scores["pairs"]["s40+"] == 5  # only a has fast pixels
    assert np.isnan(scores["pixels"]["EPE_noc"]) and np.isnan(scores["pairs"]["EPE_noc"])
    assert (scores["pixels"]["occ_R"], scores["pixels"]["occ_F1"]) == (0, 0) and np.isnan(scores["pixels"]["occ_P"])


def test_counts_go_through_json():
    flow, truth = pair()
    occluded = np.arange(6) > 2
    counts = count_flow(flow, truth, None, occluded, occluded)
    again = FlowCounts.from_lists(json.loads(json.dumps(counts.to_lists())))
    assert aggregate_flow({"a": again}) == aggregate_flow({"a": counts})


def test_shapes_that_do_not_match():
    flow, truth = pair()
    with pytest.raises(ValueError, match="must both be"):
        count_flow(flow, truth, np.ones(5, bool))
    with pytest.raises(ValueError, match=r"occluded must be \(6,\), one for each vector, got \(5,\)"):
        count_flow(flow, truth, occluded=np.ones(5, bool))
    with pytest.raises(ValueError, match="no pairs to aggregate"):
        aggregate_flow({})
