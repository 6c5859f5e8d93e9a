"""Models that other libraries, loops and settings have had in their hands track as a plain reference does."""

import copy
import gc
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_models import (
    QUERIES,
    TYPES,
    check_tracks,
    moving_frames,
    small_model,
    tracker_of,
)
from torch import nn
from transformers import Dinov2Config, ResNetConfig
from transformers.models.dinov2 import Dinov2Backbone
from transformers.models.resnet import ResNetBackbone, ResNetModel

from fgvc_hf import (
    FgvcModel,
    model_from_backbone,
    save_session,
)


pytestmark = pytest.mark.usefixtures("features_alone")


@pytest.fixture(scope="module")
def frames():
    return moving_frames()


def by_averaged_model(model):
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(small_model(1))
    average.update_parameters(small_model(2))
    for own, other in zip(model.parameters(), average.module.parameters(), strict=True):
        own.data.copy_(other.data)


def by_ema_of_diffusers(model):
    training_utils = pytest.importorskip("diffusers.training_utils", reason="diffusers is not installed")
    ema = training_utils.EMAModel(small_model(1).parameters())
    ema.copy_to(model.parameters())


def by_swapped_data(model):
    for own, other in zip(model.parameters(), small_model(1).parameters(), strict=True):
        own.data = other.data


def by_numpy(model):
    other = small_model(1).state_dict()
    for name, tensor in model.state_dict().items():
        tensor.numpy()[...] = other[name].numpy()


@pytest.mark.parametrize(
    "write", [by_averaged_model, by_ema_of_diffusers, by_swapped_data, by_numpy], ids=lambda write: write.__name__
)
def test_weights_written_by_others_are_used(write, frames):
    model = small_model()
    before = tracker_of(model).track(frames, QUERIES).tracks
    write(model)
    check_tracks(model, frames, other_than=before)


@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config"])
def test_peft(kind, frames):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = small_model()
    before = tracker_of(model).track(frames, QUERIES).tracks
    targets = {"target_modules": ["conv1", "conv2"]} | ({"feedforward_modules": []} if kind == "IA3Config" else {})
    adapted = peft.get_peft_model(model, getattr(peft, kind)(**targets)).eval()
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "ia3" in name:
            parameter.data.normal_(0, 1)
    check_tracks(model, frames, other_than=before)
    merged = copy.deepcopy(adapted).merge_and_unload()
    found = tracker_of(model).track(frames, QUERIES).tracks
    np.testing.assert_allclose(tracker_of(merged).track(frames, QUERIES).tracks, found, atol=0.02)


@pytest.mark.slow
def test_a_run_of_the_trainer(frames, tmp_path):
    from transformers import Trainer, TrainingArguments

    class Step(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return model(inputs["pixel_values"]).features.square().mean()

    model = small_model()
    before = tracker_of(model).track(frames, QUERIES).tracks
    data = [{"pixel_values": torch.randn(3, 32, 32)} for _ in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = Step(model=model, args=arguments, train_dataset=data)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = FgvcModel.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    check_tracks(loaded, frames, other_than=before)
    model.eval()
    np.testing.assert_array_equal(
        tracker_of(loaded).track(frames, QUERIES).tracks, tracker_of(model).track(frames, QUERIES).tracks
    )


# ---- where weights are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["cpu_offload", "disk_offload"])
@pytest.mark.parametrize("fields", [{}, {"fine_size": 8}], ids=["fine", "coarse-to-fine"])
def test_offloaded_weights(offload, fields, frames, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = small_model(**fields)
    tracker = tracker_of(model)
    by_modules = copy.deepcopy(model)
    by_modules.encoder.register_forward_hook(lambda *_: None)  # which keeps the fused encoder from running
    flow = tracker_of(by_modules).flow(frames[0], frames[1]).flow
    expected = tracker.track(frames, QUERIES).tracks
    place = {"execution_device": torch.device("cpu")}
    getattr(accelerate, offload)(model, *([tmp_path] if offload == "disk_offload" else []), **place)
    assert next(model.parameters()).is_meta and model.device.type == "cpu"
    np.testing.assert_allclose(tracker.track(frames, QUERIES).tracks, expected, atol=0.02)
    np.testing.assert_array_equal(tracker.flow(frames[0], frames[1]).flow, flow)
    with pytest.raises(ValueError, match="weights in memory to save or load a session"):
        live = tracker.stream()
        live.step(frames[0])
        save_session(live, tracker, tmp_path / "session.safetensors")


def test_weights_without_values_are_refused(frames):
    with pytest.raises(ValueError, match="on the meta device"):
        tracker_of(small_model().to("meta")).track(frames, QUERIES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"fine_size": 8}, {"point_matching": "labels"}])
def test_models_of_any_floating_type(dtype, fields, frames):
    """Positions of features at that precision, whatever the back end: unit features rounded to the type, tracked in float32."""
    model = small_model(**fields).to(dtype)
    reference = copy.deepcopy(model).float()
    for module in reference.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *args: args[2].to(dtype).float())
    found, expected = (tracker_of(of).track(frames, QUERIES).tracks for of in (model, reference))
    assert np.isfinite(found).all() and np.median(np.abs(found - expected)) < 0.5
    if dtype == torch.float64:
        np.testing.assert_allclose(found, expected, atol=0.01)


