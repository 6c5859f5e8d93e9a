"""Commands refuse a video that was cut off, or read it up to there with `--allow-truncated`."""

import subprocess
import sys

import numpy as np
import pytest

from fgvc_hf import VideoWriter, open_video
from fgvc_hf.cli.main import main


@pytest.fixture
def cut_off(noise_clip, tmp_path):
    path = tmp_path / "cut.mkv"
    with VideoWriter(path, 12.5, *noise_clip.shape[1:3], 2) as writer:
        for number in range(12):
            writer.write(np.roll(noise_clip[number % len(noise_clip)], number, axis=1))
    path.write_bytes(path.read_bytes()[:-900])
    return path


def test_a_command_refuses_or_warns(cut_off, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    overlay = tmp_path / "out" / "overlay.mp4"
    arguments = ["track", str(cut_off), "--grid", "2", "--preset", "fast", "--overlay", str(overlay)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is cut off after frame" in error and "--allow-truncated" in error
    assert not overlay.exists()
    with pytest.warns(UserWarning, match="it is cut off after frame"):
        assert main([*arguments, "--allow-truncated"]) == 0
    drawn = open_video(overlay)
    with pytest.warns(UserWarning):
        source = open_video(cut_off, allow_truncated=True)
    assert drawn.num_frames == source.num_frames < 12 and drawn.pixel_aspect == source.pixel_aspect == 2


def test_warnings_are_a_line_each_without_the_place_in_the_code(cut_off, tmp_path):
    """Of the video, and of labels that may be of two points; these are told by the names that the file of labels has."""
    (tmp_path / "labels.csv").write_text(
        "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\nimg0000.png,20,20,30,10\nimg0004.png,44,8,,\n"
    )
    prompts = ["--points-file", str(tmp_path / "labels.csv"), "--format", "dlc", "--direction", "both"]
    options = ["--allow-truncated", "--preset", "fast", "--output", str(tmp_path / "out.csv")]
    command = [sys.executable, "-m", "fgvc_hf.cli", "track", str(cut_off), *prompts, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("fgvc-hf: warning: ") and "it is cut off after frame" in first
    said = "labels may be of different points, for none was reached from the other: nose on frames 0 and 4."
    assert second == f"fgvc-hf: warning: {said}"
    assert "UserWarning" not in done.stderr and ".py" not in done.stderr
