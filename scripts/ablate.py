"""Ablations at one small budget: same start, data, seed, batch and number of updates. `--of losses` are the paper's Tables 4 and 5,
`--of head` the parts of a coarse-to-fine head that is distilled.

    python scripts/ablate.py --videos FOLDER --teacher outputs/teacher/last --evaluate TRACKS.npz FRAMES --output outputs/ablations \
        --precision bf16 --set steps=400
    python scripts/ablate.py --of head --videos FOLDER --teacher fgvc-joint --start-from fgvc-joint --evaluate TRACKS.npz FRAMES \
        --output outputs/head --precision bf16 --set steps=400

Complete runs are not repeated. Prints a table in Markdown, and writes it beside the runs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from fgvc_hf.io.files import atomic_write, check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.training.experiment import (
    fresh_accelerator,
    load_model,
    make_module,
    parse_assignments,
    parse_recipe,
    real_domain,
    tap_vid_score,
)
from fgvc_hf.training.loop import Training


class Variant(NamedTuple):
    """Changed fields of the recipe, and of the head."""

    changes: dict[str, str]
    student: dict[str, str] = {}


LOSSES = {
    "Dirac labels": Variant({"real": "0", "label": "dirac"}),
    "Gaussian labels, 0.7 cells": Variant({"real": "0", "label": "gaussian", "label_sigma": "0.7"}),
    "Gaussian labels, 1 cell": Variant({"real": "0", "label": "gaussian", "label_sigma": "1"}),
    "Gaussian labels, 3 cells": Variant({"real": "0", "label": "gaussian", "label_sigma": "3"}),
    "soft labels": Variant({"real": "0", "label": "soft"}),
    "soft labels, teacher normalised over rows": Variant({"real": "0", "label": "soft", "teacher_norm": "height"}),
    "reconstruction": Variant({"synthetic": "0"}),
    "reconstruction, official form": Variant({"synthetic": "0", "reconstruction": "official"}),
    "reconstruction, occlusion test": Variant({"synthetic": "0", "occlusion_test": "true"}),
    "reconstruction and soft labels": Variant({"label": "soft"}),
    "reconstruction, soft labels and adversarial": Variant({"label": "soft", "adversarial": "1"}),
    "reconstruction and Gaussian labels, 0.7 cells": Variant({"label": "gaussian", "label_sigma": "0.7"}),
}
WIDE = {"fine_size": "64"}
HEAD = {
    "64 channels, no attention, pixel shuffle, encoder of its own": Variant({}, WIDE),
    "2 layers of attention": Variant({}, WIDE | {"num_attention_layers": "2"}),
    "4 layers of attention": Variant({}, WIDE | {"num_attention_layers": "4"}),
    "bilinear up-sampling": Variant({}, WIDE | {"upsampling": "bilinear"}),
    "encoder shared with the fine model": Variant({"freeze_encoder": "true"}, WIDE),
    "48 channels": Variant({}, {"fine_size": "48"}),
    "labels of rendered pairs as well": Variant({"synthetic": "0.1", "label": "gaussian", "label_sigma": "0.7"}, WIDE),
}
TABLES = {"losses": ("joint-small", {"adversarial": "0"}, LOSSES), "head": ("distill-small", {}, HEAD)}


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", choices=TABLES, default="losses", help="what is varied")
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--teacher", required=True, help="checkpoint that gives soft labels, or is distilled")
    parser.add_argument("--start-from", help="checkpoint that all variants start from; random weights if not given")
    parser.add_argument("--evaluate", nargs=2, type=Path, required=True, metavar=("TRACKS.npz", "FRAMES"))
    parser.add_argument("--evaluate-sequences", nargs="+", help="only these")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field for all")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    variants = TABLES[arguments.of][2]
    unknown = sorted(set(arguments.only or ()) - set(variants))
    if unknown:
        sys.exit(f"error: there is no variant {unknown[0]!r}; there are {', '.join(variants)}.")
    rows = {}
    try:
        check_outputs(
            [arguments.output], [arguments.videos, arguments.teacher, arguments.start_from, *arguments.evaluate]
        )
        if arguments.start_from:
            rows["before training"] = score_of(arguments)(load_model(arguments.start_from).eval())
        rows |= {name: run(name, variants[name], arguments) for name in arguments.only or variants}
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    lines = ["| variant | δavg |", "|---|---|"]
    lines += [f"| {name} | {100 * row['delta_avg']:.1f} |" for name, row in rows.items()]
    with atomic_write(arguments.output / "table.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def run(name: str, variant: Variant, arguments: argparse.Namespace) -> dict[str, float]:
    """Train a variant, or resume it, and measure it at its end."""
    output = arguments.output / name.replace(" ", "-").replace(",", "")
    done = output / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    recipe_name, changes, _ = TABLES[arguments.of]
    recipe = parse_recipe(recipe_name, {**changes, **parse_assignments(arguments.set), **variant.changes})
    accelerator = fresh_accelerator(arguments.precision)
    videos, textures = real_domain(recipe, arguments.videos)
    torch.manual_seed(recipe.seed)
    teacher = arguments.teacher if recipe.needs_teacher else None
    module = make_module(recipe, arguments.start_from, teacher, variant.student, precision=arguments.precision)
    textures = None if textures is None else textures.to(accelerator.device)
    Training(module, recipe, output, accelerator, videos, textures, keep=1).run()
    scores = score_of(arguments)(module.result.eval())
    with atomic_write(done) as path:
        path.write_text(json.dumps(scores), encoding="utf-8")
    print(f"{name}: {scores}", flush=True)
    return scores


def score_of(arguments: argparse.Namespace):
    return tap_vid_score(*arguments.evaluate, arguments.evaluate_sequences, precision=arguments.precision)


if __name__ == "__main__":
    main()
