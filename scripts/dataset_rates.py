#!/usr/bin/env python
"""Measure what tracking a data set costs, and what it would cost at scale.

python scripts/dataset_rates.py clips --number 4 --frames 24 --preset fast       # seconds and bytes per clip, and the simulation
python scripts/dataset_rates.py memory --frames 200                              # peak memory of a process that tracks one clip
python scripts/dataset_rates.py nodes --number 24 --turns 5                      # two nodes against one, of one core each, in turns
python scripts/dataset_rates.py losses --number 60                               # a driver that is killed and a node that is lost

The last two run Ray's test cluster on this machine: a head, and two nodes with a core each. `--source DIR` gives them other clips than rendered ones.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow.parquet import read_table

from fgvc_hf import Tracker, VideoWriter, render_clip, track_rows
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.data.dataset_tracking.clip_sources import Clip
from fgvc_hf.data.dataset_tracking.dataset_run import make_job
from fgvc_hf.data.dataset_tracking.ray_engine import track_on_ray
from fgvc_hf.data.dataset_tracking.row_forms import encoded_bytes
from fgvc_hf.data.dataset_tracking.run_options import TIME_LIMIT, Actors, Prompts
from fgvc_hf.data.dataset_tracking.source_kinds import open_source
from fgvc_hf.data.shard_manifest import shard_files


CLIPS = 1_000_000
TASK_CLIPS = 100  # CLIPS / 10,000 tasks: the clips that a lost process repeats at most, twice on average half of them


def write(path: Path, frames: int, side: int, seed: int) -> None:
    """A rendered clip; after 24 frames it runs back and forth, so that a long one takes no longer to render."""
    held = render_clip(num_frames=24, height=side, width=side, num_points=1, seed=seed).frames
    with VideoWriter(path, 24, side, side) as writer:
        for t in range(frames):
            writer.write(held[23 - abs(t % 46 - 23)])


def clips(arguments: argparse.Namespace) -> str:
    """Seconds and bytes per clip of one actor, and a simulation of a million clips."""
    torch.set_num_threads(1)
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    on_cpu = tracker.model.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # what else the machine does costs no time of this core
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{seed}.mp4") for seed in range(arguments.number + 1)]
        for seed, path in enumerate(paths):
            write(path, arguments.frames, arguments.side, seed)
        rows = track_rows([{"video": path, "points": arguments.points} for path in paths], tracker)
        whole(next(rows))  # compiles the kernels
        start, held = clock(), [encoded_bytes(whole(row)) for row in rows]
        seconds = (clock() - start) / arguments.number
    size, name = sum(held) / len(held), len(Clip("videos/000000.mp4", "videos/000000.mp4", (10**6, 10**18)).to_json())
    lines = [
        f"{seconds:.2f} s of {'a core' if on_cpu else 'a GPU'}, {size / 1000:.0f} kB of row and {name} bytes of reference a clip; "
        f"{CLIPS} clips: {CLIPS * seconds / 3600:.0f} hours of an actor, {CLIPS * seconds / 3600 * arguments.price:.0f} at {arguments.price:g} an hour"
    ]
    for actors in (1, 16, 128, 1024):
        lines.append(simulated(seconds, size, actors, arguments.per_node))
    return "\n".join(lines)


def whole(row: dict) -> dict:
    """A row of tracks; a `ValueError` that says why there are none."""
    if row["error"]:
        raise ValueError(row["error"])
    return row


def simulated(seconds: float, size: float, actors: int, per_node: int) -> str:
    """Hours of a million clips; and the losses of nodes an hour by which a run takes a tenth longer: each repeats half a task of its actors."""
    hours, nodes = CLIPS * seconds / actors / 3600, -(-actors // per_node)
    survived = 0.1 * 3600 * actors / (TASK_CLIPS / 2 * seconds * min(actors, per_node))
    return (
        f"{actors:5} actors on {nodes:3} nodes: {hours:8.1f} h, {CLIPS * size / 1e9:.0f} GB of rows, "
        f"{CLIPS * size / hours / 3600 / 1e6:.2f} MB/s to the driver, 10 % longer at {survived:.1f} lost nodes an hour"
    )


@contextmanager
def test_cluster() -> Generator[Any]:
    """Ray's test cluster: a head without cores, and two nodes with one each, which are its `others`."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    size: dict[str, Any] = {"object_store_memory": 100 << 20}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
    try:
        cluster.others = [cluster.add_node(num_cpus=1, **size) for _ in range(2)]
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        cluster.shutdown()


def source_of(arguments: argparse.Namespace, folder: str) -> Path:
    """The folder of clips, of rendered ones if none is given."""
    if arguments.source:
        return arguments.source
    source = Path(folder, "clips")
    source.mkdir()
    for seed in range(arguments.number):
        write(source / f"{seed:04d}.mp4", arguments.frames, arguments.side, seed)
    return source


