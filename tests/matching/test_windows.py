import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from fgvc_hf.kernels import numba_runtime as machine_code
from fgvc_hf.kernels.dispatch import TorchSelection, compiled_selection, selection_for
from fgvc_hf.matching import windows as correlation
from fgvc_hf.matching.windows import merge_topk, reference_topk, window_correlation, window_mask, window_topk
from fgvc_hf.tracking.label_maps import LABEL_CUTOFF, draw_points, label_reach, propagate_labels


SELECTIONS = pytest.mark.parametrize("compiled", [False, True])  # numba comes with the extra `dev`


def random_features(seed: int, h: int, w: int, frames: int, channels: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(frames + 1, h, w, channels, generator=generator), dim=-1)
    return features[0], list(features[1:])


def scores_at(query: torch.Tensor, keys: list[torch.Tensor], indices: torch.Tensor) -> torch.Tensor:
    """The products of every query (h*w) with the keys that `indices` (h*w, k) name."""
    flat = torch.cat([key.flatten(0, 1) for key in keys]).float()
    return torch.einsum("qc,qkc->qk", query.flatten(0, 1).float(), flat[indices])


SHAPES = {
    "seed": st.integers(0, 10**6),
    "h": st.integers(1, 27),
    "w": st.integers(1, 37),
    "frames": st.integers(1, 4),
    "channels": st.sampled_from([4, 16, 33]),
    "radius": st.integers(1, 15),
    "shape": st.sampled_from(["disc", "square"]),
    "topk": st.integers(1, 12),
}


@SELECTIONS
@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_tiles_equal_the_reference(compiled, seed, h, w, frames, channels, radius, shape, topk):
    query, keys = random_features(seed, h, w, frames, channels)
    expected, expected_indices = reference_topk(query, keys, radius, shape, topk)
    scores, indices = window_topk(query, keys, radius, shape, topk, compiled=compiled)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    found = scores > -torch.inf
    torch.testing.assert_close(scores_at(query, keys, indices)[found], scores[found], rtol=1e-5, atol=1e-6)
    gaps = (expected[:, :-1] - expected[:, 1:]).abs() < 1e-5  # near ties may come in either order
    near_tie = F.pad(gaps, (1, 0)) | F.pad(gaps, (0, 1), value=True)  # the last may tie with the one after it
    assert (indices == expected_indices)[found & ~near_tie].all()


@SELECTIONS
@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_ties_give_keys_of_the_right_score_inside_the_window(
    compiled, seed, h, w, frames, channels, radius, shape, topk
):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(
        -1, 2, (frames + 1, h, w, channels), generator=generator
    ).float()  # exact and full of ties
    query, keys = features[0], list(features[1:])
    scores, indices = window_topk(query, keys, radius, shape, topk, compiled=compiled)
    assert torch.equal(scores, reference_topk(query, keys, radius, shape, topk)[0])
    found = scores > -torch.inf
    assert torch.equal(scores_at(query, keys, indices)[found], scores[found])
    cell, key = torch.arange(h * w)[:, None], indices % (h * w)
    dy, dx = key // w - cell // w, key % w - cell % w
    inside = (dx**2 + dy**2 < radius**2) if shape == "disc" else (dx.abs() <= radius) & (dy.abs() <= radius)
    assert inside[found].all()
    ordered = indices.masked_fill(~found, -1).sort(dim=1).values  # no key twice
    assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()


@SELECTIONS
@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_finds_the_best_keys_but_for_a_few(seed, compiled):
    query, keys = random_features(seed, 30, 40, 3, 64)
    query, keys = query.bfloat16(), [key.bfloat16() for key in keys]
    expected, _ = reference_topk(query, keys, 9, "disc", 10)
    scores, indices = window_topk(query, keys, 9, "disc", 10, compiled=compiled)
    torch.testing.assert_close(scores, scores_at(query, keys, indices), rtol=1e-5, atol=1e-6)  # re-scored in float32
    missed = (scores - expected).abs() > 1e-5
    assert missed.float().mean() < 0.005
    assert (scores - expected).abs().max() < 0.01  # and what was taken instead is nearly as good


