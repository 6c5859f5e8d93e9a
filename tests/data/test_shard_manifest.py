"""Shards of a run that was ended: never taken for a whole data set, and continued."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
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
