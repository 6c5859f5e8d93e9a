"""Temporary folders: those of killed processes go, those in use stay."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from fgvc_hf.io.scratch_folders import OWNER, PREFIX, scratch_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary folders are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def aged(path):
    os.utime(path, (1, 1))
    return path


def test_a_folder_is_deleted_at_the_end_and_by_errors(place):
    with scratch_folder() as folder:
        (folder / "clip").write_bytes(b"x")
        assert folder.parent == place
        assert (folder / OWNER).stat().st_mode & 0o777 == 0o600  # of this user alone
    with pytest.raises(KeyboardInterrupt), scratch_folder():
        raise KeyboardInterrupt
    assert not list(place.iterdir())


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(place):
    program = f"""
import os, signal, tempfile
tempfile.tempdir = {str(place)!r}
from fgvc_hf.io.scratch_folders import scratch_folder
with scratch_folder() as folder:
    (folder / "clip").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    with scratch_folder() as first:
        assert not left.exists()
        aged(first)
        names = (
            "other",
            f"{PREFIX}file",
            f"{PREFIX}link",
            f"{PREFIX}foreign",
            f"{PREFIX}unnamed",
            f"{PREFIX}elsewhere",
        )
        others = [place / name for name in names]
        for folder in (others[0], *others[3:]):
            folder.mkdir()
        (others[4] / OWNER).touch()  # not locked yet
        (others[5] / OWNER).write_text("another machine\n")
        others[1].touch()
        others[2].symlink_to(others[0])
        for other in (*others[:2], *others[3:]):
            aged(other)
        with scratch_folder() as second:
            assert set(place.iterdir()) == {first, second, *others}
    assert set(place.iterdir()) == set(others)
