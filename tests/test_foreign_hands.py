"""Models that other libraries, loops and settings have had in their hands track as a plain reference does."""

import copy
import gc
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Dinov2Config, ResNetConfig
from transformers.models.dinov2 import Dinov2Backbone
from transformers.models.resnet import ResNetBackbone, ResNetModel

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    Tracker,
    chain_flow,
    load_session,
    model_from_backbone,
    render_clip,
    save_session,
)


QUERIES = [(0, 30.0, 30.0), (0, 60.0, 40.0), (0, 80.0, 60.0)]
TYPES = [torch.float16, torch.float64, torch.bfloat16]
SMALL = {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 1], "point_matching": "templates"}


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
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
    expected, flow = tracker.track(frames, QUERIES).tracks, tracker.flow(frames[0], frames[1]).flow
    place = {"execution_device": torch.device("cpu")}
    getattr(accelerate, offload)(model, *([tmp_path] if offload == "disk_offload" else []), **place)
    assert next(model.parameters()).is_meta and model.device.type == "cpu"
    np.testing.assert_allclose(tracker.track(frames, QUERIES).tracks, expected, atol=0.02)
    np.testing.assert_allclose(tracker.flow(frames[0], frames[1]).flow, flow, atol=0.1)
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


class MadeHere(TorchDispatchMode):
    """Collects operations that make a tensor of a type, or on a kind of device, that none of their inputs has."""

    def __init__(self, dtype: torch.dtype, device: str):
        super().__init__()
        self.dtype, self.device, self.found = dtype, device, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                new = value.dtype == self.dtype and all(one.dtype != self.dtype for one in given)
                if new or value.device.type == self.device:
                    self.found.add(str(function))
        return output


def flows(tracker: Tracker, frames, folder) -> dict[str, np.ndarray]:
    """The main ways of using a model."""
    height, width = frames.shape[1:3]
    masks = np.zeros((height, width), np.int32)
    masks[20:50, 30:60], masks[55:70, 60:90] = 1, 2
    tracks = tracker.track(frames, QUERIES, direction="both")
    live = tracker.stream()
    live.add_points({7: (20, 20)})
    live.add_masks(masks)
    live.add_boxes({9: (20, 20, 60, 60)})
    live.step(frames[0])
    save_session(live, tracker, folder / "session.safetensors")
    session = load_session(folder / "session.safetensors", tracker)
    later = [tracker.model.step(session, frame) for frame in frames[1:]]
    pixel_values = tracker.processor.image_processor(list(frames[:2]), return_tensors="pt").pixel_values
    with torch.no_grad():
        matched = tracker.model.match(pixel_values[:1], pixel_values[1:], radius=3)
    return {
        "tracks": tracks.tracks,
        "confidence": tracks.confidence,
        "uncertainty": tracks.uncertainty,
        "masks": np.stack([ids for _, ids in tracker.propagate_masks(frames, masks)]),
        "points later": np.stack([output.points for output in later]),
        "boxes later": np.stack([output.boxes for output in later]),
        "masks later": np.stack([output.masks for output in later]),
        "flow": tracker.flow(frames[0], frames[2]).flow,
        "chain": np.stack([output.flow for _, output in chain_flow(tracker, frames)]),
        "heat map": tracker.match(frames[0], frames[2], (40, 40)),
        "Eq. 1": matched.flow.numpy(),
        "entropy": matched.entropy.numpy(),
    }


WAYS = [
    {"point_matching": "templates"},
    {"point_matching": "labels", "output_stride": 4},
    {"point_matching": "labels", "readout": "legacy", "propagation_family": "per_reference", "object_boxes": True}
    | {"box_matching": "coordinates", "output_stride": 4},
    {"fine_size": 8, "num_attention_layers": 2, "num_attention_heads": 2, "attention_window": 4},
]


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("fields", WAYS, ids=["templates", "labels", "UVC", "coarse-to-fine"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_torch_defaults_have_no_say(dtype, fields, kernels, frames, tmp_path, monkeypatch):
    """The meta device as default would lose every tensor whose device is not given."""
    monkeypatch.setenv("FGVC_KERNELS", kernels)
    tracker = tracker_of(small_model(**fields))
    expected = flows(tracker, frames, tmp_path)
    made = MadeHere(dtype, "meta")
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        found = flows(tracker, frames, tmp_path)
        if dtype != torch.float64:  # the type of positions
            with made:
                flows(tracker, frames, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not made.found


@pytest.mark.parametrize("fields", WAYS, ids=["templates", "labels", "UVC", "coarse-to-fine"])
def test_devices_without_float64(fields, frames, tmp_path, monkeypatch):
    """Where a device has no float64, positions there are float32, and no farther off than that."""
    monkeypatch.setenv("FGVC_KERNELS", "torch")
    tracker = tracker_of(small_model(**fields))
    expected = flows(tracker, frames, tmp_path)
    monkeypatch.setattr("fgvc_hf.coordinates.WITHOUT_FLOAT64", ("cpu",))
    made = MadeHere(torch.float64, "meta")
    with made:
        found = flows(tracker, frames, tmp_path)
    for name in ("tracks", "boxes later", "confidence"):
        np.testing.assert_allclose(found[name], expected[name], atol=0.01, err_msg=name)
    assert (found["masks later"] == expected["masks later"]).mean() > 0.999
    assert made.found <= {"aten.detach.default", "aten.lift_fresh.default"}  # prompts, on the CPU in any case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_onednn(dtype, frames):
    model = small_model().to(dtype)
    expected = tracker_of(model).track(frames, QUERIES).tracks
    with torch.backends.mkldnn.flags(enabled=False):
        found = tracker_of(copy.deepcopy(model)).track(frames, QUERIES).tracks
    np.testing.assert_allclose(found, expected, atol=0.25 if dtype == torch.bfloat16 else 0.01)


THREADS = """
import threading
import numpy as np
import torch
from fgvc_hf import FgvcConfig, FgvcModel, Tracker, render_clip

clip = render_clip(num_frames=3, height=48, width=64, num_points=2, seed=0)
start, found, errors = threading.Barrier(8), [], []


def work(number):
    try:
        start.wait()
        for _ in range(2):
            dtype = ("bfloat16", "float32")[number % 2]
            tracker = Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast")
            assert FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32])).dtype == torch.float32
            found.append((dtype, tracker.model.dtype, tracker.track(clip.frames, clip.queries).tracks))
    except BaseException as error:
        errors.append(repr(error))


threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
assert torch.get_default_dtype() == torch.float32 and len(found) == 16
for dtype in ("bfloat16", "float32"):
    alone = Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast").track(clip.frames, clip.queries).tracks
    for name, real, tracks in found:
        if name == dtype:
            assert real == getattr(torch, dtype) and np.array_equal(tracks, alone)
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2))
def test_first_loads_in_eight_threads(attempt):
    result = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]


# ---- sessions and models ----------------------------------------------------------------------------------------------


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