def test_active_tiles_are_computed_and_others_skipped():
    query, keys = random_features(0, 30, 50, 2, 16)
    active = torch.zeros(30, 50, dtype=torch.bool)
    active[17, 33] = True
    scores, indices = window_topk(query, keys, 6, "disc", 5, active)
    full_scores, full_indices = window_topk(query, keys, 6, "disc", 5)
    tile = torch.zeros_like(active)
    tile[16:24, 32:48] = True
    assert torch.equal(scores[tile.flatten()], full_scores[tile.flatten()])
    assert torch.equal(indices[tile.flatten()], full_indices[tile.flatten()])
    assert (scores[~tile.flatten()] == -torch.inf).all()


def test_chunk_size_changes_nothing(monkeypatch):
    query, keys = random_features(0, 30, 50, 2, 16)
    expected = window_topk(query, keys, 6, "disc", 5)
    monkeypatch.setitem(correlation.CHUNK_BYTES, "cpu", 1)
    for one_at_a_time, together in zip(window_topk(query, keys, 6, "disc", 5), expected, strict=True):
        assert torch.equal(one_at_a_time, together)


def test_merging_is_joint_topk():
    query, keys = random_features(0, 20, 30, 4, 16)
    joint = window_topk(query, keys, 6, "disc", 5)
    scores, indices = window_topk(query, keys[2:], 6, "disc", 5)
    merged = merge_topk(window_topk(query, keys[:2], 6, "disc", 5), (scores, indices + 2 * 20 * 30))
    torch.testing.assert_close(merged[0], joint[0])
    assert (merged[1] == joint[1]).float().mean() > 0.999


def test_the_disc_of_radius_15_has_the_697_cells_of_the_official_code():
    assert window_mask(15, "disc").shape == (29, 29)
    assert window_mask(15, "disc").sum() == 697
    assert window_mask(3, "square").sum() == 49


def test_unknown_window_shape():
    with pytest.raises(ValueError, match="window_shape must be 'disc' or 'square'"):
        window_mask(3, "circle")


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


def official_propagation(query, keys, labels, limit=15, topk=10, temperature=0.07):
    """The released evaluation, as it is described: one product of everything with everything."""
    h, w, channels = query.shape
    affinity = query.reshape(-1, channels) @ torch.cat([key.reshape(-1, channels) for key in keys]).T / temperature
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cells = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    far = torch.cdist(cells, cells) >= limit
    affinity = affinity.masked_fill(far.repeat(1, len(keys)), -torch.inf)
    values, indices = affinity.topk(topk, dim=1)
    weights = values.softmax(dim=1)
    return (weights[..., None] * labels.flatten(0, 1)[indices]).sum(dim=1)


@pytest.mark.parametrize(("h", "w"), [(20, 24), (33, 18)])
def test_propagation_equals_the_official_algorithm(h, w):
    query, keys = random_features(1, h, w, 6, 32)
    labels = torch.rand(6, h * w, 7) + 0.1  # above the cut-off
    best = window_topk(query, keys, 15, "disc", 10)
    ours = propagate_labels(*best, labels, 0.07, torch.ones(h * w, dtype=torch.bool))
    torch.testing.assert_close(ours, official_propagation(query, keys, labels), rtol=1e-5, atol=1e-5)


def inside_window(indices: torch.Tensor, h: int, w: int, radius: int, shape: str) -> torch.Tensor:
    """Whether the keys (h*w, k) lie in the window of their query, as the definition reads."""
    cell, key = torch.arange(h * w)[:, None], indices % (h * w)
    dy, dx = key // w - cell // w, key % w - cell % w
    return (dx**2 + dy**2 < radius**2) if shape == "disc" else (dx.abs() <= radius) & (dy.abs() <= radius)


