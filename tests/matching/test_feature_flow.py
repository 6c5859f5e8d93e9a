"""Matching of features by semi-global costs and by refinement, each against its definition in loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from feature_fields import unit_features

from fgvc_hf.matching import feature_flow as module
from fgvc_hf.matching.feature_flow import agreed, all_pairs, completed, feature_flow, refined, semi_global
from fgvc_hf.matching.flow_fields import consistent, filled, median
from fgvc_hf.matching.pyramid import downsample


def paths(cost, guide, axis, sign):
    """Least costs (rows, columns, h, w) of the paths along one direction: Hirschmueller's recursion, a query after the other."""
    rows, columns, h, w = cost.shape
    result = torch.empty_like(cost)
    queries = list(itertools.product(range(rows), range(columns)))
    for query in queries if sign > 0 else queries[::-1]:
        before = (query[0] - sign, query[1]) if axis == 0 else (query[0], query[1] - sign)
        if not (0 <= before[0] < rows and 0 <= before[1] < columns):
            result[query] = cost[query]
            continue
        same = torch.full((h, w), 1000.0)  # of the same motion: two cells back, for queries are at every second cell
        for v, u in itertools.product(range(h), range(w)):
            y, x = (v - 2 * sign, u) if axis == 0 else (v, u - 2 * sign)
            if 0 <= y < h and 0 <= x < w:
                same[v, u] = result[before][y, x]
        alike = float(guide[query] @ guide[before])
        far = float(same.min()) + 0.25 * max(math.exp((alike - 1) / 0.3), 0.2)
        for v, u in itertools.product(range(h), range(w)):
            near = 0.03 + float(same[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].min())
            result[query][v, u] = cost[query][v, u] + min(float(same[v, u]), near, far) - float(same.min())
    return result


