"""The switch that makes a test fail where it would be skipped for want of a library."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="nosuchlibrary is not installed")
def test_by_mark():
    pass

def test_by_import():
    pytest.importorskip("nosuchlibrary", reason="nosuchlibrary is not installed")

def test_of_another_system():
    pytest.skip("signals of POSIX systems")
"""
MODULE = 'import pytest\npytest.importorskip("nosuchlibrary", reason="nosuchlibrary is not installed")\n'


@pytest.mark.slow
@pytest.mark.parametrize(("switch", "end"), [("", "4 skipped"), ("1", "1 failed, 1 skipped, 2 errors")])
def test_a_missing_library_fails_where_it_is_asked_for(switch, end, tmp_path):
    (tmp_path / "test_single.py").write_text(SKIPPED)
    (tmp_path / "test_whole.py").write_text(MODULE)
    environment = os.environ | {
        "FGVC_REQUIRE_LIBRARIES": switch,
        "PYTHONPATH": str(ROOT / "tests" / "support"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    options = ["-q", "-p", "missing_libraries", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, tmp_path]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith(f"{end} in "), done.stdout


def test_reasons_of_missing_libraries_say_so():
    """Otherwise the switch would overlook them."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name == Path(__file__).name:
            continue
        for call in re.findall(r"importorskip\(((?:[^()]|\([^()]*\))*)\)", path.read_text(encoding="utf-8")):
            assert re.search(r'is not installed",?\s*$', call), f"{path}: importorskip({call})"
