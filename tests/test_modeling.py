import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, render_clip
from fgvc_hf.modeling_fgvc import FgvcModelOutput


TINY = {"hidden_sizes": [8, 16, 32]}


@pytest.fixture(scope="module")
def frames():
    """Two processed frames (2, 3, 128, 128) of a rendered clip."""
    clip = render_clip(num_frames=2, height=128, width=128, num_points=1)
    return FgvcImageProcessorPil(resize_policy="none")(list(clip.frames), return_tensors="pt").pixel_values


def torchvision_names() -> set[str]:
    """Parameters of torchvision's resnet18 up to layer3, by construction."""
    names = {"conv1.weight", "bn1.weight", "bn1.bias"}
    for layer in (1, 2, 3):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            for i in (1, 2):
                names |= {f"{prefix}.conv{i}.weight", f"{prefix}.bn{i}.weight", f"{prefix}.bn{i}.bias"}
            if layer > 1 and block == 0:
                names |= {f"{prefix}.downsample.{part}" for part in ("0.weight", "1.weight", "1.bias")}
    return names


def test_default_encoder_is_resnet18_through_layer3(bundled_model):
    assert sum(p.numel() for p in bundled_model.parameters()) == 2_782_784
    assert {name.removeprefix("encoder.") for name, _ in bundled_model.named_parameters()} == torchvision_names()


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_strides_and_padding(stride, padding_mode):
    model = FgvcModel(FgvcConfig(output_stride=stride, padding_mode=padding_mode, **TINY)).eval()
    fine = FgvcModel(FgvcConfig(**TINY))
    assert set(fine.state_dict()) >= {key for key in model.state_dict() if "downsample" not in key}
    features = model(torch.rand(2, 3, 37, 50)).features
    assert features.shape == (2, 32, -(-37 // stride), -(-50 // stride))
    assert (features >= 0).all()
    clip = torch.rand(2, 3, 3, 37, 50)
    torch.testing.assert_close(model(clip).features[1, 2], model(clip[1, 2:]).features[0], rtol=1e-4, atol=1e-5)


def test_default_weights_load_at_every_stride(bundled_model):
    for stride in (4, 8):
        model = FgvcModel(FgvcConfig(output_stride=stride))
        assert not any(model.load_state_dict(bundled_model.state_dict()))


def test_fresh_residual_branches_start_at_zero():
    model = FgvcModel(FgvcConfig(**TINY))
    last = [parameter for name, parameter in model.named_parameters() if name.endswith("bn2.weight")]
    assert len(last) == 6 and all((weight == 0).all() for weight in last)


def test_bfloat16_features_point_the_same_way(bundled_model, frames, tmp_path):
    bundled_model.save_pretrained(tmp_path)
    half = FgvcModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        cosine = F.cosine_similarity(half(frames).features.float(), bundled_model(frames).features, dim=1)
    assert half.dtype == torch.bfloat16 and cosine.min() > 0.999


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(**TINY)).train()
    pixel_values = torch.rand(2, 3, 32, 32)

    def gradients():
        model.zero_grad()
        model(pixel_values).features.square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable()
    checkpointed = gradients()
    assert set(expected) == set(checkpointed) == {name for name, _ in model.named_parameters()}
    for name, gradient in expected.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_export_with_any_batch_and_size():
    model = FgvcModel(FgvcConfig(**TINY)).eval()
    dims = {0: torch.export.Dim("batch"), 2: 8 * torch.export.Dim("h8"), 3: 8 * torch.export.Dim("w8")}
    exported = torch.export.export(model, (torch.rand(2, 3, 32, 48),), dynamic_shapes={"pixel_values": dims})
    pixel_values = torch.rand(3, 3, 64, 40)
    torch.testing.assert_close(exported.module()(pixel_values).features, model(pixel_values).features)


def test_save_load_and_auto_classes(tmp_path):
    model = FgvcModel(FgvcConfig(output_stride=4, **TINY)).eval()
    model.save_pretrained(tmp_path)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).output_stride == 4
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FgvcModel
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is FgvcProcessor
    assert AutoImageProcessor.from_pretrained(tmp_path, backend="pil").resize_policy == "none"


def test_match_finds_a_shift_of_whole_cells(bundled_model, frames):
    shifted = frames[:1].roll((4, -6), dims=(2, 3))  # 2 cells down, 3 to the left
    with torch.no_grad():
        match = bundled_model.match(frames[:1], shifted, radius=5, temperature=0.01)
    assert match.log_probs.shape == (1, 64, 64, 121)
    torch.testing.assert_close(match.log_probs.exp().sum(-1), torch.ones(1, 64, 64))
    inner = (slice(None), slice(12, -12), slice(12, -12))
    flow = match.flow[inner]
    assert (flow[..., 0] + 6).abs().mean() < 0.2 and (flow[..., 1] - 4).abs().mean() < 0.2
    assert match.occluded[inner].float().mean() < 0.02
    assert (match.log_probs[0, 0, 0].view(11, 11)[:5] == -torch.inf).all()  # rows above the frame
    assert (match.entropy >= 0).all() and torch.isfinite(match.entropy).all()


def test_match_of_different_shapes(bundled_model, frames):
    with pytest.raises(ValueError, match="match needs two batches of one shape"):
        bundled_model.match(frames[:1], frames)


