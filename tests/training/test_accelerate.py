"""What Accelerate decides (accumulation, precision, processes) reaches the training: seen on gradients, not on Adam's steps."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from scripts_as_functions import run_here
from test_loop import SHARED, TINY, make
from test_script import SMALL, checkpoint  # noqa: F401
from torch import nn
from training_runs import run

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, save_tracks
from fgvc_hf.training.experiment import RECIPES, fresh_accelerator, parse_recipe
from fgvc_hf.training.joint import JointTraining


def gradients(output, accumulate=1, max_grad_norm=0.0) -> dict[str, torch.Tensor]:
    """The gradients that the optimizer steps with in the first update."""
    training = make(output, SHARED, accumulate)
    object.__setattr__(training.recipe, "max_grad_norm", max_grad_norm)
    found = {}

    def step(*_):
        found.update({name: p.grad.clone() for name, p in training.bare.named_parameters() if p.grad is not None})

    training.optimizer.step = step
    training.prepared_optimizer.step = step
    training.module.train()
    training.update(training._batches())
    object.__delattr__(training.recipe, "max_grad_norm")
    return found


@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_do_not_depend_on_the_number_of_parts(tmp_path, parts):
    whole, accumulated = gradients(tmp_path / "whole"), gradients(tmp_path / "parts", parts)
    assert whole.keys() == accumulated.keys() and any(g.abs().max() > 1e-3 for g in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(
            accumulated[name], gradient, atol=1e-5 * float(gradient.abs().max()) + 1e-7, rtol=1e-2
        )


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_clipped_to_their_norm(tmp_path, parts):
    whole = torch.cat([g.flatten() for g in gradients(tmp_path / "whole").values()]).norm()
    limit = float(whole) / 2  # clips the whole gradient, and would not clip one that is divided by the parts twice
    clipped = gradients(tmp_path / "clipped", parts, max_grad_norm=limit)
    norm = torch.cat([g.flatten() for g in clipped.values()]).norm()
    assert float(norm) == pytest.approx(limit, rel=1e-3)


def test_frozen_statistics_stay_frozen_between_processes():
    recipe = replace(TINY, freeze_batch_norm=True, average=0.5)
    teacher = FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1]))
    module = JointTraining(FgvcModel(teacher.config), recipe, teacher)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(module).train()
    norms = [m for m in synchronised.model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert synchronised.model.encoder.conv1.training


@pytest.mark.parametrize(
    ("launched", "asked", "expected"), [("bf16", None, "bf16"), ("bf16", "no", "no"), (None, None, "no")]
)
def test_the_precision_is_that_of_the_launcher_unless_another_is_asked_for(monkeypatch, launched, asked, expected):
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    else:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert fresh_accelerator(asked).mixed_precision == expected


def dry_run(videos, checkpoint, output):  # noqa: F811
    changes = [part for change in SMALL for part in ("--set", change)]
    paths = ["--videos", videos, "--start-from", checkpoint, "--output", output]
    return ["--recipe", "joint-small", *paths, "--dry-run", *changes]


@pytest.mark.slow
def test_accelerate_launch_sets_the_precision_of_a_run(videos, checkpoint, tmp_path):  # noqa: F811
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "bf16"]
    done = run("train.py", *dry_run(videos, checkpoint, tmp_path / "run"), launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "precision: bf16, processes: 1" in done.stdout


@pytest.mark.slow
def test_a_run_may_ask_for_another_precision(monkeypatch, videos, checkpoint, tmp_path):  # noqa: F811
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what the launcher tells it
    done = run_here("train.py", *dry_run(videos, checkpoint, tmp_path / "run"), "--precision", "no")
    assert done.returncode == 0, done.stderr
    assert "precision: no, processes: 1" in done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_takes_the_values_of_its_type(name):
    kinds = get_type_hints(type(RECIPES[name]))
    for field in fields(RECIPES[name]):
        now = getattr(RECIPES[name], field.name)
        text = ",".join(map(str, now)) if isinstance(now, tuple) else str(now)
        assert getattr(parse_recipe(name, {field.name: text}), field.name) == now
        if kinds[field.name] is int:
            with pytest.raises(ValueError, match=f"{field.name} must be a whole number"):
                parse_recipe(name, {field.name: "0.5"})
        if kinds[field.name] is float:
            with pytest.raises(ValueError, match=f"{field.name} must be"):
                parse_recipe(name, {field.name: "nan"})


def test_a_weight_that_is_zero_may_become_a_half():
    assert parse_recipe("teacher", {"synthetic": "0.5"}).synthetic == 0.5
    assert parse_recipe("distill", {"adversarial": "0", "real": "0.25"}).real == 0.25


@pytest.fixture(scope="module")
def track_files(videos, tmp_path_factory):
    """A folder of tracks of the videos."""
    folder = tmp_path_factory.mktemp("tracks")
    tracker = Tracker.from_pretrained(preset="fast")
    for path in Path(videos).glob("*.mp4"):
        save_tracks(tracker.track(path, grid=6), folder / f"{path.stem}.npz")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_labels_have_the_stride_of_the_model(videos, track_files, tmp_path, stride):
    config = FgvcConfig(hidden_sizes=[8, 16, 16], depths=[1, 1, 1], output_stride=stride)
    FgvcModel(config).save_pretrained(tmp_path / "start")
    options = ["--videos", videos, "--tracks", track_files]
    options += ["--start-from", tmp_path / "start", "--output", tmp_path / "run"]
    for change in ("crop=64", "radius=2", "steps=2", "batch_size=2", "textures=8"):
        options += ["--set", change]
    done = run_here("train.py", "--recipe", "joint-small", *options)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert entry["label"] > 0
