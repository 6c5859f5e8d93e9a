"""Where may be written, and files and folders that appear whole or not at all."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fgvc_hf import (
    PointTracks,
    VideoWriter,
    open_video,
    read_labels,
    read_mask,
    read_points_file,
    save_tracks,
)
from fgvc_hf.io import files
from fgvc_hf.io.files import (
    atomic_folder,
    atomic_write,
    check_new_folder,
    check_outputs,
    check_writable,
    growing_folder,
    is_temporary,
    lies_in,
    local_path,
    same_place,
    updated_folder,
)
from fgvc_hf.io.flow_files import save_flow
from fgvc_hf.io.masks import write_mask
from fgvc_hf.io.overlays import check_picture_name, write_picture


TRACKS = PointTracks(
    [0],
    np.zeros((1, 3)),
    np.zeros((1, 2, 2)),
    np.ones((1, 2), bool),
    *np.ones((2, 1, 2)),
    np.zeros((1, 2), bool),
    (8, 8),
)


def write_clip(path):
    with VideoWriter(path, 12, 16, 16) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))


WRITERS = [
    (".png", lambda path: write_mask(path, np.zeros((4, 4), np.uint8))),
    (".png", lambda path: write_picture(np.zeros((4, 4, 3), np.uint8), check_picture_name(path))),
    *(
        (suffix, lambda path: save_flow(np.zeros((4, 4, 2)), np.zeros((4, 4), bool), path))
        for suffix in (".flo", ".npz", ".png")
    ),
    *((suffix, lambda path: save_tracks(TRACKS, path)) for suffix in (".npz", ".csv", ".json")),
    (".mp4", write_clip),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_paths_are_of_this_machine():
    for path in ("a.mp4", Path("x/y"), b"a.mp4", "a:b", "c:/x", "://x", "1a://b"):
        assert local_path(path) == Path(os.fsdecode(path))
    for url in ("http://a/b.mp4", "HTTPS://a", "s3://a", "a+b.c-d://x"):
        with pytest.raises(ValueError, match=re.escape(f"{url}: is a URL; only files on this machine")):
            local_path(url)
    for wrong in ("", "a\0b", b"a\0b", 5, None, ["a.mp4"]):
        with pytest.raises(ValueError, match="a path must be the name of a file or folder"):
            local_path(wrong)


@pytest.mark.parametrize(
    "use", [open_video, read_mask, read_points_file, read_labels, check_writable, check_new_folder]
)
def test_a_name_that_is_too_long_is_one_sentence(use):
    with pytest.raises(OSError, match=r"^a{300}\.csv: cannot be (read|written) \(File name too long\)\.$"):
        use("a" * 300 + ".csv")


@pytest.mark.parametrize("suffix, write", WRITERS)
def test_names_may_be_bytes_and_no_urls(tmp_path, suffix, write):
    write(os.fsencode(tmp_path / f"a{suffix}"))
    assert names(tmp_path) == [f"a{suffix}"]
    with pytest.raises(ValueError, match="is a URL; only files on this machine are read and written"):
        write(f"https://example.org/a{suffix}")


def test_where_a_file_cannot_be_written(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert check_writable(tmp_path / "file") == check_writable(str(tmp_path / "file")) == tmp_path / "file"
    assert check_writable(tmp_path / "new") == tmp_path / "new"
    for path, kind, message in (
        (tmp_path / "none" / "a", FileNotFoundError, "the folder .*none does not exist"),
        (tmp_path, IsADirectoryError, "it is a folder"),
        (tmp_path / "pipe", OSError, "it is not an ordinary file"),
        (tmp_path / "file" / "a", FileNotFoundError, "the folder .*file does not exist"),
    ):
        with pytest.raises(kind, match=f"cannot be written, {message}"):
            check_writable(path)
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(PermissionError, match="is not writable"):
        check_writable(tmp_path / "file")


def test_outputs_are_places_of_their_own(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "around").symlink_to(tmp_path / "clips")
    at = lambda *given: [None if name is None else tmp_path / name for name in given]  # noqa: E731
    check_outputs(at("b.csv", None, "c.csv", "a"), at("a.mp4", "clips", None, "not/there"))
    check_outputs(at("clips.csv"), at("clips"))
    for outputs, inputs, message in (
        (at("b.csv", "b.csv"), [], "is written twice"),
        (at("b.csv", "c.csv", "B.CSV"), [], "is written twice"),
        (at("caf\u00e9", "cafe\u0301"), [], "is written twice"),
        (at("x", "x/y/z"), [], "are outputs, one within the other"),
        (at("x/y", "x"), [], "are outputs, one within the other"),
        (at("a.mp4"), at("a.mp4"), "is an input, which would be overwritten"),
        (at("link.mp4"), at("b", "a.mp4"), "is an input, which would be overwritten"),
        (at("clips/x/y.csv"), at("clips"), "lies in .*clips, which is an input"),
        (at("around/y.csv"), at("clips"), "lies in .*clips, which is an input"),
    ):
        with pytest.raises(ValueError, match=message):
            check_outputs(outputs, inputs)
    assert same_place(tmp_path / "a.mp4", tmp_path / "link.mp4") and not same_place(tmp_path / "a", tmp_path / "b")
    assert lies_in(tmp_path / "x" / "y", tmp_path) and not lies_in(tmp_path, tmp_path / "x")
    assert not lies_in(tmp_path, tmp_path)


def test_a_file_takes_its_place_at_the_end_and_not_at_all_on_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("before")
    with atomic_write(path) as temporary:
        temporary.write_text("after")
        assert temporary.suffix == ".csv" and temporary.parent == tmp_path and is_temporary(temporary)
        assert path.read_text() == "before"
    assert path.read_text() == "after" and names(tmp_path) == ["a.csv"]
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(OSError, match=r"a.csv: cannot be written \(No space left on device\)"), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"^another file is damaged$"), atomic_write(path):
        raise OSError("another file is damaged")
    assert path.read_text() == "after" and names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_an_error_of_another_file_stays_as_it_is(tmp_path, write):
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: .*frame\.png") as caught,
        write(tmp_path / "out"),
    ):
        (tmp_path / "frame.png").read_bytes()
    assert caught.value.filename == str(tmp_path / "frame.png")
    with (
        pytest.raises(OSError, match=r"out: cannot be written \(No such file or directory\)"),
        write(tmp_path / "out") as temporary,
    ):
        (temporary / "a" / "b").write_bytes(b"") if temporary.is_dir() else (temporary.unlink(), temporary.stat())
    assert os.listdir(tmp_path) == []


def test_names_of_temporary_files_are_the_same_each_time_and_another_for_a_second_writer(tmp_path):
    used = []
    for name in ("a.csv", "a.csv", "b.csv"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text(name)
            used.append(temporary.name)
    assert used[0] == used[1] != used[2] and all(re.fullmatch(r"\.fgvc-hf-[0-9a-f]{32}\.csv", name) for name in used)
    (tmp_path / used[0]).write_text("left behind by a process that was killed, and longer than what comes")
    with atomic_write(tmp_path / "a.csv") as first, atomic_write(tmp_path / "a.csv") as second:
        assert first.name == used[0] != second.name
        assert first.read_text() == ""  # nothing of it is left
        first.write_text("first")
        second.write_text("second")
        assert is_temporary(first) and is_temporary(second)
    assert names(tmp_path) == ["a.csv", "b.csv"] and (tmp_path / "a.csv").read_text() == "first"


@pytest.mark.parametrize("locks", ["none", "not on this file system"])
def test_without_locks_every_writer_has_a_name_of_its_own(tmp_path, monkeypatch, locks):
    if locks == "none":
        monkeypatch.setattr(files, "fcntl", None)
    else:

        def refuse(descriptor, operation):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(files.fcntl, "flock", refuse)
    used = []
    for _ in range(2):
        with atomic_write(tmp_path / "a.csv") as temporary:
            temporary.write_text("text")
            used.append(temporary.name)
    assert used[0] != used[1] and names(tmp_path) == ["a.csv"]


def test_what_is_a_temporary_file(tmp_path):
    digits = 32 * "a"
    for name in (f".fgvc-hf-{digits}", f".fgvc-hf-{digits}.csv", f".fgvc-hf-{digits}.tar.gz"):
        (tmp_path / name).touch()
        assert is_temporary(tmp_path / name)
    for name in (
        f"fgvc-hf-{digits}",
        f".fgvc-hf-{digits}0",
        f".fgvc-hf-{31 * 'a'}",
        f"xfgvc-hf-{digits}",
        f".fgvc-hf-{digits}.",
    ):
        (tmp_path / name).touch()
        assert not is_temporary(tmp_path / name)
    (tmp_path / f".fgvc-hf-{32 * 'b'}").mkdir()
    (tmp_path / f".fgvc-hf-{32 * 'c'}").symlink_to(tmp_path / f".fgvc-hf-{digits}")
    assert not any(is_temporary(tmp_path / f".fgvc-hf-{32 * kind}") for kind in "bcd")


def test_new_folders_are_not_there_or_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("new", "empty"):
        assert check_new_folder(str(tmp_path / name)) == tmp_path / name
    for path, kind, message in (
        (tmp_path, FileExistsError, "exists already; give a new or an empty folder"),
        (tmp_path / "file", FileExistsError, "is a file; the destination must be a folder"),
        (tmp_path / "none" / "a", FileNotFoundError, "cannot be written, the folder .*none does not exist"),
    ):
        with pytest.raises(kind, match=message):
            check_new_folder(path)


def test_a_growing_folder_keeps_what_is_finished_and_does_not_stay_empty(tmp_path):
    with pytest.raises(RuntimeError), growing_folder(tmp_path / "a") as folder:
        (folder / "1").touch()
        raise RuntimeError
    with pytest.raises(RuntimeError), growing_folder(tmp_path / "b") as folder:
        assert folder.is_dir()
        raise RuntimeError
    (tmp_path / "c").mkdir()
    with growing_folder(tmp_path / "c"):
        pass
    assert names(tmp_path) == ["a", "c"] and names(tmp_path / "a") == ["1"]


def test_an_atomic_folder_appears_at_the_end(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("a", "there"):
        with atomic_folder(tmp_path / name) as folder:
            assert folder.parent == tmp_path and folder.name.startswith(".fgvc-hf-")
            (folder / "1").touch()
            assert not (tmp_path / name / "1").exists()
        assert names(tmp_path / name) == ["1"]
    with pytest.raises(FileExistsError, match="exists already"), atomic_folder(tmp_path / "a"):
        pass
    with pytest.raises(OSError, match=r"b: cannot be written \(File too large\)"), atomic_folder(tmp_path / "b"):
        raise OSError(errno.EFBIG, "File too large")
    with pytest.raises(OSError, match=r"^another is damaged$"), atomic_folder(tmp_path / "b"):
        raise OSError("another is damaged")
    assert names(tmp_path) == ["a", "there"]


def test_an_updated_folder_replaces_files_one_by_one_and_keeps_others(tmp_path):
    (tmp_path / ".a").mkdir()
    (tmp_path / ".a" / "left behind").touch()
    with updated_folder(tmp_path / "a") as folder:
        (folder / "1").write_text("one")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["1"]
    (tmp_path / "a" / "2").write_text("two")
    with updated_folder(tmp_path / "a") as folder:
        (folder / "1").write_text("ONE")
        (folder / "3").write_text("three")
        assert (tmp_path / "a" / "1").read_text() == "one"
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == {
        "1": "ONE",
        "2": "two",
        "3": "three",
    }
    with pytest.raises(RuntimeError), updated_folder(tmp_path / "a") as folder:
        (folder / "1").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "1").read_text() == "ONE"
