"""The loop by value: its learning rate, its seeds, the directions of its losses, and the best score over a resume."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_loop import TINY, log, make, moving_pair

from fgvc_hf.training import pace
from fgvc_hf.training.pace import Pace
from fgvc_hf.training.recipes import Recipe


def test_a_finished_run_removes_what_was_left_when_it_was_killed_while_it_deleted_a_checkpoint(tmp_path):
    """After the last update nothing is saved any more, so that no later checkpoint would remove it."""
    make(tmp_path, save_every=2).run()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    left = tmp_path / "checkpoints" / ".step-00000002.old"
    left.mkdir()
    (left / "module.safetensors").write_text("half")
    make(tmp_path, save_every=2).run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept


def test_the_best_score_is_kept_over_a_resume(tmp_path):
    def evaluate(model):
        return {"score": next(scores)}

    scores = iter([0.2, 0.9])
    with pytest.raises(StopIteration):  # before the checkpoint of update 6
        make(tmp_path, evaluate=evaluate, evaluate_every=2, save_every=2).run()
    best = load_file(tmp_path / "best" / "model.safetensors")
    scores = iter([0.8, 0.3])
    resumed = make(tmp_path, evaluate=evaluate, evaluate_every=2, save_every=2)
    assert (resumed.step, resumed.best) == (4, 0.9)
    resumed.run()
    again = load_file(tmp_path / "best" / "model.safetensors")
    assert resumed.best == 0.9 and all(torch.equal(best[name], again[name]) for name in best)


def test_the_learning_rate_falls_by_half_a_cosine_to_a_thousandth(tmp_path):
    recipe = replace(TINY, steps=4, learning_rate=0.01)
    assert [recipe.decay(step) for step in (0, 2, 4)] == pytest.approx([1, 0.5005, 0.001])
    assert recipe.decay(1) == pytest.approx(0.001 + 0.999 * (2 + 2**0.5) / 4)
    training = make(tmp_path, recipe)
    training.run()
    rates = [entry["learning_rate"] for entry in log(tmp_path)]
    assert rates == pytest.approx([0.01 * recipe.decay(step) for step in range(4)])
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])


@pytest.mark.parametrize("loss", ["real", "synthetic", "distillation"])
def test_both_directions_count_alike(loss, tmp_path):
    """The loss of pairs both ways is the mean of those of the pairs and of the pairs turned round."""
    only = {"real": 0.0, "synthetic": 0.0, "adversarial": 0.0, "light": 0.0, "synthetic_dropout": 0.0, loss: 1.0}
    found = {}
    for both in (False, True):
        training = make(tmp_path / str(both), replace(TINY, both_ways=both, **only))
        training.bare.eval()
        frames, pairs = torch.stack([moving_pair(0), moving_pair(1)]), training._labelled([0, 1])
        for name, order in (("as they are", [0, 1]), ("turned round", [1, 0])):
            turned = replace(pairs, **{name: part[:, order] for name, part in vars(pairs).items()})
            labelled = turned if loss == "synthetic" else None
            with torch.no_grad():
                (value,) = training.bare(frames[:, order], labelled, [5, 6]).values()
            found[both, name] = float(value)
    one, other = found[False, "as they are"], found[False, "turned round"]
    assert found[True, "as they are"] == pytest.approx((one + other) / 2, rel=1e-4)
    assert abs(one - other) > 1e-3 * one


def test_a_seed_gives_its_pairs_and_another_seed_others(tmp_path):
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        training = make(tmp_path / name, replace(TINY, seed=seed))
        found[name] = training._labelled([0, 1]).frames, training.update(training._batches())
    assert torch.equal(found["one"][0], found["same"][0]) and found["one"][1] == found["same"][1]
    assert not torch.equal(found["one"][0], found["other"][0])
    assert all(found["one"][1][name] != found["other"][1][name] for name in ("reconstruction", "label"))
    assert not torch.equal(found["one"][0][0], found["one"][0][1])  # and each number its own


def test_a_rehearsal_changes_nothing(tmp_path):
    """Neither weights, statistics and gradients, nor which pairs come next; it takes no more updates than are left."""
    recipe, found = replace(TINY, steps=2, adversarial=0.0, label="dirac"), []
    for updates in (0, 3):
        training = make(tmp_path / str(updates), recipe)
        if updates:
            assert training.rehearse(updates)["seconds_per_update"] > 0
        training.bare.train()
        losses = training.update(training._batches())
        found.append((losses, {name: value.clone() for name, value in training.bare.state_dict().items()}))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("every", [1, 2])
def test_evaluations_and_pictures_come_at_their_intervals_and_at_the_end_and_training_goes_on(tmp_path, every):
    """With the running statistics of batch normalisation; those of updates are of their own batches."""
    recipe, seen, drawn, modes = replace(TINY, steps=3, adversarial=0.0, label="dirac"), [], [], []

    def evaluate(model):
        seen.append((training.step, model.training))
        return {"score": 1.0}

    def draw(frames, pairs, seeds):
        drawn.append((training.step, training.bare.model.training))
        assert torch.equal(frames, torch.stack([moving_pair(0), moving_pair(1)])) and seeds == [0, 2**20]
        assert torch.equal(pairs.frames, training._labelled([0, 1]).frames)
        return {"real": np.zeros((2, 2, 3), np.uint8)}

    training = make(tmp_path, recipe, evaluate=evaluate, evaluate_every=every, picture_every=2, save_every=0)
    update, training.bare.draw = training.update, draw
    training.update = lambda batches: modes.append(training.bare.model.training) or update(batches)
    training.bare.eval()
    training.run()
    assert seen == [(step, False) for step in ((1, 2, 3) if every == 1 else (2, 3))]
    assert drawn == [(2, False), (3, False)] and modes == [True] * 3
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["real-00000002.png", "real-00000003.png"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_what_is_logged_are_means_over_the_parts_of_a_batch(tmp_path):
    training, parts = make(tmp_path, replace(TINY, adversarial=0.0, label="dirac"), accumulate=2), []
    losses = training.losses
    training.losses = lambda *batch: parts.append(losses(*batch)) or parts[-1]
    found = training.update(training._batches())
    assert len(parts) == 2 and found.keys() == {"label", "reconstruction"}
    for name, value in found.items():
        assert float(value) == pytest.approx(float(parts[0][name] + parts[1][name]) / 2, rel=1e-5)


def test_the_time_to_the_first_checkpoint_begins_with_the_run(tmp_path, monkeypatch):
    """Not when the pace was made, before models and videos were loaded."""
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    slow = Pace(save_seconds=60.0)
    now[0] = 100.0
    training = make(tmp_path, replace(TINY, steps=2, adversarial=0.0, label="dirac"), save_every=0, keep=9)
    training.run(pace=slow)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_gradients_are_no_longer_than_the_recipe_says_and_its_betas_are_those_of_adam(tmp_path, monkeypatch):
    found = {}
    for most in (0.0, 0.01):
        monkeypatch.setattr(Recipe, "max_grad_norm", most)
        monkeypatch.setattr(Recipe, "betas", (0.5, 0.9))
        training = make(tmp_path / str(most), replace(TINY, adversarial=0.0, label="dirac"))
        assert training.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
        training.prepared_optimizer.step = lambda most=most, training=training: found.update(
            {most: torch.cat([p.grad.flatten() for p in training.bare.parameters()])}
        )
        training.update(training._batches())
    assert found[0.0].norm() > 0.1 and float(found[0.01].norm()) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(found[0.01], found[0.0] * 0.01 / found[0.0].norm())


@pytest.mark.parametrize(
    "numbers", [{"keep": -1}, {"save_every": -5}, {"evaluate_every": -1}, {"picture_every": -1}, {"workers": -1}]
)
def test_numbers_below_0_are_refused(numbers, tmp_path):
    """To keep -1 checkpoints would remove the oldest one of them, which may be the only one."""
    with pytest.raises(
        ValueError,
        match=f"evaluate_every, picture_every, keep and workers 0 or more, got 1 and .*-{abs(min(numbers.values()))}",
    ):
        make(tmp_path, **numbers)


@pytest.mark.parametrize("parts", [0, -1])
def test_a_batch_has_at_least_one_part(parts, tmp_path):
    with pytest.raises(ValueError, match=f"accumulated parts must be 1 or more, .* got {parts} and 3, "):
        make(tmp_path, accumulate=parts)
