"""Environments to run the package in as a user would, or the code of a repository without the package."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import torch


ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """From a source distribution, as a package index has it; a `build/` that an earlier build left in the source tree plays no part."""
    command = [sys.executable, "-m", "build", "--outdir", folder, str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def clean_environment(folder: Path, wheel: Path) -> Path:
    """The interpreter of a new environment with a wheel and its dependencies only. Needs the network."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for requirement in (f"torch=={torch.__version__.partition('+')[0]}", str(wheel)):
        subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", requirement], check=True, timeout=900)
    return python


def environment_without_package(folder: Path, packages: Path) -> Path:
    """The interpreter of a new environment with everything in another one's `site-packages` but fgvc_hf."""
    venv.create(folder)
    (own,) = folder.glob("lib/python*/site-packages")
    for path in packages.iterdir():
        if "fgvc_hf" not in path.name and not (own / path.name).exists():
            (own / path.name).symlink_to(path)
    return folder / "bin" / "python"


def without_source_tree() -> dict[str, str]:
    """The environment variables without those that lead to this source tree."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
