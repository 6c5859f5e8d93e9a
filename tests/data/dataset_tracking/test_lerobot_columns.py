"""A copy of a LeRobotDataset with tracks: by its documented layout."""

import json
import shutil
import signal
import subprocess
import sys

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pyarrow.parquet import read_table

from fgvc_hf import load_tracks, track_dataset
from fgvc_hf.data.dataset_tracking.track_job import TrackJob
from fgvc_hf.io.files import atomic_folder


DATA = "data/chunk-000/file-000.parquet"


def test_tracks_are_columns_of_the_frames(lerobot, checkpoint, tmp_path):
    before = {path: path.read_bytes() for path in lerobot.rglob("*") if path.is_file()}
    track_dataset(lerobot, tmp_path / "tracks", "grid:2", checkpoint=checkpoint, append_to=tmp_path / "copy")
    assert {path: path.read_bytes() for path in lerobot.rglob("*") if path.is_file()} == before
    copy = tmp_path / "copy"
    assert {p.relative_to(copy) for p in copy.rglob("*")} == {p.relative_to(lerobot) for p in lerobot.rglob("*")}
    info = json.loads((copy / "meta/info.json").read_text())
    rows = read_table(tmp_path / "tracks" / "data-00000-of-00001.parquet").to_pylist()
    table = read_table(copy / "data/chunk-000/file-000.parquet")
    assert table.drop_columns([name for name in table.column_names if name.startswith("tracks.")]).equals(
        read_table(lerobot / "data/chunk-000/file-000.parquet")
    )
    for camera in ("observation.images.top", "observation.images.hand"):
        assert info["features"][f"tracks.{camera}"] == {"dtype": "float32", "shape": [4, 2], "names": None}
        assert info["features"][f"tracks.{camera}.visible"]["shape"] == [4]
        of_camera = [load_tracks(row) for row in rows if camera in row["source"]]
        expected = np.concatenate([tracks.tracks.swapaxes(0, 1) for tracks in of_camera])
        np.testing.assert_array_equal(np.array(table[f"tracks.{camera}"].to_pylist(), np.float32), expected)
        visible = np.concatenate([tracks.visible.T for tracks in of_camera])
        np.testing.assert_array_equal(np.array(table[f"tracks.{camera}.visible"].to_pylist()), visible)
    # As lerobot reads it
    features = {
        name: datasets.Array2D((4, 2), "float32") for name in table.column_names if name.endswith(("top", "hand"))
    }
    loaded = datasets.Dataset.from_parquet(
        str(copy / "data/chunk-000/file-000.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert loaded.cast(datasets.Features(loaded.features | features)).num_rows == 5


def test_another_run_may_append_what_is_tracked_already(lerobot, checkpoint, tmp_path):
    track_dataset(lerobot, tmp_path / "tracks", "grid:1", checkpoint=checkpoint)
    summary = track_dataset(lerobot, tmp_path / "tracks", "grid:1", checkpoint=checkpoint, append_to=tmp_path / "copy")
    assert summary.added == 0
    flags = read_table(tmp_path / "copy/data/chunk-000/file-000.parquet")["tracks.observation.images.top.visible"]
    assert flags.to_pylist()[0] is True  # a feature of one value is that value
    with pytest.raises(FileExistsError, match="exists already"):
        track_dataset(lerobot, tmp_path / "tracks", "grid:1", checkpoint=checkpoint, append_to=tmp_path / "copy")


@pytest.fixture
def refused(command, lerobot, tmp_path, monkeypatch):
    """A function that changes a copy of the data set and appends to it; the one sentence that refuses it, before a clip is tracked."""

    def refused(change, points="grid:2"):
        root = shutil.copytree(lerobot, tmp_path / "changed")
        change(root)
        monkeypatch.setattr(TrackJob, "_row", lambda *_: pytest.fail("a clip was tracked"))
        status, _, error = command(root, "--append-to", tmp_path / "copy", points=points)
        assert status == 2 and error.count("\n") == 1 and not (tmp_path / "tracks").exists()
        assert not (tmp_path / "copy").exists()
        return error

    return refused


def rewrite(path, column, values):
    """Other values in a column of a table; without the column if there are none."""
    table = read_table(path).drop_columns([column])
    pyarrow.parquet.write_table(table if values is None else table.append_column(column, pyarrow.array(values)), path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        *((name, None) for name in ("frame_index", "episode_index")),
        *((name, [0, 1, 2, 0, None]) for name in ("frame_index", "episode_index")),
        *((name, [0.0, 1.0, 2.0, 0.0, 1.0]) for name in ("frame_index", "episode_index")),
        ("frame_index", [0, 1, 2, 0, 2]),  # the second episode has two frames
        ("frame_index", [0, 1, 2, 0, -1]),
        ("frame_index", [0, 1, 2, 0, 2**62]),
        ("episode_index", [0, 0, 0, 1, 2]),
        ("episode_index", [0, 0, 0, -1, 1]),
    ],
)
def test_frames_that_are_not_of_the_episodes(refused, column, values):
    error = refused(lambda root: rewrite(root / DATA, column, values))
    assert DATA in error and column in error


def test_data_that_are_damaged(refused):
    assert DATA in refused(lambda root: (root / DATA).write_bytes(b"PAR1 no"))


def test_a_copy_with_tracks_is_no_source(lerobot, checkpoint, command, tmp_path):
    track_dataset(lerobot, tmp_path / "tracks", "grid:1", checkpoint=checkpoint, append_to=tmp_path / "copy")
    status, _, error = command(tmp_path / "copy", "--append-to", tmp_path / "again", destination=tmp_path / "more")
    assert status == 2 and "has a column tracks.observation.images.hand already" in error
    assert not (tmp_path / "more").exists() and not (tmp_path / "again").exists()


def test_a_column_of_tracks_without_a_feature_is_seen(refused):
    def change(root):
        table = read_table(root / DATA)
        name = "tracks.observation.images.top.visible"
        pyarrow.parquet.write_table(table.append_column(name, pyarrow.array([True] * 5)), root / DATA)

    assert "has a column tracks.observation.images.top.visible already" in refused(change)


def test_episodes_with_unequal_points(refused):
    path = "meta/episodes/chunk-000/file-000.parquet"
    points = [[[0, 1.0, 1.0]], [[0, 1.0, 1.0], [0, 2.0, 2.0]]]
    error = refused(lambda root: rewrite(root / path, "prompts", points), "column:prompts")
    assert "as many points in every episode: they have 1 to 2" in error


@pytest.mark.parametrize("name", ["dangling", "x" * 300])
def test_a_copy_that_cannot_be_is_refused_first(command, lerobot, tmp_path, name):
    if name == "dangling":
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    status, _, error = command(lerobot, "--append-to", tmp_path / name)
    assert status == 2 and f"{name}: cannot be written" in error and error.count("\n") == 1 and "Errno" not in error
    assert not (tmp_path / "tracks").exists()


def test_what_a_killed_run_left_beside_the_copy_goes(lerobot, tmp_path):
    program = f"""
import os, signal
from fgvc_hf.io.files import atomic_folder
with atomic_folder({str(tmp_path / "copy.v2")!r}) as folder:
    (folder / "large").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".fgvc-hf-*/large"))
    with atomic_folder(tmp_path / "copy.v2") as first:
        assert not list(tmp_path.glob(".fgvc-hf-*/large"))
        with pytest.raises(KeyError), atomic_folder(tmp_path / "copy.v2") as second:
            assert first != second
            raise KeyError
        assert first.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["copy.v2"]
