"""The package as a user gets it: imports, the wheel, and the code in README."""

import ast
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

from fgvc_hf import load, model_card
from fgvc_hf.data.synthetic import render_clip
from fgvc_hf.hub.repository import write_repository
from fgvc_hf.io.masks import write_mask
from fgvc_hf.io.video import VideoWriter


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


def imports(path):
    """Modules that a file imports when it is imported itself."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom):
            yield "." * statement.level + (statement.module or "")
        elif isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)


def test_model_files_import_only_what_a_hub_checkpoint_can():
    """`*_fgvc.py` may travel with a checkpoint: torch, numpy, PIL, transformers, and each other."""
    allowed = {"torch", "numpy", "PIL", "transformers", "huggingface_hub", "tqdm", "yaml", *sys.stdlib_module_names}
    for path in (ROOT / "fgvc_hf").glob("*_fgvc.py"):
        for module in imports(path):
            assert module.startswith(".") and module.endswith("_fgvc") or module.split(".")[0] in allowed, (
                path,
                module,
            )


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory):
    """The interpreter of an environment with nothing but the wheel and what that asks for."""
    if not os.environ.get("FGVC_REQUIRE_NETWORK_TESTS"):
        pytest.skip("installs torch anew; set FGVC_REQUIRE_NETWORK_TESTS=1")
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)], check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:  # the demo's files, which are no code
        names = set(content.namelist())
    demo = ROOT / "fgvc_hf" / "demo"
    assert {f"fgvc_hf/{path.relative_to(demo.parent)}" for path in demo.rglob("*.*") if path.suffix != ".pyc"} <= names
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    version = torch.__version__.partition("+")[0]
    for requirement in (f"torch=={version}", str(wheel)):
        subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", requirement], check=True, timeout=900)
    return python


def alone() -> dict[str, str]:
    """The environment variables without what would lead to this source tree."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_a_wheel_alone_in_a_clean_environment_tracks(clean_python, folder_with_clip):
    arguments = ["track", "clip.mp4", "--grid", "2", "--overlay", "overlay.mp4", "--output", "tracks.csv"]
    subprocess.run([clean_python.parent / "fgvc-hf", *arguments], check=True, timeout=300, env=alone())
    assert Path("overlay.mp4").stat().st_size and len(Path("tracks.csv").read_text().splitlines()) == 1 + 4 * 5


def test_a_repository_loads_in_a_clean_environment_with_and_without_the_package(clean_python, folder_with_clip):
    model, processor = load(dtype="float32")
    card = model_card("tracker", "apache-2.0", "See fgvc-joint.")
    write_repository(model, "tracker", "user/tracker", processor, card, with_code=True)
    for package, trust in (("from fgvc_hf import FgvcModel", "{}"), ("", '{"trust_remote_code": True}')):
        code = f"""
{package}
import numpy as np
from transformers import AutoModel, AutoProcessor, pipeline
model, processor = (kind.from_pretrained("tracker", **{trust}) for kind in (AutoModel, AutoProcessor))
tracks = model.track("clip.mp4", [(0, 20, 30)], processor=processor).tracks
found = pipeline("point-tracking", model="tracker", **{trust})("clip.mp4", points=[(0, 20, 30)])["tracks"]
np.testing.assert_array_equal(found, tracks)
ids = np.pad(np.ones((20, 20), int), 22)
masks = pipeline("mask-propagation", model="tracker", **{trust})("clip.mp4", masks=ids)["masks"]
assert tracks.shape == (1, 5, 2) and masks.shape == (5, 64, 64) and (masks[0] == ids).all()
print(type(model).__module__)
"""
        if not package:
            subprocess.run([clean_python, "-I", "-m", "pip", "uninstall", "--quiet", "--yes", "fgvc-hf"], check=True)
        environment = alone() | {"HF_HOME": str(folder_with_clip / "home"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([clean_python, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("fgvc_hf." if package else "transformers_modules.")
