"""Shards of a run that was ended: never taken for a whole data set, and continued."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from scripts_as_functions import run_here
from training_runs import ROOT, run

from fgvc_hf.data.shards import load_shards, shard_names, write_shards


def rows(number, prefix="r"):
    return ({"name": f"{prefix}{i}", "frames": [bytes([i])] * 2} for i in range(number))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ended_after(number):
    """Rows whose source fails after a number of them."""
    yield from rows(number)
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [0, 1, 2, 5, 6, 7])
def test_a_run_that_was_ended_is_refused_and_continued(tmp_path, number):
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_shards(rows(7), whole, rows_per_shard=2)
    with pytest.raises(KeyboardInterrupt):
        write_shards(ended_after(number), part, rows_per_shard=2)
    (part / f".fgvc-hf-{'0' * 32}.parquet").write_bytes(b"half")  # of a process that could not clean up
    for read in (load_shards, shard_names):
        with pytest.raises(OSError, match="has no shards.json|holds no shards"):
            read(part)
    if number > 1:
        with pytest.raises(FileExistsError, match="holds shards already; continue with --resume"):
            write_shards(rows(7), part, rows_per_shard=2)
    write_shards(rows(7), part, rows_per_shard=2, resume=True)
    assert contents(part) == contents(whole)
    assert load_shards(part)["name"][:] == [f"r{i}" for i in range(7)]
    assert write_shards(rows(7), part, 2, resume=True) == sorted(part.glob("*.parquet"))  # whole: nothing to do


@pytest.mark.parametrize(
    ("other", "size", "message"),
    [
        (lambda: rows(7, "x"), 2, "holds other rows"),
        (lambda: rows(2), 2, "holds rows beyond"),
        (lambda: rows(7), 3, "was begun with 2 rows"),
    ],
)
def test_it_is_continued_by_the_same_rows_alone(tmp_path, other, size, message):
    with pytest.raises(KeyboardInterrupt):
        write_shards(ended_after(5), tmp_path, rows_per_shard=2)
    with pytest.raises(FileExistsError, match=message):
        write_shards(other(), tmp_path, rows_per_shard=size, resume=True)
    with pytest.raises(OSError, match=r"has no shards\.json"):
        load_shards(tmp_path)


def test_it_is_continued_with_the_same_frames_alone(tmp_path):
    """As of another --short-side: the names are the same."""
    with pytest.raises(KeyboardInterrupt):
        write_shards(ended_after(5), tmp_path, rows_per_shard=2)
    other = ({**row, "frames": [b"x"] * 2} for row in rows(7))
    with pytest.raises(FileExistsError, match="data-00000.parquet: holds other rows"):
        write_shards(other, tmp_path, rows_per_shard=2, resume=True)


def failing(number):
    yield from rows(number)
    raise OSError("the source is gone")


@pytest.mark.parametrize("there", [False, True])
def test_an_error_before_the_first_shard_leaves_nothing(tmp_path, there):
    output = tmp_path / "new" / "shards"
    if there:
        output.mkdir(parents=True)
        (output / "notes.txt").write_text("mine")
    for source, error in ((failing(1), OSError), (iter([]), ValueError)):
        with pytest.raises(error, match=r"source is gone|nothing to write"):
            write_shards(source, output, rows_per_shard=2)
        assert [path.name for path in tmp_path.rglob("*.*")] == ["notes.txt"] * there
        assert output.exists() == (tmp_path / "new").exists() == there
    with pytest.raises(OSError, match="source is gone"):
        write_shards(failing(3), output, rows_per_shard=2)
    assert (output / ".unfinished.json").is_file() and (output / "data-00000.parquet").is_file()


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"rows_per_shard": "x"}'])
def test_what_a_run_was_begun_with_is_damaged(tmp_path, marker):
    with pytest.raises(KeyboardInterrupt):
        write_shards(ended_after(5), tmp_path, rows_per_shard=2)
    (tmp_path / ".unfinished.json").write_text(marker)
    with pytest.raises(ValueError, match=r"\.unfinished\.json: must be the number of rows per shard"):
        write_shards(rows(7), tmp_path, rows_per_shard=2, resume=True)


def test_a_run_that_was_killed_after_its_manifest_leaves_no_marker(tmp_path):
    files = write_shards(rows(3), tmp_path, rows_per_shard=2)
    (tmp_path / ".unfinished.json").write_text('{"rows_per_shard": 2}')
    assert write_shards(rows(3), tmp_path, 2, resume=True) == files
    assert not (tmp_path / ".unfinished.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["inf", "nan", "0", "-1"])
def test_a_size_of_a_pack_that_is_none_is_refused(videos, tmp_path, size):
    done = run_here("prepare.py", "pack", videos, tmp_path / "out.pack", "--max-size", size)
    assert done.returncode == 1 and done.stderr.startswith("error: --max-size must be a positive number of MB")
    assert not any(tmp_path.iterdir())


def test_shards_need_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file: is a file; shards are written to a folder"):
        write_shards(rows(3), tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["videos", "youtube-vos", "flyingthings3d", "pack"])
def test_prepare_without_a_source_leaves_nothing(tmp_path, kind):
    done = run_here("prepare.py", kind, tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "absent" in done.stderr
    assert not any(tmp_path.iterdir())


def test_hidden_files_and_strangers_are_no_shards(tmp_path):
    write_shards(rows(3), tmp_path, rows_per_shard=2)
    (tmp_path / ".hidden.parquet").write_bytes(b"x")
    (tmp_path / "other.parquet").write_bytes(b"x")
    assert load_shards(tmp_path)["name"][:] == ["r0", "r1", "r2"] and len(shard_names(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["missing", "shorter", "manifest", "empty", "elsewhere"])
def test_a_folder_that_is_not_as_it_was_is_refused(tmp_path, damage):
    first, _ = write_shards(rows(3), tmp_path, rows_per_shard=2)
    manifest = tmp_path / "shards.json"
    if damage == "missing":
        first.unlink()
    elif damage == "shorter":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(json.dumps({"shards": {} if damage == "empty" else {"../x.parquet": {"bytes": 1}}}))
    with pytest.raises(OSError, match="is missing|of another size|is damaged|is not a name"):
        load_shards(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_prepare_that_is_killed_is_continued(videos, tmp_path, shards):
    """`kill -9` once a number of shards is there, in the middle of the next."""
    source = tmp_path / "videos"
    source.mkdir()
    for i in range(12):
        os.link(videos / f"{i % 3}.mp4", source / f"{i:02d}.mp4")
    options = ["videos", source, tmp_path / "killed", "--short-side", 48, "--rows-per-shard", 2]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "prepare.py"), *map(str, options)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/data-*.parquet"))) < shards or not (tmp_path / "killed").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(OSError, match="has no shards.json|holds no shards"):
        load_shards(tmp_path / "killed")
    done = run("prepare.py", *options, "--resume")
    assert done.returncode == 0, done.stderr
    options[2] = tmp_path / "whole"
    assert run("prepare.py", *options).returncode == 0
    killed, whole = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert killed.keys() == whole.keys() and all(
        killed[name] == whole[name] for name in whole if name.endswith("parquet")
    )
    assert len(load_shards(tmp_path / "killed")) == 12
