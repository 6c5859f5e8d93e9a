"""Checkpoints of a training run: complete or absent, and without pickle.

A checkpoint is a folder `step-00001000` with `module.safetensors` (all weights of the training module), `optimizer.safetensors` (Adam's
moments) and `state.json`. Larger tensors than `PART_BYTES` in all are in several files, such as `optimizer-00001-of-00002.safetensors`. It is
written under a temporary name and renamed, so that a run killed at any moment leaves the previous one.
"""

import json
import os
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..io.json_files import read_json, understanding
from ..io.tensor_files import write_tensors


PART_BYTES = 15 * 2**20  # of the tensors in one file: uploads are often limited to 16 MiB
CHECKPOINT = "a checkpoint of this run"  # in messages
SPARE = 1.2  # free disk space that is asked for before a checkpoint is written, in sizes of a checkpoint


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state by `parameter/moment`."""
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the state that [`moments`] returned back; a `ValueError` if it is of other parameters."""
    unknown = set(tensors)
    for name, parameter in module.named_parameters():
        state = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        expected = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        if state and {key: value.shape for key, value in state.items()} != expected:
            raise ValueError(f"the moments of {name} have other names or shapes")
        if state:  # Adam's step counter stays on the CPU
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
        unknown -= {f"{name}/{key}" for key in state}
    if unknown:
        raise ValueError(f"there is no parameter of {min(unknown)}")


def save_parts(tensors: dict[str, torch.Tensor], folder: Path, name: str) -> None:
    """Write tensors as `name.safetensors`, or as parts of at most [`PART_BYTES`], unless one tensor is larger."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        if parts[-1] and size + value.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][key] = value
        size += value.nbytes
    for number, part in enumerate(parts, 1):
        suffix = f"-{number:05d}-of-{len(parts):05d}" if len(parts) > 1 else ""
        write_tensors(folder / f"{name}{suffix}.safetensors", part)


def load_parts(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors that [`save_parts`] wrote; an `OSError` if a part is missing, a `ValueError` if one is damaged."""
    files = sorted(folder.glob(f"{name}*.safetensors"))
    expected = int(files[0].stem.rpartition("-of-")[2]) if files and "-of-" in files[0].stem else 1
    if len(files) != expected:
        raise OSError(
            f"{folder}: holds {len(files)} of the {expected} files of {name}; the checkpoint is not complete."
        )
    tensors = {}
    for file in files:
        with understanding(file, f"part of {CHECKPOINT}"):
            tensors |= load_file(file)
    return tensors


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
    remove_leftovers(folder)
    partial.mkdir()
    save_parts(weights, partial, "module")
    save_parts(adam, partial, "optimizer")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    if target.exists():
        _remove(target)
    partial.rename(target)
    for old in checkpoints(folder)[:-keep]:
        _remove(old)
    return target


def remove_leftovers(folder: Path) -> None:
    """Delete what a process that was killed while it wrote or deleted a checkpoint has left, under hidden names."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint under another name: what has its own is whole at any moment."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.old")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Load weights and moments into module and optimizer, and return `state.json`.

    Raises:
        `OSError`: a file is missing or cannot be read.
        `ValueError`: a file is damaged, or of another module.
    """
    state = read_state(path)
    with understanding(path, CHECKPOINT):
        module.load_state_dict(load_parts(path, "module"))
        load_moments(module, optimizer, load_parts(path, "optimizer"))
    return state


def read_state(path: Path) -> dict:
    """The `state.json` of a checkpoint, with a `step` and a `best`; a `ValueError` if it is damaged."""
    file, contents = path / "state.json", f"part of {CHECKPOINT}"
    with understanding(file, contents):
        state = read_json(file, contents)
        step, best = state["step"], state["best"]
        if type(step) is not int or step < 0 or not isinstance(best, float | int | None):
            raise ValueError(f"step is {step!r:.40} and best {best!r:.40}")
    return state


def check_recipe(path: Path, recipe: Any) -> None:
    """Refuse a checkpoint of a run of another recipe, by a `ValueError`."""
    state = read_state(path)
    # Fields that are newer than the checkpoint had their defaults
    defaults = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    with understanding(path / "state.json", f"part of {CHECKPOINT}"):
        before, now = json.loads(json.dumps([defaults | state["recipe"], asdict(recipe)]))
    different = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if different:
        raise ValueError(
            f"{path.parents[1]} holds a run of another recipe ({', '.join(different)} differ); choose another output folder."
        )
