"""Environments to run the package in as a user would, or the code of a repository without the package."""

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path


ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """From a source distribution, as a package index has it; a `build/` that an earlier build left in the source tree plays no part."""
    command = [sys.executable, "-m", "build", "--outdir", folder, str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def clean_environment(folder: Path, wheel: Path) -> Path:
    """The interpreter of a new environment with a wheel and its dependencies only. Needs the network.

    Torch, by far the largest, is the one that is installed here: its files are linked, and pip, which is told to keep it, adds the rest.
    """
    venv.create(folder, with_pip=True)
    (own,) = folder.glob("lib/python*/site-packages")
    torch = distribution("torch")
    for name in {file.parts[0] for file in torch.files or ()} - {".."}:
        (own / name).symlink_to(str(torch.locate_file(name)))
    python = folder / "bin" / "python"
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--no-compile", f"torch=={torch.version}", str(wheel)]
    subprocess.run(command, check=True, timeout=900)
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
