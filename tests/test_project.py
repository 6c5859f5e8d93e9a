"""The files beside the code say the same as the code."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import yaml

import fgvc_hf
from fgvc_hf import open_video
from fgvc_hf.demo.limits import MAX_FRAMES


ROOT = Path(__file__).parents[1]
CLIPS = sorted((ROOT / "docs" / "clips").glob("*.mp4"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == fgvc_hf.__version__
    assert re.findall(r"^## ([\d.]+)$", text("CHANGELOG.md"), re.MULTILINE)[0] == fgvc_hf.__version__


def test_clips_are_small_and_their_source_is_named():
    assert [clip.stem for clip in CLIPS] == ["cockatoo", "dog", "juggle"]
    for clip in CLIPS:
        video = open_video(clip)
        assert (
            clip.stat().st_size < 700_000 and min(video.height, video.width) == 320 and video.num_frames < MAX_FRAMES
        )
        assert f"docs/clips/{clip.name}" in text("NOTICE")


def test_the_first_example_of_the_demo_is_a_clip_of_the_documentation():
    name = "cockatoo.mp4"
    assert (ROOT / "fgvc_hf/demo/examples" / name).read_bytes() == (ROOT / "docs/clips" / name).read_bytes()
    assert f"fgvc_hf/demo/examples/{name}" in text("NOTICE")


DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
}  # where the name differs from the module's
OPTIONAL = {"triton", "spaces", "h5py", "bpy"}  # used where they are there; bpy is Blender


def imported_modules(path: Path) -> set[str]:
    """Top-level packages that a file imports, at import time or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    requirements = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    declared = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in requirements}
    files = [*(ROOT / "fgvc_hf").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    siblings = {path.stem for folder in ("scripts", "tests/support") for path in (ROOT / folder).rglob("*.py")}
    for path in files:
        third_party = imported_modules(path) - set(sys.stdlib_module_names) - siblings - OPTIONAL - {"fgvc_hf"}
        names = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in third_party}
        assert names <= declared, (path, names - declared)


def test_what_the_core_imports_at_once_is_a_core_dependency():
    """`import yaml` of the model card, for instance: no extra may be needed for it."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    core = {re.match(r"[\w.-]+", one)[0].lower() for one in project["dependencies"]}
    wings = ("applications", "conversion", "encoder", "hub", "io", "kernels", "matching", "tracking")
    for path in [
        *(ROOT / "fgvc_hf").glob("*.py"),
        *(f for wing in wings for f in (ROOT / "fgvc_hf" / wing).glob("*.py")),
    ]:
        third_party = (
            imported_modules(path)
            - set(sys.stdlib_module_names)
            - OPTIONAL
            - {"fgvc_hf", "onnx", "onnxruntime", "onnxscript", "pandas", "supervision"}
        )
        assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in third_party} <= core, path


def test_lower_bounds_are_those_that_transformers_leaves_open():
    """A bound below that of a dependency's own can never hold."""
    bounds = dict(
        re.match(r"([\w-]+)>=([\d.]+)", one).groups()
        for one in tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]
    )
    assert bounds["safetensors"] == "0.8" and bounds["pyyaml"] == "6.0.1"
    assert "--resolution lowest-direct" in text(".github/workflows/ci.yml")
