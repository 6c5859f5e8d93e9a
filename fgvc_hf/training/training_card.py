"""The model card of a trained checkpoint, from the log of its run and measured results."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..hub.model_card import model_card
from .recipes import Recipe
from .state import checkpoints


PLOT_SIZE = (720, 300)
SMOOTHED = 50  # updates that every point of a loss curve averages
LOSSES = {  # that are drawn, and their colours
    "label": (214, 69, 65),
    "reconstruction": (44, 110, 187),
    "adversarial": (60, 150, 80),
    "distillation": (150, 90, 170),
}


def read_log(path: Path) -> tuple[list[dict], list[dict]]:
    """Entries of updates and of evaluations of a `log.jsonl`; the last one of an update that a restart repeated."""
    updates, evaluations = {}, {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        (evaluations if "scores" in entry else updates)[entry["step"]] = entry
    return [updates[step] for step in sorted(updates)], [evaluations[step] for step in sorted(evaluations)]


def draw_curves(updates: list[dict], evaluations: list[dict]) -> Image.Image:
    """Curves of smoothed losses, each scaled to its range, and of the first score, with its values."""
    width, height = PLOT_SIZE
    picture = Image.new("RGB", PLOT_SIZE, "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 50, 24, width - 16, height - 30
    last = max(entry["step"] for entry in [*updates, *evaluations])
    draw.rectangle((left, top, right, bottom), outline=(160, 160, 160))
    draw.text((left, bottom + 6), "0", "black")
    draw.text((right - 60, bottom + 6), f"{last} updates", "black")

    def line(steps, values, colour, label, place, dots=False):
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        points = [
            (left + (right - left) * step / last, bottom - 8 - (bottom - top - 16) * (value - low) / span)
            for step, value in zip(steps, values, strict=True)
        ]
        draw.line(points, fill=colour, width=2)
        draw.text((left + 6 + 220 * place, 6), f"{label}: {values[0]:.3g} to {values[-1]:.3g}", colour)
        for (x, y), value in zip(points, values, strict=True):
            if dots:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
                draw.text((x - 10, y - 16 if y > top + 20 else y + 6), f"{value:.1f}", colour)

    losses = [name for name in LOSSES if updates and name in updates[0]]
    for place, name in enumerate(losses):
        smooth, steps = _smoothed([entry[name] for entry in updates], [entry["step"] for entry in updates])
        line(steps, smooth, LOSSES[name], f"{name} loss", place)
    if evaluations:
        name = next(iter(evaluations[0]["scores"]))
        steps = [entry["step"] for entry in evaluations]
        line(steps, [100 * entry["scores"][name] for entry in evaluations], (30, 30, 30), name, len(losses), dots=True)
    return picture


def _smoothed(values: list[float], steps: list[int]) -> tuple[list[float], list[int]]:
    window = min(SMOOTHED, len(values))
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    return [float(mean) for mean in means[:: max(1, window // 4)]], steps[window - 1 :: max(1, window // 4)]


def training_card(name: str, summary: str, data: str, run: Path, results: str, notes: str = "") -> str:
    """The text of a card.

    Args:
        name, summary, data: What it is, in a sentence or two, and what it was trained on.
        run: Folder of the run; its newest checkpoint holds the recipe.
        results: Measured numbers in Markdown, with their commands.
        notes: How the run departed from its recipe, if it did.
    """
    saved = checkpoints(run / "checkpoints")
    if not saved:
        raise FileNotFoundError(f"{run}: holds no checkpoint of a run.")
    state = json.loads((saved[-1] / "state.json").read_text())
    updates, _ = read_log(run / "log.jsonl")
    hours = sum(entry["seconds"] for entry in updates) / 3600
    paper = json.loads(json.dumps(asdict(Recipe())))
    recipe = paper | state["recipe"]  # fields newer than the checkpoint had their defaults
    rows = [
        f"| `{field.name}` | {recipe[field.name]} | {paper[field.name]} |"
        for field in fields(Recipe)
        if recipe[field.name] != paper[field.name] or field.name in ("steps", "label", "temperature", "seed")
    ]
    table = "\n".join(["| field | this run | paper's default |", "|---|---|---|", *rows])
    body = f"""* **Updates**: {state["step"]}, in {hours:.1f} hours of the machine named below.
* **Recipe** (`fgvc_hf/training/recipes.py`), where it differs from the paper's defaults:

{table}

{notes}

![Losses and score over training](training.png)

## Measured

{results}
"""
    return model_card(name, "apache-2.0", data, summary, body)
