"""An encoder with parts of other kinds than its own runs as it is, module by module; one that changes later is never lagged behind."""

import copy

import pytest
import torch
from test_fused_encoder import SMALL, equals_its_modules, model_with_statistics

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, Tracker
from fgvc_hf.encoder.backbone import FgvcBasicBlock
from fgvc_hf.modeling_fgvc import evaluation_mode


class Doubled(torch.nn.Conv2d):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Clipped(torch.nn.BatchNorm2d):
    def forward(self, inputs):
        return super().forward(inputs).clamp(-1, 1)


def a_derived_convolution(model):
    convolution = model.encoder.layer1[0].conv1
    new = Doubled(8, 8, 3, padding=1, bias=False)
    new.load_state_dict(convolution.state_dict())
    model.encoder.layer1[0].conv1 = new


def a_derived_norm(model):
    norm = model.encoder.layer2[0].bn2
    new = Clipped(len(norm.weight))
    new.load_state_dict(norm.state_dict())
    model.encoder.layer2[0].bn2 = new.eval()


def a_convolution_with_a_bias(model):
    model.encoder.conv1.bias = torch.nn.Parameter(torch.randn(8))


def no_norm(model):
    model.encoder.bn1 = torch.nn.Identity()


def group_norm(model):
    model.encoder.layer3[0].bn1 = torch.nn.GroupNorm(4, len(model.encoder.layer3[0].bn1.weight))


def a_norm_without_weights(model):
    model.encoder.bn1 = torch.nn.BatchNorm2d(8, affine=False).eval()


def a_norm_of_batches(model):
    model.encoder.bn1 = torch.nn.BatchNorm2d(8, track_running_stats=False).eval()


def a_norm_in_training_mode(model):
    model.encoder.layer1[0].bn1.train().momentum = 0.0


def a_patched_instance(model):
    block = model.encoder.layer2[0]
    block.forward = lambda inputs: -type(block).forward(block, inputs)


def a_parametrisation(model):
    torch.nn.utils.parametrizations.weight_norm(model.encoder.layer2[0].conv1)


def dilation(model):
    convolution = model.encoder.layer3[0].conv2
    convolution.dilation, convolution.padding = (2, 2), (2, 2)


def groups(model):
    model.encoder.layer1[0].conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)


def padding_by_name(model):
    model.encoder.layer1[0].conv2.padding = "same"


def circular_padding(model):
    model.encoder.layer1[0].conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False, padding_mode="circular")


def another_block(model):
    model.encoder.layer1.append(torch.nn.Conv2d(8, 8, 1))


def quantisation_aware(model):
    new = torch.ao.nn.qat.Conv2d(
        8, 8, 3, padding=1, bias=False, qconfig=torch.ao.quantization.get_default_qat_qconfig("x86")
    )
    model.encoder.layer1[0].conv1 = new


FOREIGN = [
    a_derived_convolution,
    a_derived_norm,
    a_convolution_with_a_bias,
    no_norm,
    group_norm,
    a_norm_without_weights,
    a_norm_of_batches,
    a_norm_in_training_mode,
    a_patched_instance,
    a_parametrisation,
    dilation,
    groups,
    padding_by_name,
    circular_padding,
    another_block,
    quantisation_aware,
]
SAME_VALUES = [a_parametrisation, padding_by_name]


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
@pytest.mark.parametrize("fields", [SMALL, SMALL | {"fine_size": 8}], ids=["fine", "coarse-to-fine"])
def test_foreign_parts_run_as_they_are(change, fields):
    model, pixel_values = model_with_statistics(**fields), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        plain = model.normalized_features(pixel_values)
    torch.manual_seed(1)
    change(model)
    assert equals_its_modules(model, pixel_values) and model._fused is None
    if change not in SAME_VALUES:
        assert not torch.allclose(model.normalized_features(pixel_values), plain, atol=1e-3)


def test_a_patched_class_runs_as_it_is(monkeypatch):
    model, pixel_values = model_with_statistics(**SMALL), torch.randn(1, 3, 32, 48)
    forward = FgvcBasicBlock.forward
    assert equals_its_modules(model, pixel_values) and model._fused is not None
    monkeypatch.setattr(FgvcBasicBlock, "forward", lambda self, inputs: 0.5 * forward(self, inputs) + inputs.mean())
    assert equals_its_modules(model, pixel_values) and model._fused is None


