"""The package as a user gets it: imports, the wheel, and the code in README."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf.data.synthetic import render_clip
from fgvc_hf.masks import write_mask
from fgvc_hf.video import VideoWriter


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder_with_clip(tmp_path, monkeypatch):
    """An empty working folder, but for `clip.mp4`: 5 small frames."""
    monkeypatch.chdir(tmp_path)
    clip = render_clip(num_frames=5, height=64, width=64, num_points=1)
    with VideoWriter("clip.mp4", 12, 64, 64) as writer:
        for frame in clip.frames:
            writer.write(frame)
    for t in (0, 1):
        Image.fromarray(clip.frames[t]).save(f"frame{t}.png")
    ids = np.zeros((64, 64), np.uint8)
    ids[20:40, 10:30] = 1
    write_mask("mask.png", ids)
    Image.fromarray(np.where(ids[..., None] > 0, np.uint8([255, 0, 0, 255]), np.uint8(0))).save("texture.png")
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_in_readme_runs(folder_with_clip):
    """All blocks in one namespace, as a reader would paste them one after the other."""
    assert len(blocks("python")) >= 2
    namespace = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash") for line in block.splitlines() if line.startswith("fgvc-hf")]
)
def test_commands_in_readme_run(folder_with_clip, line):
    (folder_with_clip / "points.csv").write_text("t,x,y\n0,20,30\n2,40,10.5\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-c", line.partition("#")[0]], check=True, capture_output=True, env=environment, timeout=300
    )


def test_scripts_in_readme_exist():
    named = set(re.findall(r"(?:scripts|tests|fgvc_hf)/[\w/.-]+\.(?:py|sh)", README))
    assert named and all((ROOT / path).is_file() for path in named)


def test_model_files_import_only_what_a_hub_checkpoint_can():
    """`*_fgvc.py` may travel with a checkpoint: torch, numpy, PIL, transformers, and each other."""
    allowed = {"torch", "numpy", "PIL", "transformers", "huggingface_hub", "tqdm", *sys.stdlib_module_names}
    for path in (ROOT / "fgvc_hf").glob("*_fgvc.py"):
        source = path.read_text(encoding="utf-8")
        for module in re.findall(r"^(?:from|import) ([\w.]+)", source, flags=re.MULTILINE):
            assert module.startswith(".") and module.endswith("_fgvc") or module.split(".")[0] in allowed, (
                path,
                module,
            )


@pytest.mark.skipif(
    not os.environ.get("FGVC_REQUIRE_NETWORK_TESTS"), reason="installs torch anew; set FGVC_REQUIRE_NETWORK_TESTS=1"
)
def test_a_wheel_alone_in_a_clean_environment_tracks(folder_with_clip):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", "dist", str(ROOT)], check=True, capture_output=True
    )
    (wheel,) = Path("dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:  # the demo's files, which are no code
        names = set(content.namelist())
    folder = ROOT / "fgvc_hf" / "demo"
    assert {
        f"fgvc_hf/{path.relative_to(folder.parent)}" for path in folder.rglob("*.*") if path.suffix != ".pyc"
    } <= names
    venv.create("clean", with_pip=True)
    python = str(folder_with_clip / "clean" / "bin" / "python")
    version = torch.__version__.partition("+")[0]
    for requirement in (f"torch=={version}", str(wheel)):
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True, timeout=900)
    arguments = ["track", "clip.mp4", "--grid", "2", "--overlay", "overlay.mp4", "--output", "tracks.csv"]
    subprocess.run([str(Path(python).parent / "fgvc-hf"), *arguments], check=True, timeout=300)
    assert Path("overlay.mp4").stat().st_size and len(Path("tracks.csv").read_text().splitlines()) == 1 + 4 * 5
