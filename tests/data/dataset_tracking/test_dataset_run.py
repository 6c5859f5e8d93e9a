"""Runs in this process: sources of all kinds, rows with errors, resuming, and what is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import datasets
import numpy as np
import pandas
import pytest
from filelock import FileLock
from pyarrow.parquet import read_table

from fgvc_hf import Tracker, load_tracks, open_video, track_dataset, track_rows
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import clip_tracking, finished_rows, track_job
from fgvc_hf.data.dataset_tracking.source_kinds import open_source
from fgvc_hf.data.dataset_tracking.track_job import TrackJob


@pytest.fixture
def run(checkpoint, tmp_path):
    """A function that tracks a source into `tmp_path/tracks`, and gives the rows by their source."""

    def run(source, points="grid:2", name="tracks", **options):
        track_dataset(source, tmp_path / name, points, checkpoint=checkpoint, **options)
        return rows_in(tmp_path / name)

    return run


@pytest.fixture
def command(checkpoint, tmp_path, capsys):
    """A function that runs the command, and gives its status and what it printed."""

    def command(*arguments, destination=tmp_path / "tracks", points="grid:2"):
        source, *options = map(str, arguments)
        words = [source, str(destination), "--points", points, "--checkpoint", checkpoint, *options]
        status = main(["track-dataset", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def rows_in(folder):
    files = sorted(folder.glob("data-*.parquet"))
    rows = [row for file in files for row in read_table(file).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["source"]: row for row in rows}


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is written -------------------------------------------------------------------------------------------------


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


def test_files_of_the_hub_are_read_at_one_commit(run, clips, parquet, monkeypatch):
    """By a stand-in for the Hub's file system, on this machine."""
    from fgvc_hf.data.dataset_tracking import stored_files

    root = "datasets/me/clips@c0ffee"

    class Hub:
        def __init__(self, folder):
            self.folder = folder

        def local(self, path):
            assert path.startswith(f"hf://{root}")
            return self.folder / path.removeprefix(f"hf://{root}").lstrip("/")

        def find(self, path):
            found = [one.relative_to(self.folder) for one in self.local(path).rglob("*") if one.is_file()]
            return [f"{root}/{one.as_posix()}" for one in found]

        def isdir(self, path):
            return self.local(path).is_dir()

        def info(self, path):
            return {"size": self.local(path).stat().st_size}

        def open(self, path, mode):
            return self.local(path).open(mode)

    for source, points in ((clips, "grid:2"), (parquet, "column:points")):
        with monkeypatch.context() as patch:
            patch.setattr(stored_files, "hub_files", lambda source=source: Hub(source))
            patch.setattr("fgvc_hf.data.dataset_tracking.source_kinds.pinned", lambda path: f"{path}@c0ffee")
            remote = run("hf://datasets/me/clips", points, name=f"remote {source.name}")
        local = run(source, points, name=f"local {source.name}")
        assert [row["tracks"] for row in remote.values()] == [row["tracks"] for row in local.values()]


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


# ---- limits and faults -----------------------------------------------------------------------------------------------


