"""Small models with random weights, and plain references for what is tracked with them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    Tracker,
    render_clip,
)


QUERIES = [(0, 30.0, 30.0), (0, 60.0, 40.0), (0, 80.0, 60.0)]
TYPES = [torch.float16, torch.float64, torch.bfloat16]
SMALL = {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 1], "point_matching": "templates"}


def moving_frames() -> np.ndarray:
    return render_clip(num_frames=4, height=80, width=112, num_points=3, seed=3).frames


def small_model(seed: int = 0, **fields) -> FgvcModel:
    """Random weights, and batch normalisation that does something."""
    torch.manual_seed(seed)
    model = FgvcModel(FgvcConfig(**(SMALL | fields))).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 1.5)):
                tensor.data.uniform_(low, high)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3)
    return model


def tracker_of(model: FgvcModel, **processing) -> Tracker:
    return Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none", **processing)))


def plain_features(model: FgvcModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Unit features by the modules themselves, one after the other."""
    encoder = model.encoder
    features = encoder(pixel_values) if model.head is None else model.head(encoder.stages(pixel_values))
    return F.normalize(features.permute(0, 2, 3, 1).float(), dim=-1)


def plain_tracks(model: FgvcModel, frames) -> np.ndarray:
    """Tracks of a model whose features are the plain ones."""
    model.normalized_features = lambda pixel_values, check_weights=True: plain_features(model, pixel_values)
    try:
        return tracker_of(model).track(frames, QUERIES).tracks
    finally:
        del model.normalized_features


def check_tracks(model: FgvcModel, frames, other_than: np.ndarray | None = None) -> None:
    """Tracks equal those of the plain reference, and are not those of other weights."""
    found = tracker_of(model).track(frames, QUERIES).tracks
    np.testing.assert_allclose(found, plain_tracks(model, frames), atol=0.02)
    assert other_than is None or np.abs(found - other_than).max() > 0.05


# ---- weights that others write --------------------------------------------------------------------------------------
