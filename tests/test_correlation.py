import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_hf import correlation_fgvc as correlation
from fgvc_hf.correlation_fgvc import merge_topk, reference_topk, window_correlation, window_mask, window_topk
from fgvc_hf.propagation_fgvc import propagate_labels


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


@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_tiles_equal_the_reference(seed, h, w, frames, channels, radius, shape, topk):
    query, keys = random_features(seed, h, w, frames, channels)
    expected, expected_indices = reference_topk(query, keys, radius, shape, topk)
    scores, indices = window_topk(query, keys, radius, shape, topk)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    found = scores > -torch.inf
    torch.testing.assert_close(scores_at(query, keys, indices)[found], scores[found], rtol=1e-5, atol=1e-6)
    gaps = (expected[:, :-1] - expected[:, 1:]).abs() < 1e-5  # near ties may come in either order
    near_tie = F.pad(gaps, (1, 0)) | F.pad(gaps, (0, 1), value=True)  # the last may tie with the one after it
    assert (indices == expected_indices)[found & ~near_tie].all()


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_ties_give_keys_of_the_right_score_inside_the_window(seed, h, w, frames, channels, radius, shape, topk):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(
        -1, 2, (frames + 1, h, w, channels), generator=generator
    ).float()  # exact and full of ties
    query, keys = features[0], list(features[1:])
    scores, indices = window_topk(query, keys, radius, shape, topk)
    assert torch.equal(scores, reference_topk(query, keys, radius, shape, topk)[0])
    found = scores > -torch.inf
    assert torch.equal(scores_at(query, keys, indices)[found], scores[found])
    cell, key = torch.arange(h * w)[:, None], indices % (h * w)
    dy, dx = key // w - cell // w, key % w - cell % w
    inside = (dx**2 + dy**2 < radius**2) if shape == "disc" else (dx.abs() <= radius) & (dy.abs() <= radius)
    assert inside[found].all()
    ordered = indices.masked_fill(~found, -1).sort(dim=1).values  # no key twice
    assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()


@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_finds_the_best_keys_but_for_a_few(seed):
    query, keys = random_features(seed, 30, 40, 3, 64)
    query, keys = query.bfloat16(), [key.bfloat16() for key in keys]
    expected, _ = reference_topk(query, keys, 9, "disc", 10)
    scores, indices = window_topk(query, keys, 9, "disc", 10)
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
