"""Short runs of `scripts/soak.py`, with fixed seeds."""

import subprocess
import sys
from pathlib import Path

import pytest
from foreign_models import small_model, tracker_of


pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs forks and /proc")]
SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


def test_killed_programs_end_as_if_nothing_had_been():
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    done = subprocess.run(
        [sys.executable, str(SOAK), "kills", "--kills", "3"], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0 and done.stdout.count("bit-equal") == 5, done.stdout + done.stderr[-3000:]


def test_the_demo_under_load():
    pytest.importorskip("gradio", reason="gradio is not installed")
    done = subprocess.run(
        [sys.executable, str(SOAK), "demo", "--minutes", "0.3"], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0 and "'first': 'right'" in done.stdout, done.stdout + done.stderr[-3000:]


def test_a_live_session_takes_no_more_memory_and_time_as_it_goes_on():
    from long_runs import live

    seen = live(0, 64, 96, tracker=tracker_of(small_model()))
    assert seen["frames"] == 60 and seen["last_mib"] < seen["first_mib"] + 16
    assert seen["last_seconds"] < 2 * seen["first_seconds"] + 0.01
