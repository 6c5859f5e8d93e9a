"""The script that measures what tracking a data set costs."""

import pytest
from scripts_as_functions import run_here


@pytest.mark.slow
def test_clips_without_tracks_have_no_rate():
    done = run_here("dataset_rates.py", "clips", "--number", 1, "--frames", 2, "--side", 48, "--points", "grid:0")
    assert "points must be grid:N" in done.stderr and "hours of an actor" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        (("clips", "--number", 0), 1),
        (("losses", "--number", -1), 1),
        (("nodes", "--number", 1), 2),
        (("nodes", "--turns", 0), 2),
        (("clips", "--per-node", 0), 1),
    ],
)
def test_numbers_without_a_rate_are_refused(arguments, least):
    done = run_here("dataset_rates.py", *arguments)
    assert done.returncode == 2 and f"--number must be at least {least}, and --turns" in done.stderr
