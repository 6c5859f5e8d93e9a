import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from fgvc_hf.training.recipes import RECIPES
from fgvc_hf.training.training_card import draw_curves, read_log, training_card


def run_folder(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step-00000200"
    checkpoint.mkdir(parents=True)
    recipe = replace(RECIPES["joint-small"], steps=200)
    (checkpoint / "state.json").write_text(json.dumps({"step": 200, "recipe": asdict(recipe)}))
    entries = [{"step": s, "label": 5 - s / 100, "reconstruction": 0.1, "seconds": 18.0} for s in range(1, 201)]
    entries.insert(
        120, {"step": 110, "label": 9.0, "reconstruction": 0.1, "seconds": 18.0}
    )  # repeated after a restart
    entries.append({"step": 200, "scores": {"delta_avg": 0.66, "AJ": 0.5}})
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return tmp_path


def test_the_last_word_on_an_update_counts(tmp_path):
    updates, evaluations = read_log(run_folder(tmp_path) / "log.jsonl")
    assert len(updates) == 200 and updates[109]["label"] == 9.0 and len(evaluations) == 1


def test_a_card_says_what_was_done(tmp_path):
    card = training_card("name", "What it is.", "Clips.", run_folder(tmp_path), "| δavg |", "A note.")
    assert "license: apache-2.0" in card.split("---")[1]
    for part in (
        "# name",
        "What it is.",
        "**Data**: Clips.",
        "200, in 1.0 hours",
        "| `label` | gaussian | soft |",
        "A note.",
    ):
        assert part in card
    assert "`both_ways`" not in card  # as in the paper's recipe


def test_curves_are_drawn(tmp_path):
    picture = np.asarray(draw_curves(*read_log(run_folder(tmp_path) / "log.jsonl")))
    for colour in ((214, 69, 65), (44, 110, 187), (30, 30, 30)):
        assert (picture == colour).all(-1).any()


def test_all_losses_of_a_recipe_are_drawn():
    names = "label", "reconstruction", "adversarial", "distillation"
    values = [(step, -step, step**3, 1 / step) for step in range(1, 201)]
    updates = [{"step": step[0], **dict(zip(names, step, strict=True))} for step in values]
    picture = np.asarray(draw_curves(updates, []))
    for colour in ((214, 69, 65), (44, 110, 187), (60, 150, 80), (150, 90, 170)):
        assert (picture == colour).all(-1).any()


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a run"):
        training_card("name", "What it is.", "Clips.", tmp_path, "")
