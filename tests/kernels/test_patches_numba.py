"""Machine code for patches of features does what torch does."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.kernels.patches_numba import CompiledPatches
from fgvc_hf.matching import patches as patches_fgvc
from fgvc_hf.matching.patches import TorchPatches, patches_for, sample_patches, window_scores


def unit_features(h, w, channels=16, seed=0, dtype=torch.float32):
    noise = torch.randn(h, w, channels, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1).to(dtype)


def test_machine_code_is_taken_where_it_works():
    assert patches_for(torch.zeros(4, 4, 8)) is patches_for(torch.zeros(4, 4, 8).bfloat16()) is CompiledPatches
    assert patches_for(torch.zeros(4, 4, 8).half()) is TorchPatches


@pytest.mark.parametrize("search", [1, 3, 8])
@pytest.mark.parametrize("number", [0, 1, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_machine_code_adds_up_what_torch_does(search, number, dtype, monkeypatch):
    features = unit_features(21, 15, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    centres = torch.rand(number, 2, generator=generator) * torch.tensor([30.0, 42]) - torch.tensor(
        [8.0, 11]
    )  # some outside
    templates = sample_patches(features, centres, 3)
    weights = torch.rand(number, 49, generator=generator).softmax(dim=1)
    results = []
    for implementation in (TorchPatches, CompiledPatches):
        monkeypatch.setattr(patches_fgvc, "patches_for", lambda features, chosen=implementation: chosen)
        results.append(window_scores(features, centres, templates, weights, search))
    for by_torch, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, by_torch, atol=1e-6 if dtype == torch.float32 else 4e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_machine_code_means_and_takes_patches_as_torch_does(dtype):
    features = unit_features(21, 15, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(9, 2, generator=generator) * torch.tensor([18.0, 24]) - 2  # some outside
    trusted = torch.rand(3, 9, generator=generator) > 0.4
    assert 0 < trusted[0].sum() < 9
    anchor = sample_patches(features, cells, 2)
    recent = [
        (sample_patches(features, cells + 0.1 * i, 2) * own[:, None, None], own) for i, own in enumerate(trusted)
    ]
    mean, compiled_mean = (of.mean(anchor, 1.5, recent) for of in (TorchPatches, CompiledPatches))
    torch.testing.assert_close(compiled_mean, mean, atol=1e-6, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6)
    ring = anchor.new_full((9, 25, 32), torch.nan)
    taken = ring[:, :, :16], ring[:, :, 16:]  # not contiguous, as a ring need not be
    similarity, compiled_similarity = (
        of.take(features, cells + 0.3, mean, trusted[0], out)
        for of, out in zip((TorchPatches, CompiledPatches), taken, strict=True)
    )
    torch.testing.assert_close(taken[1], taken[0], atol=1e-6, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6)
    assert not taken[1][~trusted[0]].any() and taken[1][trusted[0]].any(dim=-1).all()
    torch.testing.assert_close(compiled_similarity, similarity, atol=1e-5 if dtype == torch.float32 else 4e-3, rtol=0)
