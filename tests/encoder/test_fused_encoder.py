"""The encoder with fused Conv-BN equals the encoder, and never lags behind its weights."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.encoder.fused_encoder import FusedConvolution, FusedEncoder
from fgvc_hf.io.checkpoints import fast_dtype


SMALL = {"hidden_sizes": [8, 16, 32], "depths": [1, 2, 1]}
ARCHITECTURES = [
    SMALL,
    SMALL | {"output_stride": 8},
    SMALL | {"padding_mode": "reflect"},
    SMALL | {"bottleneck": True, "stem_pooling": "max", "output_stride": 8},
    SMALL | {"hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1], "projection_size": 12, "projection_relu": True},
]


def model_with_statistics(**fields) -> FgvcModel:
    """Batch normalisation that does something: statistics, weights and biases away from 0 and 1."""
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(**fields)).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "bn" in name or "downsample.1" in name:
            if name.endswith(("weight", "running_var")):
                tensor.data.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.data.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("fields", ARCHITECTURES)
@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_fusing_changes_nothing_but_the_last_digits(fields, kernels, monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", kernels)
    monkeypatch.setattr("fgvc_hf.encoder.fused_encoder.LEAST_CHANNELS", 16)
    model, pixel_values = model_with_statistics(**fields), torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        expected, found = model.encoder(pixel_values), FusedEncoder(model.encoder)(pixel_values)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_coarse_to_fine_model_is_fused_as_well():
    model, pixel_values = model_with_statistics(**SMALL, fine_size=8), torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        expected = F.normalize(model(pixel_values).features, dim=1).permute(0, 2, 3, 1)
        found = model.normalized_features(pixel_values)
    assert model._fused is not None
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(fast_dtype(torch.device("cpu")) == torch.float32, reason="this processor has no bfloat16 products")
def test_bfloat16_with_trained_weights(bundled_model):
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = bundled_model.encoder(pixel_values)
        found = FusedEncoder(copy.deepcopy(bundled_model.encoder).to(torch.bfloat16))(pixel_values).float()
    similarity = F.cosine_similarity(found, expected, dim=1)
    assert similarity.mean() > 0.999 and similarity.min() > 0.99


def test_it_is_used_for_inference_alone():
    model, pixel_values = model_with_statistics(**SMALL), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model.normalized_features(pixel_values)
        assert model._fused is not None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.normalized_features(pixel_values)
            assert model._fused is None
    model.normalized_features(pixel_values).sum().backward()
    assert model._fused is None and model.encoder.conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.train().normalized_features(pixel_values)
        assert model._fused is None
        calls, hook = [], model.eval().encoder.layer1.register_forward_hook(lambda *_: calls.append(1))
        model.normalized_features(pixel_values)
        assert calls == [1] and model._fused is None
        hook.remove()
        model.normalized_features(pixel_values)
        assert calls == [1] and model._fused is not None


def test_it_follows_every_change_of_the_weights(tmp_path):
    model, pixel_values = model_with_statistics(**SMALL), torch.randn(1, 3, 32, 32)

    def check():
        with torch.no_grad():
            expected = F.normalize(model.encoder(pixel_values).permute(0, 2, 3, 1).float(), dim=-1)
            torch.testing.assert_close(model.normalized_features(pixel_values), expected, atol=1e-4, rtol=1e-3)
            return model._fused

    first = check()
    assert check() is first
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.normalized_features(pixel_values).square().sum().backward()
    optimizer.step()
    trained = check()
    assert trained is not first
    model.load_state_dict(
        {name: tensor * 0.9 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}, strict=False
    )
    assert check() is not trained
    model.encoder.bn1.running_mean.add_(0.5)
    check()
    assert not any("fused" in name for name in model.state_dict())
    again = copy.deepcopy(model)
    assert again._fused is None
    model.save_pretrained(tmp_path)
    model = FgvcModel.from_pretrained(tmp_path)
    check()


def test_a_fused_convolution_leaves_its_inputs_alone():
    model = model_with_statistics(**SMALL)
    convolution = FusedConvolution(model.encoder.layer1[0].conv1, model.encoder.layer1[0].bn1)
    inputs, residual = torch.randn(2, 1, 8, 9, 9)
    before = inputs.clone(), residual.clone()
    with torch.no_grad():
        assert convolution(inputs, residual).min() >= 0
        assert convolution(inputs, residual, relu=False).min() < 0
    assert torch.equal(inputs, before[0]) and torch.equal(residual, before[1])


def equals_its_modules(model, pixel_values) -> bool:
    """Whether inference gives what the modules give, called one by one."""
    with torch.no_grad():
        features = (
            model.encoder(pixel_values) if model.head is None else model.head(model.encoder.stages(pixel_values))
        )
        expected = F.normalize(features.permute(0, 2, 3, 1).float(), dim=-1)
        found = model.normalized_features(pixel_values)
    assert expected.isfinite().all() and expected.std() > 0
    return torch.allclose(found.float(), expected, atol=1e-4, rtol=1e-3)


def through_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.5).add_(0.01)


def through_numpy(model):
    model.encoder.layer2[0].conv1.weight.detach().numpy()[:] *= -1


def through_a_buffer(model):
    model.encoder.bn1.running_var.data.mul_(9)


def through_the_storage(model):
    model.encoder.conv1.weight.untyped_storage().copy_(torch.randn_like(model.encoder.conv1.weight).untyped_storage())


WRITES = [through_data, through_numpy, through_a_buffer, through_the_storage]


@pytest.mark.parametrize("fields", [SMALL, SMALL | {"fine_size": 8}], ids=["fine", "coarse-to-fine"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_weights_that_torch_does_not_see_change_are_used(write, fields):
    model, pixel_values = model_with_statistics(**fields), torch.randn(1, 3, 32, 48)
    assert equals_its_modules(model, pixel_values)
    before = model._fused
    write(model)
    assert equals_its_modules(model, pixel_values) and model._fused is not before


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_session_starts_with_the_weights_that_are_there(write):
    frames = torch.randint(0, 255, (3, 64, 96, 3), dtype=torch.uint8).numpy()
    model = model_with_statistics(**SMALL, point_matching="templates")
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    tracker.track(frames, [(0, 20, 20)])
    write(model)
    with torch.no_grad():
        expected = Tracker(copy.deepcopy(model), tracker.processor).track(frames, [(0, 20, 20), (0, 50, 30)])
    found = tracker.track(frames, [(0, 20, 20), (0, 50, 30)])
    torch.testing.assert_close(torch.tensor(found.confidence), torch.tensor(expected.confidence))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_models_that_share_an_encoder(copied):
    pixel_values = torch.randn(1, 3, 32, 48)
    first = model_with_statistics(**SMALL)
    assert equals_its_modules(first, pixel_values)
    second = copied(first)
    second.encoder.bn1.bias.data.add_(1)
    assert equals_its_modules(second, pixel_values) and equals_its_modules(first, pixel_values)
    third = model_with_statistics(**SMALL)
    third.encoder = first.encoder
    assert equals_its_modules(third, pixel_values)
    first.encoder.conv1.weight.data.neg_()
    assert equals_its_modules(third, pixel_values) and equals_its_modules(first, pixel_values)


def test_weights_lent_for_one_call():
    """torch.func.functional_call exchanges the weights for the time of a call."""
    model, pixel_values = model_with_statistics(**SMALL), torch.randn(1, 3, 32, 48)
    assert equals_its_modules(model, pixel_values)
    weights = {f"model.{name}": 2 * t - 0.1 for name, t in model.state_dict().items() if t.is_floating_point()}

    class Normalized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            assert equals_its_modules(self.model, pixel_values)
            return self.model.normalized_features(pixel_values)

    with torch.no_grad():
        own = model.normalized_features(pixel_values)
        lent = torch.func.functional_call(Normalized(), weights, (pixel_values,))
        assert torch.equal(model.normalized_features(pixel_values), own) and (lent - own).abs().max() > 0.01


def test_two_threads_share_a_model():
    model, frames = model_with_statistics(**SMALL, point_matching="templates"), torch.randint(0, 255, (4, 64, 96, 3))
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    frames, found = frames.to(torch.uint8).numpy(), {}
    expected = tracker.track(frames, [(0, 20, 20)]).tracks

    def work(number):
        found[number] = [tracker.track(frames, [(0, 20, 20)]).tracks for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for each in found.values():
        for tracks in each:
            np.testing.assert_array_equal(tracks, expected)
