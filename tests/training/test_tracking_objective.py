"""The objective of tracking: its scores are those that inference compares, and its loss prefers the true place."""

import math

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.matching.patches import patch_weights, sample_patches, window_scores
from fgvc_hf.training.tracking_objective import (
    ABSENT,
    CELL_SHARE,
    HIDDEN_SHARE,
    patch_scores,
    place_loss,
    support_weights,
    tracking_loss,
    windows_at,
)


H, W, C, RADIUS, SEARCH, TEMPERATURE = 24, 30, 16, 2, 5, 0.05


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(2, H, W, C, generator=generator), dim=-1)


def loss(source, target, places, truth, centres=None, valid=None, search=SEARCH, temperature=TEMPERATURE):
    """The loss of patches at full resolution, without "nowhere"."""
    valid = torch.ones(places.shape[:2], dtype=torch.bool) if valid is None else valid
    source, target = (F.normalize(of, dim=-1) for of in (source, target))
    patches = torch.cat([sample_patches(*pair, RADIUS) for pair in zip(source, places, strict=True)])
    corners = (truth if centres is None else centres).round().long() - search
    windows = windows_at(target, corners - RADIUS, 2 * (search + RADIUS) + 1).flatten(0, 1)
    scores = patch_scores(patches, windows, patch_weights(RADIUS)).view(*valid.shape, 2 * search + 1, -1)
    return place_loss(scores, corners, target.shape[1:3], truth, valid, None, temperature)


def whole(source, target, places, truth, valid=None, hidden=None, **named):
    """The whole objective."""
    none = torch.zeros(places.shape[:2], dtype=torch.bool)
    valid, hidden = ~none if valid is None else valid, none if hidden is None else hidden
    shifts = torch.zeros_like(truth)
    return tracking_loss(source, target, places, truth, valid, hidden, shifts, RADIUS, SEARCH, TEMPERATURE, **named)


def cells(*values):
    return torch.tensor([values], dtype=torch.float32)


def test_scores_are_those_of_inference(features):
    """Inside the frame, where inference has nothing to divide by."""
    places, centres = cells((12.3, 9.8), (8.0, 14.0))[0], cells((13, 10), (10, 12))[0]
    templates = sample_patches(features[0], places, RADIUS)
    expected = window_scores(features[1], centres, templates, patch_weights(RADIUS), SEARCH).scores
    corners = centres[None].long() - SEARCH - RADIUS
    windows = windows_at(features[1:], corners, 2 * (SEARCH + RADIUS) + 1)[0]
    torch.testing.assert_close(patch_scores(templates, windows, patch_weights(RADIUS)), expected, atol=1e-5, rtol=0)


def test_windows_are_empty_outside_the_frame(features):
    window = windows_at(features, torch.tensor([[[-2, H - 3]]]).expand(2, 1, 2), 6)[:, 0]
    assert (window[:, :, :2] == 0).all() and (window[:, 3:] == 0).all()
    torch.testing.assert_close(window[:, :3, 2:], features[:, H - 3 :, :4])


def test_the_true_place_costs_least(features):
    places = cells((10, 10), (15, 12))
    right = loss(features[:1], features[:1], places, places)
    assert right < 0.01
    for shift in ((1, 0), (0, -2), (3, 3)):
        assert loss(features[:1], features[:1], places, places + torch.tensor(shift), places) > 5


def test_a_place_between_cells_is_shared_out(features):
    """Of scores that are all equal the loss is the logarithm of their number; a distribution's entropy is least at its own peak."""
    flat = torch.ones(1, H, W, C)
    places = cells((12.25, 11.5))
    torch.testing.assert_close(
        loss(flat, flat, places, places), torch.tensor([math.log((2 * SEARCH + 1) ** 2)]), atol=1e-4, rtol=0
    )
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, C, H // 3, W // 3, generator=generator)
    smooth = F.interpolate(coarse, (H, W), mode="bicubic").movedim(1, -1)
    truth = cells((12.5, 11.0))
    moved = sample_patches(smooth[0], cells(*[(x + 0.5, y) for y in range(H) for x in range(W)])[0], 0).view(
        1, H, W, C
    )
    # `moved` shows at cell x what `smooth` has at x + 0.5, so the point at 12.5 of `smooth` is at 12 of `moved`
    assert loss(smooth, moved, truth, cells((12.0, 11.0))) < loss(smooth, moved, truth, cells((12.5, 11.0)), truth)


def test_points_that_do_not_count_change_nothing(features):
    places = cells((10, 10), (15, 12), (6, 7))
    truth = places + torch.tensor([[[2.0, 1.0], [0.0, 0.0], [-1.0, 2.0]]])
    some = torch.tensor([[True, False, True]])
    expected = (
        loss(features[:1], features[1:], places[:, :1], truth[:, :1])
        + loss(features[:1], features[1:], places[:, 2:], truth[:, 2:])
    ) / 2
    torch.testing.assert_close(loss(features[:1], features[1:], places, truth, valid=some), expected)
    far = truth.clone()
    far[:, 1] += 2 * SEARCH  # outside its window
    torch.testing.assert_close(loss(features[:1], features[1:], places, far, centres=truth), expected)
    assert loss(features[:1], features[1:], places, truth, valid=torch.zeros(1, 3, dtype=torch.bool)) == 0


