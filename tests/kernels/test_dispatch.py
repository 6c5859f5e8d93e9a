"""The choice of a back end, and the private parts of torch that the package relies on."""

import re
import sys
from pathlib import Path

import pytest
import torch

import fgvc_hf
from fgvc_hf.kernels import dispatch
from fgvc_hf.kernels.dispatch import backend_for, numba_fits, topk_for
from fgvc_hf.kernels.topk_numba import NumbaTopk
from fgvc_hf.kernels.topk_torch import TorchTopk
from fgvc_hf.matching.windows import window_topk


FEATURES = torch.zeros(4, 4, 8)
# Name -> where the package asks it, and what for
PRIVATE_TORCH = {
    "torch.cpu._is_amx_tile_supported": "kernels/processor.py",  # Winograd in bfloat16 is slower than AMX
    "torch.cpu._is_avx512_bf16_supported": "kernels/processor.py",  # the default type on a CPU of AMD
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": "kernels/processor.py",  # the default type on a CPU
}


@pytest.fixture(autouse=True)
def no_switch(monkeypatch):
    monkeypatch.delenv("FGVC_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_best_available_back_end_is_the_default():
    assert backend_for(FEATURES) == backend_for(FEATURES.bfloat16()) == "numba"
    assert backend_for(FEATURES.half()) == backend_for(FEATURES.double()) == "torch"
    assert numba_fits(FEATURES) and not numba_fits(FEATURES.half())
    assert topk_for("numba") is NumbaTopk and topk_for("torch") is topk_for("triton") is TorchTopk


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_the_switch_chooses_for_the_process(monkeypatch, name):
    monkeypatch.setenv("FGVC_KERNELS", name)
    assert backend_for(FEATURES) == name
    used = []
    for kernels in (TorchTopk, NumbaTopk):
        select = kernels.select
        monkeypatch.setattr(
            kernels, "select", lambda *of, which=kernels, select=select: used.append(which) or select(*of)
        )
    window_topk(FEATURES, [FEATURES], 2, "disc", 3)
    assert used == [topk_for(name)]
    assert backend_for(FEATURES, backend="torch") == "torch"  # an argument goes first


def test_an_empty_switch_is_none(monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", "")
    assert backend_for(FEATURES) == "numba"


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("cuda", FEATURES, "FGVC_KERNELS must be one of torch, numba, triton, got 'cuda'"),
        ("Torch", FEATURES, "FGVC_KERNELS must be one of torch, numba, triton, got 'Torch'"),
        (
            "numba",
            FEATURES.half(),
            "FGVC_KERNELS=numba needs numba installed and features in float32 or bfloat16 on a CPU",
        ),
        ("numba", FEATURES.to("meta"), "got torch.float32 on meta"),
        ("triton", FEATURES, "FGVC_KERNELS=triton needs Triton installed .* and features on a GPU"),
    ],
)
def test_unknown_and_unavailable_back_ends_are_refused(monkeypatch, name, features, message):
    monkeypatch.setenv("FGVC_KERNELS", name)
    with pytest.raises(ValueError, match=message):
        backend_for(features)


def test_without_numba_torch_computes(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "fgvc_hf.kernels.numba_runtime")
    monkeypatch.setattr(dispatch, "find_spec", lambda name: "there")
    dispatch._numba_is_there.cache_clear()
    try:
        assert backend_for(FEATURES) == "torch" and "numba is installed but cannot be used" in caplog.text
        with pytest.raises(ValueError, match="needs numba installed"):
            backend_for(FEATURES, "numba")
    finally:
        dispatch._numba_is_there.cache_clear()


@pytest.mark.parametrize("name", PRIVATE_TORCH)
def test_the_private_parts_of_torch_are_there(name):
    part = torch
    for attribute in name.split(".")[1:]:
        part = getattr(part, attribute)
    assert isinstance(part(), bool)


def test_no_other_private_part_of_torch_is_used():
    folder, found = Path(fgvc_hf.__file__).parent, {}
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace('torch.cpu, "_', "torch.cpu._")  # read by getattr
        for name in re.findall(r"\btorch(?:\.\w+)*\._[a-z]\w*|\btorch\.ops\.\w+\.\w+", text):
            found[name] = path.relative_to(folder).as_posix()
    assert found == PRIVATE_TORCH
