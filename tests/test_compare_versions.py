"""The script that steps two versions of the package in turns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts_as_functions import load_script


ROOT = Path(__file__).parents[1]


def compare(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "compare_versions.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_version_is_compared_with_a_copy_of_itself(tmp_path):
    (tmp_path / "fgvc_hf").symlink_to(ROOT / "fgvc_hf")
    done = compare(tmp_path, "--only", "30 points, coarse, 480p", "--turns", 2)
    assert done.returncode == 0, done.stderr
    *_, row = done.stdout.strip().splitlines()
    name, before, now, quotient, quartiles = (part.strip() for part in row.strip("|").split("|"))
    assert name == "30 points, coarse, 480p"
    assert float(quotient) == pytest.approx(float(now) / float(before), rel=0.9)
    assert re.fullmatch(r"\d+\.\d\d to \d+\.\d\d", quartiles)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "error: absent is no checkout of fgvc_hf."),
        ([ROOT, "--turns", 1], "error: --turns must be 2 or more, got 1."),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = compare(*arguments)
    assert done.returncode == 1 and done.stderr.strip() == message


def test_times_become_the_quotients_of_neighbouring_turns(monkeypatch):
    """This version takes 2, 3 and 4 times as long in the turns of a machine that becomes slower."""
    script = load_script("compare_versions")
    other, this = [0.001, 0.002, 0.004], [0.002, 0.006, 0.016]

    class Version:
        def __init__(self, times):
            self.times, self.stopped = iter(times), False

        def kill(self):
            self.stopped = True

        def wait(self):
            assert self.stopped

    versions = [Version(other), Version(this)]
    started = iter(versions)
    monkeypatch.setattr(script, "start", lambda case, checkout: next(started))
    monkeypatch.setattr(script, "take_turn", lambda version: next(version.times))
    row = script.compare("30 points", Path("other"), 3)
    assert row == "| 30 points | 2.0 | 6.0 | 3.00 | 2.00 to 4.00 |"
    assert all(version.stopped for version in versions)
