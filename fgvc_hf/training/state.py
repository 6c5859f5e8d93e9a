"""Checkpoints of a training run: complete or absent, and without pickle.

A checkpoint is a folder `step-00001000` with `module.safetensors` (all weights of the training module), `optimizer.safetensors` (Adam's
moments) and `state.json`. It is written under a temporary name and renamed, so that a run killed at any moment leaves the previous one.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


SPARE = 1.2  # free disk space that is asked for before a checkpoint is written, in sizes of a checkpoint


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state by `parameter/moment`."""
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the state that [`moments`] returned back."""
    for name, parameter in module.named_parameters():
        state = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        if state:  # Adam's step counter stays on the CPU
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}


def check_room(folder: Path, module: nn.Module) -> None:
    """Refuse a disk without room for a checkpoint, weights and two moments each, by an `OSError`; `folder` need not exist yet."""
    needed = int(SPARE * 3 * sum(value.nbytes for value in module.state_dict().values()))
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(f"{folder}: a checkpoint needs {needed / 2**20:.1f} MiB, but only {free / 2**20:.1f} are free.")


def save_checkpoint(
    folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict, keep: int
) -> Path:
    """Write `folder/step-…` and remove all but the newest `keep` checkpoints.

    Args:
        folder: Of the run's checkpoints.
        step (`int`): Updates done.
        module, optimizer: What is saved.
        state (`dict`): Further values for `state.json`.
        keep (`int`): Checkpoints that stay.

    Raises:
        `OSError`: there is not enough room on the disk, or it cannot be written to.
    """
    check_room(folder, module)
    weights = {name: value.contiguous() for name, value in module.state_dict().items()}
    adam = moments(module, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(weights, partial / "module.safetensors")
    save_file(adam, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Load weights and moments into module and optimizer, and return `state.json`."""
    module.load_state_dict(load_file(path / "module.safetensors"))
    load_moments(module, optimizer, load_file(path / "optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())