def test_pairs_are_independent(features):
    places = cells((10, 10), (15, 12)).expand(2, -1, -1)
    both = loss(features, features.flip(0), places, places + 1)
    for pair in (0, 1):
        alone = loss(features[pair : pair + 1], features.flip(0)[pair : pair + 1], places[:1], places[:1] + 1)
        torch.testing.assert_close(both[pair], alone[0])


def test_length_of_the_features_does_not_matter_and_zeros_give_no_gradient(features):
    places = cells((10, 10))
    torch.testing.assert_close(
        loss(7 * features[:1], 0.2 * features[1:], places, places), loss(features[:1], features[1:], places, places)
    )
    source = features[:1].clone()
    source[:, 8:12, 8:12] = 0
    source.requires_grad_()
    loss(source, features[1:], places, places).sum().backward()
    assert source.grad is not None and source.grad.isfinite().all() and source.grad.abs().sum() > 0


def test_gradients_lead_to_the_place(features):
    source, places, truth = features[:1], cells((10, 10), (16, 12)), cells((12, 9), (15, 14))
    target = features[1:].clone().requires_grad_()
    optimizer, first = torch.optim.Adam([target], lr=0.05), None
    for _ in range(40):
        value = loss(source, target, places, truth).sum()
        first = float(value.detach()) if first is None else first
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert first > 2 and loss(source, target, places, truth).item() < 0.1
    scores = window_scores(
        F.normalize(target.detach()[0], dim=-1), truth[0], sample_patches(source[0], places[0], RADIUS),
        patch_weights(RADIUS), SEARCH,
    ).scores  # fmt: skip
    assert (scores.flatten(1).argmax(1) == (2 * SEARCH + 1) * SEARCH + SEARCH).all()


def test_half_precision_is_close(features):
    places = cells((10.4, 10.1), (15, 12.7))
    exact = loss(features[:1], features[1:], places, places)
    half = loss(features[:1].bfloat16(), features[1:].bfloat16(), places, places)
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.02)


def test_the_default_device_has_no_say(features):
    """Tensors on the meta device have no values."""
    places, truth = cells((5, 6), (20, 11)), cells((7, 5.5), (21, 12))
    valid, hidden = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    arguments = features[:1], features[1:], places, truth, valid, hidden, torch.zeros(1, 2, 2)
    for supported in (False, True):
        expected = tracking_loss(*arguments, RADIUS, SEARCH, TEMPERATURE, supported)
        with torch.device("meta"):
            found = tracking_loss(*arguments, RADIUS, SEARCH, TEMPERATURE, supported)
        assert torch.equal(found, expected)


