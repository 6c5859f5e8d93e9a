"""`scripts/self_label.py` as a user runs it."""

import shutil

import pytest
from scripts_as_functions import run_here


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "0"], "--grid must be at least 1, got 0"),
        (["--length", "1"], "--length must be at least 2, got 1"),
        (["--windows", "0"], "--windows must be at least 1, got 0"),
        (["--short-side", "8"], "--short-side must be at least 32, got 8"),
        (["--checkpoint", "none-such"], "none-such"),
    ],
)
def test_self_labels_refuse_what_they_cannot_do(videos, tmp_path, options, message):
    done = run_here("self_label.py", videos, tmp_path / "tracks", *options)
    assert done.returncode and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("tracks/*"))


def test_self_labels_refuse_two_videos_of_one_name_and_go_on_after_an_interruption(videos, tmp_path):
    first = min(videos.rglob("*.mp4"))
    for folder in ("a", "b"):
        (tmp_path / "twice" / folder).mkdir(parents=True)
        shutil.copy(first, tmp_path / "twice" / folder / first.name)
    done = run_here("self_label.py", tmp_path / "twice", tmp_path / "tracks")
    assert done.returncode == 1 and f"two videos named {first.stem}" in done.stderr
    written = tmp_path / "tracks" / f"{first.stem}.npz"
    options = "--grid", "2", "--length", "3", "--windows", "1"
    done = run_here("self_label.py", tmp_path / "twice" / "a", tmp_path / "tracks", *options)
    assert done.returncode == 0 and "positions agree" in done.stdout, done.stderr
    stamp = written.stat().st_mtime_ns
    again = run_here("self_label.py", tmp_path / "twice" / "a", tmp_path / "tracks", *options)
    assert again.returncode == 0 and written.stat().st_mtime_ns == stamp
    assert "1 videos had labels" in again.stdout


def test_a_video_that_cannot_be_read_is_left_out(videos, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "0.mp4").write_bytes(b"no")
    shutil.copy(min(videos.rglob("*.mp4")), tmp_path / "some" / "good.mp4")
    options = "--grid", "2", "--length", "3", "--windows", "1"
    done = run_here("self_label.py", tmp_path / "some", tmp_path / "tracks", *options)
    assert done.returncode == 0 and "left out" in done.stdout and "0.mp4" in done.stdout, done.stderr
    assert [path.name for path in (tmp_path / "tracks").iterdir()] == ["good.npz"]


def test_the_folder_of_tracks_must_not_be_a_file(videos, tmp_path):
    (tmp_path / "tracks").touch()
    done = run_here("self_label.py", videos, tmp_path / "tracks")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
        "is a file; the destination must be a folder."
    )
