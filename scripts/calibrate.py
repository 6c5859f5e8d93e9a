"""Fit the visibility and the expected error of tracked points on rendered clips with exact truth, and write them into a checkpoint.

    python scripts/calibrate.py CHECKPOINT --videos FOLDER --preset balanced

Textures are cut out of the videos. In two clips of three light, focus and noise change from frame to frame; a bar passes in front of every third.
Every fourth clip is held out to measure the fit. CHECKPOINT is a folder, whose config.json gets new `visibility_weights` and `error_weights`.

    python scripts/calibrate.py CHECKPOINT --measure TRACKS.npz FRAMES --preset balanced

fits nothing, and prints the calibration error on real videos with TAP-Vid tracks.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from fgvc_hf import Tracker, render_clip
from fgvc_hf.data.occlusion_clips import occlusion_clip
from fgvc_hf.data.synthetic import SyntheticClip
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.evaluation.tapvid import load_tapvid_npz, track_queries
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.files import atomic_write, check_writable
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.metrics.average_jaccard import queries_first
from fgvc_hf.tracking.evidence import EVIDENCE, expected_error, visibility
from fgvc_hf.tracking.template_constants import TemplateConstants
from fgvc_hf.training.calibration import calibration_error, collect_evidence, fit_error, fit_visibility
from fgvc_hf.training.experiment import TEXTURE_SIZE


FRAMES, POINTS, TEXTURES = 24, 24, 128
OCCLUDED = 3  # one clip in so many has a bar
OCCLUDED_POINTS = 85  # in each of these, two thirds of all evidence: elsewhere most points are visible
HELD_OUT = 4  # one clip in so many


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder; its config.json is written")
    parser.add_argument("--videos", type=Path, help="where textures are cut from")
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("TRACKS.npz", "FRAMES"), help="instead of a fit")
    parser.add_argument("--preset", choices=[name for name in PRESETS if name != "paper"], default="balanced")
    parser.add_argument("--clips", type=int, default=36)
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    if (arguments.videos is None) == (arguments.measure is None):
        parser.error("either --videos, to fit, or --measure is needed")
    if arguments.clips < 2:
        parser.error(f"--clips must be 2 or more, one of which is held out, got {arguments.clips}")
    try:
        measure(arguments) if arguments.measure else calibrate(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def calibrate(arguments: argparse.Namespace) -> None:
    written = arguments.checkpoint / "config.json"
    if not written.is_file():
        raise FileNotFoundError(f"{arguments.checkpoint}: must be a folder with a config.json, which is written.")
    check_writable(written)
    videos = VideoFolder(arguments.videos, 256, (1, 1), (0.5, 1.0), (1.0, 1.8))
    images = videos.texture_images(TEXTURES, *TEXTURE_SIZE)
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    parts = [[], []]
    for number in range(arguments.clips):
        make = occluded if number % OCCLUDED == OCCLUDED - 1 else disturbed
        parts[number % HELD_OUT == 0].append(make(images, arguments.seed + number))
    evidence, visible, errors = collect_evidence(tracker, parts[0])
    weights, error_weights = fit_visibility(evidence, visible), fit_error(evidence, visible, errors)
    report("fitted on", evidence, visible, errors, weights, error_weights)
    report("held out", *collect_evidence(tracker, parts[1]), weights, error_weights)
    config = type(tracker.model.config).from_pretrained(arguments.checkpoint)
    config.visibility_weights = [round(weight, 3) for weight in weights]
    config.error_weights = [round(weight, 3) for weight in error_weights]
    with atomic_write(written) as temporary:
        config.to_json_file(temporary)
    for name in ("visibility_weights", "error_weights"):
        print(f"{arguments.checkpoint}: {name} {getattr(config, name)}")
    print(f"of {', '.join(EVIDENCE)}; their EMAs at rates {TemplateConstants().evidence_rates}; constant")


def measure(arguments: argparse.Namespace) -> None:
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    confidence, visible = [], []
    for video in load_tapvid_npz(*arguments.measure):
        tracks, _ = track_queries(tracker, video)
        queries, index = queries_first(video.points, video.occluded)
        later = np.arange(len(video.frames)) > queries[:, :1]
        confidence.append(tracks.confidence[later])
        visible.append(~video.occluded[index][later])
    probability, truth = np.concatenate(confidence), np.concatenate(visible)
    error = calibration_error(probability, truth)
    print(f"{len(truth)} points on frames, {truth.mean():.1%} visible: calibration error {error:.3f}")


def occluded(images: torch.Tensor, seed: int) -> SyntheticClip:
    """A rendered clip that a bar passes in front of."""
    clip = occlusion_clip(seed, images)
    return replace(clip, **{name: getattr(clip, name)[:OCCLUDED_POINTS] for name in ("queries", "tracks", "visible")})


def disturbed(images: torch.Tensor, seed: int) -> SyntheticClip:
    """A rendered clip with the disturbances of a camera."""
    rendered = render_clip(FRAMES, 256, 384, num_bodies=4, num_points=POINTS, seed=seed, images=images)
    random = np.random.default_rng(seed)
    return replace(rendered, frames=np.stack(list(disturb(rendered.frames, random))))


def disturb(frames: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Frames with drifting light, changing focus, motion blur, noise and JPEG compression."""
    noise, quality, light, focus = random.uniform(0, 0.05), int(random.uniform(20, 80)), np.zeros(5), 0.0
    for t, frame in enumerate(frames):
        light = 0.9 * light + random.normal(0, (0.04, 0.04, 0.02, 0.02, 0.02))
        focus = 0.8 * focus + random.normal(0, 0.6)
        moving = frame / 510 + frames[max(t - 1, 0)] / 510 if random.random() < 0.2 else frame / 255
        lit = np.clip(moving, 1e-3, 1) ** np.exp(light[0]) * np.exp(light[1] + light[2:])
        picture = Image.fromarray((255 * (lit + random.normal(0, noise, frame.shape)).clip(0, 1)).astype(np.uint8))
        picture = picture.filter(ImageFilter.GaussianBlur(max(0.0, focus)))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        yield np.asarray(Image.open(file))


def report(name: str, evidence, visible, errors, weights: list[float], error_weights: list[float]) -> None:
    probability = visibility(evidence, weights).numpy()
    right = ((probability >= 0.5) == visible.numpy()).mean()
    error = calibration_error(probability, visible.numpy())
    print(
        f"{name} {len(visible)} points on frames, {visible.float().mean():.1%} visible: "
        f"{right:.1%} predicted right, calibration error {error:.3f}"
    )
    expected = expected_error(evidence[visible], error_weights)
    within = (errors[visible] < expected).float().mean()
    print(
        f"  off where visible: {errors[visible].mean():.2f} px on average, {expected.mean():.2f} expected; {within:.1%} by less than expected"
    )


if __name__ == "__main__":
    main()
