import itertools
import math

import pytest
import torch

from fgvc_hf import FgvcConfig
from fgvc_hf.coordinates import cell_to_point, feature_size
from fgvc_hf.tracking.label_maps import (
    EVEN_PEAK,
    LABEL_CUTOFF,
    draw_masks,
    draw_points,
    label_reach,
    label_uncertainty,
    object_ids,
    peak_confidence,
    propagate_labels,
    propagate_softmax,
    read_masks,
    read_points,
)


def random_points(number: int, height: int, width: int, margin: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(number, 2, generator=generator, dtype=torch.float64)
    return margin + unit * (torch.tensor([width, height]) - 2 * margin)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_aligned_readout_returns_the_point_and_legacy_is_shifted(stride):
    height, width = 256, 320
    size, points = feature_size(height, width, stride), random_points(100, height, width, 20)
    labels = draw_points(points, size, stride, sigma=6.0)
    aligned = read_points(labels, size, (height, width), stride, 6.0, "aligned")[0] - points
    legacy = read_points(labels, size, (height, width), stride, 6.0, "legacy")[0] - points
    shift = (stride - 1) / 2
    assert aligned.mean(dim=0).abs().max() < 0.1 * stride
    assert aligned.norm(dim=1).mean() < {2: 0.25, 4: 0.7, 8: 2.4}[stride]
    assert legacy.mean(dim=0) == pytest.approx([shift, shift], abs=0.15 * stride)


@pytest.mark.parametrize(
    ("stride", "readout", "ceiling"),
    [
        (2, "legacy", 100),
        (4, "legacy", 67),
        (8, "legacy", 45),
        (2, "aligned", 100),
        (4, "aligned", 99),
        (8, "aligned", 68),
    ],
)
def test_what_a_perfect_propagation_can_score_at_most(stride, readout, ceiling):
    """Average share within 1, 2, 4, 8 and 16 pixels of 256 when labels arrive where they should, as they were drawn.

    The official read-out caps its own score at coarse strides: 45 at stride 8.
    """
    points = random_points(500, 256, 256, 24)
    size = feature_size(256, 256, stride)
    labels = draw_points(points, size, stride, 6.0)
    distance = (read_points(labels, size, (256, 256), stride, 6.0, readout)[0] - points).norm(dim=1)
    score = 100 * torch.stack([(distance < limit).double().mean() for limit in (1, 2, 4, 8, 16)]).mean().item()
    if readout == "legacy":
        assert score == pytest.approx(ceiling, abs=1)
    else:
        assert score >= ceiling


def test_readout_at_the_borders_stays_inside():
    points = torch.tensor([[0.0, 0.0], [64.0, 48.0], [64.0, 0.0]], dtype=torch.float64)
    for readout in ("aligned", "legacy"):
        found, _ = read_points(draw_points(points, (24, 32), 2, 6.0), (24, 32), (48, 64), 2, 6.0, readout)
        assert (found >= 0).all() and (found[:, 0] <= 64).all() and (found[:, 1] <= 48).all()
        assert (found - points).norm(dim=1).max() < 2.5


def test_labels_have_bounded_support():
    labels = draw_points(torch.tensor([[40.5, 20.5]]), (40, 40), 2, 6.0)
    assert labels.max() == 1
    assert (labels[labels > 0] >= LABEL_CUTOFF).all()
    assert (labels == 0).any()


def test_cells_out_of_reach_get_no_label():
    h, w, reach = 30, 40, 4
    labels = torch.zeros(2, h * w, 3)
    labels[0, 5 * w + 7, 0] = labels[1, 20 * w + 30, 2] = 1
    active = label_reach((labels > 0).any(dim=-1), (h, w), reach)
    assert active.sum() == 2 * (2 * reach + 1) ** 2
    scores = torch.rand(h * w, 10)
    y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
    near_y = (y[:, None] + torch.randint(-reach, reach + 1, (h * w, 10))).clamp(0, h - 1)
    near_x = (x[:, None] + torch.randint(-reach, reach + 1, (h * w, 10))).clamp(0, w - 1)
    indices = torch.randint(0, 2, (h * w, 10)) * h * w + near_y * w + near_x  # any keys of the neighbourhood
    everywhere = propagate_labels(scores, indices, labels, 0.07, torch.ones(h * w, dtype=torch.bool))
    assert torch.equal(everywhere, propagate_labels(scores, indices, labels, 0.07, active.flatten()))


def test_confidence_grows_with_the_peak():
    labels = torch.zeros(12 * 12, 2)
    labels[50, 0] = 0.3
    points, peak = read_points(labels, (12, 12), (24, 24), 2, 6.0, "aligned")
    assert peak.tolist() == pytest.approx([0.3, 0])
    assert peak_confidence(torch.tensor([0.0, EVEN_PEAK])).tolist() == [0, 0.5]
    assert peak_confidence(torch.linspace(0, 1, 9)).diff().min() > 0
    assert torch.isfinite(points).all()


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [(12, 17), (5, 4)])
def test_a_point_is_drawn_as_a_gaussian_at_the_centres_of_cells(stride, size):
    points = random_points(6, stride * size[0], stride * size[1], 0)
    points[0] = torch.tensor([cell_to_point(3, stride), cell_to_point(2, stride)])  # on the centre of a cell
    labels = draw_points(points, size, stride, 6.0)
    assert labels.shape == (size[0] * size[1], 6) and labels.dtype == torch.float32
    assert labels[:, 0].argmax() == 2 * size[1] + 3 and labels[2 * size[1] + 3, 0] == 1
    for row, column in [(0, 0), (2, 3), (size[0] - 1, size[1] - 1)]:
        centre = torch.tensor([column * stride + 0.5, row * stride + 0.5])
        expected = torch.exp(-((points - centre) ** 2).sum(dim=1) / (2 * 6.0**2))
        expected[expected < LABEL_CUTOFF] = 0
        torch.testing.assert_close(labels[row * size[1] + column], expected.float())


