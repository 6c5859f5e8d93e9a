"""A run in slices of limited time: it stops in time, goes on exactly, and its checkpoints are of small files."""

import json
import re
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from scripts_as_functions import run_here
from test_loop import TINY, log, make, weights
from training_runs import run

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.training import loop, state
from fgvc_hf.training.pace import Pace


RECIPE = replace(TINY, label="gaussian", adversarial=0.0, average=0.5)


class Counted(Pace):
    """A pace by which the time is over after some updates."""

    updates = 3

    def count(self, seconds):
        super().count(seconds)
        self.updates -= 1

    def is_over(self):
        return self.updates <= 0


def same(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_three_slices_equal_one_run(tmp_path):
    make(tmp_path / "whole", RECIPE, save_every=0).run()
    for steps in (3, 6, 8):
        part = make(tmp_path / "parts", RECIPE, save_every=0, keep=1)
        part.run(pace=Counted(time_limit=1000.0))  # with the rehearsal before
        assert part.step == steps
        assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == [f"step-{steps:08d}"]
        assert FgvcModel.from_pretrained(tmp_path / "parts" / "last")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert [entry["step"] for entry in log(tmp_path / "parts")] == list(range(1, 9))
    rates = [[entry["learning_rate"] for entry in log(tmp_path / name)] for name in ("whole", "parts")]
    assert rates[0] == rates[1]  # one schedule over all slices


def test_checkpoints_are_written_by_time(tmp_path):
    training = make(tmp_path, replace(RECIPE, steps=4), save_every=0, keep=9)
    training.run(pace=Pace(save_seconds=1e-9))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
    assert training.pace.checkpoint_seconds >= 2.0


def test_a_checkpoint_of_an_update_is_written_once(tmp_path, monkeypatch):
    """By the clock or the number of updates, and not again at the end of the slice: killed there, a run that keeps one would have none."""
    written, whole = [], loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *given: written.append(given[1]) or whole(*given))
    make(tmp_path, RECIPE, save_every=0, keep=1).run(pace=Counted(save_seconds=1e-9))
    make(tmp_path, RECIPE, save_every=2, keep=1).run(pace=Counted())
    assert written == [1, 2, 3, 4, 6]
    again = make(tmp_path, RECIPE, save_every=0, keep=1)
    pace = Counted()
    pace.updates = 0
    again.run(pace=pace)
    assert written == [1, 2, 3, 4, 6]


def test_losses_are_printed(tmp_path, capsys):
    make(tmp_path, replace(RECIPE, steps=4), save_every=0).run(pace=Pace(print_every=2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["2 of 4 updates", "4 of 4 updates"]
    assert all("updates/s, label " in line and "reconstruction " in line for line in lines)


def test_a_limit_too_short_for_an_update_is_refused_before_anything_is_written(tmp_path):
    training = make(tmp_path / "run", RECIPE)
    before = {name: value.clone() for name, value in training.bare.state_dict().items()}
    with pytest.raises(ValueError, match="the time limit of 1 s is too short: .* an update takes"):
        training.run(pace=Pace(time_limit=1.0))
    assert not (tmp_path / "run").exists() and training.step == 0
    assert all(torch.equal(value, before[name]) for name, value in training.bare.state_dict().items())


def test_a_finished_run_needs_no_time(tmp_path):
    make(tmp_path, replace(RECIPE, steps=1)).run()
    make(tmp_path, replace(RECIPE, steps=1)).run(pace=Pace(time_limit=1e-9))


@pytest.mark.slow
def test_large_checkpoints_are_of_several_files(tmp_path, monkeypatch):
    make(tmp_path / "one", RECIPE, save_every=0).run(pace=Counted())
    monkeypatch.setattr(state, "PART_BYTES", 4000)
    make(tmp_path / "many", RECIPE, save_every=0).run(pace=Counted())
    (one,), (many,) = ((tmp_path / name / "checkpoints").iterdir() for name in ("one", "many"))
    assert sorted(file.name for file in one.iterdir()) == ["module.safetensors", "optimizer.safetensors", "state.json"]
    parts = sorted(many.glob("optimizer-*-of-*.safetensors"))
    assert len(parts) > 2 and parts[0].name == f"optimizer-00001-of-{len(parts):05d}.safetensors"
    for file in parts:
        sizes = [value.nbytes for value in load_file(file).values()]
        assert sum(sizes) <= 4000 or len(sizes) == 1
    whole = load_file(one / "optimizer.safetensors")
    found = state.load_parts(many, "optimizer")
    assert whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)
    for name in ("one", "many"):  # both go on
        make(tmp_path / name, RECIPE).run()
    assert same(tmp_path / "one", tmp_path / "many")


def test_a_checkpoint_without_one_of_its_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "PART_BYTES", 4000)
    make(tmp_path, RECIPE, save_every=0).run(pace=Counted())
    max((tmp_path / "checkpoints").glob("step-*/optimizer-*")).unlink()
    with pytest.raises(OSError, match=r"holds \d+ of the \d+ files of optimizer; the checkpoint is not complete"):
        make(tmp_path, RECIPE)


