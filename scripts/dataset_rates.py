#!/usr/bin/env python
"""Measure what tracking a data set costs, and what it would cost at scale.

python scripts/dataset_rates.py clips --number 4 --frames 24 --preset fast       # seconds and bytes per clip, and the simulation
python scripts/dataset_rates.py memory --frames 200                              # peak memory of a process that tracks one clip
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from fgvc_hf import Tracker, VideoWriter, render_clip, track_rows
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.data.dataset_tracking.clip_sources import Clip
from fgvc_hf.data.dataset_tracking.row_encoding import encoded_bytes


CLIPS = 1_000_000
TASK_CLIPS = 100  # CLIPS / 10,000 tasks: the clips that a lost process repeats at most, twice on average half of them


def write(path: Path, frames: int, side: int, seed: int) -> None:
    """A rendered clip; after 24 frames it runs back and forth, so that a long one takes no longer to render."""
    held = render_clip(num_frames=24, height=side, width=side, num_points=1, seed=seed).frames
    with VideoWriter(path, 24, side, side) as writer:
        for t in range(frames):
            writer.write(held[23 - abs(t % 46 - 23)])


def clips(arguments: argparse.Namespace) -> str:
    """Seconds and bytes per clip, and a simulation of a million of them."""
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{seed}.mp4") for seed in range(arguments.number + 1)]
        for seed, path in enumerate(paths):
            write(path, arguments.frames, arguments.side, seed)
        rows = track_rows([{"video": path, "points": arguments.points} for path in paths], tracker)
        next(rows)  # compiles the kernels
        start, held = time.perf_counter(), [encoded_bytes(row) for row in rows]
        seconds = (time.perf_counter() - start) / arguments.number
    size, name = sum(held) / len(held), len(Clip("videos/000000.mp4", "videos/000000.mp4", (10**6, 10**18)).to_json())
    lines = [f"{seconds:.2f} s, {size / 1000:.0f} kB of row and {name} bytes of reference a clip"]
    for actors in (1, 16, 128, 1024):
        lines.append(simulated(seconds, size, actors))
    return "\n".join(lines)


def simulated(seconds: float, size: float, actors: int) -> str:
    """Hours of a million clips; and the losses of processes an hour by which a run takes a tenth longer: each repeats half of a task."""
    hours = CLIPS * seconds / actors / 3600
    survived = 0.1 * 3600 * actors / (TASK_CLIPS / 2 * seconds)
    return (
        f"{actors:5} actors: {hours:8.1f} h, {CLIPS * size / 1e9:.0f} GB of rows, {CLIPS * size / hours / 3600 / 1e6:.2f} MB/s to the driver, "
        f"10 % longer at {survived:.0f} lost processes an hour"
    )


def memory(arguments: argparse.Namespace) -> str:
    """Peak memory of this process."""
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, arguments.frames, arguments.side, 0)
        (row,) = track_rows([{"video": path, "points": arguments.points}], tracker)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{row['num_frames']} frames: {peak:.0f} MiB at most"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clips", "memory"))
    parser.add_argument("--number", type=int, default=4, help="clips that are timed")
    parser.add_argument("--frames", type=int, default=24, help="of a clip")
    parser.add_argument("--side", type=int, default=256, help="of a clip, in pixels")
    parser.add_argument("--points", default="grid:16")
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", default="fast")
    arguments = parser.parse_args()
    return print_result(lambda: {"clips": clips, "memory": memory}[arguments.what](arguments))


if __name__ == "__main__":
    raise SystemExit(main())
