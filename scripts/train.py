"""Train an FGVC model: the teacher by reconstruction, the joint model with labels, a fine-tuned one, or a coarse-to-fine one by distillation;
or its ancestors UVC and TimeCycle.

    python scripts/train.py --recipe joint-small --videos FOLDER --output outputs/joint --start-from fgvc-reconstruction --precision bf16
    python scripts/train.py --recipe finetune-small --videos MY_CLIPS --output outputs/mine --start-from fgvc-joint --precision bf16
    python scripts/train.py --recipe distill-small --videos FOLDER --output outputs/distill --start-from fgvc-joint --teacher fgvc-joint
    python scripts/train.py --recipe uvc-small --videos FOLDER --output outputs/uvc --colours COLOURS --precision bf16
    python scripts/train.py --recipe timecycle-small --videos FOLDER --output outputs/timecycle --precision bf16

Start it again with the same arguments to go on where it stopped. Several processes: `torchrun --nproc_per_node N scripts/train.py`.
`--set FIELD=VALUE` changes a field of the recipe (see fgvc_hf/training/recipes.py). Where a recipe distills, a fine model to start from gives
its encoder, and gets a head with the fields of `--student FIELD=VALUE` (see FgvcConfig). `--evaluate` follows the TAP-Vid score and
keeps the best weights; `--dry-run` prints sizes, time and memory, and stops.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, bundled_checkpoints
from fgvc_hf.configuration_fgvc import HEAD_FIELDS
from fgvc_hf.data.flying_things import FlyingThings3D, LabelledCrops
from fgvc_hf.data.shards import ShardedClips, ShardedPairs, StreamedClips, load_shards, shard_names, shard_textures
from fgvc_hf.data.tracked_videos import TrackedVideos
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.evaluation.tapvid import load_tapvid_npz, track_queries
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.kernels.process import keep_freed_memory
from fgvc_hf.metrics.average_jaccard import aggregate
from fgvc_hf.training.ancestors.colour_autoencoder import (
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    ColourRecipe,
    ColourTraining,
    load_colours,
)
from fgvc_hf.training.ancestors.time_cycle import TimeCycleRecipe, TimeCycleTraining
from fgvc_hf.training.ancestors.uvc import UvcRecipe, UvcTraining
from fgvc_hf.training.ancestors.video_training import VideoRecipe, VideoTraining
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import RECIPES, Recipe, parse_recipe


UNCALIBRATED = {"point_matching": "templates", "hidden_threshold": 0.0, "recall_similarity": 2.0}
FINE_SIZE = 48  # channels of a new head: with its label maps, a session then takes less than a quarter of the fine model's memory
TEXTURE_SIZE = (288, 512)  # pixels of the images that synthetic textures are cut from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--videos", type=Path, help="folder of videos: the real domain, and textures")
    source.add_argument("--shards", help="the same as Parquet shards of scripts/prepare.py: a folder or a Hub dataset")
    parser.add_argument(
        "--stream", action="store_true", help="read the shards one after the other instead of loading them"
    )
    parser.add_argument("--flyingthings3d", type=Path, help="labelled pairs: root of FlyingThings3D, or its shards")
    parser.add_argument(
        "--tracks", type=Path, help="labelled pairs: tracks of the videos, as fgvc-hf track writes them"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--start-from", help="checkpoint to start from; random weights if not given")
    parser.add_argument("--teacher", help="checkpoint that gives soft labels, or is distilled")
    parser.add_argument(
        "--student",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of a new coarse-to-fine head",
    )
    parser.add_argument("--colours", help="colour auto-encoder that UVC copies: of recipe colours, or converted")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--accumulate", type=int, default=1, help="parts that each batch is computed in")
    parser.add_argument("--workers", type=int, default=0, help="processes that read the real pairs")
    parser.add_argument("--save-every", type=int, default=250, help="updates between checkpoints")
    parser.add_argument("--picture-every", type=int, default=0, help="updates between pictures; 0 for none")
    parser.add_argument("--evaluate", nargs=2, type=Path, metavar=("TRACKS.npz", "FRAMES"), help="TAP-Vid tracks")
    parser.add_argument("--evaluate-sequences", nargs="+", help="only these")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="updates between evaluations")
    parser.add_argument(
        "--tracker", action="append", default=[], help="any tracker of Accelerate, such as tensorboard"
    )
    parser.add_argument("--dry-run", action="store_true", help="print sizes, time and memory per update, and stop")
    arguments = parser.parse_args()
    keep_freed_memory()
    try:
        train(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def train(arguments: argparse.Namespace) -> None:
    changes = [assignment.partition("=") for assignment in arguments.set]
    recipe = parse_recipe(arguments.recipe, {name: value for name, _, value in changes})
    accelerator = Accelerator(
        mixed_precision=arguments.precision,
        gradient_accumulation_steps=arguments.accumulate,
        log_with=arguments.tracker or None,
        project_dir=arguments.output,
        cpu=not torch.accelerator.is_available(),  # else processes on a CPU would not know of each other
    )
    if accelerator.num_processes != (started := int(os.environ.get("WORLD_SIZE", 1))):
        raise ValueError(f"{started} processes were started, but {accelerator.num_processes} found each other.")
    real, textures = real_domain(arguments, recipe)
    labelled = labelled_domain(arguments, recipe)
    torch.manual_seed(recipe.seed)
    module = make_module(recipe, arguments)
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
        evaluate=tap_vid_score(arguments, module.processor) if arguments.evaluate else None,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
        picture_every=arguments.picture_every,
        workers=arguments.workers,
    )
    if arguments.dry_run:
        describe(training, recipe, 0 if textures is None else len(textures))
        return
    if arguments.tracker:
        accelerator.init_trackers("fgvc_hf", {k: str(v) for k, v in asdict(recipe).items()})
    training.run()
    accelerator.end_training()


def make_module(recipe: Any, arguments: argparse.Namespace) -> JointTraining | VideoTraining:
    """Model and losses of a recipe."""
    if isinstance(recipe, ColourRecipe):
        if arguments.start_from or arguments.evaluate or arguments.picture_every:
            raise ValueError(
                "a colour auto-encoder starts from random weights and follows no points: leave out --start-from, --evaluate and --picture-every."
            )
        return ColourTraining(ColourAutoEncoder(ColourAutoEncoderConfig(widths=recipe.widths)), recipe)
    config = recipe.config if isinstance(recipe, VideoRecipe) else {}
    model = (
        load_model(arguments.start_from, torch.float32) if arguments.start_from else FgvcModel(FgvcConfig(**config))
    )
    if isinstance(recipe, UvcRecipe):
        return UvcTraining(model, recipe, load_colours(arguments.colours) if arguments.colours else None)
    if isinstance(recipe, TimeCycleRecipe):
        return TimeCycleTraining(model, recipe)
    if recipe.distillation:
        model = with_head(model, dict(change.split("=", 1) for change in arguments.student))
    teacher_dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    teacher = load_model(arguments.teacher, teacher_dtype) if recipe.needs_teacher and arguments.teacher else None
    return JointTraining(model, recipe, teacher)


def load_model(name: str, dtype: torch.dtype) -> FgvcModel:
    return FgvcModel.from_pretrained(bundled_checkpoints().get(name, name), dtype=dtype)


def with_head(model: FgvcModel, changes: dict[str, str]) -> FgvcModel:
    """A coarse-to-fine model with the encoder of a fine one, and a fresh head; a model that has one as it is.

    Raises:
        `ValueError`: the head has no such field, or the model has a head already, which cannot be changed.
    """
    unknown = sorted(set(changes) - set(HEAD_FIELDS))
    if unknown:
        raise ValueError(f"a head has no field {unknown[0]!r}; its fields are {', '.join(HEAD_FIELDS)}.")
    if model.head is not None:
        if changes:
            raise ValueError("--student is for a new head, but the checkpoint to start from has one.")
        return model
    fields = {name: value if name == "upsampling" else int(value) for name, value in changes.items()}
    config = FgvcConfig.from_dict(model.config.to_dict() | {"fine_size": FINE_SIZE} | fields)
    student = FgvcModel(config)
    # Strict but for shortcuts: between layers of one width only a stride asks for them, and they are fresh
    missing, unexpected = student.encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    assert not unexpected and all("downsample" in name for name in missing)
    return student


def real_domain(arguments: argparse.Namespace, recipe: Any) -> tuple[Dataset, torch.Tensor | None]:
    """Real clips, and images for the textures of synthetic ones where there are any."""
    settings, textures = recipe.clip_settings, None
    if arguments.videos:
        videos = VideoFolder(arguments.videos, *settings, seed=recipe.seed)
        return videos, videos.texture_images(recipe.textures, *TEXTURE_SIZE) if isinstance(recipe, Recipe) else None
    if isinstance(recipe, Recipe):
        textures = shard_textures(load_shards(arguments.shards, streaming=True), recipe.textures, *TEXTURE_SIZE)
    if arguments.stream:
        return StreamedClips(shard_names(arguments.shards), *settings, seed=recipe.seed), textures
    return ShardedClips(load_shards(arguments.shards), *settings, seed=recipe.seed), textures


def labelled_domain(arguments: argparse.Namespace, recipe: Any) -> Dataset | None:
    """Labelled pairs where any are given; else they are rendered."""
    if arguments.flyingthings3d and arguments.tracks:
        raise ValueError("--flyingthings3d and --tracks are both for labelled pairs: choose one.")
    if arguments.tracks:
        if not (arguments.videos and isinstance(recipe, Recipe)):
            raise ValueError("--tracks are of --videos, and for the recipes that learn from labelled pairs.")
        return TrackedVideos(arguments.videos, arguments.tracks, *recipe.clip_settings, seed=recipe.seed)
    if not arguments.flyingthings3d:
        return None
    shards = sorted(arguments.flyingthings3d.glob("*.parquet"))
    pairs = ShardedPairs(load_shards(arguments.flyingthings3d)) if shards else FlyingThings3D(arguments.flyingthings3d)
    return LabelledCrops(pairs, recipe.crop, seed=recipe.seed)


def describe(training: Training, recipe: Any, textures: int) -> None:
    """What `--dry-run` prints."""
    trained = sum(p.numel() for p in training.bare.parameters() if p.requires_grad)
    measured = training.rehearse()
    print(f"recipe: {asdict(recipe)}")
    print(f"data: {len(getattr(training.real, 'clips', ())) or 'sharded'} clips, {textures} texture images")
    print(
        f"parameters: {trained:,} trained, {sum(p.numel() for p in training.bare.model.parameters()):,} of them the model's"
    )
    print(f"an update: {measured['seconds_per_update']:.2f} s, peak memory {measured['peak_mib']:.0f} MiB")
    print(
        f"{recipe.steps - training.step} updates: {measured['seconds_per_update'] * (recipe.steps - training.step) / 3600:.1f} h"
    )


def tap_vid_score(arguments: argparse.Namespace, image_processor: FgvcImageProcessorPil):
    """A function from a model to its scores: preset fast, for the paper's label maps take ten times as long.

    No point waits as hidden, and none is looked for in the whole frame: what similarity means is not known before calibration.
    """
    processor = FgvcProcessor(FgvcImageProcessorPil(**(image_processor.to_dict() | PRESETS["fast"][0])))

    def score(model: FgvcModel) -> dict[str, float]:
        before = {name: getattr(model.config, name) for name in UNCALIBRATED}
        vars(model.config).update(UNCALIBRATED)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            videos = load_tapvid_npz(*arguments.evaluate, arguments.evaluate_sequences)
            counts = {video.name: track_queries(model, processor, video)[1] for video in videos}
        vars(model.config).update(before)
        return {"delta_avg": aggregate(counts)["tapvid"]["delta_avg"]}

    return score


if __name__ == "__main__":
    main()