@pytest.mark.parametrize(
    ("stride", "sigma", "mean", "largest"),
    [(2, 6.0, 0.03, 0.05), (2, 4.0, 0.15, 0.2), (4, 6.0, 0.2, 0.3), (8, 6.0, 0.7, 1.3)],
)
def test_a_drawn_point_is_read_where_it_was_drawn(stride, sigma, mean, largest):
    height, width = 255, 321
    size, points = feature_size(height, width, stride), random_points(300, height, width, 20)
    found, peak = read_points(
        draw_points(points, size, stride, sigma), size, (height, width), stride, sigma, "aligned"
    )
    error = found - points
    assert found.dtype == torch.float64 and (peak > 0.3).all()
    assert error.norm(dim=1).mean() < mean and error.norm(dim=1).max() < largest
    assert error.mean(dim=0).abs().max() < 0.1 * mean + 0.05 * (stride == 8)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_the_legacy_readout_is_half_a_stride_off(stride):
    height, width = 256, 320
    size, points = feature_size(height, width, stride), random_points(300, height, width, 20)
    labels = draw_points(points, size, stride, 6.0)
    legacy, aligned = (read_points(labels, size, (height, width), stride, 6.0, r)[0] for r in ("legacy", "aligned"))
    shift = (stride - 1) / 2
    assert (legacy - points).mean(dim=0).tolist() == pytest.approx([shift, shift], abs=0.05 * stride)
    assert (legacy - points).norm(dim=1).mean() > 5 * (aligned - points).norm(dim=1).mean()


@pytest.mark.parametrize("readout", ["aligned", "legacy"])
def test_a_label_is_read_alike_alone_and_among_others(readout):
    size, points = (20, 25), random_points(9, 40, 50, 0)
    labels = draw_points(points, size, 2, 6.0)
    together = read_points(labels, size, (40, 50), 2, 6.0, readout)
    for n in range(9):
        for alone, all_of_them in zip(
            read_points(labels[:, [n]], size, (40, 50), 2, 6.0, readout), together, strict=True
        ):
            assert torch.equal(alone[0], all_of_them[n])


