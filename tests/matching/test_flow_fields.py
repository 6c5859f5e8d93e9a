"""Operations on flow fields against loops over their cells."""

import itertools
import math

import pytest
import torch

from fgvc_hf.matching.flow_fields import (
    cells_of,
    consistent,
    filled,
    length,
    median,
    neighbours,
    outside,
    read_at,
    resized,
    round_trip,
)


def random_flow(h, w, seed=0):
    return torch.randn(h, w, 2, generator=torch.Generator().manual_seed(seed))


def read(values, x, y):
    """The value (C,) of a map (h, w, C) at a place, bilinear, and constant beyond the border."""
    x, y = (min(max(at, 0), side - 1) for at, side in zip((x, y), values.shape[1::-1]))
    u, v = min(int(x), values.shape[1] - 2), min(int(y), values.shape[0] - 2)
    rows = [(1 - x + u) * values[at, u] + (x - u) * values[at, u + 1] for at in (v, v + 1)]
    return (1 - y + v) * rows[0] + (y - v) * rows[1]


def test_cells_are_columns_and_rows_in_the_type_of_the_flow():
    cells = cells_of(torch.zeros(3, 5, 2, dtype=torch.float64))
    assert cells.dtype == torch.float64 and cells_of(torch.zeros(1, 1, 2)).dtype == torch.float32
    assert [[tuple(cell) for cell in row] for row in cells.tolist()] == [[(x, y) for x in range(5)] for y in range(3)]
    assert cells_of(torch.zeros(3, 5, 2, device="meta")).is_meta


def test_maps_are_read_between_cells_and_constant_beyond_the_border():
    maps = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    places = torch.tensor([(1.25, 2.5), (-3.0, 1.5), (4.75, 9.0), (5.0, 3.0)]).view(2, 2, 2)
    expected = torch.stack([read(maps, x, y) for x, y in places.flatten(0, 1).tolist()])
    torch.testing.assert_close(read_at(maps, places), expected.view(2, 2, 3))


def test_places_are_outside_beyond_half_a_cell_from_the_border():
    places = cells_of(torch.zeros(3, 5, 2))
    places[0, 0] = torch.tensor([-0.5, 2.5])
    places[0, 1] = torch.tensor([4.5, -0.5])
    assert not outside(places).any()
    for number, place in enumerate([(-0.6, 1.0), (4.6, 1.0), (1.0, -0.6), (1.0, 2.6)]):
        places[1, number] = torch.tensor(place)
    assert outside(places).tolist() == [[False] * 5, [True] * 4 + [False], [False] * 5]


def test_a_round_trip_by_its_definition():
    flow, backward = random_flow(4, 6), random_flow(4, 6, seed=1)
    gap, lengths = round_trip(flow, backward)
    for y, x in itertools.product(range(4), range(6)):
        there = flow[y, x]
        back = read(backward, x + float(there[0]), y + float(there[1]))
        assert float(gap[y, x]) == pytest.approx(float((there + back).norm()), abs=1e-5)
        assert float(lengths[y, x]) == pytest.approx(float(there.norm() + back.norm()), abs=1e-5)
    assert float(length(torch.tensor([3.0, -4.0]))) == 5


def test_a_twentieth_of_the_lengths_is_allowed_beside_what_is_allowed_anyway():
    flow = torch.tensor([3.0, 4.0]).expand(6, 7, 2)
    backward = -2 * flow  # the gap is 5, and both lengths together are 15
    assert consistent(flow, backward, 5 - 0.75 + 1e-3).all() and not consistent(flow, backward, 5 - 0.75 - 1e-3).any()
    assert consistent(0 * flow, 0 * flow, 0.0).all()


@pytest.mark.parametrize("seed", range(4))
def test_filling_goes_inwards_by_means_of_what_is_known(seed):
    flow = random_flow(8, 9, seed)
    known = torch.rand(8, 9, generator=torch.Generator().manual_seed(seed)) < 0.15
    expected, of = {(y, x): flow[y, x] for y, x in known.nonzero().tolist()}, flow.clone()
    while len(expected) < 72:
        ring = {}
        for y, x in itertools.product(range(8), range(9)):
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (y + dy, x + dx) in expected]
            if (y, x) not in expected and around:
                ring[y, x] = torch.stack([expected[cell] for cell in around]).mean(0)
        expected |= ring
    for cell, value in expected.items():
        of[cell] = value
    torch.testing.assert_close(filled(flow, known), of)


@pytest.mark.parametrize("radius", [1, 2])
def test_the_median_by_its_definition(radius):
    """Beyond the border are the values on it."""
    flow, expected = random_flow(4, 6), torch.empty(4, 6, 2)
    for y, x, axis in itertools.product(range(4), range(6), range(2)):
        window = [
            float(flow[min(max(y + dy, 0), 3), min(max(x + dx, 0), 5), axis])
            for dy, dx in itertools.product(range(-radius, radius + 1), repeat=2)
        ]
        expected[y, x, axis] = sorted(window)[len(window) // 2]
    assert torch.equal(median(flow, radius), expected)


@pytest.mark.parametrize("distance", [1, 2])
def test_neighbours_are_up_down_left_and_right(distance):
    flow = random_flow(4, 6)
    found = neighbours(flow, distance)
    shifts = ((0, 0), (-distance, 0), (distance, 0), (0, -distance), (0, distance))
    for number, (dy, dx) in enumerate(shifts):
        for y, x in itertools.product(range(4), range(6)):
            assert torch.equal(found[number, y, x], flow[min(max(y + dy, 0), 3), min(max(x + dx, 0), 5)])
    assert len(found) == 5 and neighbours(torch.empty(4, 6, 2, device="meta"), distance).is_meta


def test_flow_of_another_size_is_of_the_same_motion():
    """Values grow with the pixels' number along each axis, and are read at the centres of the new pixels."""
    flow = random_flow(4, 6)
    found = resized(flow, (6, 15))
    for y, x in itertools.product(range(6), range(15)):
        expected = read(flow, (x + 0.5) * 6 / 15 - 0.5, (y + 0.5) * 4 / 6 - 0.5) * torch.tensor([2.5, 1.5])
        torch.testing.assert_close(found[y, x], expected)
    assert torch.equal(resized(flow, (4, 6)), flow) and resized(flow, (4, 12)).shape == (4, 12, 2)
    assert math.isclose(float(resized(torch.ones(4, 6, 2), (8, 6))[0, 0, 1]), 2)
