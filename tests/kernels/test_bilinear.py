"""Maps read between their cells."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.kernels.bilinear import read_bilinear


@pytest.mark.parametrize("size", [(7, 9), (1, 6), (5, 1), (1, 1)])
def test_values_are_bilinear_and_constant_beyond_the_border(size):
    maps = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    places = torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(1)) * 20 - 6
    found = read_bilinear(maps, places)
    padded = F.pad(maps[None], (9, 22, 9, 22), mode="replicate")[0] if min(size) > 1 else None
    assert found.shape == (3, 4, 5)
    for i, j in np.ndindex(4, 5):
        x, y = (float(of) for of in places[i, j])
        x, y = min(max(x, 0.0), size[1] - 1), min(max(y, 0.0), size[0] - 1)
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, size[1] - 1), min(y0 + 1, size[0] - 1)
        rows = [torch.lerp(maps[:, row, x0], maps[:, row, x1], x - x0) for row in (y0, y1)]
        np.testing.assert_allclose(found[:, i, j], torch.lerp(rows[0], rows[1], y - y0), atol=1e-5)
    if padded is not None:  # whole cells far outside
        np.testing.assert_allclose(
            read_bilinear(maps, torch.tensor([[-5.0, 12.0]]))[:, 0], padded[:, 21, 4], rtol=1e-6
        )


def test_only_padding_that_every_device_has_is_asked_for(monkeypatch):
    """`padding_mode="border"` fails on Apple's GPUs before torch 2.13."""
    asked = []
    monkeypatch.setattr(F, "grid_sample", lambda *a, real=F.grid_sample, **k: (asked.append(k), real(*a, **k))[1])
    read_bilinear(torch.zeros(1, 4, 4), torch.zeros(2, 2))
    assert asked and all(of.get("padding_mode", "zeros") == "zeros" for of in asked)
