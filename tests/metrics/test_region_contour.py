import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_hf.metrics.region_contour import (
    ObjectScores,
    aggregate,
    boundary,
    boundary_f,
    count_davis,
    describe,
    dilate,
    jaccard,
)


def square(top, left, side=10, size=(60, 70)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_jaccard_of_shifted_squares():
    assert jaccard(square(5, 5), square(5, 5)) == 1
    assert jaccard(square(5, 5), square(5, 10)) == 50 / 150
    assert jaccard(square(5, 5), square(30, 30)) == 0
    assert jaccard(square(0, 0, 0), square(0, 0, 0)) == 1


def test_boundary_by_its_definition():
    mask = np.random.default_rng(0).random((9, 11)) > 0.6
    expected = np.zeros_like(mask)
    for y in range(9):
        for x in range(11):
            right = x + 1 < 11 and mask[y, x] != mask[y, x + 1]
            below = y + 1 < 9 and mask[y, x] != mask[y + 1, x]
            corner = y + 1 < 9 and x + 1 < 11 and mask[y, x] != mask[y + 1, x + 1]
            expected[y, x] = right or below or corner
    np.testing.assert_array_equal(boundary(mask), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 6))
def test_dilation_by_its_definition(seed, radius):
    mask = np.random.default_rng(seed).random((14, 17)) > 0.93
    y, x = np.indices(mask.shape)
    expected = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        expected |= (y - row) ** 2 + (x - column) ** 2 <= radius**2
    np.testing.assert_array_equal(dilate(mask, radius), expected)


@pytest.mark.parametrize(("bound", "shift", "expected"), [(1, 1, 1.0), (8, 8, 1.0), (1, 30, 0.0)])
def test_f_of_shifted_squares(bound, shift, expected):
    assert boundary_f(square(10, 10), square(10, 10 + shift), bound) == expected


def test_f_of_a_square_that_is_off_by_more_than_the_bound():
    """Half-way: the horizontal sides still meet, the vertical ones do not."""
    score = boundary_f(square(10, 10, 20), square(10, 15, 20), 1)
    assert 0.4 < score < 0.5  # 17 or 18 of the 20 pixels of two of the four sides


def test_f_where_a_contour_is_missing():
    empty = square(0, 0, 0)
    assert boundary_f(empty, empty) == 1
    assert boundary_f(empty, square(5, 5)) == 0 == boundary_f(square(5, 5), empty)


def test_the_bound_is_a_share_of_the_diagonal_rounded_up():
    size = (480, 854)
    assert boundary_f(square(100, 100, 50, size), square(100, 108, 50, size)) == 1  # 0.008 * 979.6 = 7.8
    assert boundary_f(square(100, 100, 50, size), square(100, 109, 50, size)) < 1


def test_recall_and_decay_of_a_ramp():
    values = np.linspace(1, 0, 9)  # quarters 0-2, 2-4, 4-6, 6-8, which share their ends
    described = describe(values)
    assert described["mean"] == pytest.approx(0.5)
    assert described["recall"] == pytest.approx(4 / 9)  # one half itself does not count
    assert described["decay"] == pytest.approx(values[0:3].mean() - values[6:9].mean())


def test_quarters_of_few_frames_begin_where_halves_are_rounded_up():
    """Of 7 frames the bounds 1, 2.5, 4, 5.5 and 7 become frames 1, 3, 4, 6 and 7, as in the benchmark."""
    values = np.array([0.9, 0.1, 0.6, 0.2, 0.8, 0.4, 0.3])
    assert describe(values)["decay"] == pytest.approx((0.9 + 0.1 + 0.6) / 3 - (0.4 + 0.3) / 2)
    assert describe(np.array([0.6, 0.2]))["decay"] == pytest.approx(0.6 - 0.2)


def test_every_score_of_a_benchmark_by_value():
    """Both measures of two objects: their means, shares above a half and losses are averaged by themselves."""
    first = ObjectScores(np.array([0.9, 0.7, 0.3, 0.1, 0.0]), np.array([0.2, 0.4, 0.6, 0.8, 1.0]))
    second = ObjectScores(np.array([1.0, 1.0, 1.0, 0.8, 0.6]), np.array([0.8, 0.6, 0.55, 0.4, 0.1]))
    scores = aggregate({"a": {1: first}, "b": {1: second}})
    expected = {
        "J&F": ((0.4 + 0.88) / 2 + (0.6 + 0.49) / 2) / 2,
        "J_mean": (0.4 + 0.88) / 2,
        "J_recall": (2 / 5 + 1) / 2,
        "J_decay": (0.8 - 0.05 + 1.0 - 0.7) / 2,
        "F_mean": (0.6 + 0.49) / 2,
        "F_recall": (3 / 5 + 3 / 5) / 2,
        "F_decay": (0.3 - 0.9 + 0.7 - 0.25) / 2,
    }
    assert scores == pytest.approx(expected)


