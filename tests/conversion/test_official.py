"""Checkpoints with every method's own key names, made here, against plain forward passes written from those names."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fgvc_hf import FgvcModel, FgvcProcessor
from fgvc_hf.conversion.official import SOURCES, convert
from fgvc_hf.training.ancestors.published_colours import convert_colours


def torchvision_block(prefix):
    return {
        "conv1": f"{prefix}.conv1.weight",
        "bn1": f"{prefix}.bn1",
        "conv2": f"{prefix}.conv2.weight",
        "bn2": f"{prefix}.bn2",
        "conv3": f"{prefix}.conv3.weight",
        "bn3": f"{prefix}.bn3",
        "shortcut": f"{prefix}.downsample.0.weight",
        "shortcut_bn": f"{prefix}.downsample.1",
    }


def mmcv_block(prefix):
    return {
        "conv1": f"{prefix}.conv1.conv.weight",
        "bn1": f"{prefix}.conv1.bn",
        "conv2": f"{prefix}.conv2.conv.weight",
        "bn2": f"{prefix}.conv2.bn",
        "conv3": f"{prefix}.conv3.conv.weight",
        "bn3": f"{prefix}.conv3.bn",
        "shortcut": f"{prefix}.downsample.conv.weight",
        "shortcut_bn": f"{prefix}.downsample.bn",
    }


def mast_block(prefix):
    return {
        "conv1": f"{prefix}.left.0.weight",
        "bn1": f"{prefix}.left.1",
        "conv2": f"{prefix}.left.3.weight",
        "bn2": f"{prefix}.left.4",
        "shortcut": f"{prefix}.shortcut.0.weight",
        "shortcut_bn": f"{prefix}.shortcut.1",
    }


def crw_block(prefix):
    return {**torchvision_block(prefix), "conv1": f"{prefix}.conv1.1.weight", "conv2": f"{prefix}.conv2.1.weight"}


# Per method: block names, stem names, prefix, container, strides of the layers, widths, pooling, and the rest of its file
MMCV_STEM, STEM = ("conv1.conv.weight", "conv1.bn"), ("conv1.weight", "bn1")
EXTRA = {
    "fgvc": [
        "teacher.backbone.conv1.conv.weight",
        "corr_discriminator.cls_layer.1.weight",
        "iteration",
        "backbone.layer4.0.conv1.conv.weight",
    ],
    "vfs-resnet18": ["img_head.fc.weight", "backbone.layer4.1.conv2.bn.bias"],
    "crw": ["selfsim_fc.0.weight", "encoder.model.layer4.0.conv1.1.weight"],
    "uvc": ["module.rgb_encoder.conv1.weight", "module.decoder.conv7.weight"],
    "time-cycle": [
        "module.afterconv3_trans.weight",
        "module.linear2.weight",
        "module.encoderVideo.layer4.0.conv1.weight",
    ],
    "sfc": ["target_encoder.conv1.weight", "online_encoder.fc.weight"],
    "dul": ["module.slow_net.backbone.conv1.weight", "module.fast_net.emb_q.weight"],
    "torchvision-resnet18": ["fc.weight", "layer4.0.conv1.weight"],
    "torchvision-resnet50": ["fc.bias", "layer4.2.bn3.weight"],
}
ARCHITECTURES = {
    "fgvc": (mmcv_block, MMCV_STEM, "backbone.", "state_dict", (1, 1, 1), None),
    "spa-then-temp": (mmcv_block, MMCV_STEM, "backbone.", "state_dict", (1, 2, 2), None),
    "vfs-resnet18": (mmcv_block, MMCV_STEM, "backbone.", "state_dict", (1, 2, 1), "max"),
    "vfs-resnet50": (mmcv_block, MMCV_STEM, "module.backbone.", "state_dict", (1, 2, 1), "max"),
    "crw": (crw_block, ("conv1.1.weight", "bn1"), "encoder.model.", "model", (1, 2, 1), "max"),
    "uvc": (torchvision_block, STEM, "module.gray_encoder.", "state_dict", (1, 2, 1, 1), "max"),
    "time-cycle": (torchvision_block, STEM, "module.encoderVideo.", "state_dict", (1, 2, 1), "max"),
    "mast": (mast_block, ("conv1.0.weight", "conv1.1"), "feature_extraction.", "state_dict", (1, 2, 1, 1), None),
    "sfc": (torchvision_block, STEM, "online_encoder.", "model", (1, 2, 1), "max"),
    "dul": (torchvision_block, STEM, "module.fast_net.backbone.", "model", (1, 2, 1, 1), "max"),
    "torchvision-resnet18": (torchvision_block, STEM, "", None, (1, 2, 1), "max"),
    "torchvision-resnet50": (torchvision_block, STEM, "", None, (1, 2, 1), "max"),
}
WIDTHS = {"mast": (64, 128, 256, 256)}
DEEP = ("vfs-resnet50", "time-cycle", "torchvision-resnet50")


class Published:
    """A published file of random weights, and the forward pass of its network."""

    def __init__(self, method):
        self.method, self.state, self.draw = method, {}, torch.Generator().manual_seed(0)
        self.block_names, stem, self.prefix, self.container, self.strides, self.pool = ARCHITECTURES[method]
        self.deep = method in DEEP
        self.stem = [self.prefix + name for name in stem]
        self.convolution(self.stem[0], 64, 3, 7)
        self.norm(self.stem[1], 64)
        inputs, widths = 64, WIDTHS.get(method, (64, 128, 256, 512))
        depths = (3, 4, 6) if self.deep else (2, 2, 2, 2)
        self.blocks = []
        for layer, (width, depth, stride) in enumerate(zip(widths, depths, self.strides), start=1):
            for index in range(depth):
                names = self.block_names(f"{self.prefix}layer{layer}.{index}")
                inputs = self.block(names, inputs, width, stride if index == 0 else 1)
        for name in EXTRA.get(method, []):
            self.state[name] = torch.randn(2, generator=self.draw)
        if method == "time-cycle":
            self.state = {k: v[:, :, None] if v.ndim == 4 else v for k, v in self.state.items()}
            self.state["module.afterconv1.weight"] = torch.randn(512, 1024, 1, 1, 1, generator=self.draw) / 30
        if method == "mast":
            self.convolution("feature_extraction.post_convolution.weight", 64, 256, 3)
            self.state["feature_extraction.post_convolution.bias"] = torch.randn(64, generator=self.draw)

    def convolution(self, name, outputs, inputs, size):
        self.state[name] = torch.randn(outputs, inputs, size, size, generator=self.draw) * (inputs * size**2) ** -0.5

    def norm(self, name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.{part}"] = 0.5 + torch.rand(width, generator=self.draw)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def block(self, names, inputs, width, stride):
        outputs = 4 * width if self.deep else width
        sizes = (
            ((inputs, width, 1), (width, width, 3), (width, outputs, 1))
            if self.deep
            else ((inputs, width, 3), (width, width, 3))
        )
        for number, (first, second, size) in enumerate(sizes, start=1):
            self.convolution(names[f"conv{number}"], second, first, size)
            self.norm(names[f"bn{number}"], second)
        if stride != 1 or inputs != outputs:
            self.convolution(names["shortcut"], outputs, inputs, 1)
            self.norm(names["shortcut_bn"], outputs)
        self.blocks.append((names, stride))
        return outputs

    def save(self, path):
        torch.save(self.state if self.container is None else {self.container: self.state, "epoch": 3}, path)
        return path

    # the forward pass

    def conv(self, x, name, stride=1):
        weight = self.state[name]
        weight = weight[:, :, 0] if weight.ndim == 5 else weight
        pad = weight.shape[-1] // 2
        if self.method == "crw" and pad:
            return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, stride=stride)
        return F.conv2d(x, weight, stride=stride, padding=pad)

    def bn(self, x, name):
        mean, var, weight, bias = (
            self.state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, training=False)

    def __call__(self, x):
        x = F.relu(self.bn(self.conv(x, self.stem[0], 2), self.stem[1]))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for names, stride in self.blocks:
            residual = x
            if names["shortcut"] in self.state:
                residual = self.bn(self.conv(x, names["shortcut"], stride), names["shortcut_bn"])
            if self.deep:
                y = F.relu(self.bn(self.conv(x, names["conv1"]), names["bn1"]))
                y = F.relu(self.bn(self.conv(y, names["conv2"], stride), names["bn2"]))
                y = self.bn(self.conv(y, names["conv3"]), names["bn3"])
            else:
                y = F.relu(self.bn(self.conv(x, names["conv1"], stride), names["bn1"]))
                y = self.bn(self.conv(y, names["conv2"]), names["bn2"])
            x = F.relu(y + residual)
        if self.method == "time-cycle":
            x = F.relu(self.conv(x, "module.afterconv1.weight"))
        if self.method == "mast":
            bias = self.state["feature_extraction.post_convolution.bias"]
            x = self.conv(x, "feature_extraction.post_convolution.weight") + bias[:, None, None]
        return x


@pytest.mark.parametrize("method", sorted(SOURCES))
def test_converted_features_are_those_of_the_published_network(method, tmp_path):
    published = Published(method)
    model, processor = convert(method, published.save(tmp_path / "file.pth"))
    pixel_values = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = published(pixel_values), model(pixel_values).features
    assert found.shape[1] == model.config.hidden_size
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    again = FgvcModel.from_pretrained(tmp_path / "ours")
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )
    again = FgvcProcessor.from_pretrained(tmp_path / "ours").image_processor
    assert again.to_dict() == processor.image_processor.to_dict()


def test_statistics_stay_in_float32_beside_features_in_bfloat16(tmp_path):
    model, _ = convert("torchvision-resnet50", Published("torchvision-resnet50").save(tmp_path / "file.pth"))
    model.save_pretrained(tmp_path / "ours")
    half = FgvcModel.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    assert half.encoder.layer2[0].bn3.running_var.dtype == torch.float32
    assert half.encoder.layer2[0].conv3.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        assert half(torch.randn(1, 3, 48, 64)).features.dtype == torch.bfloat16


def test_converted_weights_are_in_float32_whatever_the_default_type_is(tmp_path):
    for half in ("encoder", "decoder"):
        torch.save(colour_state(half), tmp_path / f"{half}.pth")
    path, before = Published("uvc").save(tmp_path / "file.pth"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        models = convert("uvc", path)[0], convert_colours(tmp_path / "encoder.pth", tmp_path / "decoder.pth")
    finally:
        torch.set_default_dtype(before)
    assert {model.dtype for model in models} == {torch.float32}
    assert {p.dtype for model in models for p in model.parameters()} == {torch.float32}


def test_every_method_is_tested():
    assert set(ARCHITECTURES) == set(SOURCES)


def test_lightness_as_uvc_sees_it(tmp_path):
    _, processor = convert("uvc", Published("uvc").save(tmp_path / "file.pth"))
    grey = Image.new("RGB", (64, 48), (119, 119, 119))  # L = 50.03
    values = processor.image_processor(grey, resize_policy="none", return_tensors="pt").pixel_values[0, :, 5, 5]
    lightness = 0.5003 * 255 / 256
    expected = [(lightness - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(values, torch.tensor(expected), atol=5e-3, rtol=0)


def test_unknown_and_missing_keys_are_listed(tmp_path):
    published = Published("fgvc")
    published.state["backbone.neck.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="keys that were not expected: backbone.neck.weight"):
        convert("fgvc", published.save(tmp_path / "a.pth"))
    del published.state["backbone.neck.weight"], published.state["backbone.layer2.0.conv1.conv.weight"]
    with pytest.raises(ValueError, match="the checkpoint lacks layer2.0.conv1.weight"):
        convert("fgvc", published.save(tmp_path / "b.pth"))
    other = Published("vfs-resnet18")
    with pytest.raises(ValueError, match="layer1.0.conv1.weight is .* in the checkpoint|lacks layer1"):
        convert("vfs-resnet50", other.save(tmp_path / "c.pth"))


def colour_state(half):
    """The published names of a half of UVC's colour auto-encoder, with random weights."""
    widths = {
        "encoder": {"conv1": (3, 3, 1), "conv2": (3, 64, 3), "conv3": (64, 64, 3), "conv4": (64, 128, 3)}
        | {"conv5": (128, 128, 3), "conv6": (128, 256, 3), "downsample.1": (256, 256, 1)},
        "decoder": {"upsample.1": (256, 256, 1), "conv7": (256, 128, 3), "conv8": (128, 128, 3)}
        | {"conv9": (128, 64, 3), "conv10": (64, 64, 3), "conv11": (64, 3, 3)},
    }[half]
    draw, state = torch.Generator().manual_seed(0), {}
    for name, (inputs, outputs, size) in widths.items():
        weight = torch.randn(outputs, inputs, size, size, generator=draw)
        state[f"{name}.weight"] = weight * (2 / (inputs * size**2)) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=draw)
    return state