def test_a_second_and_lower_peak_does_not_move_the_point():
    size = (40, 40)
    near, far = draw_points(torch.tensor([[20.5, 24.5], [60.5, 50.5]]), size, 2, 6.0).T
    found, _ = read_points(torch.stack([near, near + 0.9 * far], dim=1), size, (80, 80), 2, 6.0, "aligned")
    assert (found[0] - found[1]).norm() < 1e-6


@pytest.mark.parametrize("stride", [2, 4])
def test_a_map_is_as_uncertain_as_it_has_become_broader(stride):
    height, width = 160, 200
    size, points = feature_size(height, width, stride), torch.tensor([[80.0, 100.0], [101.0, 77.0]])
    drawn, broader = (draw_points(points, size, stride, sigma) for sigma in (6.0, 10.0))
    least = stride / 12**0.5
    torch.testing.assert_close(
        label_uncertainty(drawn, size, stride, 6.0), torch.tensor([least] * 2), atol=0.01, rtol=0
    )
    found = label_uncertainty(broader, size, stride, 6.0)
    torch.testing.assert_close(found, torch.tensor([8.0, 8.0]), atol=0.2, rtol=0)  # 10^2 - 6^2
    twice = draw_points(torch.tensor([[40.0, 80.0], [160.0, 80.0]]), size, stride, 6.0).sum(dim=1, keepdim=True)
    assert float(label_uncertainty(twice, size, stride, 6.0)) == pytest.approx(60 / 2**0.5, rel=0.02)
    lost = label_uncertainty(torch.zeros_like(drawn), size, stride, 6.0)
    assert lost.tolist() == [width, width]
    assert label_uncertainty(torch.zeros(size[0] * size[1], 1), size[::-1], stride, 6.0).tolist() == [width]  # upright
    assert torch.equal(label_uncertainty(broader[:, 1:], size, stride, 6.0), found[1:])


@pytest.mark.parametrize("reach", [0, 2, 5])
def test_reach_is_the_square_around_any_support(reach):
    support = torch.zeros(3, 15, 20, dtype=torch.bool)
    support[0, 0, 0] = support[2, 9, 19] = True
    expected = torch.zeros(15, 20, dtype=torch.bool)
    expected[: reach + 1, : reach + 1] = expected[9 - reach : 10 + reach, 19 - reach :] = True
    assert torch.equal(label_reach(support.flatten(1), (15, 20), reach), expected)
    assert not label_reach(torch.zeros_like(support).flatten(1), (15, 20), reach).any()


