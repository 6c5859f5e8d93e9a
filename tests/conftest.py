import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, default_checkpoint


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
