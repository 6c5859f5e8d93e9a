"""Ray Data on a cluster of its own, on this machine: a head and two nodes."""

import ast
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from pyarrow.parquet import read_table

from fgvc_hf import track_dataset


ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow
# Every row is written at once, so that it can be seen when a run is in its middle
PROGRAM = """
from fgvc_hf.data.dataset_tracking.finished_rows import FinishedRows
FinishedRows.__init__.__defaults__ = (0.0,)
from fgvc_hf.cli.main import main
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it, and what it starts
sys.exit(main(["track-dataset", *sys.argv[1:]]))
"""


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
    cluster.others = [cluster.add_node(num_cpus=1, **size) for _ in range(2)]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_and_a_killed_driver_lose_and_repeat_no_row(cluster, clips, checkpoint, tmp_path):
    source, tracks, whole = tmp_path / "clips", tmp_path / "tracks", tmp_path / "whole"
    source.mkdir()
    for number in range(20):
        shutil.copy(clips / "a.mp4", source / f"{number:02d}.mp4")
    shutil.copy(clips / "cut.mp4", source)
    track_dataset(source, whole, "grid:2", checkpoint=checkpoint)
    words = [source, tracks, "--points", "grid:2", "--checkpoint", checkpoint, "--engine", "ray"]
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]

    def start(rows):
        """Start the command, and wait until there are so many rows."""
        process = subprocess.Popen(
            command, env=os.environ | {"RAY_ADDRESS": cluster.address, "RAY_USAGE_STATS_ENABLED": "0"}
        )
        while process.poll() is None and len(list((tracks / ".fgvc-hf-rows").glob("0*.parquet"))) < rows:
            time.sleep(0.05)
        assert process.poll() is None
        return process

    killed = start(1)
    killed.kill()
    killed.wait()
    kept = len(list((tracks / ".fgvc-hf-rows").glob("0*.parquet")))
    process = start(kept + 1)
    cluster.remove_node(cluster.others[1], allow_graceful=False)
    assert process.wait(timeout=300) == 0
    rows = read_table(tracks / "data-00000-of-00001.parquet").to_pylist()
    assert len(rows) == 21 == len({row["id"] for row in rows}) and sum(row["error"] is not None for row in rows) == 1
    digests = [
        hashlib.sha256((folder / "data-00000-of-00001.parquet").read_bytes()).digest() for folder in (tracks, whole)
    ]
    assert digests[0] == digests[1]  # bit for bit those of one process


def test_an_interrupt_ends_at_once_and_the_same_command_goes_on(clips, checkpoint, tmp_path):
    """Ctrl-C reaches all processes of a terminal."""
    source, tracks, whole = tmp_path / "clips", tmp_path / "tracks", tmp_path / "whole"
    source.mkdir()
    for number in range(12):
        shutil.copy(clips / "a.mp4", source / f"{number:02d}.mp4")
    track_dataset(source, whole, "grid:2", checkpoint=checkpoint)
    words = [source, tracks, "--points", "grid:2", "--checkpoint", checkpoint, "--engine", "ray", "--actors", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    options = {"env": environment, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    with subprocess.Popen(command, **options) as process:
        while process.poll() is None and not list((tracks / ".fgvc-hf-rows").glob("0*.parquet")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "fgvc-hf: interrupted" in error and "Traceback" not in error
    assert {path.name for path in tracks.iterdir()} == {".fgvc-hf-clips.jsonl", ".fgvc-hf-run.json", ".fgvc-hf-rows"}
    assert all(re.fullmatch(r"\d{6}\.parquet", path.name) for path in (tracks / ".fgvc-hf-rows").iterdir())
    assert subprocess.run(command, env=environment, timeout=300).returncode == 0
    names = ["data-00000-of-00001.parquet", "README.md", "SHA256SUMS", "shards.json"]
    assert [(tracks / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


# Clips whose reading ends the process, by the system and by a fault of memory; and before, a checkpoint that only the driver has
POISON = """
import dataclasses, os, signal, sys
from fgvc_hf import load_tracks
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import dataset_run
from fgvc_hf.data.dataset_tracking.clip_sources import FolderSource

class Poison(FolderSource):
    def read(self, clip, folder):
        if clip.source == "exit.mp4": os._exit(1)
        if clip.source == "fault.mp4": os.kill(os.getpid(), signal.SIGSEGV)
        return super().read(clip, folder)

source, tracks, *options = sys.argv[1:]
dataset_run.open_source = lambda path, video, points: Poison(str(path))
make = dataset_run.make_job
dataset_run.make_job = lambda *words: dataclasses.replace(make(*words), checkpoint="/nowhere/else")
assert main(["track-dataset", source, tracks, *options]) == 2
assert not any(name.endswith(".parquet") for _, _, names in os.walk(tracks) for name in names)
dataset_run.make_job = make
assert main(["track-dataset", source, tracks, *options]) == 0
import ray.data
rows = ray.data.read_parquet(tracks).take_all()
print(sorted((row["source"], row["error"] or load_tracks(row).tracks.shape) for row in rows))
"""


def test_clips_that_end_their_process_become_rows(clips, checkpoint, tmp_path):
    """The rows are read by Ray."""
    source = tmp_path / "clips"
    source.mkdir()
    for name in ("0.mp4", "1.mp4", "exit.mp4", "fault.mp4"):
        shutil.copy(clips / "a.mp4", source / name)
    shutil.copy(clips / "cut.mp4", source)
    words = [source, tmp_path / "tracks", "--points", "grid:2", "--checkpoint", checkpoint, "--engine", "ray"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run(
        [sys.executable, "-c", POISON, *map(str, words)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert ended.returncode == 0, ended.stderr
    assert "error: /nowhere/else: cannot be loaded on a machine of the cluster" in ended.stderr
    rows = dict(ast.literal_eval(ended.stdout.splitlines()[-1]))
    assert rows["0.mp4"] == rows["1.mp4"] == (4, 4, 2) and rows["cut.mp4"].startswith("video: ") and len(rows) == 5
    assert rows["exit.mp4"] == rows["fault.mp4"] == "tracker: the process that tracked it ended, 4 times."