def nodes(arguments: argparse.Namespace) -> str:
    """Clips per second on one and on two nodes, in turns, and whether the rows are those of one process."""
    import ray

    torch.set_num_threads(1)
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset, "cpu")
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, test_cluster():
        source = open_source(source_of(arguments, folder))
        loading = {"preset": arguments.preset, "device": "cpu"}
        job = make_job(source, Prompts("points", arguments.points), arguments.checkpoint, loading, tracker, TIME_LIMIT)
        clips = list(source.clips())
        expected, equal = {row["id"]: row for row in job.rows(clips, tracker)}, True
        for _ in range(arguments.turns):
            for number, found in rates.items():
                times, rows = [], {}
                for row in track_on_ray(job, clips, Actors(number)):
                    times.append(time.perf_counter())
                    rows[row["id"]] = row
                equal = equal and rows == expected
                found.append(rate_of(times))
                print(f"{number} of 2 nodes: {found[-1]:.2f} clips/s", file=sys.stderr, flush=True)
        ray.shutdown()
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    shown = [
        f"{name}: median {statistics.median(values):.2f} of {', '.join(f'{value:.2f}' for value in values)}"
        for name, values in (("one node, clips/s", rates[1]), ("two nodes, clips/s", rates[2]), ("ratio", ratios))
    ]
    same = "equal" if equal else "NOT EQUAL"
    shown.append(
        f"{len(clips)} rows, {same} bit for bit to those of one process; load of the machine {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"
    )
    return "\n".join(shown)


def rate_of(times: list[float]) -> float:
    """Clips per second in the second half of a run, when all actors have started; Ray adds them one by one."""
    half = len(times) // 2
    return (len(times) - half) / (times[-1] - times[half - 1])


DRIVER = """
import sys
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking.finished_rows import FinishedRows
FinishedRows.__init__.__defaults__ = (0.0,)  # every row is written at once, so that it can be seen when a run is in its middle
sys.exit(main(["track-dataset", *sys.argv[1:]]))
"""


def losses(arguments: argparse.Namespace) -> str:
    """Kill a driver after a third of the rows, run it again, remove a node after two thirds, and compare with a run in one process."""
    with tempfile.TemporaryDirectory() as folder:
        source, tracks, whole = source_of(arguments, folder), Path(folder, "tracks"), Path(folder, "whole")
        options = ["--points", arguments.points, "--device", "cpu"]
        options += ["--preset", arguments.preset] if arguments.preset else []
        options += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
        command = [sys.executable, "-c", DRIVER, str(source)]
        subprocess.run([*command, str(whole), *options], check=True)
        expected = rows_in(whole)

        def start(least: int) -> tuple[subprocess.Popen, int]:
            """Start a run, and wait until there are so many rows."""
            process = subprocess.Popen([*command, str(tracks), *options, "--engine", "ray"])
            while (there := len(list(tracks.glob(".fgvc-hf-rows/[0-9]*.parquet")))) < least:
                if process.poll() is not None:
                    raise OSError(f"the run ended at {there} rows, before {least}.")
                time.sleep(0.05)
            return process, there

        with test_cluster() as cluster:
            process, killed = start(len(expected) // 3)
            process.kill()
            process.wait()
            process, removed = start(2 * len(expected) // 3)
            cluster.remove_node(cluster.others[1], allow_graceful=False)
            status = process.wait()
        rows = rows_in(tracks)
    errors, same = sum(row["error"] is not None for row in rows), "equal" if rows == expected else "NOT EQUAL"
    return (
        f"driver killed at {killed} rows, node removed at {removed}, exit status {status}: {len(rows)} rows of {len({row['id'] for row in rows})} ids, "
        f"{errors} with an error, {same} bit for bit to those of one process"
    )


def rows_in(folder: Path) -> list[dict]:
    """The rows of a data set of tracks."""
    return [row for shard in shard_files(folder) for row in read_table(shard).to_pylist()]


def memory(arguments: argparse.Namespace) -> str:
    """Peak memory of this process, which computes on one core as an actor does."""
    torch.set_num_threads(1)
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, arguments.frames, arguments.side, 0)
        mask = np.zeros((arguments.side, arguments.side), np.uint8)
        mask[: arguments.side // 2] = 1
        prompts = {"masks": mask} if arguments.masks else {"points": arguments.points}
        (row,) = track_rows([{"video": path, **prompts}], tracker)
    whole(row)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{row['num_frames']} frames: {peak:.0f} MiB at most"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = {"clips": clips, "memory": memory, "nodes": nodes, "losses": losses}
    parser.add_argument("what", choices=tuple(actions))
    parser.add_argument("--number", type=int, default=4, help="clips that are timed or tracked")
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="of nodes and losses: these clips, not rendered ones"
    )
    parser.add_argument("--per-node", type=int, default=8, help="actors of a node, in the simulation")
    parser.add_argument("--price", type=float, default=0.05, help="of an hour of an actor, in the simulation")
    parser.add_argument("--turns", type=int, default=3, help="of nodes")
    parser.add_argument("--frames", type=int, default=24, help="of a clip")
    parser.add_argument("--side", type=int, default=256, help="of a clip, in pixels")
    parser.add_argument("--points", default="grid:16")
    parser.add_argument("--masks", action="store_true", help="of memory: a mask instead of points")
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset")
    arguments = parser.parse_args()
    least = 2 if arguments.what == "nodes" else 1  # a rate is that between two rows
    if min(arguments.number - least, arguments.turns - 1, arguments.per_node - 1) < 0:
        parser.error(f"--number must be at least {least}, and --turns and --per-node at least 1.")
    return print_result(lambda: actions[arguments.what](arguments))


if __name__ == "__main__":
    raise SystemExit(main())
