"""Options, sources and destinations that are refused, each by one sentence."""

import errno
import gzip
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from filelock import FileLock
from tracked_datasets import files_in, rows_in

from fgvc_hf import track_dataset
from fgvc_hf.data.dataset_tracking.inspection import inspect_tracks


def test_another_runs_options_are_named(command, copied, tmp_path):
    assert command(copied)[0] == 0
    before = files_in(tmp_path / "tracks")
    for arguments, points, expected in (
        ((copied,), "grid:3", "points was grid:2, now grid:3"),
        ((copied, "--preset", "fast"), "grid:2", "preset was None, now fast"),
        ((copied, "--dtype", "bfloat16"), "grid:2", "dtype was None, now bfloat16"),
    ):
        status, _, error = command(arguments[0], *arguments[1:], points=points)
        assert status == 2 and expected in error and error.count("\n") == 1
    os.utime(copied / "a.mp4", (1, 1))
    assert command(copied)[0] == 0  # the same bytes
    (copied / "a.mp4").unlink()
    assert "clips was 4, now 3" in command(copied)[2]
    assert files_in(tmp_path / "tracks") == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--engine", "spark"], "engine must be one of local, ray, got 'spark'"),
        (["--num-shards", "0"], "--num-shards must be 1 or more"),
        (["--num-shards", "5"], "--num-shards must be at most the number of clips, 4"),
        (["--time-limit", "0"], "--time-limit must be a positive number"),
        (["--time-limit", "nan"], "--time-limit must be a positive number"),
        *((["--engine", "ray", "--actors", value], "--actors must be 1 or more") for value in ("0", "-1")),
        *((["--engine", "ray", "--cpus", value], "--cpus must be 1 or more") for value in ("0", "-2")),
        *(
            (["--engine", "ray", "--gpus", value], "--gpus must be a number of 0 or more")
            for value in ("nan", "inf", "-0.5")
        ),
        (["--engine", "ray", "--gpus", "1.5"], "--gpus must be a part of one, or a whole number"),
        (["--cpus", "1"], "are options of --engine ray"),
        (["--sample", "1"], "is an option of --inspect"),
        (["--video", "clip"], "has no columns"),
        (["--append-to", "copy"], "needs a LeRobotDataset on this machine"),
        (["--checkpoint", "nothing"], "is no checkpoint"),
    ],
)
def test_options_that_are_refused(command, clips, tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    status, _, error = command(clips, *options)
    assert status == 2 and expected in error and error.count("\n") == 1
    assert not (tmp_path / "tracks").exists()


@pytest.mark.parametrize(
    "points", ["grid:317", "grid:0", "grid:", "grid:2x", "grid:2x3x4", "grid:-1", "column:", "points", "", "grid:²"]
)
def test_points_that_are_refused(command, clips, points):
    status, _, error = command(clips, points=points)
    assert status == 2 and "points must be " in error and error.count("\n") == 1


def test_columns_that_are_not_there(command, clips, parquet, webdataset, lerobot):
    for source, video, points, expected in (
        (clips, None, "column:p", "has no columns"),
        (parquet, None, "column:p", "has no column p; it has clip, points"),
        (parquet, "p", "grid:2", "has no column p; it has clip, points"),
        (parquet, "points", "grid:2", "must hold the bytes or the paths of videos"),
        (webdataset, None, "column:p", "has no members .p; it has mp4, points.json"),
        (lerobot, None, "column:p", "has no column p; it has episode_index"),
        (lerobot, "p", "grid:2", "has no camera p; it has observation.images.top, observation.images.hand"),
    ):
        status, _, error = command(source, *(["--video", video] if video else []), points=points)
        assert status == 2 and expected in error and error.count("\n") == 1, error


def test_sources_that_are_refused(command, tmp_path, clips, parquet, webdataset):
    empty, damaged, mixed = (tmp_path / name for name in ("empty", "damaged", "mixed"))
    for folder in (empty, damaged, mixed):
        folder.mkdir()
    (damaged / "a.parquet").write_bytes(b"PAR1 no")
    shutil.copy(parquet / "0.parquet", mixed)
    shutil.copy(webdataset / "00.tar", mixed)
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    for source, expected in (
        (empty, "holds no clips"),
        (damaged, "is no Parquet file, or is damaged"),
        (tmp_path / "a.tar", "is no tar file, or is damaged"),
        (mixed, "holds .parquet and .tar"),
        (clips / "a.mp4", "must be a folder, or a file that ends in .parquet or .tar"),
        (tmp_path / "gone", "there is no such file or folder"),
        ("https://example.org/clips", "is a URL"),
    ):
        status, _, error = command(source)
        assert status == 2 and expected in error and error.count("\n") == 1, error
    assert not (tmp_path / "tracks").exists()


@pytest.mark.parametrize("ending", ["tar.gz", "TGZ", "tar.zst", "zip"])
def test_compressed_sources_are_told_what_is_read(command, tmp_path, webdataset, ending):
    packed, mixed = tmp_path / "packed", tmp_path / "mixed"
    packed.mkdir()
    (packed / f"0.{ending}").write_bytes(gzip.compress((webdataset / "00.tar").read_bytes()))
    for source in (packed, packed / f"0.{ending}"):
        status, _, error = command(source)
        assert status == 2 and error.count("\n") == 1
        assert ".tar" in error and ("are not compressed" in error or "is not compressed" in error)
    shutil.copytree(packed, mixed)
    shutil.copy(webdataset / "00.tar", mixed)
    status, _, error = command(mixed)
    if ending == "zip":  # of which nobody says that it holds clips
        assert status == 0
    else:
        assert status == 2 and f"holds 0.{ending} beside .tar; only .tar that is not compressed is read" in error


def test_destinations_that_are_refused(command, copied, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    for destination, expected in (
        (copied / "tracks", "is an input"),
        (copied, "is an input"),
        (tmp_path / "other", "holds something else"),
        (tmp_path / "other" / "notes.txt", "is a file"),
        (tmp_path / "a" / "b", "does not exist"),
    ):
        status, _, error = command(copied, destination=destination)
        assert status == 2 and expected in error and error.count("\n") == 1, error
    assert list(tmp_path.rglob("*.parquet")) == []


def test_the_shards_of_a_finished_run_stay(command, clips, tmp_path):
    assert command(clips, "--num-shards", "2")[0] == 0
    before = files_in(tmp_path / "tracks")
    status, _, error = command(clips, "--num-shards", "3")
    assert status == 2 and "--num-shards was 2, now 3" in error and error.count("\n") == 1
    assert command(clips, "--num-shards", "2")[0] == command(clips)[0] == 0
    assert files_in(tmp_path / "tracks") == before


def test_two_runs_do_not_write_to_one_folder(command, clips, tmp_path):
    (tmp_path / "tracks").mkdir()
    with FileLock(tmp_path / "tracks" / ".fgvc-hf-lock"):
        status, _, error = command(clips)
    assert status == 2 and "another run is writing to it" in error
    assert command(clips)[0] == 0


def test_a_lerobot_dataset_of_another_version(command, lerobot, tmp_path):
    old = shutil.copytree(lerobot, tmp_path / "old")
    info = json.loads((old / "meta/info.json").read_text())
    (old / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    assert "is a LeRobotDataset v2.1; v3.0 is read" in command(old)[2]
    (old / "meta/info.json").write_text("{}")
    assert "info.json: is no info of a LeRobotDataset v3, or is damaged" in command(old)[2]


@pytest.mark.parametrize("name", ["tracks:v2", "s3:tracks", "hdfs:x#%20", "späť 1"])
def test_relative_destinations_are_folders_whatever_their_name(command, clips, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert command(clips, destination=name)[0] == 0
    assert len(rows_in(tmp_path / name)) == 4
    assert any("3 with tracks" in line for line in inspect_tracks(name, sample=1))


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock here")])
def test_file_systems_without_locks_are_told(command, clips, tmp_path, monkeypatch, error):
    def fail(self):
        Path(self.lock_file).touch()
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    for folder in (tmp_path / "tracks", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        status, _, printed = command(clips, destination=folder)
        assert status == 2 and f"{folder}: cannot be locked (" in printed and printed.count("\n") == 1
    assert not (tmp_path / "tracks").exists() and not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("fault", ["not installed", "cannot be reached", "no room"])
def test_without_a_cluster_nothing_is_written(command, clips, tmp_path, monkeypatch, fault):
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=Mock(side_effect=ConnectionError("no address")),
        data=Mock(),
        exceptions=Mock(),
    )
    if fault == "no room":
        ray.init, ray.cluster_resources = Mock(), lambda: {"CPU": 0.0}
    monkeypatch.setitem(sys.modules, "ray", None if fault == "not installed" else ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    status, _, printed = command(clips, "--engine", "ray")
    expected = {"not installed": "--engine ray needs Ray", "cannot be reached": "no address", "no room": "has 0 CPUs"}
    assert status == 2 and expected[fault] in printed and printed.count("\n") == 1
    assert not (tmp_path / "tracks").exists()
    assert command(clips)[0] == 0 and command(clips, "--engine", "ray")[0] == 0  # finished: there is nothing to do


@pytest.mark.parametrize("change", ["added", "removed", "replaced"])
def test_a_source_of_other_clips_is_told_as_that(command, copied, change):
    assert command(copied)[0] == 0
    if change == "removed":
        (copied / "a.mp4").unlink()
    else:
        shutil.copy(copied / "one.mp4", copied / {"added": "new.mp4", "replaced": "a.mp4"}[change])
    status, _, error = command(copied)
    assert status == 2 and "the clips of the source have changed since it was begun" in error


@pytest.mark.parametrize("points", [3, b"grid:2", ["grid:2"]], ids=repr)
def test_points_that_are_no_text_are_refused(clips, tmp_path, points):
    with pytest.raises(ValueError, match="points must be grid:N"):
        track_dataset(clips, tmp_path / "tracks", points)


@pytest.mark.parametrize("change", ["gone", "new", "other content"])
def test_the_clip_that_has_changed_is_named(command, copied, change):
    assert command(copied)[0] == 0
    if change == "gone":
        (copied / "a.mp4").unlink()
    elif change == "new":
        shutil.copy(copied / "one.mp4", copied / "new.mp4")
    else:
        content = bytearray((copied / "a.mp4").read_bytes())
        content[-1] ^= 1
        (copied / "a.mp4").write_bytes(content)  # of the same size
    status, _, error = command(copied)
    expected = {"gone": "a.mp4 is gone", "new": "new.mp4 is new", "other content": "a.mp4 has other content"}[change]
    assert status == 2 and expected in error and error.count("\n") == 1


def test_a_source_that_was_moved_is_told_what_to_do(command, copied, tmp_path):
    assert command(copied)[0] == 0
    moved = copied.rename(tmp_path / "moved")
    status, _, error = command(moved)
    assert status == 2 and f"make {copied} a link to {moved}" in error and error.count("\n") == 1
    copied.symlink_to(moved)
    assert "; 0 new" in command(moved)[1]


def test_another_name_of_a_source_that_is_still_there(command, webdataset, tmp_path):
    """Nothing can be made a link that is in use."""
    folder = shutil.copytree(webdataset, tmp_path / "tar")
    assert command(folder)[0] == 0
    status, _, error = command(folder / "00.tar")
    assert status == 2 and error.count("\n") == 1 and " a link" not in error
    assert f"source was {folder}, now {folder}/00.tar; give the same" in error


@pytest.mark.parametrize("name", ["dangling", "x" * 300])
def test_destinations_that_cannot_be_are_refused_first(command, clips, tmp_path, name):
    if name == "dangling":
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    status, _, error = command(clips, destination=tmp_path / name)
    assert status == 2 and f"{name}: cannot be written" in error and error.count("\n") == 1 and "Errno" not in error


def test_destinations_that_are_not_in_utf8_are_refused_first(command, clips, tmp_path):
    status, _, error = command(clips, destination=tmp_path / os.fsdecode(b"\xff"))
    assert status == 2 and "its name is not in UTF-8" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["videos", "tar"])
def test_what_is_passed_over_is_told_once(command, copied, webdataset, tmp_path, kind):
    source = copied if kind == "videos" else shutil.copytree(webdataset, tmp_path / "tars")
    names = ("x.tar.gz", "y.zip") if kind == "videos" else ("x.png", "y.jpg")
    for name in names:
        (source / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=f"2 .* are passed over, such as {names[0]}") as found:
        assert command(source)[0] == 0
    assert len([one for one in found if "passed over" in str(one.message)]) == 1


def test_inspection_tells_of_clips_that_are_gone_or_replaced(command, copied, tmp_path):
    assert command(copied)[0] == 0
    (copied / "a.mp4").unlink()
    shutil.copy(copied / "späť" / "b c.mp4", copied / "one.mp4")
    lines = "\n".join(inspect_tracks(tmp_path / "tracks"))
    assert "no overlay of a.mp4: it is no longer in the source" in lines
    assert "no overlay of one.mp4: it is another than the one that was tracked" in lines
