"""Templates correlated with windows."""

import math

import pytest
import torch
from feature_fields import unit_features

from fgvc_hf.matching.patches import (
    patch_offsets,
    patch_weights,
    rows_to_compute,
    sample_patches,
    search_cells,
    window_scores,
)


@pytest.fixture(params=["torch", "numba"])
def kernels(request, monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", request.param)


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_equal_the_definition(radius, dtype, kernels):
    h, w, search = 17, 23, 4
    features = unit_features(h, w, dtype=dtype)
    centres = torch.tensor([[0.0, 0.0], [11.6, 8.2], [22.0, 16.0]])
    templates = sample_patches(features, centres + 0.3, radius)
    offsets = patch_offsets(radius)
    weights = torch.rand(3, len(offsets), generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    window = window_scores(features, centres, templates, weights, search)
    assert window.scores.shape == window.share.shape == (3, 2 * search + 1, 2 * search + 1)
    assert window.corner.tolist() == [[-4, -4], [8, 4], [18, 12]]  # of the nearest cells
    for n in range(3):
        for row in range(2 * search + 1):
            for column in range(2 * search + 1):
                x, y = (window.corner[n] + torch.tensor([column, row])).tolist()
                expected, part, inside = 0.0, 0.0, 0 <= x < w and 0 <= y < h
                for p, (dx, dy) in enumerate(offsets.tolist()):
                    if 0 <= x + dx < w and 0 <= y + dy < h:
                        part += float(weights[n, p])
                        expected += float(weights[n, p] * (templates[n, p].float() @ features[y + dy, x + dx].float()))
                tolerance = 1e-5 if dtype == torch.float32 else 0.01
                assert float(window.scores[n, row, column]) == pytest.approx(expected, abs=tolerance)
                assert float(window.share[n, row, column]) == pytest.approx(part * inside, abs=1e-6)


def test_weights_that_all_points_share_give_the_same_bits(kernels):
    features = unit_features(17, 23)
    centres = torch.tensor([[3.0, 4.0], [11.0, 8.0]])
    templates, weights = sample_patches(features, centres, 3), patch_weights(3)
    one, expanded = (window_scores(features, centres, templates, of, 3) for of in (weights, weights.expand(2, -1)))
    own = window_scores(features, centres, templates, weights.repeat(2, 1), 3)
    assert torch.equal(one.scores, own.scores) and torch.equal(expanded.scores, own.scores)


def test_a_patch_at_the_border_is_compared_by_what_lies_in_the_frame():
    features = unit_features(12, 14)
    cells = torch.tensor([[0.0, 6.0], [13.0, 11.0], [6.0, 5.0]])
    window = window_scores(features, cells, sample_patches(features, cells, 2), patch_weights(2), 1)
    similarity = window.similarity(0.25)
    torch.testing.assert_close(similarity[:, 1, 1], torch.ones(3))  # themselves, though half of the first is missing
    assert (window.share > 0).flatten(1).sum(1).tolist() == [6, 4, 9]
    assert window.corner.tolist() == [[-1, 5], [12, 10], [5, 4]]
    assert float(window.similarity(0.9)[1, 1, 1]) == pytest.approx(
        float(window.share[1, 1, 1]) / 0.9
    )  # too little of it


def test_a_patch_on_whole_cells_is_a_cut_and_weights_sum_to_one():
    features = unit_features(9, 12)
    patch = sample_patches(features, torch.tensor([[5.0, 4.0]]), 1)
    torch.testing.assert_close(patch[0], features[3:6, 4:7].reshape(9, -1))
    halfway = sample_patches(features, torch.tensor([[5.5, 4.0]]), 0)
    torch.testing.assert_close(halfway[0, 0], (features[4, 5] + features[4, 6]) / 2)
    assert float(patch_weights(2).sum()) == pytest.approx(1)
    for radius in (1, 2, 3):  # a cell from the centre, and one that is `radius` away
        middle, weights = (2 * radius + 1) ** 2 // 2, patch_weights(radius)
        assert float(weights[middle + 1] / weights[middle]) == pytest.approx(math.exp(-1 / radius**2))
        assert float(weights[middle - radius] / weights[middle]) == pytest.approx(math.exp(-1))
    assert patch_weights(0).tolist() == [1.0]


def test_the_search_window_grows_with_the_frame():
    assert search_cells(100, 144, 0.1) == 12 and search_cells(2, 2, 0.1) == 1
    assert search_cells(16, 100, 0.1) == search_cells(100, 16, 0.1) == 4  # by the side of a square as large


def test_rows_that_are_computed_are_those_that_need_it_or_all_on_an_accelerator():
    wanted = torch.tensor([False, True, False, True])
    assert rows_to_compute(wanted).tolist() == [1, 3] and rows_to_compute(wanted.to("meta")).shape == (4,)


def test_rows_of_a_window_are_replaced_in_a_copy():
    features, cells = unit_features(12, 14), torch.tensor([[2.0, 6.0], [9.0, 3.0]])
    window = window_scores(features, cells, sample_patches(features, cells, 1), patch_weights(1), 1)
    before = window.scores.clone()
    swapped = window.replaced(torch.tensor([0]), torch.tensor([True]), window.rows(torch.tensor([1])))
    assert torch.equal(swapped.scores[0], before[1]) and torch.equal(swapped.corner[0], window.corner[1])
    assert torch.equal(swapped.share[1], window.share[1]) and torch.equal(window.scores, before)
    both = window.rows(torch.tensor([1, 0]))
    some = window.replaced(torch.tensor([0, 1]), torch.tensor([False, True]), both)  # chosen is the second alone
    assert torch.equal(some.scores, before[[0, 0]]) and torch.equal(some.corner, window.corner[[0, 0]])


@pytest.mark.parametrize(
    ("templates", "weights", "centres"),
    [((1, 9, 8), (9,), 1), ((1, 9, 16), (4,), 1), ((1, 8, 16), (8,), 1), ((1, 4, 16), (4,), 1), ((1, 9, 16), (9,), 2)],
)
def test_what_does_not_belong_together_is_refused(templates, weights, centres):
    with pytest.raises(ValueError, match="templates must be"):
        window_scores(unit_features(8, 9), torch.zeros(centres, 2), torch.zeros(templates), torch.ones(weights), 1)
