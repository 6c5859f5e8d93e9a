"""The parts of a training run by name: recipes, models, data and scores. `scripts/train.py` and the experiments on it are built of these."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import Dataset

from ..configuration_fgvc import HEAD_FIELDS, FgvcConfig
from ..data.clip_pack import PackedVideos
from ..data.flying_things import FlyingThings3D, LabelledCrops
from ..data.shards import ShardedClips, ShardedPairs, StreamedClips, load_shards, shard_names, shard_textures
from ..data.tracked_clips import TrackedClips
from ..data.tracked_videos import TrackedVideos
from ..data.video_folder import VideoFolder
from ..encoder.loading import float32_weights
from ..evaluation.tapvid import load_tapvid_npz, track_queries
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..io.checkpoints import PRESETS, resolve_checkpoint
from ..metrics.average_jaccard import aggregate
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor
from ..tracker import Tracker
from .ancestors.colour_autoencoder import (
    COLOURS,
    COLOURS_SMALL,
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    ColourRecipe,
    ColourTraining,
    load_colours,
)
from .ancestors.time_cycle import TIME_CYCLE, TIME_CYCLE_SMALL, TimeCycleRecipe, TimeCycleTraining
from .ancestors.uvc import UVC, UVC_SMALL, UvcRecipe, UvcTraining
from .joint import JointTraining
from .module import TrainingModule
from .recipes import RECIPES as FGVC_RECIPES
from .recipes import Recipe
from .recipes import parse_recipe as parse_recipe_of


# Every recipe by name: FGVC's, then those of its ancestors
RECIPES: dict[str, Any] = FGVC_RECIPES | {
    "uvc": UVC,
    "uvc-small": UVC_SMALL,
    "timecycle": TIME_CYCLE,
    "timecycle-small": TIME_CYCLE_SMALL,
    "colours": COLOURS,
    "colours-small": COLOURS_SMALL,
}
# Fields of FgvcConfig before calibration: similarity has no known meaning yet, so no point is held as hidden, and none is searched in the whole frame
UNCALIBRATED = {"point_matching": "templates", "hidden_threshold": 0.0, "recall_similarity": 2.0}
FINE_SIZE = 48  # channels of a new head: a session then takes less than a quarter of the fine model's memory
TEXTURE_SIZE = (288, 512)  # (height, width) in pixels of the images that synthetic textures are cut from


def parse_recipe(name: str, changes: Mapping[str, str]) -> Any:
    """The recipe of a name in [`RECIPES`] with some fields changed; see [`fgvc_hf.training.recipes.parse_recipe`]."""
    return parse_recipe_of(name, changes, RECIPES)


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Fields and values of command-line options `FIELD=VALUE`."""
    return {name: value for name, _, value in (assignment.partition("=") for assignment in assignments)}


def fresh_accelerator(precision: str | None = None, **options) -> Accelerator:
    """An accelerator without the state of those that ran in this process before.

    Args:
        precision (`str`, *optional*): `"no"`, `"bf16"` or `"fp16"`; what `accelerate launch` was told if not given, else `"no"`.
        options: Further arguments of `Accelerator`.

    Raises:
        `ValueError`: processes were started that do not find each other.
    """
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    # On a CPU, processes find each other only if the CPU is asked for
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available(), **options)
    if accelerator.num_processes != (started := int(os.environ.get("WORLD_SIZE", 1))):
        raise ValueError(f"{started} processes were started, but {accelerator.num_processes} found each other.")
    return accelerator


def load_model(name: str, dtype: torch.dtype = torch.float32) -> FgvcModel:
    """The model of a checkpoint: a bundled name, a folder or a Hub id; a `ValueError` if it is none."""
    return FgvcModel.from_pretrained(resolve_checkpoint(name), dtype=dtype)