# ---- networks of others -----------------------------------------------------------------------------------------------


def sequential():
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1)), 4


def without_affine():
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16, affine=False), nn.InstanceNorm2d(16)), 2


def resnet_backbone():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_indices=[1])
    return ResNetBackbone(config), 4


def dinov2_backbone():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    return Dinov2Backbone(Dinov2Config(**sizes, out_indices=[-1])), 8


class LastState(nn.Module):
    """The last hidden state of transformers' ResNetModel."""

    def __init__(self):
        super().__init__()
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        self.net = ResNetModel(config)

    def forward(self, pixel_values):
        return (self.net(pixel_values).last_hidden_state,)


NETWORKS = [sequential, without_affine, resnet_backbone, dinov2_backbone, lambda: (LastState(), 8)]


@pytest.mark.parametrize("make", NETWORKS, ids=["sequential", "no affine", "resnet", "dinov2", "tuple"])
def test_a_network_is_taken_as_it_is(make, frames):
    torch.manual_seed(5)
    network, stride = make()
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and "var" not in name:
            tensor.data += 0.05 * torch.randn_like(tensor)
    network.eval()
    calls = []
    next(network.children()).register_forward_hook(lambda *_: calls.append(1))
    next(network.parameters()).requires_grad_(False)
    reference = copy.deepcopy(network)
    before = copy.deepcopy(network.state_dict())
    gradients, modes = ([p.requires_grad for p in network.parameters()], [m.training for m in network.modules()])
    # PEFT, quantisers and hooks keep state in attributes: none of the network's own may change, but transformers' mark
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    model = model_from_backbone(network, stride, False, point_matching="templates")
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert [p.requires_grad for p in network.parameters()] == gradients
    assert [m.training for m in network.modules()] == modes
    new = {name: set(vars(module)) - attributes[name] for name, module in network.named_modules()}
    assert set().union(*new.values()) <= {"_is_hf_initialized"}

    def features(pixel_values, check_weights=True):
        height, width = pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, -width % stride, 0, -height % stride), mode="replicate")
        with torch.no_grad():
            output = reference(padded)
        maps = getattr(output, "feature_maps", output)
        last = maps[-1] if isinstance(maps, list | tuple) else maps
        return F.normalize(last.permute(0, 2, 3, 1), dim=-1)

    found = tracker_of(model).track(frames, QUERIES).tracks
    assert calls
    model.normalized_features = features
    expected = tracker_of(model).track(frames, QUERIES).tracks
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(found - found[:, :1]).max() > 0.5  # the video moves, and the points with it


# ---- settings of the process ------------------------------------------------------------------------------------------


def started(model, frames):
    """A session that a model has stepped once."""
    processor = tracker_of(model).processor
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [0, 1], [[30, 30], [60, 40]])
    model.step(session, frames[0])
    return session


@pytest.mark.parametrize("fields", [{}, {"hidden_sizes": [8, 16, 24]}, {"output_stride": 8}], ids=str)
def test_a_session_is_of_one_model(fields, frames):
    model, other = small_model(), small_model(1, **fields)
    session = started(model, frames)
    for another in (other, copy.deepcopy(model)):
        for frame in frames[1:]:
            with pytest.raises(ValueError, match="started with another model"):
                another.step(session, frame)
    found = [model.step(session, frame).points for frame in frames[1:]]
    alone = started(model, frames)
    np.testing.assert_array_equal(found, [model.step(alone, frame).points for frame in frames[1:]])
    del model
    gc.collect()
    with pytest.raises(ValueError, match="started with another model"):
        other.step(session, frames[1])
    session.reset_tracking_data()
    other.step(session, frames[0])


@pytest.mark.parametrize("fields", [{"hidden_sizes": [8, 16, 24]}, {"output_stride": 8}], ids=str)
def test_an_encoder_of_another_shape_within_a_session_is_refused(fields, frames):
    model = small_model()
    session = started(model, frames)
    model.encoder = small_model(1, **fields).encoder
    with pytest.raises(ValueError, match="features must be of shape .* as on the frames before"):
        model.step(session, frames[1])


def test_a_session_keeps_its_configuration_and_follows_the_type_of_its_model(frames):
    model = small_model()
    reference = [one.points for one in map(partial(model.step, started(model, frames)), frames[1:])]
    session = started(model, frames)
    model.config.template_radius, model.config.search_radius = 1, 0.5
    np.testing.assert_array_equal([model.step(session, frame).points for frame in frames[1:]], reference)
    session = started(small := small_model(), frames)
    found = [small.to(dtype).step(session, frame).points for dtype, frame in zip(TYPES, frames[1:], strict=True)]
    np.testing.assert_allclose(found, reference, atol=0.25)