@SELECTIONS
@pytest.mark.parametrize("shape", ["disc", "square"])
@pytest.mark.parametrize(
    ("h", "w", "frames", "channels", "radius", "topk"),
    [
        (40, 40, 6, 64, 15, 10),  # the largest
        (1, 40, 6, 4, 15, 12),  # one row, one column, one cell
        (40, 1, 2, 64, 15, 12),
        (1, 1, 1, 4, 1, 12),
        (8, 16, 3, 16, 15, 10),  # a tile exactly, and a cell more
        (9, 17, 3, 16, 15, 10),
        (13, 21, 1, 8, 1, 12),  # more than the one key of the disc, or the nine of the square
    ],
)
def test_extreme_sizes_equal_the_reference(compiled, h, w, frames, channels, radius, shape, topk):
    query, keys = random_features(2, h, w, frames, channels)
    expected, _ = reference_topk(query, keys, radius, shape, topk)
    scores, indices = window_topk(query, keys, radius, shape, topk, compiled=compiled)
    assert scores.shape == indices.shape == (h * w, topk) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    found = scores > -torch.inf
    torch.testing.assert_close(scores_at(query, keys, indices)[found], scores[found], rtol=1e-5, atol=1e-6)
    assert inside_window(indices, h, w, radius, shape)[found].all()
    assert (indices[~found] == 0).all()  # slots that stay empty point at a key that exists
    assert (scores[:, :-1] >= scores[:, 1:]).all()


def test_the_reference_of_a_few_cells_is_that_of_all():
    query, keys = random_features(0, 12, 15, 2, 8)
    cells = torch.tensor([0, 17, 179])
    full = reference_topk(query, keys, 4, "disc", 5)
    for sampled, all_rows in zip(reference_topk(query, keys, 4, "disc", 5, cells), full, strict=True):
        torch.testing.assert_close(sampled, all_rows[cells])


@settings(max_examples=25, deadline=None)
@given(**SHAPES, share=st.sampled_from([0.0, 0.01, 0.1]))
def test_active_queries_have_the_full_result(seed, h, w, frames, channels, radius, shape, topk, share):
    query, keys = random_features(seed, h, w, frames, channels)
    active = torch.rand(h, w, generator=torch.Generator().manual_seed(seed)) < share
    scores, indices = window_topk(query, keys, radius, shape, topk, active)
    full_scores, full_indices = window_topk(query, keys, radius, shape, topk)
    rows = active.flatten()
    assert torch.equal(scores[rows], full_scores[rows]) and torch.equal(indices[rows], full_indices[rows])
    th, tw = correlation.TILE
    tiles = F.pad(active.float(), (0, -w % tw, 0, -h % th))[None]
    tiles = F.interpolate(F.max_pool2d(tiles, (th, tw))[None], scale_factor=(th, tw))[0, 0, :h, :w].flatten() > 0
    assert (scores[~tiles] == -torch.inf).all() and (indices[~tiles] == 0).all()


@pytest.mark.parametrize("radius", [1, 3])
def test_bfloat16_is_exact_where_every_key_is_a_candidate(radius):
    query, keys = random_features(0, 11, 19, 1, 24)
    query, keys = query.bfloat16(), [key.bfloat16() for key in keys]
    topk = (2 * radius + 1) ** 2
    expected, _ = reference_topk(query, keys, radius, "square", topk)
    torch.testing.assert_close(window_topk(query, keys, radius, "square", topk)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["disc", "square"])
