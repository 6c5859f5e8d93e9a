"""Which frames labels come from: every setting of the memory against a loop that lists its frames and cells and sorts them all."""

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel, load_session, save_session
from fgvc_hf.conversion.official import SOURCES
from fgvc_hf.propagation_fgvc import LABEL_CUTOFF


PROMPT = 1  # frame
MEMORIES = [
    {},
    {"context_step": 2},
    {"kept_frame": 2},
    {"num_context_frames": 3, "context_step": 2, "kept_frame": 5},
    {"repeat_first": True},
    {"first_windowed": False},
    {"first_windowed": False, "repeat_first": True, "num_context_frames": 4},
    {"propagation_family": "per_reference", "repeat_first": True, "num_context_frames": 4},
    {"propagation_family": "windowed", "context_step": 2, "kept_frame": 3, "first_windowed": False},
]


def offsets(t, config):
    """Frames after the prompt, 0 is its own, that the frame `t` takes labels from; one may be there several times."""
    recent = [t - 1 - i * config.context_step for i in range(config.num_context_frames)]
    recent = [frame for frame in recent if frame > 0]
    missing = config.num_context_frames - len(recent)
    kept = [config.kept_frame] if 0 < config.kept_frame < t and config.kept_frame not in recent else []
    return [0] * (1 + missing * config.repeat_first) + kept + recent


def new_labels(features, labels, t, config):
    """Label maps (cells, targets) of frame `t` from those of the frames before."""
    h, w, _ = features[0].shape
    cell = torch.arange(h * w)
    dy, dx = cell // w - (cell // w)[:, None], cell % w - (cell % w)[:, None]
    window = dy**2 + dx**2 < config.propagation_radius**2
    scores, frames = [], offsets(t, config)
    for frame in frames:
        inside = torch.ones_like(window) if frame == 0 and not config.first_windowed else window
        products = features[t].flatten(0, 1) @ features[frame].flatten(0, 1).T
        scores.append((products / config.temperature).masked_fill(~inside, -torch.inf))
    if config.propagation_family == "per_reference":
        weights = [torch.softmax(s, dim=1) for s in scores]
        weights = [w * (w >= w.topk(config.propagation_topk).values[:, -1:]) / len(frames) for w in weights]
        weights = torch.cat(weights, dim=1)
    else:
        together = torch.cat(scores, dim=1)
        if config.propagation_family == "joint":
            best = together.topk(config.propagation_topk)
            together = torch.full_like(together, -torch.inf).scatter(1, best.indices, best.values)
        weights = torch.softmax(together, dim=1)
    new = weights @ torch.cat([labels[frame] for frame in frames])
    return new.masked_fill(new < LABEL_CUTOFF, 0)


@pytest.mark.parametrize("settings", MEMORIES)
def test_labels_come_from_the_frames_that_are_meant(settings, processor):
    torch.manual_seed(0)
    settings = {"propagation_radius": 4, "num_context_frames": 2, "propagation_topk": 7, **settings}
    model = FgvcModel(FgvcConfig(hidden_sizes=[16, 32, 64], **settings)).eval()
    clip = np.random.default_rng(0).integers(0, 256, (10, 40, 56, 3), np.uint8)
    mask = np.zeros((40, 56), bool)
    mask[10:30, 20:40] = True
    session = processor.init_video_session(clip)
    processor.add_inputs_to_inference_session(session, PROMPT, [4], input_masks=mask[None])
    outputs = list(model.propagate_in_video_iterator(session))
    with torch.inference_mode():
        images = processor.image_processor(list(clip[PROMPT:]), return_tensors="pt").pixel_values
        features = [model.normalized_features(image[None])[0] for image in images]
    labels = [outputs[0].mask_maps.flatten(1).T]
    for t in range(1, len(features)):
        labels.append(new_labels(features, labels, t, model.config))
        torch.testing.assert_close(outputs[t].mask_maps.flatten(1).T, labels[t], atol=2e-4, rtol=1e-3)


def test_memories_of_the_compared_methods():
    """The frames of comparison tables: MAST's 0, 5, t-1, t-3, t-5; CRW's and TimeCycle's full from the start."""
    configs = {name: FgvcConfig(**source.config) for name, source in SOURCES.items()}
    assert sorted(offsets(20, configs["mast"])) == [0, 5, 15, 17, 19]
    assert sorted(offsets(6, configs["mast"])) == [0, 1, 3, 5] and offsets(1, configs["mast"]) == [0]
    assert len(offsets(1, configs["crw"])) == 21 and len(offsets(1, configs["time-cycle"])) == 8
    assert offsets(3, configs["crw"]).count(0) == 19
    assert {name for name, config in configs.items() if not config.first_windowed} == {"crw", "dul"}
    assert offsets(1, configs["vfs-resnet18"]) == [0] and len(offsets(90, configs["vfs-resnet18"])) == 21


def test_the_kept_frame_is_saved_with_the_session(processor, noise_clip, tmp_path):
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], num_context_frames=1, kept_frame=2)).eval()
    mask = np.zeros((40, 56), bool)
    mask[10:30, 20:40] = True
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [4], input_masks=mask[None])
    for frame in noise_clip[:6]:
        model.step(session, frame)
    save_session(session, model, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", model)
    for frame in noise_clip[6:]:
        assert torch.equal(model.step(restored, frame).mask_maps, model.step(session, frame).mask_maps)
