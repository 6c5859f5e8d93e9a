"""Flow by patches of images: the parts of a level against loops, and how many levels there are."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.matching import patch_flow as module
from fgvc_hf.matching.flow_fields import median, resized
from fgvc_hf.matching.patch_flow import ImageLevel, patch_flow, pyramid, slopes


def images(h, w, seed=0):
    """Two images (h, w) of smooth noise, in grey levels."""
    noise = torch.randn(2, 1, h, w, generator=torch.Generator().manual_seed(seed))
    return (128 + 200 * F.avg_pool2d(noise, 3, 1, 1))[:, 0]


def pixel(image, y, x):
    """A pixel, or the nearest on the border."""
    return float(image[min(max(y, 0), image.shape[0] - 1), min(max(x, 0), image.shape[1] - 1)])


def read(image, y, x):
    """An image between its pixels."""
    v, u = int(y // 1), int(x // 1)
    rows = [(1 - x + u) * pixel(image, at, u) + (x - u) * pixel(image, at, u + 1) for at in (v, v + 1)]
    return (1 - y + v) * rows[0] + (y - v) * rows[1]


def patch_at(image, y, x):
    """The 64 values of a patch from its first pixel on, less their mean."""
    values = torch.tensor([read(image, y + i, x + j) for i in range(8) for j in range(8)])
    return values - values.mean()


def test_slopes_are_exact_for_polynomials_of_fourth_order():
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    along_x, along_y = slopes((x / 4) ** 4 + 2 * (y / 4) ** 3 - x * y)
    torch.testing.assert_close(along_x[2:-2, 2:-2], ((x / 4) ** 3 - y)[2:-2, 2:-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(along_y[2:-2, 2:-2], (1.5 * (y / 4) ** 2 - x)[2:-2, 2:-2], atol=1e-4, rtol=0)
    step = torch.zeros(5, 6)
    step[:, 0] = 12  # beyond the border are the values on it
    assert slopes(step)[0][2].tolist() == [-7, -7, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((8, 8), 1, 1), ((9, 12), 2, 2), ((16, 21), 3, 5), ((5, 13), 1, 3)]
)
def test_patches_cover_the_image_at_every_fourth_pixel(size, rows, columns):
    first, second = images(*size)
    level = ImageLevel(first, second)
    assert (level.rows, level.columns) == (rows, columns)
    corners = [(4 * column, 4 * row) for row in range(rows) for column in range(columns)]
    assert [tuple(corner) for corner in level.corner.tolist()] == corners
    along = slopes(first)
    for number, (x, y) in enumerate(corners):
        torch.testing.assert_close(level.patches[number], patch_at(first, y, x), atol=1e-3, rtol=0)
        gradients = torch.stack([patch_at(of, y, x) for of in along])
        torch.testing.assert_close(level.slopes[:, number], gradients, atol=1e-3, rtol=0)
        matrix = gradients.double() @ gradients.double().T + 20 * torch.eye(2).double()
        inverse = torch.linalg.inv(matrix).float()
        torch.testing.assert_close(level.inverse[number], inverse.flatten()[[0, 1, 3]], rtol=1e-3, atol=1e-8)


def test_the_cost_of_patches_by_value():
    """Mean squared differences, and a thousand more where the centre of the patch leaves the frame."""
    first, second = images(16, 20)
    level = ImageLevel(first, second)
    flow = 3 * torch.randn(len(level.corner), 2, generator=torch.Generator().manual_seed(1))
    flow[0] = torch.tensor([-3.5, -3.5])  # exactly onto the first pixel
    flow[1] = torch.tensor([11.5, 11.5])  # ... and the last
    flow[2], flow[3] = torch.tensor([0.0, -3.6]), torch.tensor([4.0, 0.0])
    found, gone = level.cost(flow), []
    for number, ((x, y), (dx, dy)) in enumerate(zip(level.corner.tolist(), flow.tolist())):
        difference = patch_at(second, y + dy, x + dx) - level.patches[number]
        left = not (0 <= x + 3.5 + dx <= 19 and 0 <= y + 3.5 + dy <= 15)
        gone.append(left)
        expected = float(difference.square().mean()) + 1000 * left
        assert float(found[number]) == pytest.approx(expected, rel=1e-3, abs=1e-2)
    assert gone[:4] == [False, False, True, True]


def test_the_cheapest_hypothesis_is_taken_by_each_patch():
    level = ImageLevel(*images(16, 20))
    hypotheses = 2 * torch.randn(3, len(level.corner), 2, generator=torch.Generator().manual_seed(2))
    costs = torch.stack([level.cost(flow) for flow in hypotheses])
    best = [min(range(3), key=costs[:, n].tolist().__getitem__) for n in range(len(level.corner))]
    assert set(best) == {0, 1, 2}
    expected = torch.stack([hypotheses[k, n] for n, k in enumerate(best)])
    assert torch.equal(level.better(hypotheses), expected)


class Found:
    """In place of a back end: what the search finds, and what it was asked."""

    def __init__(self, kernels, flow):
        self.difference, self.flow = kernels.difference, flow

    def search(self, *arguments):
        self.iterations = arguments[-1]
        return self.flow


def test_a_search_keeps_its_start_where_what_it_finds_costs_more_or_is_a_patch_away():
    """The second image is the first one: no motion costs nothing."""
    first, _ = images(40, 44)
    level = ImageLevel(first, first)
    start = torch.full_like(level.corner, 1.0)
    start[1] = torch.tensor([8.0, 0.0])  # no motion is a whole patch away
    start[2] = torch.tensor([7.9, 0.0])
    start[3] = 0.0
    found = torch.zeros_like(start)
    found[3] = torch.tensor([0.5, 0.0])
    level.kernels = Found(level.kernels, found)
    expected = torch.zeros_like(start)
    expected[1] = start[1]
    assert torch.equal(level.search(start, 5), expected) and level.kernels.iterations == 5
    level.kernels.flow = start.clone()
    assert torch.equal(level.search(start, 1), start)


def test_patches_vote_for_the_pixels_that_they_cover_by_value():
    first, second = images(11, 14)
    level = ImageLevel(first, second)
    flow = torch.randn(len(level.corner), 2, generator=torch.Generator().manual_seed(3))
    sums = torch.zeros(11, 14, 3)
    for number, ((x, y), (dx, dy)) in enumerate(zip(level.corner.long().tolist(), flow.tolist())):
        difference = (patch_at(second, y + dy, x + dx) - level.patches[number]).view(8, 8)
        for i, j in itertools.product(range(8), range(8)):
            if y + i < 11 and x + j < 14:
                sums[y + i, x + j] += torch.tensor([1.0, dx, dy]) / max(1.0, abs(float(difference[i, j])))
    torch.testing.assert_close(level.spread(flow), sums[..., 1:] / sums[..., :1], atol=1e-3, rtol=1e-3)


def test_flow_is_read_at_the_centres_of_patches_and_shared_with_the_four_around():
    level = ImageLevel(*images(16, 20))
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    found = level.at_patches(torch.stack([x, 2 * y], dim=-1))
    torch.testing.assert_close(found, (level.corner + 3.5) * torch.tensor([1.0, 2.0]))
    around = level.around(found).view(5, 3, 4, 2)
    assert torch.equal(around[0].flatten(0, 1), found)
    assert torch.equal(around[1, 1:], around[0, :-1]) and torch.equal(around[4, :, :-1], around[0, :, 1:])


@pytest.mark.parametrize(("side", "levels"), [(5, 1), (16, 1), (31, 1), (32, 2), (63, 2), (64, 3)])
def test_the_coarsest_level_has_16_to_31_pixels_along_its_shorter_side(monkeypatch, side, levels):
    asked = []
    monkeypatch.setattr(module, "pyramid", lambda image, count: asked.append(count) or pyramid(image, count))
    first, second = images(70, side)
    assert patch_flow(first, second, torch.zeros(70, side, 2)).shape == (70, side, 2)
    assert asked == [levels] * 2


def test_a_level_of_odd_size_repeats_its_last_row_and_column():
    image = torch.arange(15.0).view(3, 5)
    level = pyramid(image, 2)[1]
    assert level.tolist() == [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]


def test_the_way_through_the_levels_by_its_definition():
    """On each, patches take the better hypothesis, then what their neighbours found, and vote; what they find goes on to the next."""
    generator = torch.Generator().manual_seed(5)
    first, second = (255 * torch.rand(37, 45, generator=generator) for _ in range(2))
    hypothesis, flow = 4 * torch.randn(37, 45, 2, generator=generator), torch.zeros(37, 45, 2)
    for of in zip(pyramid(first, 2)[::-1], pyramid(second, 2)[::-1]):
        level = ImageLevel(*of)
        starts = torch.stack([level.at_patches(resized(one, level.size)) for one in (flow, hypothesis)])
        found = level.search(level.better(starts), 8)
        found = level.search(level.better(level.around(found)), 4)
        flow = median(level.spread(found), 1)
    assert torch.equal(patch_flow(first, second, hypothesis), flow)
