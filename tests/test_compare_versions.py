"""The script that steps two versions of the package in turns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


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