def test_bfloat16_misses_few_candidates_among_similar_features(shape):
    """Smooth features, whose neighbours differ by less than bfloat16 resolves: the hard case."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(4, 64, 6, 8, generator=generator)
    smooth = F.interpolate(coarse, size=(30, 40), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    query, *keys = F.normalize(smooth, dim=-1).bfloat16()
    expected, _ = reference_topk(query, keys, 15, shape, 10)
    scores, indices = window_topk(query, keys, 15, shape, 10)
    torch.testing.assert_close(scores, scores_at(query, keys, indices), rtol=1e-5, atol=1e-6)
    assert (expected - scores).min() > -1e-5
    assert ((expected - scores) > 1e-3).float().mean() < 0.005


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tiles", [1, 3, 100])
def test_any_number_of_tiles_at_a_time_gives_the_same(monkeypatch, dtype, tiles):
    query, keys = random_features(0, 33, 50, 2, 16)
    query, keys = query.to(dtype), [key.to(dtype) for key in keys]
    expected = window_topk(query, keys, 6, "disc", 5)
    tile_bytes = 8 * 16 * 2 * 18 * 26 * query.element_size()
    monkeypatch.setitem(correlation.CHUNK_BYTES, "cpu", tiles * tile_bytes)
    for chunked, together in zip(window_topk(query, keys, 6, "disc", 5), expected, strict=True):
        assert torch.equal(chunked, together)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_merging_fills_up_where_keys_are_few(split):
    query, keys = random_features(3, 6, 7, 4, 16)
    expected, _ = reference_topk(query, keys, 2, "disc", 12)  # a corner has three keys in each frame
    first, (scores, indices) = (window_topk(query, part, 2, "disc", 12) for part in (keys[:split], keys[split:]))
    merged, found = merge_topk(first, (scores, indices + split * 42))
    torch.testing.assert_close(merged, expected)
    some = merged > -torch.inf
    torch.testing.assert_close(scores_at(query, keys, found)[some], merged[some])


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


@pytest.mark.parametrize("frames", [1, 6])
def test_drawn_points_are_propagated_as_by_the_official_algorithm(frames):
    """As above, but where labels are those of points: values below the cut-off are zero, and no cell is left out."""
    h, w = 24, 30
    query, keys = random_features(4, h, w, frames, 32)
    points = torch.tensor([[20.0, 20.0], [1.0, 47.0], [33.3, 8.1]])
    labels = draw_points(points, (h, w), 2, 6.0).repeat(frames, 1, 1)
    expected = official_propagation(query, keys, labels)
    active = label_reach((labels > 0).any(dim=-1), (h, w), 14)
    best = window_topk(query, keys, 15, "disc", 10, active)
    ours = propagate_labels(*best, labels, 0.07, active.flatten())
    assert (ours[ours > 0] >= LABEL_CUTOFF).all()
    kept = (expected > LABEL_CUTOFF + 1e-5) | (expected < LABEL_CUTOFF - 1e-5)
    torch.testing.assert_close(ours[kept], expected.where(expected >= LABEL_CUTOFF, 0)[kept], rtol=1e-5, atol=1e-5)


def test_compiled_selection_is_taken_where_it_works():
    features = torch.zeros(4, 4, 8)
    assert selection_for(features) is selection_for(features, compiled=True) is compiled_selection() is not None
    assert selection_for(features, compiled=False) is selection_for(features.half()) is TorchSelection
    with pytest.raises(ValueError, match="compiled selection needs numba"):
        selection_for(features.half(), compiled=True)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("of_torch", [True, False])
def test_work_is_done_once_in_parts(threads, of_torch, monkeypatch):
    if not of_torch:
        monkeypatch.setattr(machine_code, "torch_threads", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done = np.zeros(13, int)

    def work(first, last):
        done[first:last] += 1

    machine_code.in_parts(work, len(done))
    assert (done == 1).all()

    def fail(first, last):
        if last == len(done):
            raise ArithmeticError("what went wrong")

    with pytest.raises(ArithmeticError, match="what went wrong"):
        machine_code.in_parts(fail, len(done))
    machine_code.in_parts(work, 0)  # and it goes on


def test_without_numba_torch_selects(monkeypatch, caplog):
    compiled_selection.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it fails
    for name in ("machine_code", "selection_numba"):
        monkeypatch.delitem(sys.modules, f"fgvc_hf.{name}", raising=False)
    monkeypatch.setattr("fgvc_hf.kernels.dispatch.find_spec", lambda name: "there")
    assert selection_for(torch.zeros(4, 4, 8)) is TorchSelection and "cannot be used" in caplog.text
    compiled_selection.cache_clear()


def test_threads_share_the_queries(monkeypatch):
    query, keys = random_features(0, 30, 40, 2, 16)
    expected = window_topk(query, keys, 5, "disc", 4, compiled=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(map(torch.equal, window_topk(query, keys, 5, "disc", 4, compiled=True), expected))


def test_machine_code_is_made_without_a_place_to_keep_it(monkeypatch):
    def no_place(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(machine_code, "njit", no_place)
    assert machine_code.compiled(lambda a: a + 1)(2) == 3