def make_module(
    recipe: Any,
    start_from: str | None = None,
    teacher: str | None = None,
    student: Mapping[str, str] | None = None,
    colours: str | None = None,
    precision: str = "no",
    measured: bool = False,
) -> TrainingModule:
    """Model and losses of a recipe.

    Args:
        recipe: One of [`RECIPES`].
        start_from (`str`, *optional*): Checkpoint to start from; random weights if not given.
        teacher (`str`, *optional*): Checkpoint that gives soft labels, or is distilled. In bfloat16 if that is the precision.
        student (mapping, *optional*): Changed fields of a new coarse-to-fine head, as text; for recipes that distil.
        colours (`str`, *optional*): Folder of the colour auto-encoder that UVC copies.
        precision (`str`): `"no"`, `"bf16"` or `"fp16"`.
        measured (`bool`): Whether scores or pictures are asked for; a colour auto-encoder has none.

    Raises:
        `ValueError`, `OSError`: a checkpoint is missing, or does not fit the recipe.
    """
    for option, given, used in (
        ("--teacher", teacher, getattr(recipe, "needs_teacher", False)),
        ("--student", student, getattr(recipe, "distillation", 0)),
        ("--colours", colours, isinstance(recipe, UvcRecipe)),
    ):
        if given and not used:
            raise ValueError(f"the recipe has no use for {option}: leave it out.")
    if isinstance(recipe, ColourRecipe):
        if start_from or measured:
            raise ValueError(
                "a colour auto-encoder starts from random weights and follows no points: leave out --start-from, --evaluate and "
                "--picture-every."
            )
        with float32_weights():
            return ColourTraining(ColourAutoEncoder(ColourAutoEncoderConfig(widths=recipe.widths)), recipe)
    fields = {} if isinstance(recipe, Recipe) else recipe.config
    with float32_weights():
        model = load_model(start_from) if start_from else FgvcModel(FgvcConfig(**fields))
    if isinstance(recipe, UvcRecipe):
        return UvcTraining(model, recipe, load_colours(colours) if colours else None)
    if isinstance(recipe, TimeCycleRecipe):
        return TimeCycleTraining(model, recipe)
    if recipe.distillation:
        model = with_head(model, student or {})
    teacher_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return JointTraining(
        model, recipe, load_model(teacher, teacher_dtype) if recipe.needs_teacher and teacher else None
    )


