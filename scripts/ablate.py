"""The ablations of the paper's Tables 4 and 5 at one small budget: same start, data, seed, batch and number of updates.

    python scripts/ablate.py --videos FOLDER --teacher fgvc-reconstruction --evaluate TRACKS.npz FRAMES --output outputs/ablations \
        --precision bf16 --set steps=400

Runs that are complete are not repeated. Prints a table in Markdown, and writes it beside the runs.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from train import TEXTURE_SIZE, load_model, tap_vid_score

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.files import atomic_write
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import parse_recipe


VARIANTS = {
    "Dirac labels": {"real": "0", "label": "dirac"},
    "Gaussian labels, 0.7 cells": {"real": "0", "label": "gaussian", "label_sigma": "0.7"},
    "Gaussian labels, 1 cell": {"real": "0", "label": "gaussian", "label_sigma": "1"},
    "Gaussian labels, 3 cells": {"real": "0", "label": "gaussian", "label_sigma": "3"},
    "soft labels": {"real": "0", "label": "soft"},
    "soft labels, teacher normalised over rows": {"real": "0", "label": "soft", "teacher_norm": "height"},
    "reconstruction": {"synthetic": "0"},
    "reconstruction, official form": {"synthetic": "0", "reconstruction": "official"},
    "reconstruction, occlusion test": {"synthetic": "0", "occlusion_test": "true"},
    "reconstruction and soft labels": {"label": "soft"},
    "reconstruction, soft labels and adversarial": {"label": "soft", "adversarial": "1"},
    "reconstruction and Gaussian labels, 0.7 cells": {"label": "gaussian", "label_sigma": "0.7"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--teacher", required=True, help="checkpoint that gives soft labels")
    parser.add_argument("--start-from", help="checkpoint that all variants start from; random weights if not given")
    parser.add_argument("--evaluate", nargs=2, type=Path, required=True, metavar=("TRACKS.npz", "FRAMES"))
    parser.add_argument("--evaluate-sequences", nargs="+", help="only these")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field for all")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    shared = dict(assignment.split("=", 1) for assignment in arguments.set)
    chosen = arguments.only or list(VARIANTS)
    unknown = sorted(set(chosen) - set(VARIANTS))
    if unknown:
        sys.exit(f"error: there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}.")
    scores = (
        {
            "before training": tap_vid_score(arguments, FgvcImageProcessorPil())(
                load_model(arguments.start_from, torch.float32).eval()
            )
        }
        if arguments.start_from
        else {}
    )
    scores |= {name: run(name, {"adversarial": "0", **shared, **VARIANTS[name]}, arguments) for name in chosen}
    lines = ["| variant | δavg |", "|---|---|"]
    lines += [
        f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in row.values()) + " |"
        for name, row in scores.items()
    ]
    with atomic_write(arguments.output / "table.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def run(name: str, changes: dict[str, str], arguments: argparse.Namespace) -> dict[str, float]:
    """Train a variant, or go on with it, and measure it at its end."""
    output = arguments.output / name.replace(" ", "-").replace(",", "")
    done = output / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    recipe = parse_recipe("joint-small", changes)
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    accelerator = Accelerator(mixed_precision=arguments.precision)
    videos = VideoFolder(arguments.videos, recipe.crop, recipe.gap, recipe.area, recipe.aspect, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    model = load_model(arguments.start_from, torch.float32) if arguments.start_from else FgvcModel(FgvcConfig())
    teacher = load_model(arguments.teacher, torch.float32) if recipe.needs_teacher else None
    textures = videos.texture_images(recipe.textures, *TEXTURE_SIZE).to(accelerator.device)
    Training(JointTraining(model, recipe, teacher), recipe, output, accelerator, videos, textures, keep=1).run()
    scores = tap_vid_score(arguments, FgvcImageProcessorPil())(model.eval())
    done.write_text(json.dumps(scores))
    print(f"{name}: {scores}", flush=True)
    return scores


if __name__ == "__main__":
    main()
