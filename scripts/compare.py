"""Three self-supervised objectives on equal terms: FGVC's reconstruction, UVC and TimeCycle, from the same random weights.

    python scripts/compare.py --videos FOLDER --colours COLOURS --evaluate TRACKS.npz FRAMES --output outputs/compare --precision bf16

All train a ResNet-18 at stride 8 for as many updates on as many clips of the same videos; each sees frames as its method does. Points are
followed by label maps at 256x256 with the aligned read-out, before and after. Complete runs are not repeated. Prints a table in Markdown, and
writes it beside the runs.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.conversion.official import POOLED, RESNET_18
from fgvc_hf.io.files import atomic_write, check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.ancestors.uvc import UvcRecipe
from fgvc_hf.training.experiment import (
    fresh_accelerator,
    load_model,
    make_module,
    parse_recipe,
    real_domain,
    tap_vid_score,
)
from fgvc_hf.training.loop import Training


ENCODER = {**RESNET_18, **POOLED, "propagation_radius": 6}  # window radius in cells: 48 pixels
HELD_OUT, MEASURED = 2**30, 32  # first number, and number, of the clips that losses are measured on
VARIANTS = {
    "FGVC's reconstruction": ("teacher-small", {"radius": "6"}),
    "UVC": ("uvc-small", {}),
    "TimeCycle": ("timecycle-small", {}),
}


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--colours", required=True, help="colour auto-encoder that UVC copies")
    parser.add_argument("--evaluate", nargs=2, type=Path, required=True, metavar=("TRACKS.npz", "FRAMES"))
    parser.add_argument("--evaluate-sequences", nargs="+", help="only these")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--steps", type=int, default=400, help="updates of each")
    parser.add_argument("--batch-size", type=int, default=4, help="clips per update of each")
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), help="names of variants")
    arguments = parser.parse_args()
    try:
        check_outputs([arguments.output], [arguments.videos, arguments.colours, *arguments.evaluate])
        rows = {name: run(name, arguments) for name in arguments.only or VARIANTS}
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    lines = ["| objective | its loss | δavg before | δavg after |", "|---|---|---|---|"]
    for name, row in rows.items():
        first, last = row["loss"]
        lines.append(f"| {name} | {first:.3g} to {last:.3g} | {100 * row['before']:.1f} | {100 * row['after']:.1f} |")
    with atomic_write(arguments.output / "table.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def run(name: str, arguments: argparse.Namespace) -> dict:
    """Train a variant, or resume it, and measure it before and after."""
    start, output = arguments.output / "start", arguments.output / name.replace(" ", "-").replace("'", "")
    done = output / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    recipe_name, changes = VARIANTS[name]
    budget = {"steps": str(arguments.steps), "batch_size": str(arguments.batch_size)}
    recipe = parse_recipe(recipe_name, changes | budget)
    if not start.is_dir():
        torch.manual_seed(0)
        FgvcModel(FgvcConfig(**ENCODER)).save_pretrained(start)
    accelerator = fresh_accelerator(arguments.precision)
    colours = arguments.colours if isinstance(recipe, UvcRecipe) else None
    module = make_module(recipe, str(start), colours=colours, precision=arguments.precision)
    score = tap_vid_score(*arguments.evaluate, arguments.evaluate_sequences, module.processor, preset="paper")
    before = score(load_model(str(start)).eval())["delta_avg"]
    videos, textures = real_domain(recipe, arguments.videos)
    training = Training(module, recipe, output, accelerator, videos, textures, keep=1)
    loss_before = objective(training, videos)
    training.run()
    loss_after = objective(training, videos)
    after = score(load_model(str(output / "last")).eval())["delta_avg"]
    row = {"loss": [loss_before, loss_after], "before": before, "after": after}
    with atomic_write(done) as path:
        path.write_text(json.dumps(row), encoding="utf-8")
    print(f"{name}: {row}", flush=True)
    return row


@torch.no_grad()
def objective(training: Training, videos) -> float:
    """The weighted sum of the losses at the end of the schedule, on crops of the videos that are not trained on. The model is not changed."""
    recipe, module = training.recipe, training.bare.train()
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    step, training.step = training.step, recipe.steps - 1
    total = 0.0
    for start in range(HELD_OUT, HELD_OUT + MEASURED, recipe.batch_size):
        numbers = list(range(start, start + recipe.batch_size))
        frames = torch.stack([videos[number] for number in numbers]).to(training.accelerator.device)
        losses = training.losses(numbers, frames)
        total += (
            float(sum(recipe.weights[name] * loss for name, loss in losses.items())) * recipe.batch_size / MEASURED
        )
    training.step = step
    for name, value in module.named_buffers():
        value.copy_(buffers[name])
    return total


if __name__ == "__main__":
    main()
