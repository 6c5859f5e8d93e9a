"""Runs that were ended go on where they were."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from tracked_datasets import files_in, rows_in, stop_after

from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import clip_tracking, finished_rows, run_folder, stored_files, track_job
from fgvc_hf.data.dataset_tracking.row_names import clip_id
from fgvc_hf.data.dataset_tracking.stored_files import stamp_of
from fgvc_hf.data.dataset_tracking.track_job import TrackJob
from fgvc_hf.io.files import is_temporary


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


def test_what_a_run_that_was_killed_left_half_written_goes(command, clips, tmp_path):
    """Even of the first file that it writes, and where its name is another every time."""
    folder = tmp_path / "tracks"
    folder.mkdir()
    for name in (f"{'0' * 32}.json", f"{'a' * 32}.parquet", "f" * 32):
        (folder / f".fgvc-hf-{name}").write_text("half")
    assert command(clips)[0] == 0
    assert [path.name for path in folder.glob(".*") if path.name != ".fgvc-hf-clips.jsonl"] == [".fgvc-hf-run.json"]


def test_finished_rows_of_a_run_that_was_killed_at_its_very_end_go(run, clips, tmp_path):
    """The manifest is there, and the rows that are in the shards too were not removed."""
    whole, rows = run(clips), tmp_path / "tracks" / ".fgvc-hf-rows"
    rows.mkdir()
    (rows / "000000.parquet").write_bytes(b"x")
    assert run(clips) == whole and not rows.exists()


def test_hidden_files_of_others_stay_in_a_destination(command, clips, tmp_path, monkeypatch):
    """Whatever hexadecimal name they have, in the folder and in the one of finished rows."""
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError("no"))
        assert command(clips)[0] == 2
    foreign = [tmp_path / "tracks" / f".{'a' * 32}{ending}" for ending in (".parquet", ".json", ".md", "")]
    for path in foreign:
        path.write_text("mine")
    assert command(clips)[0] == 0 and all(path.read_text() == "mine" for path in foreign)


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


@pytest.mark.parametrize("file", [".fgvc-hf-clips.jsonl", ".fgvc-hf-run.json"])
def test_a_run_that_ended_while_it_was_noted_begins_anew(command, clips, monkeypatch, file):
    """Before it has all of its notes: a full disk, or Ctrl-C."""
    with monkeypatch.context() as patch:
        fail_at(patch, run_folder, file, OSError(errno.ENOSPC, "No space left on device"))
        status, _, error = command(clips)
    assert status == 2 and "No space left on device" in error
    status, printed, _ = command(clips)
    assert status == 0 and "4 rows, 1 with an error; 4 new" in printed


def fail_at(patch, module, name, error):
    """Have the writing of a file of this name fail."""
    write = module.atomic_write

    def failing(path):
        if path.name == name:
            raise error
        return write(path)

    patch.setattr(module, "atomic_write", failing)


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


@pytest.fixture
def pictures(tmp_path):
    """A source of one folder of images."""
    folder = tmp_path / "source" / "sequence"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (48, 48), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("change", ["picture", "video of a path"])
def test_files_that_are_no_clips_by_themselves_may_not_change_either(command, copied, pictures, monkeypatch, change):
    """A picture of a folder that is written over, and a video whose path is in a column."""
    written, source = pictures / "2.png", pictures.parent
    if change == "video of a path":
        source, written = copied, copied / "one.mp4"
        pyarrow.parquet.write_table(pyarrow.table({"path": ["a.mp4", "one.mp4"]}), copied / "index.parquet")
    original = clip_tracking.open_video

    def opened(path):
        video = original(path)
        written.write_bytes(written.read_bytes() + b"more")
        return video

    monkeypatch.setattr(clip_tracking, "open_video", opened)
    status, _, error = command(source)
    name = "sequence" if change == "picture" else "one.mp4"
    assert status == 2 and f"{name}: has changed while the source was read" in error and error.count("\n") == 1


def test_a_picture_that_was_written_over_is_a_change_of_the_source(command, pictures):
    assert command(pictures.parent)[0] == 0
    Image.new("RGB", (48, 48), (9, 9, 9)).save(pictures / "2.png")
    status, _, error = command(pictures.parent)
    assert status == 2 and "the clips of the source have changed" in error


def test_copies_of_the_same_bytes_and_foreign_files_are_no_change(command, copied, pictures):
    for source in (copied, pictures.parent):
        shutil.rmtree(pictures.parents[1] / "tracks", ignore_errors=True)
        assert command(source)[0] == 0
        for path in source.rglob("*"):
            os.utime(path, (1, 1))
        for name in (".DS_Store", "Thumbs.db", "notes.txt"):
            (source / name).write_bytes(b"x")
            (pictures / name).write_bytes(b"x")
        status, printed, error = command(source)
        assert status == 0 and "; 0 new" in printed, error


def test_the_stamp_of_a_folder_is_of_its_files(pictures, monkeypatch):
    """Its own size is of the file system."""
    size = sum(path.stat().st_size for path in pictures.iterdir())
    (pictures / ".hidden").write_bytes(b"x")
    (pictures / "deeper").mkdir()
    assert stamp_of(str(pictures))[0] == size


@pytest.mark.parametrize("limit", [0, 1024, 8000])
def test_no_room_on_the_disk_by_the_system(command, clips, tmp_path, limit):
    """Which ends a write in its middle: of what the run was begun with, or of rows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        status, _, error = command(clips)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and "cannot be written (" in error and error.count("\n") == 1
    assert not [path for path in tmp_path.rglob(".*") if is_temporary(path)]
    assert command(clips)[0] == 0
    assert command(clips, destination=tmp_path / "whole")[0] == 0
    assert files_in(tmp_path / "tracks") == files_in(tmp_path / "whole")


