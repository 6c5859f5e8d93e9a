"""The coarse-to-fine search for keys."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.configuration_fgvc import COARSE_STRIDE, FINE_STRIDE
from fgvc_hf.kernels.chunks import CHUNK_BYTES
from fgvc_hf.matching.block_search import (
    BLOCK,
    best_keys,
    best_keys_reach,
    refined_reach,
    refined_topk,
)
from fgvc_hf.matching.windows import window_topk


def moved_features(h, w, channels=8, frames=3, dtype=torch.float32):
    """A frame's features, and those of others in which all has moved by whole cells, with noise."""
    torch.manual_seed(1)
    coarse = torch.randn(1, channels, h // 6 + 2, w // 6 + 2)
    query = F.interpolate(coarse, (h, w), mode="bilinear")[0].movedim(0, -1) + 0.3 * torch.randn(h, w, channels)
    shifts = [(i, 3 - 2 * i) for i in range(frames)]
    keys = [query.roll(shift, (0, 1)) + 0.1 * torch.randn_like(query) for shift in shifts]
    return F.normalize(query, dim=-1).to(dtype), [F.normalize(key, dim=-1).to(dtype) for key in keys], shifts


def best_block(query, key, row, column):
    """Number of the 4x4 block of the key, at most two blocks away along each axis, whose mean is most similar to that of a block of the query."""

    def mean(features, row, column):
        return F.normalize(features[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean((0, 1)), dim=0)

    rows, columns = (-(-side // 4) for side in query.shape[:2])
    near = [(r, c) for r in range(row - 2, row + 3) for c in range(column - 2, column + 3)]
    near = [(r, c) for r, c in near if 0 <= r < rows and 0 <= c < columns]
    own = mean(query, row, column)
    row, column = max(near, key=lambda place: float(own @ mean(key, *place)))
    return row * columns + column


@pytest.mark.parametrize("size", [(20, 28), (19, 30), (9, 6)])
def test_refined_keys_by_their_definition(size):
    h, w = size
    query, keys, _ = moved_features(h, w)
    scores, indices = refined_topk(query, keys, 8, "square", 5, margin=2)
    columns = -(-w // 4)
    for y, x in ((0, 0), (h // 2, w // 2), (h - 1, w - 1)):
        expected = []
        for f, key in enumerate(keys):
            best = best_block(query, key, y // 4, x // 4)
            top = min(max(0, int(best) // columns * 4 - 2), max(0, h - 8))
            left = min(max(0, int(best) % columns * 4 - 2), max(0, w - 8))
            rows, cols = torch.arange(top, min(top + 8, h)), torch.arange(left, min(left + 8, w))
            products = (key[rows[:, None], cols] @ query[y, x]).flatten()
            flat = (f * h * w + rows[:, None] * w + cols).flatten()
            expected += list(zip(products.tolist(), flat.tolist(), strict=True))
        expected = sorted(expected, reverse=True)[:5]
        assert indices[y * w + x].tolist() == [flat for _, flat in expected]
        torch.testing.assert_close(scores[y * w + x], torch.tensor([value for value, _ in expected]))


@pytest.mark.parametrize(("margin", "share"), [(2, 0.93), (3, 0.95)])
def test_refined_keys_are_those_of_the_whole_window_where_all_moves_alike(margin, share):
    query, keys, _ = moved_features(48, 64)
    whole = window_topk(query, keys, 15, "disc", 1)[1][:, 0]
    refined = refined_topk(query, keys, 15, "disc", 1, margin=margin)[1][:, 0]
    assert (whole == refined).view(48, 64)[16:-16, 16:-16].float().mean() > share


def test_the_search_is_refined_where_it_is_asked_for():
    query, keys, _ = moved_features(20, 28)
    for margin, search in ((0, window_topk), (2, refined_topk)):
        found = best_keys(query, keys, 8, "disc", 10, refine_radius=margin)
        assert all(map(torch.equal, found, search(query, keys, 8, "disc", 10)))
    assert best_keys_reach(8, "disc") == 7 and best_keys_reach(8, "disc", 2) == refined_reach(8, "disc", 2)
    assert BLOCK == COARSE_STRIDE // FINE_STRIDE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_back_ends_refine_alike_in_float32(dtype):
    query, keys, _ = moved_features(21, 30, dtype=dtype)
    by_torch, by_numba = (refined_topk(query, keys, 8, "disc", 5, backend=of) for of in ("torch", "numba"))
    torch.testing.assert_close(by_numba[0], by_torch[0], rtol=1e-5, atol=1e-6)
    flat = torch.cat([key.flatten(0, 1) for key in keys]).float()
    products = torch.einsum("qc,qkc->qk", query.flatten(0, 1).float(), flat[by_torch[1]])
    torch.testing.assert_close(by_torch[0], products, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_the_memory_layout_does_not_change_a_bit(backend):
    query, keys, _ = moved_features(13, 22)
    strided = [of.permute(2, 0, 1).contiguous().permute(1, 2, 0) for of in (query, *keys)]
    found = refined_topk(strided[0], strided[1:], 8, "disc", 5, backend=backend)
    assert all(map(torch.equal, found, refined_topk(query, keys, 8, "disc", 5, backend=backend)))


def test_refined_keys_are_within_reach():
    query, keys, _ = moved_features(33, 46, frames=1)
    for radius, shape in (
        (15, "disc"),
        (6, "square"),
        (4, "disc"),
    ):  # of the last, areas at the border are moved by most
        scores, indices = refined_topk(query, keys, radius, shape, 100)
        cell = torch.arange(33 * 46)[:, None]
        offset = torch.maximum((indices // 46 - cell // 46).abs(), (indices % 46 - cell % 46).abs())
        assert offset[torch.isfinite(scores)].max() <= refined_reach(radius, shape, 3)


def test_refined_keys_do_not_depend_on_chunks_or_on_what_is_left_out(monkeypatch):
    query, keys, _ = moved_features(30, 41, dtype=torch.bfloat16)
    scores, indices = refined_topk(query, keys, 8, "disc", 5)
    active = torch.zeros(30, 41, dtype=torch.bool)
    active[3:9, 20:30] = True
    some_scores, some_indices = refined_topk(query, keys, 8, "disc", 5, active)
    chosen = active.flatten()
    assert torch.equal(some_scores[chosen], scores[chosen]) and torch.equal(some_indices[chosen], indices[chosen])
    assert (some_scores.view(30, 41, 5)[16:] == -torch.inf).all() and not some_indices.view(30, 41, 5)[16:].any()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)
    assert all(map(torch.equal, refined_topk(query, keys, 8, "disc", 5), (scores, indices)))


def test_a_wide_margin_is_within_reach():
    """A block at the border whose area of 16 x 16 cells is moved inwards: 15 cells from its first query to the last key."""
    query, keys, _ = moved_features(40, 44, frames=1)
    scores, indices = refined_topk(query, keys, 4, "disc", 256, margin=6)
    assert torch.isfinite(scores[0]).all() and set(indices[0].tolist()) == {
        44 * y + x for y in range(16) for x in range(16)
    }
    assert 15 <= best_keys_reach(4, "disc", 6) <= 18
