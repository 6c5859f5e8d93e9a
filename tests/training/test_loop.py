"""The loop on a tiny model: it learns, resumes exactly, and several processes equal one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from torch.utils.data import Dataset
from training_gradients import assert_same_gradients, gradients

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.textures import natural_image
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import Recipe, parse_recipe


TINY = Recipe(
    steps=8,
    batch_size=4,
    crop=32,
    radius=4,
    learning_rate=3e-3,
    reach=6.0,
    adversarial_step=4,
    textures=4,
)


# Statistics of a batch are those of a process's share; and Adam turns rounding errors into steps of the size of its rate
SHARED = replace(TINY, freeze_batch_norm=True, learning_rate=3e-5)


@cache
def textures():
    return (255 * natural_image(96, 30, 0.4, Random(range(4)))).byte()


@cache
def moving_pair(number):
    return (255 * render_pairs(textures(), [number], 32, 4.0, num_bodies=0).frames[0]).byte()


class Moving(Dataset):
    """Real pairs, as far as the loop can tell."""

    def __getitem__(self, number):
        return moving_pair(number)


DISTILL = {"real": 0.0, "synthetic": 0.0, "adversarial": 0.0, "distillation": 1.0, "freeze_batch_norm": True}
HEAD = {"fine_size": 8, "num_attention_layers": 1, "num_attention_heads": 2, "attention_window": 2}


def tiny(seed=0, head=None):
    torch.manual_seed(seed)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], **head or {}))


def make(output, recipe=TINY, accumulate=1, student=None, **settings):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    module = JointTraining(tiny(0, student), recipe, tiny(1) if recipe.needs_teacher else None)
    settings = {"save_every": 3, **settings}
    return Training(module, recipe, output, accelerator, Moving(), textures(), **settings)


def weights(output):
    return load_file(Path(output) / "last" / "model.safetensors")


def log(output):
    return [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_learns_and_leaves_a_model(tmp_path):
    recipe = replace(TINY, steps=40, adversarial=0.0, label="gaussian")
    make(tmp_path, recipe).run()
    losses = [entry["label"] for entry in log(tmp_path)]
    assert len(losses) == 40
    assert sum(losses[-8:]) < sum(losses[:8]) - 1.0
    model = FgvcModel.from_pretrained(tmp_path / "last")
    assert model.config.hidden_sizes == [8, 8, 16]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000039", "step-00000040"]


@pytest.mark.slow
def test_a_student_with_a_head_learns_the_maps_of_its_teacher(tmp_path):
    recipe = replace(TINY, steps=60, **DISTILL)
    training = make(tmp_path, recipe, student=HEAD)
    teacher = {name: value.clone() for name, value in training.bare.frozen[0].state_dict().items()}
    training.run()
    losses = [entry["distillation"] for entry in log(tmp_path)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 1.0
    assert FgvcModel.from_pretrained(tmp_path / "last").config.fine_size == 8
    after = training.bare.frozen[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in teacher.items())


def test_a_frozen_encoder_stays_as_it_was(tmp_path):
    training = make(tmp_path, replace(TINY, steps=2, freeze_encoder=True, **DISTILL), student=HEAD)
    before = {name: value.clone() for name, value in training.bare.model.state_dict().items()}
    training.run()
    same = {name: torch.equal(value, before[name]) for name, value in training.bare.model.state_dict().items()}
    assert all(same[name] for name in same if name.startswith("encoder."))
    assert not all(same[name] for name in same if name.startswith("head."))


@pytest.mark.parametrize(
    ("student", "teacher", "changes", "message"),
    [
        (HEAD, HEAD, {}, "the teacher of a distillation must be a fine model"),
        (HEAD, {"output_stride": 4}, {}, "teacher has 16 features at stride 4, the model 8 at stride 2"),
        (HEAD, None, {}, "it needs a teacher"),
        ({}, {}, {"freeze_encoder": True}, "freeze_encoder leaves nothing to train"),
    ],
)
def test_distillation_needs_a_fine_teacher_and_a_student_that_fit(student, teacher, changes, message):
    with pytest.raises(ValueError, match=message):
        JointTraining(
            tiny(0, student), replace(TINY, **DISTILL, **changes), None if teacher is None else tiny(1, teacher)
        )


def test_a_run_of_before_a_field_was_there_goes_on(tmp_path):
    recipe = replace(TINY, steps=2, real=0.0, adversarial=0.0, label="gaussian")
    make(tmp_path, recipe).run()
    (state,) = (tmp_path / "checkpoints").glob("step-00000002/state.json")
    saved = json.loads(state.read_text())
    del saved["recipe"]["distillation"]
    state.write_text(json.dumps(saved))
    assert make(tmp_path, recipe).step == 2


def test_the_running_mean_of_the_weights_is_what_is_evaluated_and_saved(tmp_path):
    seen, evaluated = [], []
    recipe = replace(TINY, steps=3, average=0.75, freeze_batch_norm=True)
    training = make(tmp_path, recipe, evaluate=lambda model: evaluated.append(model) or {"s": 1}, evaluate_every=3)
    training._log = lambda *_: seen.append({n: v.clone() for n, v in training.bare.model.state_dict().items()})
    mean = {name: value.clone() for name, value in training.bare.model.state_dict().items()}
    training.run()
    for state in seen:
        mean = {name: 0.75 * value + 0.25 * state[name] for name, value in mean.items()}
    found = weights(tmp_path)
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(found[name], seen[-1][name], atol=1e-4) for name in found)
    assert evaluated == [training.bare.result] and not evaluated[0].training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "student"),
    [
        ({"label": "soft"}, None),
        ({"label": "gaussian", "average": 0.5}, None),
        ({"label": "dirac"}, None),
        (DISTILL | {"average": 0.5}, HEAD),
    ],
)
def test_a_stopped_run_goes_on_exactly(tmp_path, changes, student):
    recipe = replace(TINY, **changes)
    make(tmp_path / "whole", recipe, student=student).run()
    part = make(tmp_path / "parts", recipe, student=student)
    part._log = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt) if part.step == 5 else None
    with pytest.raises(KeyboardInterrupt):
        part.run()
    make(tmp_path / "parts", recipe, student=student).run()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


START = """
import os, sys, time, weakref
sys.path[:0] = [{tests!r}, os.path.join({tests!r}, "..", "support")]
import test_loop
import torch
from training_gradients import gradients
torch.set_num_threads(1)
"""
SLOWLY_THREE_TIMES = (
    START
    + """
