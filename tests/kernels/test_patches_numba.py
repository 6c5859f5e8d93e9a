"""The numba kernels for patches agree with torch."""

import pytest
import torch
from feature_fields import unit_features

from fgvc_hf.kernels.dispatch import patches_for
from fgvc_hf.kernels.patches_numba import NumbaPatches
from fgvc_hf.kernels.patches_torch import TorchPatches, sample_patches


def test_numba_is_taken_where_it_fits():
    assert patches_for(torch.zeros(4, 4, 8)) is patches_for(torch.zeros(4, 4, 8).bfloat16()) is NumbaPatches
    assert patches_for(torch.zeros(4, 4, 8).half()) is TorchPatches


@pytest.mark.parametrize("search", [1, 3, 8])
@pytest.mark.parametrize("number", [0, 1, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_shares_agree(search, number, dtype):
    features, generator = unit_features(21, 15, dtype=dtype), torch.Generator().manual_seed(2)
    centres = torch.rand(number, 2, generator=generator) * torch.tensor([30.0, 42]) - torch.tensor(
        [8.0, 11]
    )  # some outside
    templates = sample_patches(features, centres, 3)
    weights = torch.rand(number, 49, generator=generator).softmax(dim=1)
    corner = centres.round().long() - search
    results = [of.correlate(features, corner, templates, weights, search) for of in (TorchPatches, NumbaPatches)]
    for by_torch, by_numba in zip(*results, strict=True):
        torch.testing.assert_close(by_numba, by_torch, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_and_taken_patches_agree(dtype, kept):
    """The patches in memory may be of another type than the features."""
    features = unit_features(21, 15, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(9, 2, generator=generator) * torch.tensor([18.0, 24]) - 2  # some outside
    trusted = torch.rand(9, 3, generator=generator) > 0.4
    assert 0 < trusted[:, 0].sum() < 9
    anchor = sample_patches(features, cells, 2)
    recent = torch.stack([sample_patches(features, cells + 0.1 * i, 2) for i in range(3)], dim=1)
    recent *= trusted[:, :, None, None]
    mean, numba_mean = (of.mean(anchor, 1.5, recent, trusted) for of in (TorchPatches, NumbaPatches))
    torch.testing.assert_close(numba_mean, mean, atol=1e-6, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6)
    both = anchor.new_full((9, 3, 25, 32), torch.nan, dtype=kept)
    taken = both[..., :16], both[..., 16:]  # not contiguous, as a memory need not be
    slots = torch.tensor([0, 1, 2] * 3)
    similarity, numba_similarity = (
        of.take(features, cells + 0.3, mean, trusted[:, 0], out, slots)
        for of, out in zip((TorchPatches, NumbaPatches), taken, strict=True)
    )
    close = {
        "atol": 1e-6 if kept == torch.float32 else 1e-3,
        "rtol": 1e-6 if dtype == kept == torch.float32 else 2**-7,
    }
    torch.testing.assert_close(taken[1], taken[0], **close, equal_nan=True)
    by_slot = taken[1][torch.arange(9), slots]
    assert not by_slot[~trusted[:, 0]].any() and by_slot[trusted[:, 0]].any(dim=-1).all()
    others = torch.arange(3) != slots[:, None]
    assert taken[1][others].isnan().all() and not by_slot.isnan().any()  # nothing else is written to
    torch.testing.assert_close(numba_similarity, similarity, atol=1e-5 if dtype == torch.float32 else 4e-3, rtol=0)


def test_the_memory_layout_does_not_change_a_bit():
    features, generator = unit_features(21, 15), torch.Generator().manual_seed(4)
    corner, cells = torch.tensor([[3, 4]]).expand(4, -1), torch.tensor([[6.3, 7.1]]).expand(4, -1)
    templates = sample_patches(features, cells, 3)[:1].expand(4, -1, -1)
    weights = torch.rand(1, 49, generator=generator).softmax(dim=1).expand(4, -1)
    strided = features.permute(2, 0, 1).contiguous().permute(1, 2, 0), corner, templates, weights
    assert not any(of.is_contiguous() for of in strided)
    expected = NumbaPatches.correlate(*(of.contiguous() for of in strided), 3)
    assert all(map(torch.equal, NumbaPatches.correlate(*strided, 3), expected))
    trusted, both = torch.tensor([True, False]).repeat_interleave(2), torch.zeros(4, 2, 49, 32)
    outputs, slots = (both[..., :16], torch.zeros(4, 2, 49, 16)), torch.tensor([0, 1, 1, 0])
    similarity = [NumbaPatches.take(strided[0], cells, templates, trusted, of, slots) for of in outputs]
    assert torch.equal(*similarity) and torch.equal(*outputs)
