"""What each constant of the template tracker is worth: one is changed at a time, and points are tracked and scored anew.

    python scripts/ablate_tracker.py --output ablation.md                   # rendered clips, whose truth is exact
    python scripts/ablate_tracker.py --data DATA --split dev --clips 0      # TAP-Vid data, as `fgvc-hf evaluate tapvid` takes it

Prints a table in Markdown: the scores with the constants as they are, and for every change the mean difference over the clips, with its
standard error. Scores are those of TAP-Vid (delta_avg, AJ, OA; queried first), in per cent. The features of a clip are computed once for
all changes. `visibility_weights` are not fitted anew, so AJ and OA say what a change costs a checkpoint as it is.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fgvc_hf import Tracker, render_clip
from fgvc_hf.coordinates import rescale_points
from fgvc_hf.evaluation.tapvid import load_tapvid
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.files import atomic_write, check_outputs
from fgvc_hf.kernels.process import clean_end
from fgvc_hf.metrics.average_jaccard import RASTER_SIZE, aggregate, count_tapvid, queries_first
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.template_constants import TemplateConstants
from fgvc_hf.tracking.template_tracker import TemplateTracker


FRAMES, POINTS, BODIES = 20, 32, 4  # of a rendered clip
SCORES = ("delta_avg", "AJ", "OA")
DEFAULT = TemplateConstants()
CHANGES: dict[str, dict[str, object]] = {  # "off": the value without the idea behind a constant, where there is one
    "slots": {"off": 1, "fewer": 4, "more": 6},
    "anchor_share": {"off": 1e-3, "half": 0.75, "double": 3.0},
    "cell_temperature": {"off": 1e9, "half": 0.05, "double": 0.2},
    "cell_rate": {"off": 0.0, "half": 0.3, "double": 1.0},
    "lost_growth": {"off": 0.0, "half": 0.05, "double": 0.2},
    "coarse_rival_distance": {"off": 0, "half": 1, "double": 4},
    "close_margin": {"off": -1.0, "half": 0.05, "double": 0.2},
    "fine_radius": {"half": 2, "double": 6},
    "rival_distance": {"half": 1, "double": 6},
    "least_share": {"off": 1e-6, "half": 0.125, "double": 0.5},
    "anchor_radius": {"off": 0, "half": 1, "double": 4},
    "recall_radius": {"half": 2, "double": 10},
    "recall_below": {"off": -1.0, "lower": 0.84, "higher": 0.95},
    "recall_share": {"half": 0.25, "double": 1.0},
    "image_frames_back": {"off": (), "half": (1,), "double": (1, 2, 4, 8, 16)},
    "image_radius": {"half": 3, "double": 10},
    "image_similarity": {"off": 2.0, "half": 0.4},
    "image_return": {"off": -1.0, "half": 1.0, "double": 4.0},
    "image_reach": {"half": 1.5, "double": 6.0},
    "evidence_rates": {"off": (0.0, 0.0), "half": (0.2, 0.025), "double": (0.8, 0.1)},
    "least_evidence": {"off": (-1.0, -1.0, -1.0), "half": (0.35, 0.35, 0.0)},
}


class Clip(NamedTuple):
    """Frames (T, H, W, 3), queries (N, 3) (t, x, y), and true positions (N, T, 2), all in pixels of the frames, and occlusion (N, T)."""

    frames: np.ndarray
    queries: np.ndarray
    points: np.ndarray
    occluded: np.ndarray


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="name, folder or Hub id; the default one if not given")
    parser.add_argument("--preset", choices=[name for name in PRESETS if name != "paper"], default="fast")
    parser.add_argument("--clips", type=int, default=12, help="number of rendered clips")
    parser.add_argument("--data", type=Path, help="root of TAP-Vid data")
    parser.add_argument("--split", help="of that data; the first one if not given")
    parser.add_argument("--only", nargs="+", choices=CHANGES, metavar="CONSTANT", help="change only these")
    parser.add_argument("--output", type=Path, help="file for the table")
    arguments = parser.parse_args()
    if arguments.clips < 2 and not (arguments.clips == 0 and arguments.data):
        parser.error("--clips must be 2 or more, for standard errors; or 0 with --data")
    try:
        check_outputs([arguments.output], [arguments.checkpoint, arguments.data])
        table = ablate(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table, end="")
    if arguments.output:
        with atomic_write(arguments.output) as path:
            path.write_text(table, encoding="utf-8")


def ablate(arguments: argparse.Namespace) -> str:
    """The table of all data sets asked for."""
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    sources = {f"{arguments.clips} rendered clips": rendered(arguments.clips)} if arguments.clips else {}
    if arguments.data:
        sources[f"TAP-Vid {arguments.split or ''}".strip()] = annotated(arguments.data, arguments.split)
    variants = {("as it is", ""): DEFAULT} | {
        (name, f"{change}: {value}"): replace(DEFAULT, **{name: value})
        for name in arguments.only or CHANGES
        for change, value in CHANGES[name].items()
    }
    return "\n".join(f"{table_of(title, tracker, clips, variants)}\n" for title, clips in sources.items())


def rendered(number: int) -> Iterator[Clip]:
    for seed in range(number):
        clip = render_clip(FRAMES, 256, 256, BODIES, POINTS, seed)
        yield Clip(clip.frames, clip.queries, clip.tracks, ~clip.visible)


def annotated(root: Path, split: str | None) -> Iterator[Clip]:
    for video in load_tapvid(root, split):
        queries, index = queries_first(video.points, video.occluded)
        queries[:, 1:] = queries[:, 1:].clip(0, video.size[::-1])
        yield Clip(video.frames, queries, video.points[index], video.occluded[index])


def table_of(title: str, tracker: Tracker, clips: Iterator[Clip], variants: dict) -> str:
    """Scores with the constants as they are, and differences to them."""
    scores = {variant: [] for variant in variants}  # a row of three for each clip
    for number, clip in enumerate(clips):
        frames = encode(tracker, clip.frames)
        for variant, constants in variants.items():
            counts = score(follow(clip, frames, tracker.model.config, constants), clip)
            named = aggregate({"clip": counts})["tapvid"]
            scores[variant].append([100 * named[name] for name in SCORES])
        print(f"{title}: {number + 1} clips done", file=sys.stderr)
    before, *changed = (np.array(rows) for rows in scores.values())  # (clips, 3)
    lines = [f"| {title} | value | δavg | AJ | OA |", "|---|---|---|---|---|"]
    lines.append("| as it is | | " + " | ".join(f"{value:.1f}" for value in before.mean(axis=0)) + " |")
    for (name, value), rows in zip(list(variants)[1:], changed, strict=True):
        mean, spread = (rows - before).mean(axis=0), (rows - before).std(axis=0, ddof=1) / len(rows) ** 0.5
        cells = " | ".join(f"{m:+.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True))
        lines.append(f"| `{name}` | {value} | {cells} |")
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def encode(tracker: Tracker, frames: np.ndarray) -> list[EncodedFrame]:
    """All frames as the tracker sees them."""
    session = tracker.processor.init_video_session()
    inputs = (session.preprocess(frame, tracker.model.device) for frame in frames)
    encoded: list[EncodedFrame] = []
    for pixels in inputs:
        previous = encoded[-1].image if encoded else None
        encoded.append(EncodedFrame.of(tracker.model.normalized_features(pixels)[0], pixels[0], previous))
    return encoded


@torch.inference_mode()
def follow(clip: Clip, frames: list[EncodedFrame], config, constants: TemplateConstants):
    """Positions (N, T, 2) in pixels of the frames, and visibility (N, T), of the queries of a clip."""
    TemplateTracker.constants = constants
    size, input_size = clip.frames.shape[1:3], frames[0].size
    tracker = TemplateTracker.empty(frames[0].features, config)
    points = torch.from_numpy(rescale_points(clip.queries[:, 1:].astype(np.float64), size, input_size))
    tracks, visible = np.zeros(clip.points.shape), np.zeros(clip.occluded.shape, bool)
    for t, frame in enumerate(frames):
        tracker.step(frame)
        new = np.flatnonzero(clip.queries[:, 0] == t)
        tracker.start(new.tolist(), points[new].to(frame.image.device), frame)
        found = tracker.read()
        tracks[found.ids, t] = rescale_points(found.points.cpu().numpy(), input_size, size)
        visible[found.ids, t] = (found.confidence >= config.visibility_threshold).cpu().numpy()
    TemplateTracker.constants = DEFAULT
    return tracks, visible


def score(found: tuple[np.ndarray, np.ndarray], clip: Clip):
    """Counts of TAP-Vid's scores, in its raster of 256 x 256 pixels."""
    tracks, visible = found
    truth, tracks = (rescale_points(points, clip.frames.shape[1:3], RASTER_SIZE) for points in (clip.points, tracks))
    return count_tapvid(clip.queries[:, 0], truth, clip.occluded, tracks, visible)


if __name__ == "__main__":
    main()
