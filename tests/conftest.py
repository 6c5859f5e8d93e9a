import numpy as np
import pytest
import torch

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    VideoWriter,
    default_checkpoint,
    render_clip,
)


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
