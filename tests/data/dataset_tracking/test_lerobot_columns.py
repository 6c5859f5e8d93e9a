"""A copy of a LeRobotDataset with tracks: by its documented layout."""

import json

import datasets
import numpy as np
import pytest
from pyarrow.parquet import read_table

from fgvc_hf import load_tracks, track_dataset


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
