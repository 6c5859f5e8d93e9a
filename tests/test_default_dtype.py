"""What the package computes does not depend on torch's default type and device, which other code in the process may have set."""

import contextlib

import numpy as np
import other_defaults
import pytest
import torch
from transformers import AutoModel

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, chain_flow, paint


MATCHING = {
    "labels": {},
    "templates": {"point_matching": "templates"},
    "boxes by coordinates": {"box_matching": "coordinates"},
    "masks by boxes": {"propagation_family": "per_reference", "propagation_window": "none", "object_boxes": True},
}


@contextlib.contextmanager
def default(dtype, device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def everything(model, processor, clip) -> dict[str, np.ndarray]:
    """Points, a mask, boxes, flow, a heat map, and a training step's losses, as arrays by name."""
    tracker = Tracker(model, processor)
    session = processor.init_video_session(clip[:4])
    mask = np.zeros(clip.shape[1:3], bool)
    mask[8:20, 12:30] = True
    processor.add_inputs_to_inference_session(session, 0, [1, 2], input_points=[(12.5, 14.5), (30, 20)])
    processor.add_inputs_to_inference_session(session, 0, [3], input_masks=mask[None])
    processor.add_inputs_to_inference_session(session, 0, [4], input_boxes=[(10, 6, 28, 22)])
    found = {
        f"{output.frame_idx} {name}": output[name]
        for output in model.propagate_in_video_iterator(session)
        for name in output
    }
    flow = tracker.flow(clip[0], clip[1])
    found |= {name: flow[name] for name in flow}
    texture = np.zeros((*clip.shape[1:3], 4), np.uint8)
    texture[8:20, 12:30] = 200
    found |= {f"painted {t}": frame for t, frame in paint(tracker, clip[:2], texture)}
    found |= {f"chained {t}": output.flow for t, output in chain_flow(tracker, clip[:2])}
    images = torch.from_numpy(clip[:2].copy()).movedim(-1, 1).to(torch.float32) / 255
    with torch.no_grad():
        maps = model.match(images[:1], images[1:])
    found["map"] = (maps if isinstance(maps, torch.Tensor) else maps[0]).numpy()
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("settings", MATCHING.values(), ids=MATCHING)
def test_results_are_the_same_to_the_last_bit(tiny_model, processor, noise_clip, settings, kernels, monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", kernels)
    model = FgvcModel(FgvcConfig.from_dict(tiny_model.config.to_dict() | settings)).eval()
    model.load_state_dict(tiny_model.state_dict())
    expected = everything(model, processor, noise_clip)
    for dtype, device in ((torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")):
        with default(dtype, device):  # tensors on the meta device have no values
            found = everything(model, processor, noise_clip)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("blocks", [{}, {"bottleneck": True, "depths": (1, 1, 1)}], ids=["basic", "bottleneck"])
@pytest.mark.parametrize(("dtype", "norms"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_a_model_made_under_another_default_type_has_it(dtype, norms, blocks):
    """As models of transformers do; statistics and weights of batch norms are float32 at least."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = AutoModel.from_config(FgvcConfig(**blocks))  # of the package as far as `FGVC_TEST_DTYPE` is concerned
    finally:
        torch.set_default_dtype(before)
    layers = {type(layer): set() for layer in model.modules()}
    for layer in model.modules():
        layers[type(layer)] |= {of.dtype for of in (*layer.parameters(recurse=False), *layer.buffers(recurse=False))}
    assert layers[torch.nn.Conv2d] == {dtype} and layers[torch.nn.BatchNorm2d] == {norms, torch.int64}
    assert model(torch.rand(1, 3, 32, 32, dtype=dtype))[0].dtype == dtype


def test_each_test_begins_with_the_threads_of_the_first():
    """A library may have changed them for the thread that tests run in."""
    torch.set_num_threads(other_defaults.THREADS + 1)
    run = other_defaults.pytest_runtest_protocol()
    next(run)
    assert torch.get_num_threads() == other_defaults.THREADS
    run.close()
