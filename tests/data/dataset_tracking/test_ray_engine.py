"""Ray Data on a cluster of its own, on this machine: a head and two nodes."""

import hashlib
import os
import shutil
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
import sys
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