@pytest.mark.parametrize("radius", [0, 1])
def test_a_radius_of_0_is_a_window_of_one_cell(tiny_model, radius):
    values = torch.randn(1, 3, 32, 40)
    found = tiny_model.match(values, values, radius=radius)
    assert found.log_probs.shape[-1] == (2 * radius + 1) ** 2
    if radius == 0:
        assert not found.flow.any() and not found.entropy.any() and not found.occluded.any()


@pytest.mark.parametrize(
    "wrong",
    [{"radius": -1}, {"radius": 1.5}, {"temperature": 0}, {"temperature": -1.0}, {"temperature": float("nan")}],
)
def test_a_radius_or_temperature_that_is_none(tiny_model, wrong):
    values = torch.randn(1, 3, 32, 40)
    with pytest.raises(ValueError, match="radius"):
        tiny_model.match(values, values, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "a"},
        {"temperature": "0.1"},
        {"temperature": True},
        {"temperature": [0.1]},
        {"temperature": torch.tensor([0.1, 0.2])},
        {"temperature": 10**400},
        {"radius": 10**9},
        {"radius": "2"},
    ],
)
def test_a_radius_or_temperature_of_another_kind(tiny_model, wrong):
    values = torch.randn(1, 3, 32, 40)
    with pytest.raises(ValueError, match=r"radius must be .*got|temperature a finite number above 0, got"):
        tiny_model.match(values, values, **wrong)


def test_a_temperature_may_be_a_number_of_numpy(tiny_model):
    values = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    plain, other = (tiny_model.match(values, values, 1, kind(0.5)).log_probs for kind in (float, np.float64))
    assert torch.equal(plain, other)


def test_a_temperature_may_be_a_tensor_of_one_number(tiny_model):
    values = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    found, plain = (tiny_model.match(values, values.flip(-1), 1, t).log_probs for t in (torch.tensor(0.5), 0.5))
    assert torch.equal(found, plain)
    with pytest.raises(ValueError, match="temperature a finite number above 0, got"):
        tiny_model.match(values, values, 1, torch.tensor(0.0))


@pytest.mark.parametrize(
    ("pixel_values", "problem"),
    [
        (None, "got NoneType"),
        (np.zeros((1, 3, 32, 40), np.float32), "got ndarray"),
        ([torch.zeros(3, 32, 40)], "got list"),
        (torch.zeros(1, 3, 32, 40, dtype=torch.uint8), r"got torch.uint8 of \(1, 3, 32, 40\)"),
        (torch.zeros(1, 3, 32, 40, dtype=torch.complex64), "got torch.complex64"),
        (torch.zeros(3, 32, 40), r"got torch.float32 of \(3, 32, 40\)"),
        (torch.zeros(1, 32, 40, 3), "have 3 channels, got 32"),
    ],
)
def test_what_is_no_batch_of_frames(tiny_model, pixel_values, problem):
    for encode in (tiny_model, tiny_model.normalized_features):
        with pytest.raises(ValueError, match=f"pixel_values must .*{problem}"), torch.inference_mode():
            encode(pixel_values)
    with pytest.raises(ValueError, match="got"):
        tiny_model.match(pixel_values, pixel_values)


@pytest.mark.parametrize(
    ("fields", "least"),
    [({}, 4), ({"output_stride": 8}, 9), ({"stem_pooling": "max", "output_stride": 16}, 17), ({"fine_size": 8}, 9)],
)
def test_frames_too_small_to_reflect(fields, least):
    model = FgvcModel(FgvcConfig(padding_mode="reflect", **TINY, **fields)).eval()
    with torch.inference_mode():
        assert torch.isfinite(model.normalized_features(torch.rand(1, 3, least, least))).all()
        for encode in (model, model.normalized_features):
            with pytest.raises(ValueError, match=f"at least {least} pixels high and wide .*got {least - 1}x40"):
                encode(torch.rand(1, 3, least - 1, 40))


@pytest.mark.parametrize("setting", ["return_dict", "output_hidden_states"])
def test_a_configuration_of_other_outputs(setting):
    torch.manual_seed(0)
    model, values = FgvcModel(FgvcConfig(**TINY)).eval(), torch.rand(1, 3, 32, 40)
    features, flow = model(values).features, model.match(values, values, 2).flow
    setattr(model.config, setting, setting == "output_hidden_states")
    output = model(values)
    assert type(output) is (FgvcModelOutput if setting == "output_hidden_states" else tuple)
    assert torch.equal(output[0], features)
    assert torch.equal(model.match(values, values, 2).flow, flow)


@pytest.mark.parametrize("changed", ["configuration", "encoder"])
def test_a_stride_that_is_changed_on_a_model_is_refused(changed):
    tracker = Tracker(FgvcModel(FgvcConfig(**TINY)).eval(), FgvcProcessor(FgvcImageProcessorPil()))
    frame = np.zeros((33, 40, 3), np.uint8)
    model = tracker.model
    if changed == "configuration":
        model.config.output_stride = 4
    else:
        block = model.encoder.layer3[0]
        block.conv1.stride = block.downsample[0].stride = (2, 2)
    values = torch.rand(1, 3, 33, 40)
    calls = [
        lambda: tracker.track([frame] * 2, [(0, 5, 5)]),
        lambda: list(tracker.propagate_masks([frame] * 2, np.ones((33, 40), int))),
        lambda: tracker.flow(frame, frame),
        lambda: tracker.match(frame, frame, (5, 5)),
        lambda: model.match(values, values),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="output_stride is [24], but the encoder was made with another and gives"):
            call()