def with_head(model: FgvcModel, changes: Mapping[str, str]) -> FgvcModel:
    """A coarse-to-fine model with the encoder of a fine one and a new head; a model with a head is returned as it is.

    Args:
        model ([`FgvcModel`]): Whose weights the encoder gets.
        changes (mapping): Changed fields of the head, as text.

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
    try:
        fields = {name: value if name == "upsampling" else int(value) for name, value in changes.items()}
    except ValueError:
        raise ValueError(f"fields of a head but upsampling must be whole numbers, got {dict(changes)}.") from None
    with float32_weights():
        student = FgvcModel(FgvcConfig.from_dict(model.config.to_dict() | {"fine_size": FINE_SIZE} | fields))
    # Shortcuts may be missing: between layers of one width only a stride needs them
    missing, unexpected = student.encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    assert not unexpected and all("downsample" in name for name in missing)
    return student


def real_domain(
    recipe: Any,
    videos: str | Path | None = None,
    shards: str | None = None,
    stream: bool = False,
    pack: str | Path | None = None,
) -> tuple[Dataset, torch.Tensor | None]:
    """Real pairs or clips, and images for the textures of synthetic pairs where the recipe has these.

    Args:
        recipe: One of [`RECIPES`].
        videos (`str` or `Path`, *optional*): Folder of videos.
        shards (`str`, *optional*): Without `videos`: the same as Parquet shards, a folder or a dataset repository of the Hub.
        stream (`bool`): Read the shards one after the other instead of loading them.
        pack (`str` or `Path`, *optional*): Without `videos`: the same as one file; see [`fgvc_hf.data.clip_pack`].

    Raises:
        `OSError`: there are no videos, pack or shards, or they cannot be read.
        `ValueError`: the pack is damaged or of another version.
    """
    settings, textures, renders = recipe.clip_settings, None, isinstance(recipe, Recipe) and recipe.renders
    if videos or pack:
        source, kind = (videos, VideoFolder) if videos else (pack, PackedVideos)
        held = kind(str(source), *settings, seed=recipe.seed)
        return held, held.texture_images(recipe.textures, *TEXTURE_SIZE) if renders else None
    if shards is None:
        raise ValueError("a folder of videos, a pack or a folder of shards is needed.")
    if renders:
        textures = shard_textures(shards, recipe.textures, *TEXTURE_SIZE)
    if stream:
        return StreamedClips(shard_names(shards), *settings, seed=recipe.seed), textures
    return ShardedClips(load_shards(shards), *settings, seed=recipe.seed, source=shards), textures


def labelled_domain(
    recipe: Any,
    videos: Path | None = None,
    tracks: Path | None = None,
    flying_things: Path | None = None,
    stride: int = 2,
) -> Dataset | None:
    """Labelled pairs by number, or clips with tracks, if any are given; without them, synthetic pairs are rendered.

    Args:
        recipe: One of [`RECIPES`].
        videos, tracks (`Path`, *optional*): Folders of videos and of their tracks, as `fgvc-hf track` writes them.
        flying_things (`Path`, *optional*): Root of FlyingThings3D, or its shards.
        stride (`int`): Pixels per cell of the labels: `config.output_stride` of the model.

    Raises:
        `ValueError`, `OSError`: both are given, the recipe has no use for them, or two uses for tracks, or they cannot be read.
    """
    if flying_things and tracks:
        raise ValueError("--flyingthings3d and --tracks are both for labelled pairs: choose one.")
    if tracks:
        if not (videos and isinstance(recipe, Recipe) and recipe.renders):
            raise ValueError("--tracks are of --videos, and for the recipes that learn from labelled pairs.")
        if not recipe.tracking:
            return TrackedVideos(videos, tracks, *recipe.clip_settings, stride=stride, seed=recipe.seed)
        if recipe.synthetic:
            raise ValueError(
                "--tracks train either labelled pairs or the tracking objective: set synthetic or tracking to 0."
            )
        return TrackedClips(videos, tracks, *recipe.clip_settings, seed=recipe.seed)
    if not flying_things:
        return None
    if not getattr(recipe, "synthetic", 0):
        raise ValueError("--flyingthings3d is for the recipes that learn from labelled pairs.")
    sharded = next(flying_things.glob("*.parquet"), None) is not None
    pairs = ShardedPairs(load_shards(flying_things), flying_things) if sharded else FlyingThings3D(flying_things)
    return LabelledCrops(pairs, recipe.crop, stride, seed=recipe.seed)


def tap_vid_score(
    annotations: Path,
    frames: Path,
    sequences: Sequence[str] | None = None,
    image_processor: FgvcImageProcessorPil | None = None,
    preset: str = "fast",
    precision: str = "no",
) -> Callable[[FgvcModel], dict[str, float]]:
    """A function from a model to its `delta_avg` on TAP-Vid.

    Args:
        annotations, frames, sequences: Of [`load_tapvid_npz`].
        image_processor ([`FgvcImageProcessorPil`], *optional*): How the model sees frames, but for their size; the default if not given.
        preset (`str`): Its working size is used. `"paper"` follows points by label maps, every other one by uncalibrated templates,
            which takes a tenth of the time.
        precision (`str`): `"bf16"` runs in bfloat16.
    """
    settings = (image_processor or FgvcImageProcessorPil()).to_dict()
    processor = FgvcProcessor(FgvcImageProcessorPil(**(settings | PRESETS[preset][0])))
    fields = {"point_matching": "labels"} if preset == "paper" else UNCALIBRATED

    def score(model: FgvcModel) -> dict[str, float]:
        before = {name: getattr(model.config, name) for name in fields}
        try:
            vars(model.config).update(fields)
            tracker = Tracker(model, processor)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
                videos = load_tapvid_npz(annotations, frames, sequences)
                counts = {video.name: track_queries(tracker, video)[1] for video in videos}
        finally:
            vars(model.config).update(before)
        return {"delta_avg": aggregate(counts)["tapvid"]["delta_avg"]}

    return score
