"""TAP-Vid point tracks, query first, measured at 256x256.

    python scripts/evaluate.py --annotations DATA/tapvid_davis_32/dev.npz --frames DATA/davis/JPEGImages/480p

`--short-side 480` changes the resolution that the model works at (distances stay in the 256x256 raster); `--set readout=legacy`
and the like change a setting of the checkpoint.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from fgvc_hf import FgvcImageProcessorPil, FgvcModel, FgvcProcessor, VideoWriter, default_checkpoint, draw_tracks
from fgvc_hf.evaluation.tap_vid import TapVidVideo, load_tapvid_npz, track_first
from fgvc_hf.metrics.tap_vid import aggregate
from fgvc_hf.processing_fgvc import PointTracks
from fgvc_hf.video import atomic_write


SHOWN = ("delta_avg", "AJ", "OA", "delta_1", "delta_2", "delta_4", "delta_8", "delta_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True, help="NPZ file of point tracks")
    parser.add_argument("--frames", type=Path, required=True, help="folder with a folder of frames for each sequence")
    parser.add_argument("--checkpoint", default=default_checkpoint())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--short-side", type=int, help="keep the aspect ratio; default: as the checkpoint's processor")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a config field")
    parser.add_argument("--sequences", nargs="+", help="only these")
    parser.add_argument("--overlays", type=Path, help="folder for a video of each sequence with its tracks")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()

    settings = {
        name: json.loads(value) if value[:1] in "0123456789-" else value for name, value in _pairs(arguments.set)
    }
    model = FgvcModel.from_pretrained(arguments.checkpoint, dtype=getattr(torch, arguments.dtype), **settings)
    processor = FgvcProcessor.from_pretrained(arguments.checkpoint)
    if arguments.short_side:
        size = {"shortest_edge": arguments.short_side}
        processor = FgvcProcessor(FgvcImageProcessorPil(resize_policy="short_side", size=size))

    counts = {}
    print(f"{'':20s} " + " ".join(f"{name:>10s}" for name in SHOWN))
    for video in load_tapvid_npz(arguments.annotations, arguments.frames, arguments.sequences):
        start = time.perf_counter()
        tracks, counts[video.name] = track_first(model, processor, video)
        seconds = time.perf_counter() - start
        print_row(video.name, aggregate({video.name: counts[video.name]})["tapvid"], f"{seconds:.0f} s")
        if arguments.overlays:
            write_overlay(arguments.overlays, video, tracks)
    metrics = aggregate(counts)
    for aggregation, values in metrics.items():
        print_row(f"mean, {aggregation}", values)
    if arguments.output:
        videos = {name: {"counts": c.to_lists(), "metrics": aggregate({name: c})} for name, c in counts.items()}
        described = {name: str(value) for name, value in vars(arguments).items()}
        with atomic_write(arguments.output) as path:
            path.write_text(
                json.dumps({"metrics": metrics, "videos": videos, "settings": described}, indent=1), "utf-8"
            )


def _pairs(assignments: list[str]):
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        yield name, value


def print_row(name: str, metrics: dict[str, float], note: str = "") -> None:
    print(f"{name:20s} " + " ".join(f"{metrics[column] * 100:10.1f}" for column in SHOWN), note, flush=True)


def write_overlay(folder: Path, video: TapVidVideo, tracks: PointTracks) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with VideoWriter(folder / f"{video.name}.mp4", 12, *video.size) as writer:
        for t, frame in enumerate(video.frames):
            writer.write(draw_tracks(frame, tracks.tracks, tracks.visible, t))


if __name__ == "__main__":
    main()
