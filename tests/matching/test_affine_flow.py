"""The locally affine motion against weighted least squares, pixel by pixel."""

import itertools
import math

import pytest
import torch

from fgvc_hf.matching.affine_flow import EdgeAwareSums, affine_flow


def way(image, start, end, reach, edges):
    """Weight of a known pixel: its way goes along its own row, then along the column of the other; edges lengthen it."""
    (y, x), (v, u) = start, end
    steps = [((y, at), (y, at + 1)) for at in range(min(x, u), max(x, u))]
    steps += [((at, u), (at + 1, u)) for at in range(min(y, v), max(y, v))]
    edge = lambda a, b: float((image[:, a[0], a[1]] - image[:, b[0], b[1]]).abs().sum())  # noqa: E731
    return math.exp(-sum(1 + edges * edge(*step) for step in steps) / reach)


def fitted(flow, weights, image, reach, edges):
    """The fits (h, w, 2) with these weights (h, w) of the known pixels: means and slopes, which 25 squared pixels keep small."""
    h, w = weights.shape
    result = torch.empty(h, w, 2, dtype=torch.float64)
    places = torch.tensor([(x, y) for y in range(h) for x in range(w)], dtype=torch.float64)
    values = flow.double().reshape(-1, 2)
    for v, u in itertools.product(range(h), range(w)):
        share = [weights[y, x] * way(image, (y, x), (v, u), reach, edges) for y in range(h) for x in range(w)]
        share = torch.tensor(share, dtype=torch.float64)
        share = share / share.sum()
        mean, centre = share @ values, share @ places
        off = places - centre
        matrix = (share[:, None] * off).T @ off + 25 * torch.eye(2)
        slopes = torch.linalg.solve(matrix, (share[:, None] * off).T @ (values - mean))
        result[v, u] = mean + (torch.tensor([u, v]).double() - centre) @ slopes
    return result


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_fits_by_their_definition(rounds):
    """Known pixels count less by the residual of the fit before: one half at the scale."""
    generator = torch.Generator().manual_seed(rounds)
    flow, image = 3 * torch.randn(5, 6, 2, generator=generator), torch.rand(3, 5, 6, generator=generator)
    known = torch.rand(5, 6, generator=generator) < 0.6
    found = affine_flow(flow, known, EdgeAwareSums(image, reach=4.0, edges=2.0), rounds=rounds, scale=1.5)
    weights = known.double()
    for _ in range(rounds):
        expected = fitted(flow, weights, image, 4.0, 2.0)
        residual = (flow.double() - expected).norm(dim=-1)
        weights = known / (1 + (residual / 1.5) ** 2)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    assert found.dtype == torch.float32


def test_sums_are_over_all_ways_along_a_row_and_then_a_column():
    """Of several maps at once, in their type."""
    generator = torch.Generator().manual_seed(4)
    maps, image = torch.rand(2, 4, 5, generator=generator).double(), torch.rand(3, 4, 5, generator=generator)
    found = EdgeAwareSums(image, reach=3.0, edges=1.5)(maps)
    cells = list(itertools.product(range(4), range(5)))
    expected = torch.zeros_like(maps)
    for to, start in itertools.product(cells, cells):
        expected[:, to[0], to[1]] += way(image, start, to, 3.0, 1.5) * maps[:, start[0], start[1]]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
