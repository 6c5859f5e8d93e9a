"""One contract for every implementation of the search for keys: what `reference_topk` finds.

Triton's interpreter, which runs its kernels on a CPU, has to be chosen before Triton is imported: one test runs this file in such a process.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.matching.row_search import row_topk
from fgvc_hf.matching.tiles import TILE
from fgvc_hf.matching.windows import Window, reference_topk, window_topk


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = find_spec("triton") is not None
TRITON = pytest.param(
    "triton",
    marks=pytest.mark.skipif(
        not HAS_TRITON or not (INTERPRETED or DEVICE == "cuda"),
        reason="Triton is not installed, or test_triton_keeps_the_contract_in_its_interpreter runs this",
    ),
)
NUMBA = pytest.param("numba", marks=pytest.mark.skipif(DEVICE == "cuda", reason="numba computes on a CPU"))
BACKENDS = pytest.mark.parametrize("backend", ["torch", NUMBA, TRITON])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
WINDOWS = pytest.mark.parametrize("shape", ["disc", "square"])
# The interpreter warns of queries off the map, whose results are dropped
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def random_features(h, w, frames, channels=32, dtype=torch.float32, seed=0):
    """Features of a frame and of key frames, of unit length."""
    noise = torch.randn(frames + 1, h, w, channels, generator=torch.Generator().manual_seed(seed))
    query, *keys = F.normalize(noise, dim=-1).to(DEVICE, dtype)
    return query, keys


def scores_at(query, keys, indices):
    """Float32 products of every query (h*w) with the keys that `indices` (h*w, k) name."""
    flat = torch.cat([key.flatten(0, 1) for key in keys]).float()
    return torch.einsum("qc,qkc->qk", query.flatten(0, 1).float(), flat[indices])


def check(query, keys, radius, shape, topk, found):
    """The contract."""
    h, w, _ = query.shape
    (scores, indices), (expected, expected_indices) = found, reference_topk(query, keys, radius, shape, topk)
    assert scores.shape == indices.shape == (h * w, topk)
    assert scores.dtype == torch.float32 and indices.dtype == torch.int64
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    some = scores > -torch.inf
    assert torch.equal(some, expected > -torch.inf) and (indices[~some] == 0).all()
    torch.testing.assert_close(scores_at(query, keys, indices)[some], scores[some], rtol=1e-5, atol=1e-6)
    cell, key = torch.arange(h * w, device=DEVICE)[:, None], indices % (h * w)
    inside = Window(radius, shape).contains(key // w - cell // w, key % w - cell % w)
    assert inside[some].all()
    ordered = indices.masked_fill(~some, -1).sort(dim=1).values
    assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()  # no key twice
    if query.dtype == torch.float32:
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
        gaps = (expected[:, :-1] - expected[:, 1:]).abs() < 1e-5  # near ties may come in either order
        near_tie = F.pad(gaps, (1, 0)) | F.pad(gaps, (0, 1), value=True)  # the last may tie with the one after it
        assert (indices == expected_indices)[some & ~near_tie].all()
    else:  # of 16-bit scores few candidates are missed, and what is found instead is nearly as good
        assert ((scores - expected).abs() > 1e-5)[some].float().mean() < 0.005
        assert (scores - expected)[some].abs().max() < 0.01


@BACKENDS
@DTYPES
@WINDOWS
@pytest.mark.parametrize(
    ("h", "w", "frames", "channels", "radius", "topk"),
    [
        (*TILE, 2, 32, 4, 5),  # one tile exactly, and a row and a column more
        (TILE[0] + 1, TILE[1] + 1, 2, 32, 4, 5),
        (11, 21, 3, 48, 6, 10),
        (1, 19, 2, 16, 5, 4),  # one row, one column, one cell
        (19, 1, 2, 16, 5, 4),
        (1, 1, 1, 16, 1, 3),
        (9, 14, 2, 33, 2, 60),  # more than there are keys
        (7, 9, 1, 16, 8, 10),  # the window is larger than the frame
        (8, 16, 1, 300, 2, 16),  # more channels than Triton multiplies at a time
    ],
)
def test_it_finds_what_the_reference_finds(backend, dtype, shape, h, w, frames, channels, radius, topk):
    query, keys = random_features(h, w, frames, channels, dtype)
    check(query, keys, radius, shape, topk, window_topk(query, keys, radius, shape, topk, backend=backend))


@WINDOWS
@pytest.mark.parametrize(
    ("h", "w", "frames", "radius", "topk"), [(9, 17, 2, 4, 5), (6, 5, 3, 8, 200), (1, 1, 1, 1, 3)]
)
def test_the_graph_for_export_finds_the_same(shape, h, w, frames, radius, topk):
    query, keys = random_features(h, w, frames)
    check(query, keys, radius, shape, topk, row_topk(query, torch.stack(keys), radius, shape, topk))


@BACKENDS
def test_exact_ties_give_different_keys_and_the_same_ones_again(backend):
    integers = torch.randint(-1, 2, (3, 9, 14, 16), generator=torch.Generator().manual_seed(0))
    query, *keys = integers.float().to(DEVICE)  # products are exact, and many are equal
    found = window_topk(query, keys, 3, "disc", 12, backend=backend)
    assert torch.equal(found[0], reference_topk(query, keys, 3, "disc", 12)[0])
    check(query, keys, 3, "disc", 12, found)
    assert all(map(torch.equal, found, window_topk(query, keys, 3, "disc", 12, backend=backend)))


@BACKENDS
@DTYPES
def test_tiles_without_active_queries_are_skipped(backend, dtype):
    query, keys = random_features(11, 21, 2, dtype=dtype)
    everywhere = window_topk(query, keys, 3, "disc", 5, backend=backend)
    active = torch.zeros(11, 21, dtype=torch.bool, device=DEVICE)
    scores, indices = window_topk(query, keys, 3, "disc", 5, active, backend)
    assert (scores == -torch.inf).all() and (indices == 0).all()
    active[9, 20] = True
    tile = torch.zeros_like(active)
    tile[TILE[0] :, TILE[1] :] = True
    scores, indices = window_topk(query, keys, 3, "disc", 5, active, backend)
    # On a GPU, torch multiplies another number of tiles by another kernel, whose last bit may differ
    tolerance = 1e-6 if (backend, DEVICE) == ("torch", "cuda") else 0
    expected = everywhere[0].where(tile.flatten()[:, None], -torch.inf)
    torch.testing.assert_close(scores, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(indices, everywhere[1].where(tile.flatten()[:, None], 0))


def laid_out(features, layout):
    """The same features (h, w, C) in another memory layout."""
    if layout == "channels first":
        return features.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if layout == "part of a larger tensor":
        return F.pad(features, (3, 2, 1, 4, 2, 1))[2:-1, 1:-4, 3:-2]
    return features[:1, :1].expand_as(features)


@BACKENDS
@DTYPES
@pytest.mark.parametrize("layout", ["channels first", "part of a larger tensor", "expanded"])
def test_the_memory_layout_does_not_change_a_bit(backend, dtype, layout):
    query, keys = random_features(11, 21, 2, 48, dtype)
    strided = [laid_out(features, layout) for features in (query, *keys)]
    assert not any(features.is_contiguous() for features in strided)
    first, *others = (features.contiguous() for features in strided)
    expected = window_topk(first, others, 4, "disc", 8, backend=backend)
    for mixed in ((strided[0], others), (first, strided[1:]), (strided[0], strided[1:])):
        found = window_topk(*mixed, 4, "disc", 8, backend=backend)
        assert all(map(torch.equal, found, expected))


@BACKENDS
def test_keys_of_another_precision_are_converted(backend):
    query, keys = random_features(9, 17, 2)
    half = [key.bfloat16() for key in keys]
    found = window_topk(query, half, 3, "disc", 5, backend=backend)
    expected = window_topk(query, [key.float() for key in half], 3, "disc", 5, backend=backend)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(4, 5)}, r"query must hold floating-point features \(h, w, C\)"),
        ({"query": torch.zeros(4, 5, 8, dtype=torch.int64)}, "query must hold floating-point features"),
        ({"keys": []}, "keys must hold the features of at least one frame"),
        ({"keys": [torch.zeros(4, 6, 8)]}, r"keys must be floating-point features of shape \(4, 5, 8\) on cpu"),
        ({"keys": [torch.zeros(4, 5, 8, device="meta")]}, "on meta"),
        ({"active": torch.ones(5, 4, dtype=torch.bool)}, r"active must be a bool mask of shape \(4, 5\)"),
        ({"active": torch.ones(4, 5)}, "active must be a bool mask"),
        ({"shape": "circle"}, "window shape must be 'disc', 'square' or 'none', got 'circle'"),
        ({"shape": "none"}, "window shape must be 'disc' or 'square' where a window is searched"),
        ({"radius": 0}, "radius of a disc must be at least 1, got 0"),
        ({"backend": "cuda"}, "backend must be one of torch, numba, triton, got 'cuda'"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message):
    features = torch.zeros(4, 5, 8)
    arguments = {"query": features, "keys": [features], "radius": 2, "shape": "disc", "topk": 3} | changes
    with pytest.raises(ValueError, match=message):
        window_topk(**arguments)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or DEVICE == "cuda", reason="no Triton, or it runs in this process")
def test_triton_keeps_the_contract_in_its_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "triton", __file__]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr
