"""Checkpoints by their files: which there are, what is in them, and how much room they need."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fgvc_hf.training import state
from fgvc_hf.training.state import check_room, checkpoints, load_checkpoint, load_parts, save_checkpoint, save_parts


def trained(updates, seed=0):
    """A module after some updates of Adam, and the optimizer."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(module.parameters())
    for _ in range(updates):
        module(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


def test_parts_are_as_few_as_the_order_of_the_tensors_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "PART_BYTES", 40)
    tensors = {name: torch.full((number,), float(number)) for name, number in zip("abcdefg", (8, 8, 1, 1, 20, 4, 6))}
    save_parts(tensors, tmp_path, "module")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"module-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    assert ["".join(sorted(load_file(file))) for file in files] == ["a", "bcd", "e", "fg"]
    torch.testing.assert_close(load_parts(tmp_path, "module"), tensors)


def test_a_checkpoint_brings_back_weights_and_moments(tmp_path):
    module, optimizer = trained(3)
    path = save_checkpoint(tmp_path / "run", 3, module, optimizer, {"best": 0.5}, keep=1)
    other, again = trained(1, seed=1)
    assert load_checkpoint(path, other, again) == {"step": 3, "best": 0.5}
    torch.testing.assert_close(other.state_dict(), module.state_dict())
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(again.state[two], optimizer.state[one])
    assert sorted(file.name for file in path.iterdir()) == [
        "module.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_what_a_killed_process_left_and_an_older_one_of_the_step_give_way(tmp_path):
    module, optimizer = trained(1)
    for name in (".step-00000002", ".step-00000007"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.safetensors").write_text("half")
    for best in (0.1, 0.2):
        path = save_checkpoint(tmp_path, 2, module, optimizer, {"best": best}, keep=2)
    assert json.loads((path / "state.json").read_text()) == {"step": 2, "best": 0.2}
    assert [other.name for other in tmp_path.iterdir()] == ["step-00000002"]


def test_the_newest_stay_and_what_is_incomplete_is_none(tmp_path):
    module, optimizer = trained(1)
    for step in (5, 12, 100):
        save_checkpoint(tmp_path, step, module, optimizer, {}, keep=2)
    (tmp_path / "step-00000200").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000012", "step-00000100"]


def test_room_is_needed_for_weights_and_two_moments_and_a_fifth_more(tmp_path, monkeypatch):
    module = nn.Linear(100, 10, bias=False)  # 4000 bytes
    for free, enough in ((14_410, True), (14_390, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if enough:
            check_room(tmp_path / "new" / "run", module)
        else:
            with pytest.raises(OSError, match="run: a checkpoint needs 0.0 MiB, but only 0.0 are free"):
                check_room(tmp_path / "new" / "run", module)
