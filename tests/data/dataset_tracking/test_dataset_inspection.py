"""Counts, errors and overlays of what was tracked."""

import io
import json
import os
import shutil

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from pyarrow.parquet import read_table
from tracked_datasets import stop_after

from fgvc_hf import open_video
from fgvc_hf.cli.main import main
from fgvc_hf.data.dataset_tracking import inspection
from fgvc_hf.data.dataset_tracking.track_job import TrackJob


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


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", "[" * 100_000, '{"source": "a"}'])
def test_a_damaged_folder(command, clips, tmp_path, capsys, text):
    command(clips)
    for name in ("shards.json", ".fgvc-hf-run.json"):
        (tmp_path / "tracks" / name).write_text(text)
        assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 2
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1
    assert command(clips)[0] == 2


def test_clips_that_are_gone_have_no_overlays(command, copied, tmp_path, capsys):
    command(copied)
    (copied / "a.mp4").write_bytes(b"no video")
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 0
    assert "no overlay of a.mp4: video: " in capsys.readouterr().out


def test_inspection_of_an_unfinished_run(run, copied, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError("no"))
        with pytest.raises(OSError, match="no"):
            run(copied)
    shutil.rmtree(copied)
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 0
    printed = capsys.readouterr().out
    assert "unfinished, 3 clips are missing" in printed and "no overlays" in printed


RUN = {"source": 3, "points": None, "video": 4, "clips": "many"}


@pytest.mark.parametrize("name", list(RUN))
def test_what_a_run_was_begun_with_has_values_of_its_kinds(command, clips, tmp_path, capsys, name):
    command(clips)
    note = tmp_path / "tracks" / ".fgvc-hf-run.json"
    run = json.loads(note.read_text())
    for damaged in (run | {name: RUN[name]}, {key: value for key, value in run.items() if key != name}):
        note.write_text(json.dumps(damaged))
        assert main(["track-dataset", "--inspect", str(note.parent)]) == 2
        error = capsys.readouterr().err
        assert f"{note}: must be what a run was begun with" in error and error.count("\n") == 1


def table_of(**columns):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"j", b"junk", table_of(a=[1]), table_of(id=["a"])], ids=range(4))
@pytest.mark.parametrize("name", [".fgvc-hf-rows/000000.parquet", "data-00000-of-00001.parquet"])
def test_rows_that_are_damaged_are_told_by_their_file(command, clips, tmp_path, capsys, content, name):
    command(clips)
    path, manifest = tmp_path / "tracks" / name, tmp_path / "tracks" / "shards.json"
    if name.startswith("."):
        manifest.unlink()
        path.parent.mkdir()
    path.write_bytes(content)
    if not name.startswith("."):
        listed = json.loads(manifest.read_text())
        listed["shards"][name]["bytes"] = len(content)
        manifest.write_text(json.dumps(listed))
    status, _, error = command(clips)
    assert status == 2 and str(path) in error and error.count("\n") == 1
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1


def test_files_of_others_among_finished_rows(command, clips, tmp_path):
    command(clips)
    (tmp_path / "tracks" / "shards.json").unlink()
    (tmp_path / "tracks" / ".fgvc-hf-rows" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "tracks" / ".fgvc-hf-rows" / "x.parquet").write_bytes(b"")
    assert command(clips)[0] == 0


def test_files_in_the_places_of_folders(command, clips, tmp_path, capsys):
    command(clips)
    (tmp_path / "tracks" / "overlays").write_text("")
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 2
    assert "overlays: is a file; overlays need a folder" in capsys.readouterr().err
    (tmp_path / "tracks" / "shards.json").unlink()
    (tmp_path / "tracks" / ".fgvc-hf-rows").write_text("")
    assert ".fgvc-hf-rows: is damaged; it must be a folder" in command(clips)[2]


STRANGE = {
    "line\nbreak.mp4": r"line\nbreak.mp4",
    "\x1b[31mred\a.mp4": r"\x1b[31mred\x07.mp4",
    "tab\t\r.mp4": r"tab\t\r.mp4",
    "order\u202e4pm.mp4": r"order\u202e4pm.mp4",
    os.fsdecode(b"\xff.mp4"): r"\xff.mp4",
    "späť  名.mp4": "späť  名.mp4",
}


@pytest.fixture
def strange(clips, tmp_path):
    """A folder, with a line break in its own name, of clips of such names; half of them damaged."""
    folder = tmp_path / "new\nline"
    folder.mkdir()
    for number, name in enumerate(STRANGE):
        shutil.copy(clips / ("a.mp4" if number % 2 else "cut.mp4"), folder / name)
    return folder


def test_names_are_printed_on_one_line_escaped(command, strange, tmp_path, capsys):
    folder = tmp_path / "tracks\n2"
    status, printed, error = command(strange, destination=folder)
    assert status == 0 and printed.startswith(rf"{tmp_path}/tracks\n2: 6 rows, 3 with an error") and not error
    assert main(["track-dataset", "--inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.isprintable() for line in lines)
    drawn = {line.rpartition(".png: ")[2] for line in lines[3:]}
    assert drawn == set(list(STRANGE.values())[1::2])
    errors = [row["error"] for row in read_table(folder / "data-00000-of-00001.parquet").to_pylist() if row["error"]]
    names = {error.split(": ")[1] for error in errors}  # of the clip, not of the place of the source
    assert names == set(list(STRANGE.values())[::2])
    assert r"`new\nline`" in (folder / "README.md").read_text()


def test_names_in_messages_are_escaped(command, strange, tmp_path, monkeypatch):
    def row(self, clip, tracker):
        os.utime(strange / clip.file, (1, 1))
        return {}

    monkeypatch.setattr(TrackJob, "_row", row)
    status, _, error = command(strange)
    assert status == 2 and error.endswith("\n") and error[:-1].isprintable()
    assert rf"{tmp_path}/new\nline/\x1b[31mred\x07.mp4: has changed while the source was read" in error
    (tmp_path / "a\n.tar").write_bytes(b"x" * 2000)
    status, _, error = command(tmp_path / "a\n.tar")
    assert status == 2 and rf"{tmp_path}/a\n.tar: is no tar file" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "../../pwned"),
        ("id", None),
        ("id", "A" * 32),
        ("source", None),
        ("num_frames", None),
        ("num_frames", -8),
    ],
)
def test_rows_of_strangers_are_checked(command, clips, tmp_path, capsys, monkeypatch, name, value):
    """The picture of a row is called by its id."""
    command(clips)
    found = {"id": "a" * 32, "source": "a.mp4", "num_frames": 4, "error": None} | {name: value}
    monkeypatch.setattr(inspection, "read_rows", lambda *_, **__: pyarrow.Table.from_pylist([found]))
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks")]) == 2
    error = capsys.readouterr().err
    assert "holds a row that is damaged" in error and error.count("\n") == 1
    assert not (tmp_path / "tracks" / "overlays").exists()


def test_without_a_sample_nothing_is_written(command, clips, tmp_path, capsys):
    command(clips)
    assert main(["track-dataset", "--inspect", str(tmp_path / "tracks"), "--sample", "0"]) == 0
    assert not (tmp_path / "tracks" / "overlays").exists() and "overlay" not in capsys.readouterr().out