def test_the_loss_by_value_at_the_border():
    """Cells outside the frame are no place, and the parts of a patch there count 0; the true place has no share in them."""
    generator = torch.Generator().manual_seed(1)
    source, target = F.normalize(torch.randn(2, 9, 7, 4, generator=generator), dim=-1)
    places, truth = cells((1.2, 2.0), (5.5, 0.3), (3.0, 4.0)), cells((6.4, 1.3), (0.5, 8.25), (2.7, 3.1))
    centres, weights = cells((5, 3), (2, 7), (1, 4)), patch_weights(1)
    patches, expected = sample_patches(source, places[0], 1), []
    for patch, (x, y), (left, top) in zip(patches, truth[0].tolist(), centres[0].int().tolist()):
        scores = {}
        for v in range(max(top - 2, 0), min(top + 3, 9)):
            for u in range(max(left - 2, 0), min(left + 3, 7)):
                around = [(p, v + p // 3 - 1, u + p % 3 - 1) for p in range(9)]
                inside = [(p, row, column) for p, row, column in around if 0 <= row < 9 and 0 <= column < 7]
                scores[u, v] = sum(float(weights[p] * (patch[p] @ target[row, column])) for p, row, column in inside)
        total = math.log(sum(math.exp(score / 0.3) for score in scores.values()))
        share = {(u, v): max(0, 1 - abs(x - u)) * max(0, 1 - abs(y - v)) for u, v in scores}
        expected.append(sum(share[place] * (total - scores[place] / 0.3) for place in scores))
    valid = torch.ones(1, 3, dtype=torch.bool)
    corners = centres.long() - 2
    windows = windows_at(target[None], corners - 1, 7)[0]
    scores = patch_scores(patches, windows, weights)[None]
    found = place_loss(scores, corners, (9, 7), truth, valid, None, 0.3)
    assert float(found) == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("place", "counts"),
    [((10, 7), True), ((20, 17), True), ((10, 17), True), ((9.9, 12), False), ((20.1, 12), False), ((15, 6.9), False)],
)
def test_the_outermost_cells_of_a_window_belong_to_it(place, counts):
    """The window of 11 x 11 cells around (15, 12): where all looks alike, a place in it costs the logarithm of their number."""
    flat = torch.ones(1, H, W, C)
    found = loss(flat, flat, cells((12, 12)), cells(place), centres=cells((15, 12)))
    assert float(found) == pytest.approx(math.log(121) if counts else 0, rel=1e-5)


def test_a_hidden_point_is_nowhere():
    """By value: of D x D cells with one score each and of "nowhere"; visible points mean and hidden ones mean, weighted."""
    scores, corners = torch.full((1, 3, 5, 5), 0.6), torch.zeros(1, 3, 2, dtype=torch.long)
    truth = cells((2, 2), (3, 1), (1, 1))
    valid, hidden = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    total = math.log(25 * math.exp(0.6 / 0.1) + math.exp(ABSENT / 0.1))
    expected = total - 0.6 / 0.1 + HIDDEN_SHARE * (total - ABSENT / 0.1)
    found = place_loss(scores, corners, (9, 9), truth, valid, hidden, 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    without = place_loss(scores, corners, (9, 9), truth, valid, None, 0.1)
    assert float(without) == pytest.approx(math.log(25), rel=1e-5)


def test_what_resembles_a_hidden_point_costs(features):
    """The patch of a point that is hidden must be found nowhere: where it is found the loss is greater."""
    places, hidden = cells((10, 10), (15, 12)), torch.ones(1, 2, dtype=torch.bool)
    there = whole(features[:1], features[:1], places, places, ~hidden, hidden)
    gone = whole(features[:1], features[1:], places, places, ~hidden, hidden)
    assert gone < 0.2 < 1 < there


def test_the_objective_is_the_sum_of_both_levels_and_single_cells(features):
    """Of flat features by value: every cell of each window has the score 1, "nowhere" has its own."""
    flat, places = torch.ones(1, 40, 40, C), cells((20, 20))
    count = (2 * SEARCH + 1) ** 2
    patches = math.log(count + math.exp((ABSENT - 1) / TEMPERATURE))
    found = float(whole(flat, flat, places, places))
    assert found == pytest.approx(2 * patches + CELL_SHARE * math.log(count), rel=1e-4)


def test_the_whole_objective_has_its_least_at_the_truth(features):
    smooth = F.avg_pool2d(features[:1].movedim(-1, 1), 5, 1, 2).movedim(1, -1)
    places = cells((10, 10), (15, 12))
    right = whole(smooth, smooth, places, places)
    for shift in ((4, 0), (0, -4)):
        assert whole(smooth, smooth, places, places + torch.tensor(shift)) > right + 1


def test_the_shift_moves_every_window_but_never_beyond_the_truth(features):
    """A shift of 1 leaves the truth in the window; another one changes what it is compared with."""
    places = cells((12, 12))
    arguments = features[:1], features[1:], places, places, torch.ones(1, 1, dtype=torch.bool)
    none = torch.zeros(1, 1, dtype=torch.bool)
    values = {
        float(tracking_loss(*arguments, none, torch.full((1, 1, 2), shift), RADIUS, SEARCH, TEMPERATURE))
        for shift in (-1.0, 0.0, 1.0)
    }
    assert len(values) == 3 and all(value > 0.1 for value in values)


def test_support_weights_prefer_cells_that_resemble_the_middle_one():
    """A thin thing, the middle column of a patch: its cells weigh more than by the Gaussian alone, and the sum is 1."""
    patch = torch.zeros(1, 5, 5, 2)
    patch[..., 0] = 1
    patch[:, :, 2] = torch.tensor([0.0, 1.0])
    patch = patch.flatten(1, 2)
    weights, even = support_weights(patch, 2)[0].view(5, 5), patch_weights(2).view(5, 5)
    assert weights.sum() == pytest.approx(1)
    assert (weights[:, 2] > 2 * even[:, 2]).all() and (weights[:, [0, 1, 3, 4]] < even[:, [0, 1, 3, 4]]).all()
    alike = support_weights(torch.ones(1, 25, 2) / math.sqrt(2), 2)[0]
    torch.testing.assert_close(alike, patch_weights(2))


def test_weights_of_each_patch_are_its_own(features):
    places = cells((10, 10), (15, 12))[0]
    patches = sample_patches(features[0], places, RADIUS)
    corners = places[None].long() - SEARCH - RADIUS
    windows = windows_at(features[1:], corners, 2 * (SEARCH + RADIUS) + 1)[0]
    weights = support_weights(patches, RADIUS)
    both = patch_scores(patches, windows, weights)
    for row in (0, 1):
        alone = patch_scores(patches[row, None], windows[row, None], weights[row])
        torch.testing.assert_close(both[row, None], alone, atol=1e-5, rtol=0)
    assert (both - patch_scores(patches, windows, patch_weights(RADIUS))).abs().max() > 1e-3


def test_gradients_of_the_whole_objective_are_finite_with_and_without_support(features):
    for supported in (False, True):
        source = features[:1].clone()
        source[:, 8:12, 8:12] = 0
        source.requires_grad_()
        places = cells((10, 10), (0, 0), (W - 1, H - 1))
        whole(source, features[1:], places, places, supported=supported).sum().backward()
        assert source.grad is not None and source.grad.isfinite().all() and source.grad.abs().sum() > 0