def video(shift=0):
    truth = np.zeros((6, 60, 70), int)
    masks = truth.copy()
    for t in range(6):
        truth[t][square(5, 5 + t)] = 1
        truth[t][square(30, 30, 12)] = 2
        masks[t][square(5, 5 + t + shift)] = 1
        masks[t][square(30, 30, 12)] = 2
    return masks, truth


def test_objects_are_averaged_not_videos():
    right, wrong = count_davis(*video()), count_davis(*video(shift=30))
    assert all(scores.jaccard.tolist() == [1.0] * 4 for scores in right.values())
    single = {1: wrong[1]}
    assert aggregate({"a": right, "b": single})["J_mean"] == pytest.approx(2 / 3)
    assert aggregate({"a": right})["J&F"] == 1


def test_first_and_last_frame_and_void_do_not_count():
    masks, truth = video()
    masks[[0, -1]] = 0
    truth[2, 50:, 60:] = 255
    assert aggregate({"a": count_davis(masks, truth)})["J&F"] == 1


def test_order_of_ids_changes_nothing_but_their_names():
    masks, truth = video(shift=3)
    swap = np.array([0, 2, 1])
    one, other = count_davis(masks, truth), count_davis(swap[masks], swap[truth])
    np.testing.assert_array_equal(one[1].jaccard, other[2].jaccard)
    np.testing.assert_array_equal(one[2].boundary, other[1].boundary)


def test_bad_masks():
    masks, truth = video()
    with pytest.raises(ValueError, match="must both be"):
        count_davis(masks[:3], truth)
    with pytest.raises(ValueError, match="at least 3 frames"):
        count_davis(masks[:2], truth[:2])
    masks[0, 0, 0], masks[-1, 0, 0], masks[3, 50, 60] = 9, 8, 255  # the first and the last frame are not scored
    assert count_davis(masks, truth).keys() == {1, 2}
    masks[2, 0, 0] = 7
    with pytest.raises(ValueError, match="the id 7, but the first frame only has 1 to 2"):
        count_davis(masks, truth)
    with pytest.raises(ValueError, match="no objects"):
        aggregate({})


def contour(mask):
    """Pixels that differ from a neighbour to the right, below, or both."""
    height, width = mask.shape
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0), (1, 1))
        if y + dy < height and x + dx < width and mask[y, x] != mask[y + dy, x + dx]
    }


def share_within(points, others, reach):
    near = sum(any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in others) for y, x in points)
    return near / len(points) if points else 1.0


def scores_by_definition(found, truth):
    """J and F of two sets of pixels; a contour within 0.008 of the diagonal, rounded up, is met."""
    union, shared = (found | truth).sum(), (found & truth).sum()
    ours, theirs = contour(found), contour(truth)
    reach = np.ceil(0.008 * np.hypot(*truth.shape))
    precision, recall = share_within(ours, theirs, reach), share_within(theirs, ours, reach)
    if bool(ours) != bool(theirs):
        return (shared / union if union else 1.0), 0.0
    mean = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return (shared / union if union else 1.0), mean


@pytest.mark.parametrize("size", [(24, 31), (40, 130), (150, 20)])  # reaches of 1, 2 and 2 pixels
def test_a_video_by_its_definition(size):
    """Two objects that move; the first vanishes, is found again and leaves; a third appears, which nobody was asked for."""
    draw = np.random.default_rng(size[0])
    truth, found = np.zeros((2, 7, *size), int)
    for t in range(7):
        for obj_id, ids in ((1, truth), (2, truth), (1, found), (2, found)):
            y, x = draw.integers(2, 8) + 4 * obj_id, draw.integers(0, 6) + 3 * t
            ids[t, y : y + 7, x : x + 9] = obj_id
            ids[t][(draw.random(size) < 0.02) & (ids[t] > 0)] = 0
    truth[3][truth[3] == 1] = 0
    found[4][found[4] == 1] = 0
    truth[5][truth[5] == 1] = found[5][found[5] == 1] = 0
    truth[2:, -3:] = 3
    truth[[0, 2], :2] = 255
    found[0], found[-1] = 2, 0  # neither of the first and the last frame is scored
    scores = count_davis(found, truth)
    assert scores.keys() == {1, 2}
    for obj_id, score in scores.items():
        expected = [scores_by_definition(found[t] == obj_id, truth[t] == obj_id) for t in range(1, 6)]
        assert score.jaccard.tolist() == pytest.approx([j for j, _ in expected])
        assert score.boundary.tolist() == pytest.approx([f for _, f in expected])
    assert scores[1].jaccard[2:].tolist() == [0, 0, 1] == scores[1].boundary[2:].tolist()
