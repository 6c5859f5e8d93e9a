import os


if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # before torch is loaded; processes that tests start inherit it
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that wait leave the cores to the other processes

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    VideoWriter,
    default_checkpoint,
    render_clip,
)
from fgvc_hf.io.masks import write_mask
from fgvc_hf.tracking.template_tracker import TemplateTracker


pytest_plugins = ["missing_libraries", "other_defaults"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, those on real clips before all: a process takes whole files, and none is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "real"))


@pytest.fixture
def features_alone(monkeypatch):
    """Points stay where features match and are not moved by the image, for tests that compare features by their tracks."""
    monkeypatch.setattr(TemplateTracker, "constants", replace(TemplateTracker.constants, image_similarity=2.0))


@pytest.fixture(scope="session")
def tiny_model() -> FgvcModel:
    """Random weights and few channels, for what does not depend on accuracy."""
    torch.manual_seed(0)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=5, num_context_frames=3)).eval()


@pytest.fixture(scope="session")
def bundled_model() -> FgvcModel:
    return FgvcModel.from_pretrained(default_checkpoint())


@pytest.fixture(scope="session")
def processor() -> FgvcProcessor:
    """Works at the size of the video."""
    return FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))


@pytest.fixture(scope="session")
def noise_clip() -> np.ndarray:
    """10 frames (10, 40, 56, 3) of smooth noise that drifts."""
    coarse = np.random.default_rng(0).random((14, 18, 3))
    fine = np.kron(coarse, np.ones((4, 4, 1)))
    return np.stack([(255 * fine[t : t + 40, t : t + 56]).astype(np.uint8) for t in range(10)])


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of three short clips, `0.mp4`, `1.mp4` and `2.mp4`."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        clip = render_clip(num_frames=8, height=64, width=96, num_points=1, seed=seed)
        with VideoWriter(folder / f"{seed}.mp4", 12, 64, 96) as writer:
            for frame in clip.frames:
                writer.write(frame)
    return folder


@pytest.fixture
def folder_with_clip(tmp_path, monkeypatch):
    """The working folder of a user: `clip.mp4`, 5 small frames, two of them as images, a mask, a texture and a file of points."""
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
    (tmp_path / "points.csv").write_text("t,x,y\n0,20,30\n2,40,10.5\n")
    return tmp_path


@pytest.fixture(scope="session")
def evaluate_cache(tmp_path_factory):
    """A folder of its own for the modules of `evaluate`; one for all tests, because Python remembers where it found the first module."""
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder))
        yield folder
