"""Every field of the configuration changes what comes out, and a field of weights changes the weights."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.configuration_fgvc import FIELDS


SMALL = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "propagation_radius": 5, "num_context_frames": 3}
HEAD = {"fine_size": 16, "num_attention_layers": 1, "num_attention_heads": 2, "attention_window": 2}
WEIGHTS = [10.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, -20.0]
TEMPLATES = {"point_matching": "templates", "visibility_weights": WEIGHTS}

# Field -> what else is set, and another value of it
WEIGHT_FIELDS = {
    "num_channels": ({}, 1),
    "hidden_sizes": ({}, [8, 12, 20]),
    "depths": ({}, [1, 2, 1]),
    "bottleneck": ({}, True),
    "projection_size": ({}, 5),
    "projection_kernel": ({"projection_size": 5}, 3),
    "fine_size": ({}, 16),
    "num_attention_layers": (HEAD, 2),
    "upsampling": (HEAD, "bilinear"),
    "encoder": ({}, "external"),
}
FEATURE_FIELDS = {  # with the same weights
    "stem_pooling": ({"output_stride": 4, "stem_pooling": "avg"}, "max"),
    "projection_relu": ({"projection_size": 5}, True),
    "output_stride": ({}, 4),
    "num_attention_heads": (HEAD, 4),
    "attention_window": (HEAD, 3),
    "padding_mode": ({}, "reflect"),
    "batch_norm_eps": ({}, 1.0),
}
MATCH_FIELDS = {"window_radius": ({}, 2), "temperature": ({}, 0.7), "similarity": ({}, "dot")}
LABEL_FIELDS = {
    "cell_origin": ({}, 0.0),
    "temperature": ({}, 0.7),
    "similarity": ({}, "dot"),
    "propagation_family": ({}, "per_reference"),
    "propagation_radius": ({}, 2),
    "propagation_window": ({}, "square"),
    "propagation_topk": ({}, 2),
    "num_context_frames": ({}, 1),
    "context_step": ({}, 2),
    "kept_frame": ({"num_context_frames": 1}, 2),
    "repeat_first": ({}, True),
    "first_windowed": ({}, False),
    "refine_radius": (HEAD, 0),
    "object_boxes": ({"propagation_family": "per_reference"}, True),
    "label_sigma": ({}, 3.0),
    "readout": ({}, "legacy"),
    "point_matching": ({}, "templates"),
    "visibility_threshold": ({}, 0.999),
}
TEMPLATE_FIELDS = {
    "cell_origin": ({}, 0.0),
    "template_radius": ({}, 1),
    "template_trust": ({}, 2.0),
    "search_radius": ({"motion_prior": 0.0}, 1.0),
    "motion_prior": ({}, 2000.0),
    "recall_similarity": ({}, 2.0),
    "visibility_weights": ({}, [0.0] * 9 + [1.0]),
    "error_weights": ({}, [0.0] * 9 + [1.0]),
    "hidden_threshold": ({"visibility_weights": [0.0] * 10}, 0.6),
    "visibility_threshold": ({"visibility_weights": [0.0] * 10}, 0.6),
    "box_matching": ({}, "coordinates"),
}


def test_every_field_is_looked_at():
    assert set(WEIGHT_FIELDS | FEATURE_FIELDS | MATCH_FIELDS | LABEL_FIELDS | TEMPLATE_FIELDS) == set(FIELDS)


def model_of(settings: dict) -> FgvcModel:
    """A model with weights that depend on their names and shapes alone."""
    config = FgvcConfig(**SMALL | settings)
    external = {"encoder": torch.nn.Conv2d(3, 16, 1, stride=2)} if config.encoder == "external" else {}
    model = FgvcModel(config, **external).eval()
    generator = torch.Generator()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            generator.manual_seed(len(name))
            spread = torch.rand(value.shape, generator=generator)
            value.copy_(spread + 0.5 if "running_var" in name or value.ndim < 2 else (spread - 0.5))
    return model


@cache
def clip() -> np.ndarray:
    """7 frames (7, 32, 40, 3): smooth noise that drifts by (3, 1) pixels a frame, and in the end other noise over a part of it."""
    generator = np.random.default_rng(0)
    fine = np.kron(generator.random((10, 15, 3)), np.ones((4, 4, 1)))
    frames = np.stack([(255 * fine[t : t + 32, 3 * t : 3 * t + 40]).astype(np.uint8) for t in range(7)])
    frames[5:, 8:24, 4:20] = generator.integers(0, 256, (2, 16, 16, 3))
    return frames


@pytest.mark.parametrize("name", WEIGHT_FIELDS)
def test_a_field_of_the_weights_changes_them(name):
    settings, value = WEIGHT_FIELDS[name]
    before, after = (model_of(settings | change).state_dict() for change in ({}, {name: value}))
    assert {key: of.shape for key, of in before.items()} != {key: of.shape for key, of in after.items()}


@pytest.mark.parametrize("name", FEATURE_FIELDS)
def test_a_field_of_the_encoder_changes_features_of_the_same_weights(name):
    settings, value = FEATURE_FIELDS[name]
    before, after = (model_of(settings | change) for change in ({}, {name: value}))
    after.load_state_dict(before.state_dict())
    images = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (model(images).features for model in (before, after))
    assert before.shape != after.shape or (before - after).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.parametrize("name", MATCH_FIELDS)
def test_a_field_of_matching_changes_the_map(name):
    settings, value = MATCH_FIELDS[name]
    before, after = (model_of(settings | change) for change in ({}, {name: value}))
    images = torch.rand(2, 1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (model.match(*images) for model in (before, after))
    before, after = (of if isinstance(of, torch.Tensor) else of[0] for of in (before, after))
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-4)


@cache
def followed(settings: str) -> list[np.ndarray]:
    """All that a session gives, with settings in JSON: points, masks and a box of all frames."""
    processor = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))
    tracker = Tracker(model_of(json.loads(settings)), processor)
    session = processor.init_video_session(clip())
    mask = np.zeros((32, 40), bool)
    mask[8:20, 12:30] = True
    processor.add_inputs_to_inference_session(session, 0, [1, 2], input_points=[(12.5, 14.5), (30, 20)])
    processor.add_inputs_to_inference_session(session, 0, [3], input_masks=mask[None])
    processor.add_inputs_to_inference_session(session, 0, [4], input_boxes=[(10, 6, 28, 22)])
    outputs = list(tracker.model.propagate_in_video_iterator(session))
    names = "points", "visible", "confidence", "uncertainty", "masks", "boxes", "box_confidence"
    return [np.stack([getattr(output, name) for output in outputs]) for name in names]


@pytest.mark.parametrize(
    ("name", "settings", "value"),
    [(name, settings, value) for name, (settings, value) in LABEL_FIELDS.items()]
    + [(name, TEMPLATES | settings, value) for name, (settings, value) in TEMPLATE_FIELDS.items()],
)
def test_a_field_of_tracking_changes_what_is_followed(name, settings, value):
    before, after = (followed(json.dumps(SMALL | settings | change)) for change in ({}, {name: value}))
    assert any(not np.array_equal(one, other, equal_nan=True) for one, other in zip(before, after, strict=True))