# ---- errors that may pass --------------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch):
    """A mapping: the clips of these sources fail with errors of these kinds."""
    kinds, original = {}, TrackJob._row

    def row(self, clip, tracker):
        found = original(self, clip, tracker)
        if (kind := kinds.get(clip.source)) is not None:
            found |= dict.fromkeys(("tracks", "queries")) | {"error": f"{kind}: for the test"}
        return found

    monkeypatch.setattr(TrackJob, "_row", row)
    return kinds


def test_errors_that_may_pass_are_tried_again_on_request(run, clips, tmp_path, monkeypatch, failing):
    whole = run(clips, name="whole", num_shards=2)
    failing |= {"a.mp4": "time", "one.mp4": "source", "späť/b c.mp4": "points"}
    first = run(clips, num_shards=2)
    failing.clear()
    assert run(clips) == first
    done = stop_after(monkeypatch, 99, None)
    second = run(clips, retry_errors=True)
    assert sorted(done) == ["a.mp4", "one.mp4"]
    assert [second[name] for name in done] == [whole[name] for name in done]
    assert second["späť/b c.mp4"] == first["späť/b c.mp4"] and second["cut.mp4"] == whole["cut.mp4"]
    assert len(list((tmp_path / "tracks").glob("data-*.parquet"))) == 2
    before = files_in(tmp_path / "tracks")
    assert run(clips, retry_errors=True) == second and files_in(tmp_path / "tracks") == before and len(done) == 2


def test_trying_again_may_be_ended_and_go_on(run, clips, tmp_path, monkeypatch, failing, capsys):
    whole = run(clips, name="whole")
    failing |= {"a.mp4": "time", "one.mp4": "tracker"}
    run(clips)
    failing.clear()
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError("no"))
        with pytest.raises(OSError, match="no"):
            run(clips, retry_errors=True)
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks"), "--sample", "0"]) == 0
    assert "4 rows in" in capsys.readouterr().out
    assert run(clips, retry_errors=True) == whole


def test_errors_of_an_unfinished_run_are_tried_again(run, clips, monkeypatch, failing):
    failing |= {"a.mp4": "time"}
    with monkeypatch.context() as patch:
        stop_after(patch, 2, OSError("no"))
        with pytest.raises(OSError, match="no"):
            run(clips)
    failing.clear()
    done = stop_after(monkeypatch, 99, None)
    rows = run(clips, retry_errors=True)
    assert sorted(done) == ["a.mp4", "one.mp4", "späť/b c.mp4"] and rows["a.mp4"]["error"] is None


