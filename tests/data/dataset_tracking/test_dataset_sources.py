"""Rows of all kinds of source, and the folder that holds them."""

import shutil
import subprocess

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from fgvc_hf import Tracker, load_tracks, open_video, track_rows
from fgvc_hf.data.dataset_tracking import stored_files


def test_rows_are_those_of_the_tracker(run, clips, checkpoint):
    rows = run(clips)
    assert list(rows) == ["a.mp4", "cut.mp4", "one.mp4", "späť/b c.mp4"]
    tracker = Tracker.from_pretrained(checkpoint)
    for name in ("a.mp4", "one.mp4", "späť/b c.mp4"):
        found, expected = load_tracks(rows[name]), tracker.track(clips / name, grid=2)
        np.testing.assert_allclose(found.tracks, expected.tracks, atol=1e-3)
        np.testing.assert_array_equal(found.visible, expected.visible)
        assert rows[name]["fps"] == 12 and rows[name]["error"] is None
    assert rows["cut.mp4"]["error"].startswith("video: cut.mp4: is damaged") and rows["cut.mp4"]["tracks"] is None


def test_the_folder_is_opened_by_others(run, clips, tmp_path):
    rows, folder = run(clips, num_shards=3), tmp_path / "tracks"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "README.md", "SHA256SUMS", *(f"data-0000{i}-of-00003.parquet" for i in range(3)), "shards.json",
    ]  # fmt: skip
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"] == [row["id"] for row in rows.values()]
    assert load_tracks(loaded[0]).tracks.shape == (4, 4, 2)
    frame = pandas.read_parquet(folder / "data-00000-of-00003.parquet")
    assert load_tracks(frame.iloc[0]).tracks.shape == (4, 4, 2)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert not (folder / ".fgvc-hf-rows").exists()


def test_the_number_of_shards_changes_no_row(run, clips):
    assert run(clips) == run(clips, num_shards=4, name="four")


def test_rows_of_parquet(run, parquet, clips, checkpoint):
    rows = list(run(parquet, "column:points").values())
    whole = Tracker.from_pretrained(checkpoint).track(clips / "a.mp4", [(0, 10, 12), (1, 20, 30.5)])
    np.testing.assert_allclose(load_tracks(rows[0]).tracks, whole.tracks, atol=1e-3)
    assert np.isnan(load_tracks(rows[0]).tracks[1, 0]).all()
    assert load_tracks(rows[1]).queries.tolist() == [[0, 24, 24]]
    assert rows[0]["tracks"] == rows[2]["tracks"] and rows[0]["id"] != rows[2]["id"]  # one clip in two rows
    errors = [row["error"] for row in rows[3:]]
    assert [error.partition(":")[0] for error in errors] == ["video", *["points"] * 4, "video", "points"]
    assert "no video" in errors[0] and "no points" in errors[1] and "one or more" in errors[2]
    assert "inside the frame" in errors[3] and "frame of the video" in errors[4] and "finite" in errors[6]


def test_rows_with_paths(run, clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "with paths")
    videos = [
        {"bytes": None, "path": "a.mp4"},
        {"bytes": None, "path": str(clips / "one.mp4")},
        {"bytes": None, "path": "gone.mp4"},
    ]
    pandas.DataFrame({"video": [video["path"] for video in videos], "n": [1, 2, 3]}).to_parquet(
        folder / "index.parquet"
    )
    by_path = list(run(folder).values())
    assert [row["num_frames"] for row in by_path] == [4, 1, None] and "no such" in by_path[2]["error"].lower()
    pandas.DataFrame({"clip": videos}).to_parquet(folder / "index.parquet")
    assert [row["tracks"] for row in run(folder, name="struct").values()] == [row["tracks"] for row in by_path]


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.large_binary(),
        pyarrow.binary_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
        pyarrow.struct([("bytes", pyarrow.binary_view()), ("path", pyarrow.string_view())]),
        pyarrow.struct([("bytes", pyarrow.null()), ("path", pyarrow.string())]),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
    ],
    ids=str,
)
def test_columns_of_any_type_of_bytes_or_text(run, clips, tmp_path, kind):
    path, folder = str(clips / "a.mp4"), tmp_path / "source"
    folder.mkdir()
    plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    value = path if "string" in str(plain) else (clips / "a.mp4").read_bytes()
    if pyarrow.types.is_struct(kind):
        null = pyarrow.types.is_null(kind.field("bytes").type)
        value = {"bytes": None if null else (clips / "a.mp4").read_bytes(), "path": path if null else None}
    videos = pyarrow.array([value, None], plain)
    videos = videos.dictionary_encode().cast(kind) if plain != kind else videos
    pyarrow.parquet.write_table(pyarrow.table({"video": videos}), folder / "0.parquet")
    for part, nulls in enumerate(([], [None])):  # whose type writers do not know
        pyarrow.parquet.write_table(pyarrow.table({"video": pyarrow.nulls(len(nulls))}), folder / f"1{part}.parquet")
    rows = list(run(folder).values())
    assert [row["error"] for row in rows] == [None, *["video: the row has no video."] * 2]


