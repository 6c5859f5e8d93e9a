"""Both back ends of dense flow give the same, by definition and at the borders."""

import numpy as np
import pytest
import torch

from fgvc_hf.kernels.dispatch import flow_for
from fgvc_hf.kernels.flow_numba import NumbaFlow
from fgvc_hf.kernels.flow_torch import OUTSIDE, TorchFlow


BACKENDS = pytest.mark.parametrize("kernels", [TorchFlow, NumbaFlow])


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_similarity_by_its_definition(kernels, dtype):
    query, key = (random(5, 7, 6, seed=seed).to(dtype) for seed in (0, 1))
    flow = torch.randint(-9, 10, (3, 5, 7, 2), generator=torch.Generator().manual_seed(2))
    found = kernels.similarity(query, key, flow)
    for k, y, x in np.ndindex(3, 5, 7):
        there_x, there_y = x + int(flow[k, y, x, 0]), y + int(flow[k, y, x, 1])
        inside = 0 <= there_x < 7 and 0 <= there_y < 5
        expected = float(query[y, x].float() @ key[there_y, there_x].float()) if inside else OUTSIDE
        assert float(found[k, y, x]) == pytest.approx(expected, abs=1e-4)


@BACKENDS
def test_differences_are_read_bilinearly_and_constant_beyond_the_border(kernels):
    image = random(9, 11)
    corner = torch.tensor([[0.0, 0.0], [3.0, 2.0], [5.0, 4.0]])
    flow = torch.tensor([[-3.5, -20.0], [0.25, 0.5], [30.0, 30.0]])
    patches = random(3, 16, seed=1)
    found = kernels.difference(image, patches, corner, flow)
    padded = torch.nn.functional.pad(image[None, None], (40, 40, 40, 40), mode="replicate")[0, 0].double()
    for n, p in np.ndindex(3, 16):
        x, y = (float(corner[n, i] + flow[n, i]) + (p % 4, p // 4)[i] + 40 for i in (0, 1))
        x0, y0 = int(x), int(y)
        block = padded[y0 : y0 + 2, x0 : x0 + 2]
        rows = torch.lerp(block[:, 0], block[:, 1], x - x0)
        patches_there = torch.lerp(rows[0], rows[1], y - y0)
        found_there = found[n, p] + patches[n, p]  # less the mean of the image there
        assert float(found_there - found[n, 0] - patches[n, 0]) == pytest.approx(
            float(patches_there) - _first(padded, corner[n], flow[n]), abs=1e-4
        )
    assert (found + patches).mean(dim=1).abs().max() < 1e-5


def _first(padded, corner, flow) -> float:
    x, y = (float(corner[i] + flow[i]) + 40 for i in (0, 1))
    block = padded[int(y) : int(y) + 2, int(x) : int(x) + 2]
    rows = torch.lerp(block[:, 0], block[:, 1], x - int(x))
    return float(torch.lerp(rows[0], rows[1], y - int(y)))


@BACKENDS
def test_sums_along_x_are_weighted_by_the_products_of_decays(kernels):
    values, decay = random(2, 3, 6).double(), torch.rand((3, 6), generator=torch.Generator().manual_seed(1)).double()
    expected = torch.zeros_like(values)
    for y, x, other in np.ndindex(3, 6, 6):
        first, last = sorted((x, other))
        expected[:, y, x] += values[:, y, other] * decay[y, first + 1 : last + 1].prod()
    torch.testing.assert_close(kernels.spread(values, decay), expected)


def test_both_search_alike():
    image, corner = 50 * random(40, 50), torch.tensor([[0.0, 0.0], [20.0, 10.0], [42.0, 32.0]])
    patches, slopes = 50 * random(3, 64, seed=1), 20 * random(2, 3, 64, seed=2)
    inverse, flow = random(3, 3, seed=3) * 1e-5, random(3, 2, seed=4)
    arguments = image, patches, slopes, inverse, corner, flow
    found = [kernels.search(*arguments, 5) for kernels in (TorchFlow, NumbaFlow)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)
    assert (found[0] - flow).abs().max() > 0.01
    torch.testing.assert_close(NumbaFlow.search(*arguments, 0), flow)


def test_equal_input_of_any_layout_gives_equal_output():
    query, key = random(5, 7, 6), random(5, 7, 6, seed=1)
    flow = torch.randint(-2, 3, (4, 5, 7, 2), generator=torch.Generator().manual_seed(2))
    turned = [of.transpose(0, 1).contiguous().transpose(0, 1) for of in (query, key)]
    assert torch.equal(NumbaFlow.similarity(query, key, flow), NumbaFlow.similarity(*turned, flow))


def test_the_switch_chooses(monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", "torch")
    assert flow_for(random(2)) is TorchFlow
    monkeypatch.setenv("FGVC_KERNELS", "numba")
    assert flow_for(random(2)) is NumbaFlow
    monkeypatch.delenv("FGVC_KERNELS")
    assert flow_for(random(2).half()) is TorchFlow


@BACKENDS
def test_a_step_of_the_search_is_two_pixels_along_each_axis_at_most(kernels):
    image, corner = random(30, 40), torch.tensor([[4.0, 5.0], [20.0, 10.0], [12.5, 17.25]])
    patches, slopes = random(3, 16, seed=1), random(2, 3, 16, seed=2)
    flow, inverse = random(3, 2, seed=4), torch.tensor([[0.01, 0.02, 0.5], [0.9, -0.3, 0.04], [4.0, 1.0, 3.0]])
    found, kinds = kernels.search(image, patches, slopes, inverse, corner, flow, 1), set()
    difference = kernels.difference(image, patches, corner, flow)
    for n in range(3):
        x, y = (float((slope * difference[n]).sum()) for slope in slopes[:, n])
        xx, xy, yy = inverse[n].tolist()
        for axis, step in enumerate((xx * x + xy * y, xy * x + yy * y)):
            assert float(flow[n, axis] - found[n, axis]) == pytest.approx(min(max(step, -2), 2), abs=1e-3)
            kinds.add((axis, abs(step) > 2))
    assert len(kinds) == 4  # both bounded and free steps, along both axes
