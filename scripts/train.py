"""Train an FGVC model: a teacher by reconstruction, the joint model with labels, a fine-tuned one, or a coarse-to-fine one by distillation;
or its ancestors UVC and TimeCycle.

    python scripts/train.py --recipe joint-small --videos FOLDER --output outputs/joint --start-from outputs/teacher/last --precision bf16
    python scripts/train.py --recipe finetune-small --videos MY_CLIPS --output outputs/mine --start-from fgvc-joint --precision bf16
    python scripts/train.py --recipe distill-small --videos FOLDER --output outputs/distill --start-from fgvc-joint --teacher fgvc-joint
    python scripts/train.py --recipe uvc-small --videos FOLDER --output outputs/uvc --colours COLOURS --precision bf16
    python scripts/train.py --recipe timecycle-small --videos FOLDER --output outputs/timecycle --precision bf16

Start it again with the same arguments to resume. Several processes: `torchrun --nproc_per_node N scripts/train.py`.
`--set FIELD=VALUE` changes a field of the recipe (see fgvc_hf/training/recipes.py). For a recipe that distils, a fine model to start from gives
its encoder and gets a head with the fields of `--student FIELD=VALUE` (see FgvcConfig). `--evaluate` follows the TAP-Vid score and keeps the
best weights; `--dry-run` prints sizes, time and memory, and stops.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fgvc_hf.kernels.process import keep_freed_memory
from fgvc_hf.training.experiment import (
    RECIPES,
    fresh_accelerator,
    labelled_domain,
    make_module,
    parse_assignments,
    parse_recipe,
    real_domain,
    tap_vid_score,
)
from fgvc_hf.training.loop import Training


def main() -> None:
    arguments = parse_arguments()
    keep_freed_memory()
    try:
        train(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option, group = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    option("--recipe", choices=RECIPES, required=True)
    option("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    group.add_argument("--videos", type=Path, help="folder of videos: the real domain, and textures")
    group.add_argument("--shards", help="the same as Parquet shards of scripts/prepare.py: a folder or a Hub dataset")
    option("--stream", action="store_true", help="read the shards one after the other instead of loading them")
    option("--flyingthings3d", type=Path, help="labelled pairs: root of FlyingThings3D, or its shards")
    option("--tracks", type=Path, help="labelled pairs: tracks of the videos, as fgvc-hf track writes them")
    option("--output", type=Path, required=True, help="folder of the run")
    option("--start-from", help="checkpoint to start from; random weights if not given")
    option("--teacher", help="checkpoint that gives soft labels, or is distilled")
    option("--student", action="append", default=[], metavar="FIELD=VALUE", help="change a field of a new head")
    option("--colours", help="colour auto-encoder that UVC copies: of recipe colours, or converted")
    option("--precision", choices=("no", "bf16", "fp16"), default="no")
    option("--accumulate", type=int, default=1, help="parts that each batch is computed in")
    option("--workers", type=int, default=0, help="processes that read the real pairs")
    option("--save-every", type=int, default=250, help="updates between checkpoints")
    option("--picture-every", type=int, default=0, help="updates between pictures; 0 for none")
    option("--evaluate", nargs=2, type=Path, metavar=("TRACKS.npz", "FRAMES"), help="TAP-Vid tracks")
    option("--evaluate-sequences", nargs="+", help="only these")
    option("--evaluate-every", type=int, default=1000, help="updates between evaluations")
    option("--tracker", action="append", default=[], help="any tracker of Accelerate, such as tensorboard")
    option("--dry-run", action="store_true", help="print sizes, time and memory per update, and stop")
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> None:
    recipe, precision = parse_recipe(arguments.recipe, parse_assignments(arguments.set)), arguments.precision
    accelerator = fresh_accelerator(
        precision,
        gradient_accumulation_steps=arguments.accumulate,
        log_with=arguments.tracker or None,
        project_dir=arguments.output,
    )
    real, textures = real_domain(recipe, arguments.videos, arguments.shards, arguments.stream)
    labelled = labelled_domain(recipe, arguments.videos, arguments.tracks, arguments.flyingthings3d)
    torch.manual_seed(recipe.seed)
    module = make_module(
        recipe,
        arguments.start_from,
        arguments.teacher,
        parse_assignments(arguments.student),
        arguments.colours,
        precision,
        measured=bool(arguments.evaluate or arguments.picture_every),
    )
    if torch.cuda.is_available() and accelerator.num_processes > 1:
        module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    evaluate = None
    if arguments.evaluate:
        evaluate = tap_vid_score(
            *arguments.evaluate,
            sequences=arguments.evaluate_sequences,
            image_processor=module.processor,
            precision=precision,
        )
    training = Training(
        module,
        recipe,
        arguments.output,
        accelerator,
        real,
        None if textures is None else textures.to(accelerator.device),
        labelled,
        evaluate,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
        picture_every=arguments.picture_every,
        workers=arguments.workers,
    )
    if arguments.dry_run:
        describe(training, recipe, 0 if textures is None else len(textures))
        return
    if arguments.tracker:
        accelerator.init_trackers("fgvc_hf", {name: str(value) for name, value in asdict(recipe).items()})
    training.run()
    accelerator.end_training()


def describe(training: Training, recipe: Any, textures: int) -> None:
    """What `--dry-run` prints."""
    trained = sum(p.numel() for p in training.bare.parameters() if p.requires_grad)
    own, measured = sum(p.numel() for p in training.bare.model.parameters()), training.rehearse()
    seconds, left = measured["seconds_per_update"], recipe.steps - training.step
    print(f"recipe: {asdict(recipe)}")
    print(f"data: {len(getattr(training.real, 'clips', ())) or 'sharded'} clips, {textures} texture images")
    print(f"parameters: {trained:,} trained, {own:,} of them the model's")
    print(f"an update: {seconds:.2f} s, peak memory {measured['peak_mib']:.0f} MiB")
    print(f"{left} updates: {seconds * left / 3600:.1f} h")


if __name__ == "__main__":
    main()