log = test_loop.Training._log
test_loop.Training._log = lambda self, *a: (log(self, *a), time.sleep(0.15))
for _ in range(3):
    if not (child := os.fork()):
        try:
            test_loop.make(sys.argv[1], save_every=2).run()
        finally:
            os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
"""
)
SHARED_OUT = (
    START
    + """
training = test_loop.make(sys.argv[1], test_loop.SHARED, save_every=2)
sys.stdout.write("processes %d\\n" % training.accelerator.num_processes)  # at once, for two processes write
found = gradients(training)
training.run()
if training.accelerator.is_main_process:
    torch.save(found, sys.argv[1] + ".gradients")
wrapper = weakref.ref(training.module) if training.module is not training.bare else None
destroy = torch.distributed.destroy_process_group
def checked(*arguments):
    sys.stdout.write("the wrapper has gone before the group: %s\\n" % (wrapper() is None))
    destroy(*arguments)
torch.distributed.destroy_process_group = checked
training.end()
"""
)


def on_one_thread(training):
    """Run it in this process as those that tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training.run()
    finally:
        torch.set_num_threads(threads)


def start(output, code, launcher=(sys.executable,)):
    script = Path(output).with_suffix(".py")
    script.write_text(code.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(script), str(output)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_three_times_the_weights_are_the_same(tmp_path):
    on_one_thread(make(tmp_path / "whole", save_every=2))
    killed = start(tmp_path / "killed", SLOWLY_THREE_TIMES)
    for kill in range(3):
        process = int(killed.stdout.readline())
        before = len(log(tmp_path / "killed")) if kill else 0
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            while (
                not (tmp_path / "killed" / "log.jsonl").exists() or len(log(tmp_path / "killed")) < before + 2 + kill
            ):
                time.sleep(0.02)
                os.kill(process, 0)
            time.sleep(0.07 * kill)
            os.kill(process, signal.SIGKILL)
    assert killed.wait() == 0, killed.stderr.read()
    last = make(tmp_path / "killed", save_every=2)
    assert last.step > 0
    on_one_thread(last)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    one = make(tmp_path / "one", SHARED, save_every=2)
    assert one.accelerator.num_processes == 1
    alone = gradients(one)
    on_one_thread(one)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    two = start(tmp_path / "two", SHARED_OUT, launcher)
    output, errors = two.communicate()
    assert two.returncode == 0, errors
    assert output.count("processes 2") == 2
    assert output.count("the wrapper has gone before the group: True") == 2
    for first, second in zip(alone, torch.load(tmp_path / "two.gradients"), strict=True):
        assert_same_gradients(first, second)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    before = tiny().state_dict()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-4  # they did learn


def test_the_best_model_is_kept(tmp_path):
    scores = iter([0.2, 0.5, 0.4, 0.3])
    make(tmp_path, evaluate=lambda model: {"score": next(scores)}, evaluate_every=2).run()
    found = [entry["scores"]["score"] for entry in log(tmp_path) if "scores" in entry]
    assert found == [0.2, 0.5, 0.4, 0.3]
    best, last = load_file(tmp_path / "best" / "model.safetensors"), weights(tmp_path)
    assert any((best[name] != last[name]).any() for name in last)


def test_another_recipe_is_refused_by_the_fields_that_differ(tmp_path):
    make(tmp_path).run()
    with pytest.raises(ValueError, match=r"another recipe \(batch_size, radius differ\)"):
        make(tmp_path, replace(TINY, radius=5, batch_size=2))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    training = make(tmp_path)
    losses = training.losses
    training.losses = lambda *a: {**losses(*a), **({"label": torch.tensor(torch.nan)} if training.step == 4 else {})}
    with pytest.raises(FloatingPointError, match="update 4: the loss label is not finite"):
        training.run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


class NoGradient(torch.autograd.Function):
    """The same number, with a gradient of NaN: what torch.where hides in forward."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.nan


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path):
    training = make(tmp_path)
    losses, before = training.losses, {}

    def spoilt(*arguments):
        found = losses(*arguments)
        if training.step == 4:
            before.update({name: p.detach().clone() for name, p in training.bare.named_parameters()})
            found["label"] = NoGradient.apply(found["label"])
        return found

    training.losses = spoilt
    with pytest.raises(
        FloatingPointError,
        match="update 4: the gradient of model.encoder.conv1.weight and of .* more parameters is not finite; the last checkpoint",
    ):
        training.run()
    assert before and all(torch.equal(p, before[name]) for name, p in training.bare.named_parameters())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_full_disk_is_a_plain_error_before_and_during_training(tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    training = make(tmp_path / "during")
    monkeypatch.setattr("fgvc_hf.training.state.shutil.disk_usage", lambda path: full)
    with pytest.raises(OSError, match="a checkpoint needs .* MiB, but only 0.0 are free"):
        make(tmp_path / "before")
    assert not (tmp_path / "before").exists()
    with pytest.raises(OSError, match="a checkpoint needs .* MiB, but only 0.0 are free"):
        training.run()
    assert not (tmp_path / "during" / "checkpoints").exists()


def test_bad_set_ups(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 4, but must be a multiple of the 1 processes times the 3"):
        make(tmp_path, accumulate=3)
    with pytest.raises(ValueError, match="it needs a teacher"):
        JointTraining(tiny(), TINY)
    other = FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 24], depths=[1, 1, 1]))
    with pytest.raises(ValueError, match="teacher has 24 features at stride 2"):
        JointTraining(tiny(), TINY, other)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("other", {}, "recipe must be one of teacher, joint"),
        ("joint", {"stepz": "3"}, "a recipe has no field 'stepz'"),
        ("joint", {"steps": "many"}, "steps must be a whole number"),
        ("joint", {"gap": "3"}, "gap must be two whole numbers"),
        ("joint", {"crop": "50"}, "crop must be a multiple of 8"),
        ("joint", {"label": "hard"}, "label must be one of"),
        ("joint", {"real": "0"}, "adversarial needs both domains"),
        ("teacher", {"real": "0"}, "there is nothing to learn from"),
        ("joint", {"learning_rate": "0"}, "learning_rate must be positive"),
    ],
)
def test_bad_recipes(name, changes, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(name, changes)


def test_recipes_can_be_changed():
    recipe = parse_recipe("joint-small", {"gap": "2,3", "both_ways": "false", "steps": "7"})
    assert (recipe.gap, recipe.both_ways, recipe.steps, recipe.crop) == ((2, 3), False, 7, 128)