def test_converted_colours_are_those_of_the_published_network(tmp_path):
    states = {half: colour_state(half) for half in ("encoder", "decoder")}
    for half, state in states.items():
        torch.save(state, tmp_path / f"{half}.pth")

    def layer(half, name, x, active=True):
        weight, bias = (states[half][f"{name}.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(F.pad(x, (weight.shape[-1] // 2,) * 4, mode="reflect"), weight, bias)
        return F.relu(x) if active else x

    colours = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = layer("encoder", "conv1", colours, active=False)
    for name in ("conv2", "conv3", "pool", "conv4", "conv5", "pool", "conv6", "pool", "downsample.1"):
        x = F.max_pool2d(x, 2) if name == "pool" else layer("encoder", name, x)
    expected = [x]
    for name in ("up", "upsample.1", "conv7", "up", "conv8", "conv9", "up", "conv10"):
        x = F.interpolate(x, scale_factor=2) if name == "up" else layer("decoder", name, x)
    expected.append(torch.tanh(layer("decoder", "conv11", x, active=False)))
    model = convert_colours(tmp_path / "encoder.pth", tmp_path / "decoder.pth")
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(colours).movedim(-1, 1), expected[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(colours), expected[1], atol=1e-4, rtol=1e-4)
    del states["encoder"]["conv5.bias"]
    torch.save(states["encoder"], tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="the checkpoint lacks conv5.bias"):
        convert_colours(tmp_path / "encoder.pth", tmp_path / "decoder.pth")


class Exploit:
    def __reduce__(self):
        return print, ("constructed",)


def test_other_files_are_refused(tmp_path, capsys):
    torch.save({"state_dict": Exploit()}, tmp_path / "bad.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    for name, error, message in (
        ("bad.pth", OSError, "is no PyTorch checkpoint of tensors"),
        ("text.pth", OSError, "is no PyTorch checkpoint of tensors"),
        ("absent.pth", OSError, "there is no such checkpoint"),
        ("other.pth", ValueError, "expected under 'state_dict', found weights"),
    ):
        with pytest.raises(error, match=message):
            convert("fgvc", tmp_path / name)
    assert "constructed" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="method must be one of fgvc"):
        convert("raft", tmp_path / "bad.pth")


@pytest.mark.parametrize("content", [None, [torch.zeros(2)], torch.zeros(2), "weights", {3: torch.zeros(2)}])
@pytest.mark.parametrize("method", ["torchvision-resnet18", "crw"])
def test_a_file_of_anything_but_tensors_by_name_is_refused(method, content, tmp_path):
    torch.save({"model": content} if method == "crw" else content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: must hold tensors by name, got a {type(content).__name__}"):
        convert(method, tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(OSError, match=r"a.pth: is no PyTorch checkpoint of tensors \(.+\)"):
        convert("crw", tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.to(torch.int32), "conv1.weight must be a dense tensor of floating-point numbers"),
        (lambda w: w.to(torch.complex64), "conv1.weight must be a dense tensor of floating-point numbers"),
        (lambda w: w > 0, "conv1.weight must be a dense tensor of floating-point numbers"),
        (lambda w: w.to_sparse(), "conv1.weight must be a dense tensor of floating-point numbers"),
        (lambda w: w.to("meta"), "conv1.weight must be a dense tensor of floating-point numbers"),
        (lambda w: w.where(w < 0, torch.nan), "a.pth: weights must be finite .* in encoder.conv1.weight"),
        (lambda w: w.double() * 1e300, "a.pth: weights must be finite .* in encoder.conv1.weight"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(change, problem, tmp_path):
    published = Published("torchvision-resnet18")
    published.state["conv1.weight"] = change(published.state["conv1.weight"])
    with pytest.raises(ValueError, match=problem):
        convert("torchvision-resnet18", published.save(tmp_path / "a.pth"))


def test_a_weight_under_two_prefixes_is_refused(tmp_path):
    published = Published("fgvc")
    published.state["module.backbone.conv1.conv.weight"] = torch.zeros(64, 3, 7, 7)
    with pytest.raises(ValueError, match="has conv1.weight twice, the second time as module.backbone.conv1"):
        convert("fgvc", published.save(tmp_path / "a.pth"))


def test_weights_in_half_precision_become_float32(tmp_path):
    published = Published("torchvision-resnet18")
    before = published.state["conv1.weight"].half()
    published.state = {k: v.half() if v.is_floating_point() else v for k, v in published.state.items()}
    model, _ = convert("torchvision-resnet18", published.save(tmp_path / "a.pth"))
    assert torch.equal(model.encoder.conv1.weight, before.float())


def test_weights_of_colours_are_refused_as_well(tmp_path):
    torch.save(colour_state("decoder"), tmp_path / "decoder.pth")
    for value, problem in (
        (torch.full((128,), torch.nan), "encoder.pth: weights must be finite"),
        (torch.zeros(128, dtype=torch.int32), "conv2.bias must be a dense tensor of floating-point numbers"),
    ):
        state = colour_state("encoder")
        state["conv2.bias"] = value[: len(state["conv2.bias"])]
        torch.save(state, tmp_path / "encoder.pth")
        with pytest.raises(ValueError, match=problem):
            convert_colours(tmp_path / "encoder.pth", tmp_path / "decoder.pth")
