"""Train an FGVC model: the teacher by reconstruction, the joint model with all losses, or a fine-tuned one on your own videos.

    python scripts/train.py --recipe joint-small --videos FOLDER --output outputs/joint --start fgvc-reconstruction \
        --teacher fgvc-reconstruction --precision bf16

Start it again with the same arguments to go on where it stopped. Several processes: `torchrun --nproc_per_node N scripts/train.py`.
`--set FIELD=VALUE` changes a field of the recipe; `--evaluate` follows the TAP-Vid score and keeps the best weights.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from fgvc_hf import FgvcConfig, FgvcModel, FgvcProcessor, bundled_checkpoints, default_checkpoint
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.evaluation.tap_vid import load_tapvid_npz, track_first
from fgvc_hf.metrics.tap_vid import aggregate
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import RECIPES, parse_recipe


TEXTURE_SIZE = (288, 512)  # pixels of the images that synthetic textures are cut from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe"
    )
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos: the real domain, and textures")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--start", help="checkpoint to start from; random weights if not given")
    parser.add_argument("--teacher", help="checkpoint that gives soft labels")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--accumulate", type=int, default=1, help="parts that each batch is computed in")
    parser.add_argument("--save-every", type=int, default=250, help="updates between checkpoints")
    parser.add_argument("--evaluate", nargs=2, type=Path, metavar=("TRACKS.npz", "FRAMES"), help="TAP-Vid tracks")
    parser.add_argument("--evaluate-sequences", nargs="+", help="only these")
    parser.add_argument("--evaluate-every", type=int, default=1000, help="updates between evaluations")
    parser.add_argument(
        "--tracker", action="append", default=[], help="any tracker of Accelerate, such as tensorboard"
    )
    arguments = parser.parse_args()
    try:
        train(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def train(arguments: argparse.Namespace) -> None:
    changes = dict(pair.split("=", 1) for pair in arguments.set)
    recipe = parse_recipe(arguments.recipe, changes)
    videos = VideoFolder(arguments.videos, recipe.crop, recipe.gap, recipe.area, recipe.aspect, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    bundled = bundled_checkpoints()
    start = arguments.start and FgvcModel.from_pretrained(bundled.get(arguments.start, arguments.start))
    model = start or FgvcModel(FgvcConfig())
    teacher = None
    if recipe.needs_teacher and arguments.teacher:
        dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
        teacher = FgvcModel.from_pretrained(bundled.get(arguments.teacher, arguments.teacher), dtype=dtype)
    accelerator = Accelerator(
        mixed_precision=arguments.precision,
        gradient_accumulation_steps=arguments.accumulate,
        log_with=arguments.tracker or None,
        project_dir=arguments.output,
    )
    if arguments.tracker:
        accelerator.init_trackers("fgvc_hf")
    training = Training(
        JointTraining(model, recipe, teacher),
        recipe,
        arguments.output,
        accelerator,
        videos,
        videos.texture_images(recipe.textures, *TEXTURE_SIZE).to(accelerator.device) if recipe.synthetic else None,
        evaluate=tap_vid_score(arguments) if arguments.evaluate else None,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
    )
    training.run()
    accelerator.end_training()


def tap_vid_score(arguments: argparse.Namespace):
    """A function from a model to its scores, in the paper's inference settings with the aligned read-out."""
    processor = FgvcProcessor.from_pretrained(default_checkpoint())

    def score(model: FgvcModel) -> dict[str, float]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            videos = load_tapvid_npz(*arguments.evaluate, arguments.evaluate_sequences)
            counts = {video.name: track_first(model, processor, video)[1] for video in videos}
        scores = aggregate(counts)["tapvid"]
        return {name: scores[name] for name in ("delta_avg", "AJ", "OA")}

    return score


if __name__ == "__main__":
    main()