@pytest.mark.parametrize("ended", [None, 1])
def test_clips_that_were_missing_are_tracked_when_they_are_there(run, lerobot, tmp_path, monkeypatch, ended):
    """Such as files of a data set that was not downloaded as a whole, in a finished destination and in one that was ended."""
    whole, root = run(lerobot, name="whole"), tmp_path / "robot"
    shutil.copytree(lerobot, root)
    video = next(root.glob("videos/*top/*/*.mp4")).rename(tmp_path / "kept.mp4")
    with monkeypatch.context() as patch:
        if ended:
            stop_after(patch, ended, OSError("no"))
        with pytest.raises(OSError, match="no") if ended else nullcontext():
            assert sum(row["error"] is not None for row in run(root).values()) == 2
    shutil.move(video, next(root.glob("videos/*top/*")) / "file-000.mp4")
    with pytest.raises(FileExistsError, match="can be read now; give --retry-errors"):
        run(root)
    done = stop_after(monkeypatch, 99, None)
    rows = run(root, retry_errors=True)
    assert {name: row["id"] for name, row in rows.items()} == {name: row["id"] for name, row in whole.items()}
    assert rows == whole and len(done) == (4 if ended else 2)
    assert run(root) == whole and len(done) == (4 if ended else 2)


def test_another_change_is_told_beside_clips_that_were_missing(command, copied):
    (copied / "aa.mp4").symlink_to("nowhere.mp4")
    assert command(copied)[0] == 0
    (copied / "aa.mp4").unlink()
    shutil.copy(copied / "a.mp4", copied / "aa.mp4")
    (copied / "one.mp4").unlink()
    status, _, error = command(copied, "--retry-errors")
    assert status == 2 and "one.mp4 is gone" in error


def test_a_file_that_cannot_be_read_is_a_row(command, copied, tmp_path, monkeypatch):
    """By whoever has no right to: what root cannot be denied is a link in a circle, and a read that fails."""
    (copied / "circle.mp4").symlink_to("circle.mp4")
    fails = {"one.mp4"}

    def opened(path, mode):
        if os.path.basename(path) in fails:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open(path, mode)

    monkeypatch.setattr(stored_files, "open", opened, raising=False)
    status, printed, _ = command(copied)
    assert status == 0 and "5 rows, 3 with an error; 5 new" in printed
    rows = rows_in(tmp_path / "tracks")
    assert rows["circle.mp4"]["error"].startswith("source: ")
    assert rows["one.mp4"]["error"] == f"source: {copied}/one.mp4: cannot be read (Permission denied)."
    fails.clear()
    (copied / "circle.mp4").unlink()
    shutil.copy(copied / "a.mp4", copied / "circle.mp4")
    status, printed, _ = command(copied, "--retry-errors")
    assert status == 0 and "5 rows, 1 with an error; 2 new" in printed


def test_trying_again_that_was_ended_keeps_the_number_of_shards(run, clips, tmp_path, monkeypatch, failing):
    whole = run(clips, name="whole", num_shards=2)
    failing |= {"a.mp4": "time"}
    run(clips, num_shards=2)
    failing.clear()
    with monkeypatch.context() as patch:
        stop_after(patch, 0, OSError("no"))
        with pytest.raises(OSError, match="no"):
            run(clips, retry_errors=True)
    assert run(clips, retry_errors=True) == whole
    shards = [
        {name: data for name, data in files_in(tmp_path / n).items() if name[0] != "."} for n in ("tracks", "whole")
    ]
    assert shards[0] == shards[1] and sum(name.startswith("data-") for name in shards[0]) == 2


def test_runs_of_points_that_were_begun_before_there_were_masks(run, clips, tmp_path, monkeypatch, capsys):
    """They note no masks, and their rows have the names that they had."""
    rows, noted = run(clips), tmp_path / "tracks" / ".fgvc-hf-run.json"
    before = json.loads(noted.read_text())
    assert before.pop("masks") is None
    noted.write_text(json.dumps(before))
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 0
    assert capsys.readouterr().out.count(".png: ") == 3
    done = stop_after(monkeypatch, 0, OSError("no"))
    assert run(clips) == rows and not done
    options = {
        name: before[name] for name in ("points", "model", "revision", "settings", "preset", "dtype", "package")
    }
    size = (clips / "a.mp4").stat().st_size
    assert rows["a.mp4"]["id"] == clip_id(("a.mp4", size, 0, 0, None), options)
