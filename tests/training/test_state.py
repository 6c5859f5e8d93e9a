"""Checkpoints by their files: which there are, what is in them, and how much room they need."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fgvc_hf.training import state
from fgvc_hf.training.recipes import Recipe
from fgvc_hf.training.state import (
    check_recipe,
    check_room,
    checkpoints,
    load_checkpoint,
    load_parts,
    save_checkpoint,
    save_parts,
)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged .Expecting value"),
        ("[]", "is damaged"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"step": 3}', "is damaged .best"),
        ('{"step": 2.5, "best": null}', "step is 2.5"),
        ('{"step": -3, "best": null}', "step is -3"),
        ('{"step": true, "best": null}', "step is True"),
        ('{"step": 3, "best": "0.5"}', "best '0.5"),
    ],
)
def test_a_damaged_state_is_one_sentence(tmp_path, content, message):
    path = save_checkpoint(tmp_path, 3, *trained(1), {"best": None}, keep=1)
    (path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=rf"state.json: must be part of a checkpoint of this run, or .*{message}"):
        load_checkpoint(path, *trained(1))


@pytest.mark.parametrize("recipe", [None, [], "joint"])
def test_a_recipe_that_is_none_is_one_sentence(tmp_path, recipe):
    path = save_checkpoint(tmp_path, 3, *trained(1), {"best": None, "recipe": recipe}, keep=1)
    with pytest.raises(ValueError, match="state.json: must be part of a checkpoint of this run, or is damaged"):
        check_recipe(path, Recipe())


@pytest.mark.parametrize("name", ["module", "optimizer"])
@pytest.mark.parametrize("left", [0, 5, 40, -1])
def test_a_file_that_was_cut_off_is_one_sentence(tmp_path, name, left):
    path = save_checkpoint(tmp_path, 3, *trained(1), {"best": None}, keep=1)
    file = path / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(
        ValueError, match=f"{name}.safetensors: must be part of a checkpoint of this run, or is damaged"
    ):
        load_checkpoint(path, *trained(1))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("module", "0.weight", torch.zeros(3, 3), "size mismatch for 0.weight"),
        ("module", "2.weight", torch.zeros(3), "Unexpected key.*2.weight"),
        ("optimizer", "0.weight/exp_avg", torch.zeros(3, 3), "the moments of 0.weight have other names or shapes"),
        ("optimizer", "0.weight/momentum", torch.zeros(4, 3), "the moments of 0.weight have other names or shapes"),
        ("optimizer", "2.weight/exp_avg", torch.zeros(3), "there is no parameter of 2.weight/exp_avg"),
        ("optimizer", "0.weight/exp_avg", None, "the moments of 0.weight have other names or shapes"),
    ],
)
def test_tensors_of_another_module_are_refused(tmp_path, name, key, value, message):
    path = save_checkpoint(tmp_path, 3, *trained(1), {"best": None}, keep=1)
    tensors = {name: tensor.clone() for name, tensor in load_file(path / f"{name}.safetensors").items()}
    tensors |= {key: value}
    save_file({key: value for key, value in tensors.items() if value is not None}, path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=f"step-00000003: must be a checkpoint of this run, or is damaged .*{message}"
    ):
        load_checkpoint(path, *trained(1))