@pytest.mark.slow
def test_the_script_trains_in_slices_from_a_pack(videos, tmp_path):
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 16], depths=[1, 1, 1])).save_pretrained(tmp_path / "start")
    pack = tmp_path / "clips.pack"
    options = ["--short-side", "48", "--quality", "90", "--max-frames", "6"]
    done = run_here("prepare.py", "pack", videos, pack, *options)
    assert done.returncode == 0 and "3 clips, 18 frames, 0.0 MB" in done.stdout, done.stderr
    assert "error: " in run_here("prepare.py", "pack", videos, pack, "--max-size", "0.001").stderr
    arguments = ["--recipe", "joint-small", "--pack", pack, "--start-from", tmp_path / "start"]
    arguments += ["--output", tmp_path / "parts", "--save-every", "1h", "--keep", "1"]
    for change in ("crop=32", "radius=4", "batch_size=2", "textures=8", "steps=100000"):
        arguments += ["--set", change]

    dry = run_here("train.py", *arguments, "--time-limit", "10m", "--dry-run")
    fitting = int(dry.stdout.split("600 s: ")[1].split()[0])
    assert fitting > 50 and "updates fit" in dry.stdout
    refused = run_here("train.py", *arguments, "--time-limit", "0.5s")
    assert refused.stderr.splitlines()[-1].startswith("error: the time limit of 0.5 s is too short")
    assert refused.returncode == 1 and not (tmp_path / "parts").exists()
    for limit in ("8", "none"):
        wrong = run_here("train.py", *arguments, "--time-limit", limit)
        assert "error: a duration must be a positive number" in wrong.stderr

    start = time.monotonic()
    done = run_here("train.py", *arguments, "--time-limit", "8s", "--print-every", "2")
    assert done.returncode == 0 and time.monotonic() - start < 13, done.stderr
    (newest,) = (tmp_path / "parts" / "checkpoints").glob("step-*")
    step = json.loads((newest / "state.json").read_text())["step"]
    assert done.stdout.startswith("2 of 100000 updates, ") and f"{step} updates in " in done.stdout.splitlines()[-1]
    assert f"{step} of 100000 are done; start it again with the same arguments" in done.stdout
    start = time.monotonic()
    again = run("train.py", *arguments, "--time-limit", "2s")  # as a process of its own: imports count as well
    refusal = re.match(
        r"error: the time limit of 2 s is too short: (\d+\.\d) s have passed", again.stderr.splitlines()[-1]
    )
    assert refusal and float(refusal[1]) > 0.5 * (time.monotonic() - start), again.stderr
    assert newest.is_dir()
    assert FgvcModel.from_pretrained(tmp_path / "parts" / "last").config.hidden_sizes == [8, 16, 16]
