"""The search for keys: its tiles, its merging, and the propagation of labels with it. What it finds is in `test_contract.py`."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_hf.kernels.chunks import CHUNK_BYTES
from fgvc_hf.matching.tiles import TILE
from fgvc_hf.matching.windows import Window, frame_topk, merge_topk, reference_topk, repeat_topk, window_topk
from fgvc_hf.tracking.label_maps import LABEL_CUTOFF, draw_points, label_reach, propagate_labels


BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])


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


@BACKENDS
@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_tiles_equal_the_reference(backend, seed, h, w, frames, channels, radius, shape, topk):
    query, keys = random_features(seed, h, w, frames, channels)
    expected, expected_indices = reference_topk(query, keys, radius, shape, topk)
    scores, indices = window_topk(query, keys, radius, shape, topk, backend=backend)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    found = scores > -torch.inf
    torch.testing.assert_close(scores_at(query, keys, indices)[found], scores[found], rtol=1e-5, atol=1e-6)
    gaps = (expected[:, :-1] - expected[:, 1:]).abs() < 1e-5  # near ties may come in either order
    near_tie = F.pad(gaps, (1, 0)) | F.pad(gaps, (0, 1), value=True)  # the last may tie with the one after it
    assert (indices == expected_indices)[found & ~near_tie].all()


def test_merging_is_joint_topk():
    query, keys = random_features(0, 20, 30, 4, 16)
    joint = window_topk(query, keys, 6, "disc", 5)
    scores, indices = window_topk(query, keys[2:], 6, "disc", 5)
    merged = merge_topk(window_topk(query, keys[:2], 6, "disc", 5), (scores, indices + 2 * 20 * 30))
    torch.testing.assert_close(merged[0], joint[0])
    assert (merged[1] == joint[1]).float().mean() > 0.999


def test_the_disc_of_radius_15_has_the_697_cells_of_the_official_code():
    window = Window(15, "disc")
    assert window.reach == 14 and window.mask().shape == (29, 29) and window.mask().sum() == 697
    assert Window(3, "square").mask().sum() == 49 and Window(3, "square").reach == 3


@pytest.mark.parametrize("shape", ["disc", "square"])
@pytest.mark.parametrize("radius", [1, 2, 7, 15, 24])
def test_half_widths_are_the_rows_of_the_window(radius, shape):
    window = Window(radius, shape)
    axis = torch.arange(-window.reach, window.reach + 1)
    rows = axis.abs() <= torch.tensor(window.half_widths)[:, None]
    assert torch.equal(rows, window.mask()) and len(window.half_widths) == 2 * window.reach + 1
    assert not window.contains(torch.tensor([window.reach + 1, 0]), torch.tensor([0, window.reach + 1])).any()


def test_a_window_without_bounds_is_the_whole_frame():
    offsets = torch.tensor([-500, 0, 500])
    assert Window(1, "none").contains(offsets[:, None], offsets).all()


@pytest.mark.parametrize("arguments", [(0, "disc"), (-1, "square"), (3, "circle")])
def test_windows_without_a_cell_or_of_another_shape_are_refused(arguments):
    with pytest.raises(ValueError, match="radius of a|window shape must be"):
        Window(*arguments)


def test_the_best_keys_of_a_whole_frame():
    query, (key,) = random_features(0, 6, 7, 1, 16)
    products = query.flatten(0, 1) @ key.flatten(0, 1).T
    expected = products.topk(5, dim=1)
    scores, indices = frame_topk(query, key, 5)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(indices, expected.indices)
    allowed = torch.zeros(6, 7, dtype=torch.bool)
    allowed[2, 3] = allowed[4, 1] = True
    scores, indices = frame_topk(query[:2], key, 3, allowed)
    assert (indices[:, :2].sort(dim=1).values == torch.tensor([17, 29])).all() and (scores[:, 2] == -torch.inf).all()


def test_bfloat16_products_of_a_whole_frame_are_float32():
    query, (key,) = random_features(0, 12, 15, 1, 64)
    query, key = query.bfloat16(), key.bfloat16()
    scores, indices = frame_topk(query, key, 10)
    expected, expected_indices = frame_topk(query.float(), key.float(), 10)
    assert torch.equal(scores, expected) and torch.equal(indices, expected_indices)


def test_repeated_keys_occur_as_often():
    best = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[7, 8, 9]])
    scores, indices = repeat_topk(best, 2)
    assert scores.tolist() == [[3.0, 3.0, 2.0]] and indices.tolist() == [[7, 7, 8]]


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
    th, tw = TILE
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
    monkeypatch.setitem(CHUNK_BYTES, "cpu", tiles * tile_bytes)
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


@BACKENDS
@pytest.mark.parametrize("turned", [False, True])
def test_the_best_of_keys_that_are_equal_in_16_bits_is_found(backend, turned):
    """Scores 1, 1 + 2^-11 and so on to 1 + 6 * 2^-11, all of which are 1 in bfloat16: as many as are scored again for one."""
    keys = torch.stack([torch.ones(7), torch.arange(7) * 2.0**-11], dim=-1)[None]
    keys = (keys.flip(1) if turned else keys).bfloat16()
    scores, indices = window_topk(torch.ones(1, 7, 2).bfloat16(), [keys], 6, "square", 1, backend=backend)
    assert indices.flatten().tolist() == [0 if turned else 6] * 7
    assert scores.flatten().tolist() == [1 + 6 * 2.0**-11] * 7


def test_a_whole_frame_is_searched_even_if_one_query_takes_more_memory_than_is_meant(monkeypatch):
    query, (key,) = random_features(3, 5, 7, 1, 8)
    expected = frame_topk(query, key, 3)
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1)
    found = frame_topk(query, key, 3)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
