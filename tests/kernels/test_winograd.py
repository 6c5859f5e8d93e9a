"""Convolutions by Winograd's algorithm equal torch's, and are taken where they are faster."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fgvc_hf.encoder import fused_encoder
from fgvc_hf.encoder.fused_encoder import FusedConvolution
from fgvc_hf.kernels import winograd_numba
from fgvc_hf.kernels.winograd_numba import WinogradConvolution, transforms


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_transforms_are_exact():
    outputs, inputs, weights = transforms()
    given, taps = np.random.default_rng(0).normal(size=6), np.random.default_rng(1).normal(size=3)
    np.testing.assert_allclose(outputs @ ((weights @ taps) * (inputs @ given)), np.correlate(given, taps), atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 8), (13, 18), (40, 30)])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("at_once", [1, 5000, 2**20])
def test_it_convolves(size, relu, with_residual, order, at_once, monkeypatch):
    monkeypatch.setattr(winograd_numba, "TILE_BYTES", at_once)
    images = random(2, 5, *size).contiguous(memory_format=order)
    weight, bias = random(7, 5, 3, 3, seed=1), random(7, seed=2)
    residual = random(2, 7, *size, seed=3).contiguous(memory_format=order) if with_residual else None
    expected = F.conv2d(images, weight, bias, padding=1) + (0 if residual is None else residual)
    inputs = images.clone(), None if residual is None else residual.clone()
    found = WinogradConvolution(weight, bias)(images, residual, relu)
    torch.testing.assert_close(found, expected.relu() if relu else expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(images, inputs[0]) and (residual is None or torch.equal(residual, inputs[1]))


def test_bfloat16_errs_by_one_in_a_hundred():
    images, weight, bias = random(1, 64, 24, 24).relu(), random(64, 64, 3, 3, seed=1) / 24, random(64, seed=2)
    images, bias = images.bfloat16(), bias.bfloat16()
    expected = F.conv2d(images.float(), weight, bias.float(), padding=1)
    found = WinogradConvolution(weight, bias)(images, relu=False)
    assert found.dtype == torch.bfloat16 and (found - expected).norm() < 0.015 * expected.norm()


@torch.no_grad()
def fused(inputs=128, outputs=128, size=3, dtype=torch.float32, **options):
    return FusedConvolution(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, dtype=dtype, **options),
        nn.BatchNorm2d(outputs),
    )


def test_it_is_taken_where_it_is_faster(monkeypatch):
    assert fused().winograd is not None
    assert fused(inputs=64).winograd is None and fused(size=1).winograd is None
    assert fused(stride=2).winograd is None and fused(padding_mode="reflect").winograd is None
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fused().winograd is not None and fused(dtype=torch.bfloat16).winograd is None
    monkeypatch.setattr(fused_encoder, "numba_fits", lambda weight: False)
    assert fused().winograd is None
