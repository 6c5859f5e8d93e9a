"""Exported graphs give what the package gives, at sizes that they were not made at."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.conversion.graphs import EncoderGraph, PropagationGraph, export_onnx, export_program
from fgvc_hf.matching.windows import window_topk
from fgvc_hf.tracking.label_maps import propagate_labels


def propagated(query, keys, labels, config):
    """What the package gives."""
    window = config.propagation_radius, config.propagation_window, config.propagation_topk
    best = window_topk(query, list(keys), *window)
    everywhere = torch.ones(query[..., 0].numel(), dtype=torch.bool)
    return propagate_labels(*best, labels.flatten(1, 2), config.temperature, everywhere).view_as(labels[0])


def step_inputs(frames, h, w, labels, channels=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(frames + 1, h, w, channels, generator=generator), dim=-1)
    return features[0], features[1:], torch.rand(frames, h, w, labels, generator=generator)


def model_of(**fields) -> FgvcModel:
    torch.manual_seed(0)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], depths=[1, 1, 1], **fields)).eval()


@pytest.mark.parametrize(
    "fields", [{"propagation_radius": 4}, {"propagation_radius": 3, "propagation_window": "square"}]
)
@pytest.mark.parametrize("shape", [(1, 5, 7, 1), (3, 17, 21, 2)])
def test_the_graph_of_propagation_equals_the_package(fields, shape):
    model, inputs = model_of(**fields), step_inputs(*shape)
    torch.testing.assert_close(
        PropagationGraph(model)(*inputs), propagated(*inputs, model.config), atol=1e-5, rtol=1e-4
    )


@pytest.mark.slow
def test_programs_take_any_size():
    model = model_of(propagation_radius=3)
    with torch.no_grad():
        pixel_values = torch.randn(1, 3, 40, 72)
        found = export_program(EncoderGraph(model)).module()(pixel_values)
        torch.testing.assert_close(found, model.normalized_features(pixel_values)[0], atol=1e-5, rtol=1e-4)
        inputs = step_inputs(4, 11, 19, 3)
        found = export_program(PropagationGraph(model)).module()(*inputs)
        torch.testing.assert_close(found, propagated(*inputs, model.config), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 8])
def test_onnx_gives_the_same(stride, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = model_of(propagation_radius=3, output_stride=stride)

    def run(path, *inputs):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]

    encoder = export_onnx(EncoderGraph(model), tmp_path / "encoder.onnx")
    propagation = export_onnx(PropagationGraph(model), tmp_path / "propagation.onnx")
    for height, width in ((64, 96), (40, 56)):
        pixel_values = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = model.normalized_features(pixel_values)[0].numpy()
        np.testing.assert_allclose(run(encoder, pixel_values), expected, atol=1e-4)
    for shape in ((1, 8, 9, 1), (4, 20, 15, 3)):
        inputs = step_inputs(*shape)
        expected = propagated(*inputs, model.config).numpy()
        np.testing.assert_allclose(run(propagation, *inputs), expected, atol=1e-4)


def test_other_ways_to_propagate_are_refused():
    with pytest.raises(ValueError, match="propagation_family is 'joint'"):
        PropagationGraph(model_of(propagation_family="windowed"))