@pytest.mark.parametrize("size", [(5, 7), (2, 1)])
def test_semi_global_costs_are_the_sums_of_four_directions(size):
    """Where neighbours look alike a jump costs much, and little across an edge."""
    h, w = size
    rows, columns = -(-h // 2), -(-w // 2)
    cost = torch.rand(rows, columns, h, w, generator=torch.Generator().manual_seed(0))
    guide = F.normalize(unit_features(rows, columns, 6) + torch.tensor([1.2, 0, 0, 0, 0, 0]), dim=-1)
    expected = sum(paths(cost, guide, axis, sign) for axis in (0, 1) for sign in (1, -1))
    torch.testing.assert_close(semi_global(cost.clone(), guide), expected)


@pytest.mark.parametrize("size", [(6, 9), (3, 4)])
def test_every_second_cell_is_compared_with_all_by_patches_of_3_x_3(size):
    h, w = size
    query, key = unit_features(h, w), unit_features(h, w, seed=1)

    def around(features, y, x):
        return [
            features[min(max(y + dy, 0), h - 1), min(max(x + dx, 0), w - 1)] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        ]

    cost = torch.empty(-(-h // 2), -(-w // 2), h, w)
    for y, x, v, u in itertools.product(range(0, h, 2), range(0, w, 2), range(h), range(w)):
        products = [float(a @ b) for a, b in zip(around(query, y, x), around(key, v, u))]
        cost[y // 2, x // 2, v, u] = 1 - sum(products) / 9
    total = semi_global(cost, query[::2, ::2])
    for found, costs in zip(all_pairs(query, key), (total, cost), strict=True):
        assert found.shape == (*cost.shape[:2], 2) and found.dtype == torch.float32
        for y, x in itertools.product(range(cost.shape[0]), range(cost.shape[1])):
            u, v = (2 * (found[y, x] + torch.tensor([x, y]))).long().tolist()  # in steps of two cells
            assert (v, u) == divmod(int(costs[y, x].argmin()), w)


def similarity(query, key, flow, average):
    """Mean similarity (h, w) of cells with those that their flow leads to, over cells around; -0.2 outside the frame."""
    h, w = query.shape[:2]
    products = torch.empty(h, w)
    for y, x in itertools.product(range(h), range(w)):
        u, v = x + int(flow[y, x, 0]), y + int(flow[y, x, 1])
        products[y, x] = query[y, x] @ key[v, u] if 0 <= v < h and 0 <= u < w else -0.2
    side = range(-average, average + 1)
    return torch.tensor(
        [
            [
                sum(float(products[y + dy, x + dx]) for dy, dx in inside) / len(inside)
                for x in range(w)
                for inside in [[(dy, dx) for dy in side for dx in side if 0 <= y + dy < h and 0 <= x + dx < w]]
            ]
            for y in range(h)
        ]
    )


@pytest.mark.parametrize("average", [0, 1, 2])
def test_refinement_by_its_definition(average):
    """The best motion of five cells two apart, then one apart, then of nine around, and a parabola along x and along y."""
    h, w = 7, 9
    query, key = unit_features(h, w, 8), unit_features(h, w, 8, seed=1)
    flow = torch.randint(-3, 4, (h, w, 2), generator=torch.Generator().manual_seed(2))
    current = flow
    for spread in (2, 1):
        shifts = [(0, 0), (-spread, 0), (spread, 0), (0, -spread), (0, spread)]
        candidates = []
        for dy, dx in shifts:
            rows, columns = (torch.arange(n).add(d).clamp(0, n - 1) for n, d in ((h, dy), (w, dx)))
            candidates.append(current[rows[:, None], columns])
        scores = torch.stack([similarity(query, key, of, average) for of in candidates])
        current = torch.stack(candidates).gather(0, scores.argmax(0)[None, ..., None].expand(1, h, w, 2))[0]
    scores = {
        (dx, dy): similarity(query, key, current + torch.tensor([dx, dy]), average)
        for dx in (-1, 0, 1)
        for dy in (-1, 0, 1)
    }
    found = refined(query, key, flow, average)
    for y, x in itertools.product(range(h), range(w)):
        of = {place: float(values[y, x]) for place, values in scores.items()}
        dx, dy = max(of, key=of.get)
        expected = [float(current[y, x, 0]) + dx, float(current[y, x, 1]) + dy]
        for axis, middle in enumerate((dx, dy)):
            if middle == 0:  # it has scores on both sides
                before, after = ((-1, dy), (1, dy)) if axis == 0 else ((dx, -1), (dx, 1))
                a, b, c = of[before], of[dx, dy], of[after]
                expected[axis] += (a - c) / (2 * (a - 2 * b + c)) if a - 2 * b + c < 0 else 0.0
        assert found[y, x].tolist() == pytest.approx(expected, abs=1e-3)


def test_what_agrees_stays_and_the_rest_is_filled():
    forward = torch.tensor([1.0, 2.0]).repeat(9, 9, 1) + 0.1 * torch.randn(
        9, 9, 2, generator=torch.Generator().manual_seed(3)
    )
    backward = -forward.flip(0)
    backward[4, 4], forward[6, 3] = 9.0, -9.0
    found = agreed(forward, backward, 0.5)
    for flow, other, result in ((forward, backward, found[0]), (backward, forward, found[1])):
        kept = consistent(flow, other, 0.5)
        assert 0 < kept.sum() < 81
        assert torch.equal(result, median(filled(flow, kept), 1))


def test_cells_alone_count_where_they_agree_and_their_neighbours_do_not():
    """Of a body of 2 x 2 cells that is smoothed away in one direction or both, each cell alone is right."""
    still, moved = torch.zeros(9, 9, 2), torch.tensor([4.0, -3.0])
    alone, back_alone = still.clone(), still.clone()
    alone[5:7, 1:3], back_alone[2:4, 5:7] = moved, -moved
    forward, backward = completed((still, alone), (still, back_alone))
    assert torch.equal(forward, still) and torch.equal(backward, still)  # the smooth flow agrees everywhere

    smooth = still.clone()
    smooth[5:7, 1:3] = 2.0  # confirmed by nothing
    alone[0, 8] = -5.0  # where smooth flow agrees, the best of a cell alone does not count
    right, back_right = still.clone(), still.clone()
    right[5:7, 1:3], back_right[2:4, 5:7] = moved, -moved
    for pairs in (((smooth, alone), (still, back_alone)), ((still, back_alone), (smooth, alone))):
        first, second = completed(*pairs)
        expected = (right, back_right) if pairs[0][0] is smooth else (back_right, right)
        assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])

    back_alone[2, 5] = 3.0  # then one cell is not confirmed
    forward, _ = completed((smooth, alone), (still, back_alone))
    others = torch.ones(9, 9, dtype=torch.bool)
    others[5, 1] = False
    assert torch.equal(forward, filled(torch.where(others[..., None], right, smooth), others))


def test_a_body_that_moves_far_is_found():
    """A body of 24 x 24 cells moves by 40 and 20 cells over a background that stands still."""
    texture, body = unit_features(96, 96, 16), unit_features(24, 24, 16, seed=1)
    first, second = texture.clone(), texture.clone()
    first[10:34, 8:32], second[30:54, 48:72] = body, body
    first, second = (
        F.normalize(F.avg_pool2d(of.movedim(-1, 0), 3, 1, 1).movedim(0, -1), dim=-1) for of in (first, second)
    )
    forward, backward = feature_flow(first, second)
    assert ((forward[12:32, 10:30] - torch.tensor([40.0, 20.0])).norm(dim=-1) < 1).float().mean() > 0.95
    assert ((backward[32:52, 50:70] + torch.tensor([40.0, 20.0])).norm(dim=-1) < 1).float().mean() > 0.95
    assert (forward[60:].norm(dim=-1) < 1).float().mean() > 0.95


@pytest.mark.parametrize(("cells", "levels"), [(4500, 2), (99, 3), (98, 3), (100, 2), (25, 3), (24, 4)])
def test_the_way_from_the_coarsest_level_to_the_finest(monkeypatch, cells, levels):
    """All cells are compared on the first level that is small enough, which is never the finest; only that averages over 5 x 5."""
    monkeypatch.setattr(module, "COARSE_CELLS", cells)
    pair = unit_features(19, 20), unit_features(19, 20, seed=1)
    pyramid = [pair]
    for _ in range(levels - 1):
        pyramid.append(tuple(downsample(features) for features in pyramid[-1]))
    first, second = pyramid.pop()
    flows = completed(all_pairs(first, second), all_pairs(second, first))
    for first, second in [(first, second), *pyramid[::-1]]:
        h, w = first.shape[:2]
        rows, columns = torch.arange(h) // 2, torch.arange(w) // 2
        starts = [(2 * flow[rows[:, None], columns]).round().long() for flow in flows]
        finest = h == 19
        flows = tuple(
            refined(*of, start, 2 if finest else 1) for of, start in zip(((first, second), (second, first)), starts)
        )
        flows = flows if finest else agreed(*flows, 1.5)
    for found, expected in zip(feature_flow(*pair), flows, strict=True):
        assert torch.equal(found, expected)
