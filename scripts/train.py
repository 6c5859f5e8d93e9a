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

    python scripts/train.py --recipe joint-small --pack CLIPS.pack --output outputs/joint --start-from fgvc-joint --time-limit 8m --save-every 60s

A run with `--time-limit` ends in time, can be started again to go on, and follows one learning-rate schedule over the recipe's `steps` however it
is cut; with `--dry-run` it prints the number of `steps` that fit. `--pack` takes a file of `scripts/prepare.py pack` and needs no video library.
"""

import time


STARTED = time.monotonic()  # imports count as time of the run

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fgvc_hf import FgvcModel
from fgvc_hf.io.files import check_outputs
from fgvc_hf.kernels.process import clean_end, keep_freed_memory
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
from fgvc_hf.training.module import TrainingModule
from fgvc_hf.training.pace import Pace, parse_duration


FITTING = 0.93  # of the updates that fit by a rehearsal: Adam, the log and checkpoints take time as well


@clean_end()
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
    group.add_argument("--pack", type=Path, help="the same as one file of scripts/prepare.py pack")
    option("--stream", action="store_true", help="read the shards one after the other instead of loading them")
    option("--flyingthings3d", type=Path, help="labelled pairs: root of FlyingThings3D, or its shards")
    option("--tracks", type=Path, help="labelled pairs: tracks of the videos, as fgvc-hf track writes them")
    option("--output", type=Path, required=True, help="folder of the run")
    option("--start-from", help="checkpoint to start from; random weights if not given")
    option("--teacher", help="checkpoint that gives soft labels, or is distilled")
    option("--student", action="append", default=[], metavar="FIELD=VALUE", help="change a field of a new head")
    option("--colours", help="colour auto-encoder that UVC copies: of recipe colours, or converted")
    option("--precision", choices=("no", "bf16", "fp16"), help="default: that of accelerate launch, else no")
    option("--accumulate", type=int, default=1, help="parts that each batch is computed in")
    option("--workers", type=int, default=0, help="processes that read the real pairs")
    option("--time-limit", help="end in time with a checkpoint, such as 90s, 8m or 1h; evaluations are not foreseen")
    option("--save-every", default="250", help="between checkpoints: updates, or a time such as 60s")
    option("--keep", type=int, default=2, help="checkpoints that stay; 0 for all")
    option("--print-every", type=int, default=0, help="updates between printed losses; 0 for none")
    option("--picture-every", type=int, default=0, help="updates between pictures; 0 for none")
    option("--evaluate", nargs=2, type=Path, metavar=("TRACKS.npz", "FRAMES"), help="TAP-Vid tracks")
    option("--evaluate-sequences", nargs="+", help="only these")
    option("--evaluate-every", type=int, default=1000, help="updates between evaluations")
    option("--tracker", action="append", default=[], help="any tracker of Accelerate, such as tensorboard")
    option("--dry-run", action="store_true", help="print sizes, time and memory per update, and stop")
    return parser.parse_args()


def parse_pace(arguments: argparse.Namespace) -> tuple[Pace, int]:
    """The clock of the run, and the updates between its checkpoints; 0 if it saves by time."""
    pace = Pace(print_every=arguments.print_every, started=STARTED)
    if arguments.time_limit:
        pace.time_limit = parse_duration(arguments.time_limit)
    if arguments.save_every.isdecimal():
        return pace, int(arguments.save_every)
    pace.save_seconds = parse_duration(arguments.save_every)
    return pace, 0


def parse_score(
    arguments: argparse.Namespace, module: TrainingModule, precision: str
) -> Callable[[FgvcModel], dict[str, float]] | None:
    """The score to follow, if one is asked for."""
    if not arguments.evaluate:
        return None
    return tap_vid_score(
        *arguments.evaluate,
        sequences=arguments.evaluate_sequences,
        image_processor=module.processor,
        precision=precision,
    )


def train(arguments: argparse.Namespace) -> None:
    read = arguments.videos, arguments.shards, arguments.pack, arguments.flyingthings3d, arguments.tracks
    check_outputs([arguments.output], [*read, arguments.start_from, arguments.teacher, arguments.colours])
    pace, save_every = parse_pace(arguments)
    recipe = parse_recipe(arguments.recipe, parse_assignments(arguments.set))
    accelerator = fresh_accelerator(
        arguments.precision,
        gradient_accumulation_steps=arguments.accumulate,
        log_with=arguments.tracker or None,
        project_dir=arguments.output,
    )
    real, textures = real_domain(recipe, arguments.videos, arguments.shards, arguments.stream, arguments.pack)
    torch.manual_seed(recipe.seed)
    module = make_module(
        recipe,
        arguments.start_from,
        arguments.teacher,
        parse_assignments(arguments.student),
        arguments.colours,
        accelerator.mixed_precision,
        measured=bool(arguments.evaluate or arguments.picture_every),
    )
    stride = getattr(module.model.config, "output_stride", 2)  # a colour auto-encoder has none
    labelled = labelled_domain(recipe, arguments.videos, arguments.tracks, arguments.flyingthings3d, stride)
    if torch.cuda.is_available() and accelerator.num_processes > 1:
        module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    training = Training(
        module,
        recipe,
        arguments.output,
        accelerator,
        real,
        None if textures is None else textures.to(accelerator.device),
        labelled,
        parse_score(arguments, module, accelerator.mixed_precision),
        save_every=save_every,
        evaluate_every=arguments.evaluate_every,
        picture_every=arguments.picture_every,
        keep=arguments.keep,
        workers=arguments.workers,
    )
    if arguments.dry_run:
        describe(training, recipe, 0 if textures is None else len(textures), pace)
        return
    if arguments.tracker:
        accelerator.init_trackers("fgvc_hf", {name: str(value) for name, value in asdict(recipe).items()})
    first = training.step
    try:
        training.run(pace=pace)
    finally:
        training.end()
    if accelerator.is_main_process:
        seconds = time.monotonic() - STARTED
        rest = "" if training.step == recipe.steps else "; start it again with the same arguments to go on"
        print(
            f"{training.step - first} updates in {seconds:.0f} s, {training.step} of {recipe.steps} are done{rest}: {arguments.output}"
        )


def describe(training: Training, recipe: Any, textures: int, pace: Pace) -> None:
    """What `--dry-run` prints."""
    trained = sum(p.numel() for p in training.bare.parameters() if p.requires_grad)
    own, measured = sum(p.numel() for p in training.bare.model.parameters()), training.rehearse()
    seconds, left = measured["seconds_per_update"], recipe.steps - training.step
    print(f"recipe: {asdict(recipe)}")
    clips = [f"{len(getattr(training.real, 'clips', ())) or 'sharded'} clips"] if training.real is not None else []
    pairs = ["labelled pairs"] if training.labelled is not None else []
    print(f"data: {', '.join([*clips, *pairs, f'{textures} texture images'])}")
    print(f"precision: {training.accelerator.mixed_precision}, processes: {training.accelerator.num_processes}")
    print(f"parameters: {trained:,} trained, {own:,} of them the model's")
    print(f"an update: {seconds:.2f} s, peak memory {measured['peak_mib']:.0f} MiB")
    print(f"{left} updates: {seconds * left / 3600:.1f} h")
    if pace.time_limit < math.inf:
        print(f"{pace.time_limit:g} s: {int(FITTING * pace.fitting_updates(seconds))} updates fit")


if __name__ == "__main__":
    main()
