"""Files that disks and strangers have damaged: 2,000 cases of `scripts/fuzz.py`, and a member of each class of faults that it has found."""

import errno
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from media_files import CONTAINERS, write_media

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, open_video
from fgvc_hf.io.files import atomic_write, updated_folder
from fgvc_hf.io.json_files import read_json, understanding
from fgvc_hf.io.tracks import read_points_file


ROOT = Path(__file__).parents[2]
CASES = "media:900,points:250,masks:350,sessions:250,checkpoints:100,results:150"
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs forks and /proc")


@linux
@pytest.mark.slow
def test_two_thousand_damaged_files_are_read_or_refused():
    assert sum(int(part.partition(":")[2]) for part in CASES.split(",")) == 2000
    command = [sys.executable, str(ROOT / "scripts" / "fuzz.py"), "--kinds", CASES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]


@linux
@pytest.mark.slow
def test_the_programme_sees_every_kind_of_fault():
    """Readers that fail on purpose, each in its own way."""
    code = """
import os, signal, sys, time
sys.path.insert(0, "tests/support")
from fuzz_runner import Wrong, run_cases

def read(case):
    if case == "ok": return "read"
    if case == "refused": raise ValueError("the file must be of another kind than it is.")
    if case == "unclear": raise ValueError("[Errno 5]")
    if case == "shorter": raise Wrong("shorter", "7 of 8 frames")
    if case == "traceback": raise KeyError("name")
    if case == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if case == "memory": return str(len(b"1" * (300 << 20)))
    while True: pass

cases = ["ok", "refused", "unclear", "shorter", "traceback", "crash", "memory", "hang", "ok"]
ends = [end.outcome for end in run_cases(cases, read, seconds=3.0, held=200 << 20)]
assert ends == cases, ends
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "mark", "change"),
    [
        ("h264.mkv", b"\x1f\x43\xb6\x75", bytes(4)),  # the start of the cluster
        ("mpeg4.avi", b"00dc", bytes(4)),
        ("frames.gif", b"\0\x21\xf9", b"\0\x07\xf9"),
    ],
)
def test_a_broken_structure_is_no_shorter_video(tmp_path, noise_clip, name, mark, change):
    write_media(tmp_path / name, noise_clip[:8, :32, :48], *CONTAINERS[name])
    content = (tmp_path / name).read_bytes()
    at = content.rindex(mark, 0, content.find(b"idx1"))  # the index of an AVI names its chunks too
    (tmp_path / name).write_bytes(content[:at] + change + content[at + len(change) :])
    with pytest.raises(OSError, match=r"(is damaged, .*|has no frames|, or is damaged \(.*\))[.]$"):
        open_video(tmp_path / name)


def test_packets_that_are_missing_in_a_transport_stream_are_told(tmp_path, noise_clip):
    write_media(tmp_path / "a.ts", noise_clip[:8], *CONTAINERS["h264.ts"])
    content = (tmp_path / "a.ts").read_bytes()
    middle = len(content) // 376 * 188
    (tmp_path / "a.ts").write_bytes(content[:middle] + content[middle + 188 :])
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(tmp_path / "a.ts")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\0", '{"a": NaN', "x" * 10], ids=lambda text: text[:4])
def test_json_of_any_kind_is_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    damaged = r"is not a JSON text file in UTF-8" if text == "\0" else r"must be a list, or is damaged \(.*\)"
    wanted = rf"^[^\n]*a\.json: {damaged}\.$"
    with pytest.raises(ValueError, match=wanted):
        read_json(tmp_path / "a.json", "a list")


def test_what_goes_wrong_with_a_value_is_a_fault_of_its_file(tmp_path):
    for wrong in (KeyError("a"), TypeError("b\nc"), RecursionError(), ValueError("numbers of another kind")):
        with (
            pytest.raises(ValueError, match=r"^a\.json: must be a list, or is damaged \([^\n]+\)\.$"),
            understanding("a.json", "a list"),
        ):
            raise wrong
    with pytest.raises(ValueError, match=r"^a\.json: is of version 3\.$"), understanding("a.json", "a list"):
        raise ValueError("a.json: is of version 3.")


@pytest.mark.parametrize(
    "fields",
    [
        {"depths": [10**9] * 3},
        {"hidden_sizes": [10**6] * 3},
        {"fine_size": 10**9},
        {"propagation_radius": 10**9},
        {"search_radius": 1e300},
    ],
    ids=str,
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_made(fields):
    with pytest.raises(ValueError, match=r"(must be at most|parameters, at most) .*\.$"):
        FgvcModel(FgvcConfig(**fields))


@pytest.mark.parametrize(
    "change",
    [{"image_mean": ["x", 0, 0]}, {"image_mean": [1e300, 0, 0]}, {"size": {"height": 10**9, "width": 10**9}}],
    ids=str,
)
def test_settings_of_an_image_processor_are_tried(tmp_path, tiny_model, processor, change):
    tiny_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (file,) = [path for path in tmp_path.iterdir() if "processor" in path.name]
    content = json.loads(file.read_text())
    settings = content.get("image_processor", content)
    settings |= {"resize_policy": "stretch"} | change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^[^\n]+\.$"):
        Tracker.from_pretrained(tmp_path)


def test_a_small_file_with_millions_of_points_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", queries=np.zeros((1_000_000, 3)))
    with pytest.raises(ValueError, match="holds 1000000 points, at most 100000"):
        read_points_file(tmp_path / "a.npz")


# ---- what killed processes leave ------------------------------------------------------------------------------------


def test_a_left_over_temporary_file_is_overwritten_by_the_next(tmp_path):
    for text in ("first", "second"):
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
        temporary.write_text("half")  # as a process leaves it that is killed here
        assert [path.name for path in tmp_path.glob(".*")] == [temporary.name]
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("third")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "third"


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    with atomic_write(tmp_path / "a.txt") as first, atomic_write(tmp_path / "a.txt") as second:
        first.write_text("1")
        second.write_text("2")
        assert first != second and first.read_text() == "1"
    assert (tmp_path / "a.txt").read_text() in ("1", "2") and len(list(tmp_path.iterdir())) == 1


@linux
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_without_locks_a_file_is_whole_and_nothing_else_stays(tmp_path, monkeypatch, number):
    """As on file systems of a network."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    for text in ("first", "second"):
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
    with pytest.raises(ValueError, match="no"), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("no")
    with atomic_write(tmp_path / "a.txt") as one, atomic_write(tmp_path / "a.txt") as other:
        one.write_text("second")
        other.write_text("second")
        assert one != other
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "second"


def test_the_next_writer_keeps_its_temporary_file(tmp_path, monkeypatch):
    """It may begin between the end of the one before it and its clean-up."""
    replace = os.replace
    with ExitStack() as stack:

        def replaced(source, path):
            replace(source, path)
            if not begun:
                begun.append(stack.enter_context(atomic_write(path)))
                begun[0].write_text("next")

        begun = []
        monkeypatch.setattr("os.replace", replaced)
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("first")
        assert begun[0].read_text() == "next"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "next"


def test_a_folder_that_is_written_again_has_whole_files_at_any_moment(tmp_path):
    for text in ("first", "second"):
        (tmp_path / ".model").mkdir()  # of a process that was killed
        with updated_folder(tmp_path / "model") as folder:
            (folder / "config.json").write_text(text)
            (folder / "weights").write_text(text)
            assert text == "first" or (tmp_path / "model" / "weights").read_text() == "first"
        assert {path.read_text() for path in (tmp_path / "model").iterdir()} == {text}
    with pytest.raises(OSError, match="full"), updated_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("third")
        raise OSError("full")
    assert (tmp_path / "model" / "weights").read_text() == "second" and len(list(tmp_path.iterdir())) == 1
