"""The dense map of matching probabilities."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.matching.probability_map import probability_map, window_correlation


@pytest.mark.parametrize(("h", "w", "radius"), [(5, 7, 2), (9, 33, 4), (16, 16, 6)])
def test_dense_correlation_is_the_shift_loop(h, w, radius):
    query, key = F.normalize(torch.randn(2, 2, h, w, 8), dim=-1)
    padded = F.pad(key, (0, 0, radius, radius, radius, radius))
    inside = F.pad(torch.ones(h, w, dtype=torch.bool), (radius, radius, radius, radius))
    shifts = [(dy, dx) for dy in range(2 * radius + 1) for dx in range(2 * radius + 1)]  # dy-major
    expected = torch.stack(
        [
            (query * padded[:, dy : dy + h, dx : dx + w])
            .sum(-1)
            .masked_fill(~inside[dy : dy + h, dx : dx + w], -torch.inf)
            for dy, dx in shifts
        ],
        dim=-1,
    )
    torch.testing.assert_close(window_correlation(query, key, radius), expected)


def test_dense_correlation_has_gradients():
    query, key = torch.randn(2, 1, 6, 5, 4, requires_grad=True, dtype=torch.float64)
    probs = torch.softmax(window_correlation(query, key, 2), dim=-1)
    (probs**2).sum().backward()


@pytest.mark.parametrize(("h", "w", "radius"), [(1, 1, 1), (9, 33, 4), (4, 5, 9)])
def test_dense_correlation_is_the_definition_cell_by_cell(h, w, radius):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, h, w, 6, generator=generator)
    output = window_correlation(query, key, radius)
    assert output.shape == (3, h, w, (2 * radius + 1) ** 2)
    for b, y, x in [(0, 0, 0), (1, h - 1, w - 1), (2, h // 2, w // 3), (2, 0, w - 1)]:
        offsets = range(-radius, radius + 1)
        expected = [
            query[b, y, x] @ key[b, y + dy, x + dx] if 0 <= y + dy < h and 0 <= x + dx < w else -torch.inf
            for dy in offsets
            for dx in offsets
        ]
        torch.testing.assert_close(output[b, y, x], torch.tensor(expected))


def test_gradients_of_the_dense_correlation_are_those_of_the_products():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 9, 18, 4, generator=generator, requires_grad=True) for _ in range(2))
    y, x = torch.meshgrid(torch.arange(9), torch.arange(18), indexing="ij")
    y, x = y.flatten(), x.flatten()
    inside = ((y[:, None] - y).abs() <= 2) & ((x[:, None] - x).abs() <= 2)
    full = (query.flatten(1, 2) @ key.flatten(1, 2).mT).masked_fill(~inside, -torch.inf)
    expected = torch.autograd.grad(full.softmax(dim=-1).square().sum(), (query, key))
    ours = torch.autograd.grad(window_correlation(query, key, 2).softmax(dim=-1).square().sum(), (query, key))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_accumulated_in_float32(dtype):
    """On similar neighbours, whose products differ by less than 16 bits resolve, no cell ties that does not tie in float32."""
    coarse = torch.randn(2, 64, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(24, 32), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    query, key = F.normalize(smooth, dim=-1).to(dtype)[:, None]
    found, expected = window_correlation(query, key, 4), window_correlation(query.float(), key.float(), 4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ties = [(of.topk(2, dim=-1).values.diff(dim=-1) == 0).sum() for of in (found, expected)]
    assert ties[0] == ties[1] and torch.equal(found.argmax(dim=-1), expected.argmax(dim=-1))
    rounded = torch.einsum("bhwc,bhwc->bhw", query, key)
    if dtype == torch.bfloat16:  # so that the test can fail
        assert (rounded.float() - found[..., 40]).abs().max() > 1e-4


def test_the_map_is_a_distribution_over_the_cells_inside():
    query, key = F.normalize(torch.randn(2, 1, 6, 9, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    log_probs = probability_map(query, key, 2, 0.07)
    assert log_probs.shape == (1, 6, 9, 25) and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(1, 6, 9))
    products = key[0, 1:6, 2:7].flatten(0, 1) @ query[0, 3, 4]  # the window of row 3, column 4
    torch.testing.assert_close(log_probs[0, 3, 4], (products / 0.07).log_softmax(dim=0))
    assert (log_probs[0, 0, 0].view(5, 5)[:2] == -torch.inf).all()


@pytest.mark.parametrize("layout", ["expanded", "channels first"])
def test_the_memory_layout_does_not_change_a_bit(layout):
    query, key = torch.randn(2, 1, 9, 17, 8, generator=torch.Generator().manual_seed(0))
    if layout == "expanded":
        query, key = query[:, :1, :1].expand_as(query), key[:, :1, :1].expand_as(key)
    else:
        query, key = (of.movedim(-1, 1).contiguous().movedim(1, -1) for of in (query, key))
    expected = window_correlation(query.contiguous(), key.contiguous(), 3)
    assert torch.equal(window_correlation(query, key, 3), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"radius": -1}, "radius must not be negative, got -1"),
        ({"key": torch.zeros(1, 4, 6, 8)}, "keys must be floating-point features of shape"),
        ({"query": torch.zeros(4, 5, 8)}, r"query must hold floating-point features \(B, h, w, C\)"),
    ],
)
def test_what_has_no_map_is_refused(changes, message):
    features = torch.zeros(1, 4, 5, 8)
    with pytest.raises(ValueError, match=message):
        probability_map(**{"query": features, "key": features, "radius": 2, "temperature": 0.07} | changes)