def test_structs_of_other_bytes_are_no_videos(command, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"sizes": [{"bytes": 3}]}), tmp_path / "0.parquet")
    status, _, error = command(tmp_path / "0.parquet", "--video", "sizes")
    assert status == 2 and "column sizes must hold the bytes or the paths of videos" in error


def test_points_of_lerobot_may_be_an_array_of_datasets(run, lerobot, tmp_path):
    root = shutil.copytree(lerobot, tmp_path / "robot")
    (file,) = (root / "meta" / "episodes").rglob("*.parquet")
    table = pyarrow.parquet.read_table(file)
    prompts = table["prompts"].to_pylist()
    array = datasets.Features({"prompts": datasets.Array2D((1, 3), "float64")})
    field = datasets.Dataset.from_dict({"prompts": prompts}, array).data.table.combine_chunks()["prompts"]
    pyarrow.parquet.write_table(table.drop_columns("prompts").append_column("prompts", field), file)
    assert {row["error"] for row in run(root, "column:prompts").values()} == {None}


def test_samples_of_webdataset(run, webdataset):
    rows = run(webdataset, "column:points.json")
    assert list(rows) == ["00.tar#0:x/0", "00.tar#1:x/1", "00.tar#2:y/2"]
    first, second, third = rows.values()
    assert first["tracks"] == second["tracks"] and third["error"] == "video: the row has no video."


def test_episodes_of_lerobot(run, lerobot, checkpoint):
    rows = run(lerobot, "column:prompts", video="observation.images.top")
    assert [row["num_frames"] for row in rows.values()] == [3, 2]
    assert {row["source"].partition("#")[2] for row in rows.values()} == {"episode=0", "episode=1"}
    video = open_video(lerobot / "videos/observation.images.top/chunk-000/file-000.mp4")
    second = Tracker.from_pretrained(checkpoint).track(list(video.frames(3, 5)), [(0, 10, 12)])
    np.testing.assert_allclose(load_tracks(list(rows.values())[1]).tracks, second.tracks, atol=1e-3)
    assert len(run(lerobot, name="both cameras")) == 4


class Hub:
    """A stand-in for the Hub's file system, on this machine."""

    def __init__(self, folder, commit):
        self.folder, self.root = folder, f"datasets/me/clips@{commit}"

    def local(self, path):
        assert path.startswith(f"hf://{self.root}")
        return self.folder / path.removeprefix(f"hf://{self.root}").lstrip("/")

    def find(self, path):
        found = [one.relative_to(self.folder) for one in self.local(path).rglob("*") if one.is_file()]
        return [f"{self.root}/{one.as_posix()}" for one in found]

    def isdir(self, path):
        return self.local(path).is_dir()

    def info(self, path):
        return {"size": self.local(path).stat().st_size}

    def open(self, path, mode):
        return self.local(path).open(mode)


def on_hub(patch, folder, commit="c0ffee"):
    """Have a folder be a repository of the Hub at a commit."""
    patch.setattr(stored_files, "hub_files", lambda: Hub(folder, commit))
    patch.setattr("fgvc_hf.data.dataset_tracking.source_kinds.pinned", lambda path: f"{path}@{commit}")


def test_files_of_the_hub_are_read_at_one_commit(run, clips, parquet, monkeypatch):
    for source, points in ((clips, "grid:2"), (parquet, "column:points")):
        with monkeypatch.context() as patch:
            on_hub(patch, source)
            remote = run("hf://datasets/me/clips", points, name=f"remote {source.name}")
        local = run(source, points, name=f"local {source.name}")
        assert [row["tracks"] for row in remote.values()] == [row["tracks"] for row in local.values()]


def test_another_commit_of_the_hub_is_another_source(run, clips, monkeypatch):
    """Of the same clips too, as after a change of its card; no link leads from one to the other."""
    on_hub(monkeypatch, clips)
    run("hf://datasets/me/clips")
    on_hub(monkeypatch, clips, "facade")
    commits = "source was hf://datasets/me/clips@c0ffee, now hf://datasets/me/clips@facade; give the same"
    with pytest.raises(FileExistsError, match=commits):
        run("hf://datasets/me/clips")


def test_track_rows_is_for_pipelines_of_ones_own(checkpoint, clips):
    content = (clips / "a.mp4").read_bytes()
    given = [
        {"video": content, "points": "grid:2x3"},
        {"video": b"", "points": [(1, 1)]},
        {"video": clips / "a.mp4", "points": [(1, 1)]},
    ]
    first, second, third = track_rows(given, Tracker.from_pretrained(checkpoint))
    assert load_tracks(first).queries.shape == (6, 3) and load_tracks(third).queries.shape == (1, 3)
    assert second["error"].startswith("video: clip: ") and len({row["id"] for row in (first, second, third)}) == 3
