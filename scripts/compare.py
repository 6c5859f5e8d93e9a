"""Three ideas of self-supervision on equal terms: FGVC's reconstruction, UVC and TimeCycle, from the same random weights.

    python scripts/compare.py --videos FOLDER --colours COLOURS --evaluate TRACKS.npz FRAMES --output outputs/compare --precision bf16

All train a ResNet-18 at stride 8 for as many updates on as many clips of the same videos; each sees frames as its method does. Points are
followed by label maps at 256x256 and read off aligned, before and after. Runs that are complete are not repeated. Prints a table in
Markdown, and writes it beside the runs.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from train import load_model, make_module, real_domain

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor
from fgvc_hf.conversion.official import POOLED, RESNET_18
from fgvc_hf.evaluation.tapvid import load_tapvid_npz, track_queries
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.video import atomic_write
from fgvc_hf.metrics.average_jaccard import aggregate
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import parse_recipe


ENCODER = {**RESNET_18, **POOLED, "propagation_radius": 6}  # the radius in cells, 48 pixels
HELD_OUT, MEASURED = 2**30, 32  # number of the first clip, and how many, that objectives are measured on
VARIANTS = {
    "FGVC's reconstruction": ("teacher-small", {"radius": "6"}),
    "UVC": ("uvc-small", {}),
    "TimeCycle": ("timecycle-small", {}),
}


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
    arguments.teacher = arguments.shards = None
    try:
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
    """Train a variant, or go on with it, and measure it before and after."""
    start, output = arguments.output / "start", arguments.output / name.replace(" ", "-").replace("'", "")
    done = output / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    recipe_name, changes = VARIANTS[name]
    recipe = parse_recipe(
        recipe_name, {**changes, "steps": str(arguments.steps), "batch_size": str(arguments.batch_size)}
    )
    if not start.is_dir():
        torch.manual_seed(0)
        FgvcModel(FgvcConfig(**ENCODER)).save_pretrained(start)
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    accelerator, arguments.start_from = Accelerator(mixed_precision=arguments.precision), str(start)
    module = make_module(recipe, arguments)
    before = score(load_model(str(start), torch.float32), module.processor, arguments)
    videos, textures = real_domain(arguments, recipe)
    training = Training(module, recipe, output, accelerator, videos, textures, keep=1)
    loss_before = objective(training, videos)
    training.run()
    loss_after = objective(training, videos)
    after = score(load_model(str(output / "last"), torch.float32), module.processor, arguments)
    row = {"loss": [loss_before, loss_after], "before": before, "after": after}
    done.write_text(json.dumps(row))
    print(f"{name}: {row}", flush=True)
    return row


@torch.no_grad()
def objective(training: Training, videos) -> float:
    """The weighted sum of the losses at the end of the schedule, on crops of the videos that are not trained on; nothing is changed."""
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


def score(model: FgvcModel, image_processor: FgvcImageProcessorPil, arguments: argparse.Namespace) -> float:
    """δavg of points that are followed by label maps."""
    processor = FgvcProcessor(FgvcImageProcessorPil(**(image_processor.to_dict() | PRESETS["paper"][0])))
    videos = load_tapvid_npz(*arguments.evaluate, arguments.evaluate_sequences)
    counts = {video.name: track_queries(model.eval(), processor, video)[1] for video in videos}
    return aggregate(counts)["tapvid"]["delta_avg"]


if __name__ == "__main__":
    main()
