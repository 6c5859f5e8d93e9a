"""Sources that are damaged, incomplete or arranged in an unusual way: rows with errors, or one sentence that names the file."""

import json
import os
import shutil

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from fgvc_hf.data.dataset_tracking import stored_files
from fgvc_hf.data.dataset_tracking.source_kinds import open_source


EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TOP = "observation.images.top"


def names(source):
    return [clip.source for clip in open_source(str(source)).clips()]


def kinds(rows):
    return [row["error"] and row["error"].partition(":")[0] for row in rows.values()]


def changed(lerobot, tmp_path, column, value):
    """A copy of the data set, with another value in a column of its first episode; without the column if it is `...`."""
    root = shutil.copytree(lerobot, tmp_path / "changed")
    table = pyarrow.parquet.read_table(root / EPISODES)
    values = table[column].to_pylist()
    table = table.drop_columns([column])
    if value is not ...:
        table = table.append_column(column, pyarrow.array([value, *values[1:]]))
    pyarrow.parquet.write_table(table, root / EPISODES)
    return root


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_folder_whatever_its_name(run, parquet, webdataset, clips, tmp_path):
    for source, suffix in ((parquet, ".parquet"), (webdataset, ".tar"), (clips, ".mp4")):
        folder = shutil.copytree(source, tmp_path / f"folder{suffix}")
        assert names(folder) == names(source)
        inside = tmp_path / f"with {suffix}"
        inside.mkdir()
        shutil.move(folder, inside / f"folder{suffix}")
        assert names(inside) == [f"folder{suffix}/{name}" for name in names(source)]
    assert kinds(run(tmp_path / "with .parquet", "column:points"))[:2] == [None, None]


