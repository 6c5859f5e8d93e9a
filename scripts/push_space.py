"""Make the Space of the demo: the files of `spaces_demo/` and a wheel of this package, so that it needs no package index for it.

    python scripts/push_space.py --dry-run FOLDER
    python scripts/push_space.py user/name
    python scripts/push_space.py user/name --wheel fgvc_hf-0.2.0-py3-none-any.whl

The first command writes the folder that the second uploads; it needs neither a token nor the Hub. `requirements.txt` names the wheel beside it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fgvc_hf
from fgvc_hf.cli.outputs import print_result
from fgvc_hf.hub.repository import write_or_upload
from fgvc_hf.kernels.process import clean_end


ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces_demo"
FILES = ("README.md", "app.py")


@clean_end()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo_id", metavar="USER/NAME", nargs="?", help="of the Space")
    parser.add_argument("--dry-run", metavar="FOLDER", help="write a new folder instead of uploading")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="of this package; built from this source tree if not given"
    )
    parser.add_argument("--private", action="store_true", help="make the Space private if it is new")
    arguments = parser.parse_args(argv)
    return print_result(partial(push, arguments))


def push(arguments: argparse.Namespace) -> str:
    """Write or upload the Space; the folder or the URL of the commit."""
    if (arguments.dry_run is None) == (arguments.repo_id is None):
        raise ValueError("give either the name of the Space, USER/NAME, or --dry-run FOLDER.")
    write = partial(write_space, wheel=arguments.wheel)
    options = {"private": arguments.private or None, "space_sdk": "gradio"}
    return write_or_upload(write, arguments.repo_id, arguments.dry_run, **options)


def write_space(folder: Path, wheel: Path | None = None) -> None:
    """Write the Space into an empty folder.

    Raises:
        `ValueError`: the wheel is of another package or version, or Gradio is not installed.
        `OSError`: the wheel is missing or cannot be built.
    """
    expected = f"fgvc_hf-{fgvc_hf.__version__}-py3-none-any.whl"
    if wheel is None:
        wheel = build_wheel(folder)
    else:
        if not wheel.is_file():
            raise FileNotFoundError(f"{wheel}: there is no such file.")
        shutil.copyfile(wheel, folder / wheel.name)
    if wheel.name != expected:
        raise ValueError(f"{wheel}: must be {expected}, a wheel of this version of the package.")
    for name in FILES:
        shutil.copyfile(SPACE / name, folder / name)
    (folder / "requirements.txt").write_text(f"./{wheel.name}[demo]\n", encoding="utf-8")
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise ValueError(
            'the Space is made for the Gradio that is installed here: pip install "fgvc-hf[demo]".'
        ) from None
    card = (folder / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"^sdk_version: .*$", f"sdk_version: {gradio}", card, count=1, flags=re.MULTILINE)
    (folder / "README.md").write_text(card, encoding="utf-8")


def build_wheel(folder: Path) -> Path:
    """A wheel of this source tree in a folder. It is built from a copy, so that nothing is left in the tree."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.nb[ci]")
        shutil.copytree(ROOT / "fgvc_hf", source / "fgvc_hf", ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copyfile(ROOT / name, source / name)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{ROOT}: no wheel can be built ({' '.join(done.stderr.split())[-300:]}).")
    (wheel,) = folder.glob("*.whl")
    return wheel


if __name__ == "__main__":
    sys.exit(main())
