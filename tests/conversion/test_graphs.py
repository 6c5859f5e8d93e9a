"""Exported graphs give what the package gives, at sizes that they were not made at."""

import copy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fgvc_hf import FgvcConfig, FgvcModel, bundled_checkpoints, model_from_backbone
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


def exported(model, folder):
    """The encoder of a model as functions of pixel values: by torch.export, and by onnxruntime where it is installed."""
    program = export_program(EncoderGraph(model)).module()
    yield lambda pixel_values: program(pixel_values).detach().numpy()
    if all(find_spec(name) for name in ("onnxruntime", "onnxscript")):
        import onnxruntime

        path = export_onnx(EncoderGraph(model), folder / "encoder.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        yield lambda pixel_values: session.run(None, {"pixel_values": pixel_values.numpy()})[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*bundled_checkpoints(), "bilinear", "no attention", "dot"])
def test_every_encoder_is_exported_whole(name, dtype, tmp_path):
    """With its head, in float32 whatever type the model is in, at sizes that are no multiples of anything."""
    if name in bundled_checkpoints():
        model = FgvcModel.from_pretrained(bundled_checkpoints()[name])
    else:
        heads = {"bilinear": {"upsampling": "bilinear"}, "no attention": {}}
        model = model_of(**({"fine_size": 8} | heads[name] if name in heads else {"similarity": "dot"}))
    model = model.to(dtype)
    reference, frames = copy.deepcopy(model).float(), [(64, 96), (72, 65), (131, 70), (128, 192)]
    for run in exported(model, tmp_path):
        for height, width in frames:
            pixel_values = torch.randn(1, 3, height, width)
            with torch.no_grad():
                expected = reference.normalized_features(pixel_values)[0].numpy()
            np.testing.assert_allclose(run(pixel_values), expected, atol=1e-4, rtol=1e-3)
    assert next(model.parameters()).dtype == dtype


@pytest.mark.slow
def test_heads_with_attention_are_exported_or_refused(tmp_path):
    check_or_refused(
        model_of(fine_size=8, num_attention_layers=2, attention_window=4, num_attention_heads=2), tmp_path
    )


@pytest.mark.slow
def test_networks_of_others_are_exported_or_refused(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    check_or_refused(model_from_backbone(network, stride=2, patches=False), tmp_path)


def check_or_refused(model, tmp_path):
    try:
        runs = list(exported(model, tmp_path))
    except ValueError as error:
        assert "cannot be exported for frames of any size" in str(error) and "\n" not in str(error)
        return
    for run in runs:
        pixel_values = torch.randn(1, 3, 63, 97)
        with torch.no_grad():
            expected = model.normalized_features(pixel_values)[0].numpy()
        np.testing.assert_allclose(run(pixel_values), expected, atol=1e-4)


def test_other_ways_to_propagate_are_refused():
    with pytest.raises(ValueError, match="propagation_family is 'joint'"):
        PropagationGraph(model_of(propagation_family="windowed"))