def test_links_are_followed_but_not_round_and_round(clips, tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "linked").symlink_to(clips, target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "itself").symlink_to("itself")
    (root / "file.mp4").symlink_to(clips / "a.mp4")
    (root / "nowhere.mp4").symlink_to(tmp_path / "nothing.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "to pipe.mp4").symlink_to(root / "pipe.mp4")
    below = ["linked/a.mp4", "linked/cut.mp4", "linked/one.mp4", "linked/späť/b c.mp4"]
    assert names(root) == ["file.mp4", *below, "nowhere.mp4"]


def test_a_link_that_leads_nowhere_is_a_row(run, clips, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.mp4").symlink_to(clips / "a.mp4")
    (tmp_path / "links" / "b.mp4").symlink_to("gone.mp4")
    rows = run(tmp_path / "links")
    assert rows["a.mp4"]["error"] is None and rows["b.mp4"]["error"].startswith("source: ")


def test_two_names_that_are_one_in_text_are_refused(command, clips, tmp_path):
    folder = os.fsencode(tmp_path / "bytes")
    os.mkdir(folder)
    for name in (b"\xff.mp4", b"\\xff.mp4"):
        shutil.copy(clips / "a.mp4", os.path.join(folder, name))
    status, _, error = command(tmp_path / "bytes")
    assert status == 2 and "holds two clips of the name \\xff.mp4" in error


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def test_an_empty_path_is_no_video_and_not_the_folder_of_the_table(run, clips, tmp_path):
    """Whose pictures would be tracked as a video."""
    source = shutil.copytree(clips, tmp_path / "source")
    for t in range(3):
        Image.new("RGB", (64, 48)).save(source / f"{t}.png")
    pandas.DataFrame({"video": ["a.mp4", ""]}).to_parquet(source / "table.parquet")
    assert [row["error"] for row in run(source).values()] == [None, "video: the row has no video."]


def test_a_damaged_page_costs_the_rows_of_its_row_group(run, clips, tmp_path):
    content, path = (clips / "a.mp4").read_bytes(), tmp_path / "source" / "a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"clip": [content] * 9})
    pyarrow.parquet.write_table(table, path, row_group_size=3, compression="none", use_dictionary=False)
    offset = pyarrow.parquet.read_metadata(path).row_group(1).column(0).data_page_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    rows = run(path.parent)
    assert kinds(rows) == [None] * 3 + ["source"] * 3 + [None] * 3
    assert all(str(path) in row["error"] for row in list(rows.values())[3:6])


def test_paths_that_cannot_be_reached_are_rows(run, clips, tmp_path, monkeypatch):
    class Hub:
        def open(self, path, mode):
            raise {"gone": FileNotFoundError, "down": RuntimeError}[path.rpartition("/")[2]]("no route")

    monkeypatch.setattr(stored_files, "hub_files", Hub)
    paths = [
        str(clips / "a.mp4"),
        "hf://datasets/me/x/down",
        "hf://datasets/me/x/gone",
        "a\0b",
        str(clips / "one.mp4"),
    ]
    pandas.DataFrame({"video": paths}).to_parquet(tmp_path / "index.parquet")
    rows = run(tmp_path / "index.parquet")
    assert kinds(rows) == [None, "source", "source", "source", None]
    assert "hf://datasets/me/x/down: cannot be read from the Hub (no route)" in rows["index.parquet#1"]["error"]


# ---- LeRobot ---------------------------------------------------------------------------------------------------------


def test_a_missing_video_costs_its_episodes(run, lerobot, tmp_path):
    root = shutil.copytree(lerobot, tmp_path / "robot")
    (root / f"videos/{TOP}/chunk-000/file-000.mp4").unlink()
    rows = run(root)
    assert {TOP in name: row["error"] and row["error"].partition(":")[0] for name, row in rows.items()} == {
        True: "source", False: None,
    }  # fmt: skip
    assert len(rows) == 4


@pytest.mark.parametrize(
    "column",
    ["episode_index", "length", *(f"videos/{TOP}/{part}" for part in ("chunk_index", "file_index", "from_timestamp"))],
)
@pytest.mark.parametrize("value", [None, float("inf"), float("nan"), -1.0, 10.0**300, ...], ids=str)
def test_metadata_of_episodes(command, lerobot, tmp_path, column, value):
    status, _, error = command(changed(lerobot, tmp_path, column, value))
    assert status == 2 and error.count("\n") == 1 and "Traceback" not in error
    assert EPISODES in error and column in error
    assert not (tmp_path / "tracks").exists()


@pytest.mark.parametrize(
    ("column", "value"), [("episode_index", -1), ("length", 0), ("length", True), ("length", "2")]
)
def test_other_values_of_episodes(command, lerobot, tmp_path, column, value):
    root = shutil.copytree(lerobot, tmp_path / "changed")
    table = pyarrow.parquet.read_table(root / EPISODES).drop_columns([column])
    pyarrow.parquet.write_table(table.append_column(column, pyarrow.array([value] * 2)), root / EPISODES)
    status, _, error = command(root)
    assert status == 2 and f"{column} must be a whole number" in error and EPISODES in error


def test_an_episode_that_is_there_twice(command, lerobot, tmp_path):
    status, _, error = command(changed(lerobot, tmp_path, "episode_index", 1))
    assert status == 2 and "two clips of the name" in error and "#episode=1" in error


@pytest.mark.parametrize(
    "change",
    [
        *({"fps": value} for value in (None, 0, -5, "12", True, [12], float("inf"), float("nan"), 10**400)),
        *({"video_path": value} for value in (None, 7, "{", "{video_key", "{other}", "{}", "{video_key.a}", "{chunk_index:999999999d}")),
        *({"features": value} for value in (None, [], [1], {"a": None}, {"a": {}}, "text")),
        {"codebase_version": None},
    ],
    ids=str,
)  # fmt: skip
def test_info(command, lerobot, tmp_path, change):
    root = shutil.copytree(lerobot, tmp_path / "changed")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | change))
    status, _, error = command(root)
    assert status == 2 and error.count("\n") == 1 and str(root) in error and "Traceback" not in error
    assert not (tmp_path / "tracks").exists()


@pytest.mark.parametrize("text", ["", "[]", "7", "[" * 100_000, '{"fps": ' * 50_000, "\xff"])
def test_info_of_any_text(command, lerobot, tmp_path, text):
    root = shutil.copytree(lerobot, tmp_path / "changed")
    (root / "meta/info.json").write_bytes(text.encode("latin-1"))
    status, _, error = command(root)
    assert status == 2 and "info.json: is no info of a LeRobotDataset v3, or is damaged" in error


def test_columns_of_points_hold_points(command, lerobot, tmp_path):
    status, _, error = command(lerobot, points="column:tasks")
    assert status == 2 and "column tasks must hold lists of (t, x, y)" in error