def test_a_clip_over_its_time_becomes_a_row(run, clips, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(clip_tracking.time, "monotonic", lambda: next(seconds))
    rows = run(clips, time_limit=2.5)
    assert rows["a.mp4"]["error"] == "time: the clip was not finished within 2.5 seconds."
    assert "video:" in rows["cut.mp4"]["error"]


def test_a_fault_of_the_tracker_becomes_a_row(run, clips, monkeypatch):
    def track(self, video, points):
        raise RuntimeError("out of\nmemory") if video.num_frames == 1 else ValueError("points: no")

    monkeypatch.setattr(Tracker, "track", track)
    rows = run(clips)
    assert (
        rows["one.mp4"]["error"] == "tracker: RuntimeError: out of memory"
        and rows["a.mp4"]["error"] == "points: points: no"
    )


def test_frames_are_not_held(checkpoint, clips):
    """Each frame is freed before the one after the next is decoded."""
    video, alive, most = open_video(clips / "a.mp4"), 0, 0

    class Counted(np.ndarray):
        pass

    class Frames(type(video)):
        def frames(self, *arguments):
            nonlocal alive, most

            def gone(_):
                nonlocal alive
                alive -= 1

            for frame in super().frames(*arguments):
                frame = frame.view(Counted)
                alive += 1
                most = max(most, alive)
                held.append(weakref.ref(frame, gone))
                yield frame

    held = []
    video.__class__ = Frames
    (row,) = track_rows([{"video": video, "points": "grid:2"}], Tracker.from_pretrained(checkpoint))
    assert row["error"] is None and len(held) == 4 and most <= 2


# ---- going on --------------------------------------------------------------------------------------------------------


def stop_after(monkeypatch, count, error):
    """Have the tracking of clips end with an error after some."""
    original, done = TrackJob._row, []

    def row(self, clip, tracker):
        if len(done) == count:
            raise error
        done.append(clip.source)
        return original(self, clip, tracker)

    monkeypatch.setattr(TrackJob, "_row", row)
    return done


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the network is gone"), SystemExit(143)])
def test_a_run_goes_on_where_it_was_ended(run, clips, tmp_path, monkeypatch, error):
    whole = run(clips, name="whole")
    with monkeypatch.context() as patch:
        first = stop_after(patch, 2, error)
        with pytest.raises(type(error)):
            run(clips)
    assert not list((tmp_path / "tracks").glob("[!.]*")) and len(first) == 2
    second = stop_after(monkeypatch, 99, None)
    assert run(clips) == whole and not set(first) & set(second) and len(first + second) == 4
    assert (
        files_in(tmp_path / "tracks")["data-00000-of-00001.parquet"]
        == files_in(tmp_path / "whole")["data-00000-of-00001.parquet"]
    )
    before = files_in(tmp_path / "tracks")
    assert (
        run(clips) == whole and files_in(tmp_path / "tracks") == before and len(second) == 2
    )  # there is nothing left to do


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(run, clips, checkpoint, tmp_path):
    """In another process, which writes every row at once and is killed when there are two."""
    program = f"""
from fgvc_hf import track_dataset
from fgvc_hf.data.dataset_tracking import dataset_run, finished_rows
import os, signal
add = finished_rows.FinishedRows.add
def added(self, row):
    self.seconds = 0
    add(self, row)
    if len(self) == 2: os.kill(os.getpid(), signal.SIGKILL)
    return True
finished_rows.FinishedRows.add = added
track_dataset({str(clips)!r}, {str(tmp_path / "tracks")!r}, "grid:2", checkpoint={checkpoint!r})
"""
    ended = subprocess.run([sys.executable, "-c", program])
    assert ended.returncode == -9 and len(list((tmp_path / "tracks" / ".fgvc-hf-rows").glob("*.parquet"))) == 2
    assert run(clips) == run(clips, name="whole")


def test_a_run_ended_while_shards_are_written_goes_on(run, clips, tmp_path, monkeypatch):
    whole = run(clips, name="whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            "fgvc_hf.data.dataset_tracking.run_folder.write_card", lambda *_: (_ for _ in ()).throw(OSError("no"))
        )
        with pytest.raises(OSError, match="no"):
            run(clips, num_shards=4)
    assert run(clips, num_shards=2) == whole
    assert len(list((tmp_path / "tracks").glob("data-*.parquet"))) == 2


def test_no_room_on_the_disk(command, clips, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(finished_rows.pyarrow.parquet, "write_table", full)
        status, _, error = command(clips)
    assert status == 2 and error.count("\n") == 1 and "cannot be written (No space left on device)" in error
    assert not list((tmp_path / "tracks" / ".fgvc-hf-rows").iterdir())
    assert command(clips)[0] == 0


def test_no_room_for_a_clip_ends_the_run(command, parquet, monkeypatch):
    """It is a fault of the machine, not of the clip."""

    def full(video, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(clip_tracking, "on_disk", full)
    status, _, error = command(parquet)
    assert status == 2 and "No space left on device" in error and error.count("\n") == 1


@pytest.mark.parametrize("change", ["content", "removal"])
def test_a_source_that_changes_while_it_is_read(command, copied, monkeypatch, change):
    original = track_job.TrackJob._row

    def changed(self, clip, tracker):
        if change == "content":
            (copied / "a.mp4").write_bytes(b"other")
        elif (copied / "one.mp4").exists():
            (copied / "one.mp4").unlink()
        return original(self, clip, tracker)

    monkeypatch.setattr(TrackJob, "_row", changed)
    status, _, error = command(copied)
    expected = "a.mp4: has changed while" if change == "content" else "one.mp4: was in the source when it was listed"
    assert status == 2 and expected in error and error.count("\n") == 1


# ---- what is refused -------------------------------------------------------------------------------------------------


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
    assert "clips of the source have changed" in command(copied)[2]
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
    "points", ["grid:0", "grid:", "grid:2x", "grid:2x3x4", "grid:-1", "column:", "points", "", "grid:²"]
)
def test_points_that_are_refused(command, clips, points):
    status, _, error = command(clips, points=points)
    assert status == 2 and "points must be grid:N, grid:ROWSxCOLUMNS or column:NAME" in error


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
    assert "info.json: is damaged" in command(old)[2]


def test_names_are_the_same_on_every_machine_and_differ_by_options(clips, tmp_path, checkpoint):
    copy = shutil.copytree(clips, tmp_path / "elsewhere")
    options = track_job.Options("grid:2", "m", "r", None, None, "0")
    jobs = [TrackJob(open_source(str(source)), options, checkpoint) for source in (clips, copy)]
    names = [[job.name(clip) for clip in job.source.clips()] for job in jobs]
    assert names[0] == names[1] and len(set(names[0])) == 4
    for field in ("points", "model", "revision", "preset", "dtype", "package"):
        other = TrackJob(jobs[0].source, replace(options, **{field: "other"}), checkpoint)
        assert not set(names[0]) & {other.name(clip) for clip in other.source.clips()}


# ---- inspection ------------------------------------------------------------------------------------------------------


def test_inspection(command, clips, tmp_path, capsys, monkeypatch):
    command(clips)
    folder = tmp_path / "tracks"
    assert main(["track-dataset", "--inspect", str(folder), "--sample", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 rows in 1 files" in lines[0] and lines[0].endswith("whole") and "3 with tracks, of 9 frames" in lines[1]
    assert "1 with an error: video; the first: cut.mp4" in lines[2] and len(lines) == 5
    pictures = sorted((folder / "overlays").glob("*.png"))
    assert len(pictures) == 2 and all(open_video(picture).width > 400 for picture in pictures)
    assert datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).num_rows == 4


def test_inspection_of_what_is_no_data_set(tmp_path, capsys):
    assert main(["track-dataset", "--inspect", str(tmp_path)]) == 2
    assert "holds no tracks of a data set" in capsys.readouterr().err
    assert main(["track-dataset", "--inspect", str(tmp_path), "a"]) == 2
    assert main(["track-dataset", "a"]) == 2


def test_inspection_of_an_unfinished_run(run, copied, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError("no"))
        with pytest.raises(OSError, match="no"):
            run(copied)
    shutil.rmtree(copied)
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 0
    printed = capsys.readouterr().out
    assert "unfinished, 3 clips are missing" in printed and "no overlays" in printed
