"""The package as a user gets it: the wheel, alone in a clean environment."""

import os
import subprocess
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from environments import build_wheel, clean_environment, environment_without_package, without_source_tree

import fgvc_hf
from fgvc_hf import Tracker, model_card
from fgvc_hf.hub.repository import write_repository


ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("FGVC_REQUIRE_NETWORK_TESTS"),
        reason="installs all dependencies; set FGVC_REQUIRE_NETWORK_TESTS=1",
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def clean_python(wheel, tmp_path_factory):
    """The interpreter of an environment with nothing but the wheel and its dependencies."""
    return clean_environment(tmp_path_factory.mktemp("clean"), wheel)


def test_the_wheel_is_small_and_complete(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = message_from_string(content.read(metadata).decode())
    assert wheel.stat().st_size < 25_000_000
    weights = {name for name in names if name.endswith(".safetensors")}
    assert weights == {f"fgvc_hf/checkpoints/{name}/model.safetensors" for name in ("fgvc-coarse", "fgvc-joint")}
    package = ROOT / "fgvc_hf"
    files = {path for path in package.rglob("*.*") if "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT).as_posix() for path in files} == {n for n in names if n.startswith("fgvc_hf/")}
    assert "fgvc_hf/py.typed" in names and {name.partition("/")[0] for name in names} == {
        "fgvc_hf",
        metadata.partition("/")[0],
    }
    assert described["Version"] == fgvc_hf.__version__
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_a_wheel_alone_in_a_clean_environment_tracks(clean_python, folder_with_clip):
    arguments = ["track", "clip.mp4", "--grid", "2", "--overlay", "overlay.mp4", "--output", "tracks.csv"]
    command = [clean_python.parent / "fgvc-hf", *arguments]
    subprocess.run(command, check=True, timeout=300, env=without_source_tree())
    assert Path("overlay.mp4").stat().st_size and len(Path("tracks.csv").read_text().splitlines()) == 1 + 4 * 5


LOAD = """
import numpy as np
from transformers import AutoModel, AutoProcessor, pipeline

model, processor = (kind.from_pretrained("tracker", **trust) for kind in (AutoModel, AutoProcessor))
session = processor.init_video_session("clip.mp4")
processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=[0], input_points=[(20, 30)])
tracks = processor.post_process_point_tracking(list(model.propagate_in_video_iterator(session)), session).tracks
found = pipeline("point-tracking", model="tracker", **trust)("clip.mp4", points=[(0, 20, 30)])["tracks"]
np.testing.assert_array_equal(found, tracks)
ids = np.pad(np.ones((20, 20), int), 22)
masks = pipeline("mask-propagation", model="tracker", **trust)("clip.mp4", masks=ids)["masks"]
assert tracks.shape == (1, 5, 2) and masks.shape == (5, 64, 64) and (masks[0] == ids).all()
print(type(model).__module__)
"""


def test_a_repository_needs_core_dependencies_only(clean_python, folder_with_clip):
    """With the package, and without it."""
    card = model_card("tracker", "apache-2.0", "See fgvc-joint.")
    write_repository(Tracker.from_pretrained(dtype="float32"), "tracker", "user/tracker", card, with_code=True)
    (packages,) = clean_python.parents[1].glob("lib/python*/site-packages")
    python = environment_without_package(folder_with_clip / "environment", packages)
    environment = without_source_tree() | {"HF_HOME": str(folder_with_clip / "home"), "HF_HUB_OFFLINE": "1"}
    for interpreter, setting, home in (
        (clean_python, "from fgvc_hf import FgvcModel\ntrust = {}", "fgvc_hf."),
        (python, "trust = {'trust_remote_code': True}", "transformers_modules."),
    ):
        command = [interpreter, "-I", "-c", setting + LOAD]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(home)