def test_hooks_of_all_modules_are_called():
    model, calls = model_with_statistics(**SMALL), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module)))
    try:
        with torch.no_grad():
            model.normalized_features(torch.randn(1, 3, 32, 48))
    finally:
        handle.remove()
    assert FgvcBasicBlock in calls


def test_tracking_changes_no_state_of_a_model_in_training_mode():
    frames = torch.randint(0, 255, (3, 64, 96, 3), dtype=torch.uint8).numpy()
    model = model_with_statistics(**SMALL, fine_size=8, point_matching="templates")
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    expected = tracker.track(frames, [(0, 20, 20)])
    modes = {name: name != "encoder.bn1" for name, _ in model.train().named_modules()}
    model.encoder.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    found = tracker.track(frames, [(0, 20, 20)])
    tracker.flow(frames[0], frames[1]), tracker.match(frames[0], frames[1], (20, 20))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert (found.tracks == expected.tracks).all()


def test_a_model_in_training_mode_is_shared_by_threads():
    """The one that is through first leaves the mode to the other, and the last restores it."""
    model = model_with_statistics(**SMALL).train()
    model.encoder.bn1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    first, second = evaluation_mode(model), evaluation_mode(model.encoder)
    first.__enter__(), second.__enter__()
    assert not any(module.training for module in model.modules())
    first.__exit__(None, None, None)
    assert model.training and not any(module.training for module in model.encoder.modules())
    second.__exit__(None, None, None)
    assert {name: module.training for name, module in model.named_modules()} == modes


def another_epsilon(model):
    model.encoder.bn1.eps = 0.5


def other_strides(model):
    block = model.encoder.layer3[0]
    block.conv1.stride = block.downsample[0].stride = (2, 2)


def another_pool(model):
    model.encoder.pool = torch.nn.MaxPool2d(3, 1, 1)


def fewer_blocks(model):
    model.encoder.layer2 = model.encoder.layer2[:1]


def exchanged_modules(model):
    block = model.encoder.layer2[1]
    block.conv1, block.conv2 = block.conv2, block.conv1


def replaced_parameters(model):
    model.encoder.conv1.weight = torch.nn.Parameter(-model.encoder.conv1.weight.detach())


def pruned(model):
    torch.nn.utils.prune.l1_unstructured(model.encoder.conv1, "weight", 0.7)


def a_compiled_block(model):
    model.encoder.layer1[0].conv1.weight.data.neg_()
    model.encoder.layer1[0].compile(backend="eager")


def a_compiled_encoder(model):
    model.encoder.conv1.weight.data.neg_()
    model.encoder = torch.compile(model.encoder, backend="eager")


def parallel_layers(model):
    model.encoder.layer1[0].conv1.weight.data.neg_()
    model.encoder.layer1 = torch.nn.DataParallel(model.encoder.layer1)


def another_class(model):
    block = model.encoder.layer1[0]
    block.__class__ = type("Skipped", (type(block),), {"forward": lambda self, inputs: inputs})


def a_head_of_others(model):
    if model.head is None:
        model.encoder.project = lambda features: features.roll(1, dims=-1)
    else:
        model.head.mix.register_forward_hook(lambda module, inputs, output: output.roll(1, dims=-1))


CHANGES = [
    another_epsilon,
    other_strides,
    another_pool,
    fewer_blocks,
    exchanged_modules,
    replaced_parameters,
    pruned,
    a_compiled_block,
    a_compiled_encoder,
    parallel_layers,
    another_class,
    a_head_of_others,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("fields", [SMALL, SMALL | {"fine_size": 8}], ids=["fine", "coarse-to-fine"])
def test_modules_changed_after_the_first_use(change, fields):
    if change is other_strides and "fine_size" in fields:
        pytest.skip("the head takes stride 8")
    model, pixel_values = model_with_statistics(**fields), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        before = model.normalized_features(pixel_values)
    change(model)
    assert equals_its_modules(model, pixel_values)
    with torch.no_grad():
        found = model.normalized_features(pixel_values)
    assert found.shape != before.shape or (found - before).abs().max() > 1e-2
