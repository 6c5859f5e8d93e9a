"""The kernels in Triton's interpreter, on a CPU, against their references."""

import os
import subprocess
import sys

import pytest


pytest.importorskip("triton", reason="Triton is not installed")

CHECK = """
import sys, torch
import torch.nn.functional as F
from fgvc_hf.correlation_fgvc import reference_topk
from fgvc_hf.kernels.window_topk import window_topk
h, w, channels, frames, radius, topk = map(int, sys.argv[1:7])
shape, dtype = sys.argv[7], getattr(torch, sys.argv[8])
generator = torch.Generator().manual_seed(0)
features = F.normalize(torch.randn(frames + 1, h, w, channels, generator=generator), dim=-1).to(dtype)
query, keys = features[0], list(features[1:])
expected, found = reference_topk(query, keys, radius, shape, topk), window_topk(query, keys, radius, shape, topk)
torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
assert (found[1] != expected[1]).float().mean() < 0.01, (found[1] != expected[1]).float().mean()
active = torch.zeros(h, w, dtype=torch.bool)
active[0, 0] = True
scores, _ = window_topk(query, keys, radius, shape, topk, active)
assert torch.equal(scores.view(h, w, topk)[:, :16], found[0].view(h, w, topk)[:, :16])
assert (scores.view(h, w, topk)[:, 16:] == -torch.inf).all()
"""


@pytest.mark.parametrize("arguments", ["7 18 20 1 2 4 disc float32", "5 9 72 2 1 10 square bfloat16"])
def test_the_best_keys_are_those_of_the_reference(arguments):
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", CHECK, *arguments.split()], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr


def test_kernels_are_used_when_they_are_asked_for(monkeypatch):
    from fgvc_hf import correlation_fgvc, kernels

    assert correlation_fgvc.cuda_topk is None
    kernels.enable()
    assert correlation_fgvc.cuda_topk is not None
    kernels.enable(False)
    assert correlation_fgvc.cuda_topk is None