def test_propagated_labels_are_averages_above_the_cut_off():
    scores = torch.tensor([[0.9, 0.2, -torch.inf], [0.5, 0.5, 0.5], [0.9, 0.1, 0.0]])
    indices = torch.tensor([[0, 4, 0], [0, 1, 3], [5, 5, 5]])
    labels = torch.tensor([[[1.0], [0.5], [0.0]], [[0.25], [1.0], [LABEL_CUTOFF / 2]]])
    weights = torch.tensor([0.9, 0.2]).div(0.3).softmax(dim=0)
    new = propagate_labels(scores, indices, labels, 0.3, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(new[:, 0], torch.tensor([(weights * torch.ones(2)).sum(), (1 + 0.5 + 0.25) / 3, 0.0]))


def by_hand(query, keys, labels, config):
    """Softmax propagation cell by cell, from its definition."""
    h, w, _ = query.shape
    new = torch.zeros(h * w, labels.shape[-1])
    for cell in range(h * w):
        y, x = cell // w, cell % w
        near = [
            other
            for other in range(h * w)
            if config.propagation_window == "none"
            or max(abs(other // w - y), abs(other % w - x)) <= config.propagation_radius
        ]
        logits = [[float(query[y, x] @ key[o // w, o % w]) / config.temperature for o in near] for key in keys]
        if config.propagation_family == "windowed":
            weights = torch.softmax(torch.tensor(logits).flatten(), 0)
            new[cell] = weights @ torch.cat([maps[near] for maps in labels])
            continue
        for row, maps in zip(logits, labels, strict=True):
            weights = torch.softmax(torch.tensor(row), 0)
            best = weights.topk(min(config.propagation_topk, len(near)))
            new[cell] += best.values @ maps[[near[i] for i in best.indices]] / len(keys)
    return new.masked_fill(new < LABEL_CUTOFF, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"propagation_family": "per_reference", "propagation_window": "none"},
        {"propagation_family": "per_reference", "propagation_window": "square"},
        {"propagation_family": "windowed", "propagation_window": "square"},
        {"propagation_family": "windowed", "propagation_window": "none"},
    ],
)
def test_families_by_their_definition(settings):
    torch.manual_seed(0)
    config = FgvcConfig(propagation_radius=2, propagation_topk=4, temperature=0.3, **settings)
    h, w = 6, 7
    query, *keys = torch.nn.functional.normalize(torch.randn(4, h, w, 8), dim=-1)
    labels = torch.rand(3, h * w, 2)
    found = propagate_softmax(query, keys, labels, torch.ones(h * w, dtype=torch.bool), config)
    torch.testing.assert_close(found, by_hand(query, keys, labels, config), atol=1e-5, rtol=1e-4)


def test_keys_that_are_not_allowed_pass_nothing_on():
    torch.manual_seed(0)
    config = FgvcConfig(
        propagation_family="per_reference", propagation_window="none", propagation_topk=100, temperature=0.3
    )
    h, w = 5, 6
    query, *keys = torch.nn.functional.normalize(torch.randn(3, h, w, 8), dim=-1)
    labels, allowed = torch.rand(2, h * w, 1), torch.rand(2, h * w) < 0.4
    found = propagate_softmax(query, keys, labels, torch.ones(h * w, dtype=torch.bool), config, allowed=allowed)
    expected = torch.zeros(h * w, 1)
    for key, own, use in zip(keys, labels, allowed, strict=True):
        scores = query.view(-1, 8) @ key.view(-1, 8)[use].T / config.temperature
        expected += scores.softmax(-1) @ own[use] / 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    nothing = torch.zeros_like(allowed)
    assert propagate_softmax(query, keys, labels, nothing[0] == 0, config, allowed=nothing).abs().max() == 0


def test_boxes_of_objects_need_their_family():
    with pytest.raises(ValueError, match="object_boxes needs the propagation_family 'per_reference' or 'windowed'"):
        FgvcConfig(object_boxes=True)


def test_a_window_of_everything_needs_its_family():
    with pytest.raises(ValueError, match="propagation_window 'none' needs"):
        FgvcConfig(propagation_window="none")


@pytest.mark.parametrize("turned", [False, True])
def test_beside_the_border_as_much_is_left_out_on_the_other_side(turned):
    """On maps that are not square: of a peak in the last row but one only the rows beside it count, and of one in the first row that row alone."""
    low, first = torch.zeros(10, 30), torch.zeros(10, 30)
    low[5:10, 12] = torch.tensor([0.8, 0.8, 0.8, 1.0, 0.8])
    first[0, 10:13], first[1, 11:15] = torch.tensor([0.75, 1.0, 0.75]), 0.9
    maps = [of.T if turned else of for of in (low, first)]
    size = tuple(maps[0].shape)
    labels = torch.stack([of.flatten() for of in maps], dim=1)
    found, peak = read_points(labels, size, (2 * size[0], 2 * size[1]), 2, 6.0, "aligned")
    expected = torch.tensor([[24.5, 16.5], [22.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected.flip(1) if turned else expected)
    assert peak.tolist() == [1, 1]


def test_a_point_that_is_drawn_smaller_than_a_cell_is_read_from_the_cells_beside_its_peak():
    """What exceeds half of the peak: 0.5, and 0.4 of the cell to the right; not the cell on the diagonal."""
    maps = torch.zeros(10, 12)
    maps[5, 5], maps[5, 6], maps[6, 6] = 1.0, 0.9, 0.9
    found, _ = read_points(maps.view(-1, 1), (10, 12), (80, 96), 8, 1.0, "aligned")
    torch.testing.assert_close(found, torch.tensor([[0.5 + 8 * (5 + 4 / 9), 40.5]]).double())


# ---- masks by value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "origin"), [(2, 0.5), (4, 2.0)])
@pytest.mark.parametrize("length", [(21, 34), (13, 50)])
def test_a_mask_is_drawn_as_the_share_that_it_covers_of_each_cell(stride, origin, length):
    """Of the 5 x 5 places spread evenly over the square of a cell, on a mask of another size than the model's input."""
    side, mask = (24, 32), torch.rand(2, *length, generator=torch.Generator().manual_seed(0)) < 0.4
    size = feature_size(*side, stride)
    drawn = draw_masks(mask, size, side, stride, origin).view(*size, 2)
    for row, column in itertools.product(range(size[0]), range(size[1])):
        places = [
            [
                min(max(int(math.floor((origin + stride * (cell + part / 5)) * of / full)), 0), of - 1)
                for part in range(-2, 3)
            ]
            for cell, of, full in zip((row, column), length, side)
        ]
        share = mask[:, places[0]][:, :, places[1]].float().mean(dim=(1, 2))
        torch.testing.assert_close(drawn[row, column], share)


@pytest.mark.parametrize("origin", [0.5, 2.0])
def test_maps_are_read_at_the_centres_of_pixels(origin):
    """Bilinear between the centres of cells, and constant beyond the outermost, at another size than the model's input."""
    maps = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1))
    found = read_masks(maps, (16, 24), (10, 36), 4, origin)
    assert found.shape == (2, 10, 36)
    for y, x in itertools.product(range(10), range(36)):
        row, column = (((at + 0.5) * scale - origin) / 4 for at, scale in ((y, 1.6), (x, 24 / 36)))
        row, column = min(max(row, 0), 3), min(max(column, 0), 5)
        v, u = min(int(row), 2), min(int(column), 4)
        beside = (maps[:, v, u], maps[:, v, u + 1]), (maps[:, v + 1, u], maps[:, v + 1, u + 1])
        lines = [(1 - column + u) * a + (column - u) * b for a, b in beside]
        torch.testing.assert_close(found[:, y, x], (1 - row + v) * lines[0] + (row - v) * lines[1])


def test_every_pixel_goes_to_the_largest_share_relative_to_the_peak_of_its_object():
    """And to the background where that has most; an object of which no cell has two hundredths is nowhere."""
    maps = torch.zeros(3, 2, 4)
    maps[0, 0], maps[1, 0] = torch.tensor([0.4, 0.2, 0.1, 0.0]), torch.tensor([0.0, 0.3, 0.3, 0.15])
    maps[2, 1] = torch.tensor([0.019, 0.0, 0.0, 0.0])
    size = 2, 4  # of a model with a cell for each pixel
    assert object_ids(maps, [7, 300, 5], size, size, 1).tolist() == [[7, 300, 300, 0], [0, 0, 0, 0]]
    maps[2, 1, 0] = 0.0201
    assert object_ids(maps, [7, 300, 5], size, size, 1)[1].tolist() == [5, 0, 0, 0]
    assert object_ids(maps, [7, 300, 5], size, size, 1).dtype == "int32"
    covered = torch.tensor([[[0.999, 0.99], [1.0, 0.985]]])  # a background of at most 0.015 is none
    assert object_ids(covered, [2], (2, 2), (2, 2), 1).tolist() == [[2, 2], [2, 2]]
    between = torch.tensor([[[0.9, 0.7]]])  # the background has a tenth, and three tenths, which is its peak
    assert object_ids(between, [2], (1, 2), (1, 2), 1).tolist() == [[2, 0]]
    equal = torch.full((2, 1, 2), 0.5)  # of two that have as much, the first
    assert object_ids(equal, [9, 3], (1, 2), (1, 2), 1).tolist() == [[9, 9]]
