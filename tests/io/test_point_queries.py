"""Points spread over masks, and looks that are joined, by value."""

import numpy as np
import pytest
import torch

from fgvc_hf import PointQueries
from fgvc_hf.io.point_queries import points_in_mask, points_in_masks, weights_hash


def queries(ids, value, mask_ids=(), dtype=torch.float16):
    number = len(ids)
    resizing = {"resize_policy": "none", "size": {"height": 8}, "size_divisor": 8}
    points = np.arange(2.0 * number).reshape(number, 2) + value
    patches = torch.full((number, 9, 2), value, dtype=dtype), torch.full((number, 3, 3), -value, dtype=torch.float16)
    return PointQueries(list(ids), *patches, points, "a hash", resizing, list(mask_ids))


def test_points_of_a_mask_are_the_centres_of_its_pixels():
    mask = np.zeros((9, 12), bool)
    mask[3, 7] = True
    assert points_in_mask(mask, 5).tolist() == [[7.5, 3.5]]  # no more than there are pixels
    mask[2:5, 5:10] = True
    assert points_in_mask(mask, 1).tolist() == [[7.5, 3.5]]
    every = points_in_mask(mask, 15)
    assert sorted(map(tuple, every.tolist())) == [(x + 0.5, y + 0.5) for x in range(5, 10) for y in range(2, 5)]


def test_two_points_are_the_middles_of_two_parts_of_equal_size():
    mask = np.zeros((40, 60), bool)
    mask[5:8, 4:15] = mask[30:33, 40:51] = True
    assert sorted(points_in_mask(mask, 2).tolist()) == [[9.5, 6.5], [45.5, 31.5]]


def test_each_mask_has_its_points_in_the_order_of_the_ids():
    masks = np.zeros((6, 9), np.uint8)
    masks[1, 5], masks[4, 1:3] = 7, 3
    ids, points = points_in_masks(masks, 2, (6, 9))
    assert (
        ids == [3, 3, 7]
        and sorted(points[:2].tolist()) == [[1.5, 4.5], [2.5, 4.5]]
        and points[2].tolist() == [5.5, 1.5]
    )
    with pytest.raises(ValueError, match="masks must be 9x6 like the image, got 6x9"):
        points_in_masks(masks, 2, (9, 6))


def test_joined_queries_are_those_of_both():
    one, other = queries([4, 9], 1.0, [0, 2]), queries([9], 5.0, [3], torch.bfloat16)
    both = one.joined(other)
    assert both.ids == [4, 9, 9] and both.mask_ids == [0, 2, 3] and len(both) == 3
    assert both.points.tolist() == [[1, 2], [3, 4], [5, 6]] and both.templates.dtype == torch.float16
    looks = both.looks()
    assert list(looks) == [4, 9]
    assert looks[9].templates[:, 0, 0].tolist() == [1, 5] and looks[9].images[:, 0, 0].tolist() == [-1, -5]
    assert queries([1, 2], 0.0).mask_ids == [0, 0]


def test_points_move_to_the_middles_of_what_is_nearest_to_them():
    """Row by row, the first quarter and the last of these pixels are not the middles of the two halves."""
    mask = np.zeros((5, 40), bool)
    mask[1:4, 4:34] = True
    assert sorted(points_in_mask(mask, 2).tolist()) == [[11.5, 2.5], [26.5, 2.5]]


def test_the_hash_is_of_rounded_weights_and_their_names():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
    known, state = weights_hash(model), {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(4, 3)), model.load_state_dict(state | {"1.num_batches_tracked": torch.tensor(7)})
    assert weights_hash(model) == known == weights_hash(model.bfloat16())
    model.float().load_state_dict(state | {"0.weight": state["2.weight"], "2.weight": state["0.weight"]})
    assert weights_hash(model) != known
    model.load_state_dict(state | {"1.running_mean": torch.ones(3)})
    assert weights_hash(model) != known
