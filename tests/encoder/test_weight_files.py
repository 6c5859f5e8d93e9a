"""A checkpoint gives all weights of a model, in numbers, or one sentence that says what is wrong."""

import json
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.encoder.loading import MOST


CONVOLUTION, NORM = "encoder.layer1.0.conv1.weight", "encoder.bn1.running_var"


@pytest.fixture
def folder(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path)
    FgvcImageProcessorPil().save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def spoil(name: str, value: float):
    return lambda weights: weights[name].view(-1)[3:4].fill_(value)


WRONG_WEIGHTS = {
    "NaN": (spoil(CONVOLUTION, torch.nan), f"finite numbers, but there are NaN or infinite ones in {CONVOLUTION}"),
    "infinite": (spoil(NORM, torch.inf), f"infinite ones in {NORM}"),
    "missing": (lambda weights: weights.pop(CONVOLUTION), f"has no weights for: {CONVOLUTION}"),
    "a missing buffer": (lambda weights: weights.pop(NORM), f"has no weights for: {NORM}"),
    "another size": (
        lambda weights: weights.update({CONVOLUTION: torch.zeros(3, 3)}),
        rf"another size: {CONVOLUTION} \(3, 3\) for \(8, 8, 3, 3\)",
    ),
}


@pytest.mark.parametrize("load", [FgvcModel, Tracker], ids=["model", "tracker"])
@pytest.mark.parametrize("change, message", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_wrong_weights_are_named(change, message, load, folder):
    change_weights(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        load.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_what_has_no_effect_may_be_missing_or_there(folder, tiny_model):
    def change(weights):
        for name in [name for name in weights if "num_batches_tracked" in name]:
            del weights[name]
        weights["other.weight"] = torch.zeros(3)

    change_weights(folder, change)
    model = FgvcModel.from_pretrained(folder)
    assert all(map(torch.equal, model.parameters(), tiny_model.parameters()))


def test_new_weights_only_if_asked_for(folder):
    change_config(folder, projection_size=12)
    with pytest.raises(ValueError, match=r"has no weights for: encoder.projection.bias, encoder.projection.weight\."):
        FgvcModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="has weights of another size"):
        FgvcModel.from_pretrained(folder, hidden_sizes=[4, 8, 16], output_loading_info=True)
    model, info = FgvcModel.from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["missing_keys"] == {"encoder.projection.bias", "encoder.projection.weight"}
    assert model.encoder.projection.weight.std() > 0


DAMAGED = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "other bytes": lambda path: path.write_bytes(b"weights" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "a header of one long word": lambda path: path.write_bytes(
        struct.pack("<Q", 100_002) + b'"' + b"x" * 100_000 + b'"'
    ),
    "a damaged pickle": lambda path: path.rename(path.with_name("pytorch_model.bin")).write_bytes(b"hello"),
    "gone": lambda path: path.unlink(),
    "an empty folder": lambda path: shutil.rmtree(path.parent) or path.parent.mkdir(),
}


@pytest.mark.parametrize("load", [FgvcModel, Tracker], ids=["model", "tracker"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(damage, load, folder):
    damage(folder / "model.safetensors")
    with pytest.raises((ValueError, OSError)) as caught:
        load.from_pretrained(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_another_type_of_model(folder):
    change_config(folder, model_type="bert")
    for load in (FgvcModel, Tracker):
        with pytest.raises(ValueError, match="of (a model of type|model type) 'bert', not 'fgvc'"):
            load.from_pretrained(folder)


def test_the_sentence_about_a_type_that_is_no_name_is_short(folder):
    change_config(folder, model_type=[0] * 10_000)
    for load in (FgvcModel, Tracker):
        with pytest.raises(ValueError, match="of (a model of type|model type) .*, not 'fgvc'") as caught:
            load.from_pretrained(folder)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [2**63, 10**400], ids=["2**63", "10**400"])
@pytest.mark.parametrize("name", MOST)
def test_fields_that_sizes_depend_on_are_bounded(name, value, folder):
    change_config(folder, **{name: [value] * 3 if name == "depths" else value})
    with pytest.raises(ValueError, match=rf"{name} must be (at most|a finite number)") as caught:
        FgvcModel.from_pretrained(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "fields",
    [
        {"depths": [10**9, 2, 2]},
        {"hidden_sizes": [10**9] * 3},
        {"fine_size": 8, "output_stride": 2, "num_attention_layers": 10**9},
        {"projection_size": 10**9},
        {"num_channels": 10**9},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_small_file_asks_for_no_huge_network(fields, folder):
    deep = {"depths", "num_attention_layers"} & set(fields)
    message = (
        r"must be at most 1000, got .*1000000000" if deep else r"the model would have .* parameters, at most 2.7e\+08"
    )

    change_config(folder, **fields)
    start = time.perf_counter()
    for load in (lambda: FgvcModel(FgvcConfig(**fields)), lambda: FgvcModel.from_pretrained(folder)):
        with pytest.raises(ValueError, match=message):
            load()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("added", [{"use_cache": False}, {"layer_scale": 0.1}, {"use_cache": True, "a": {"b": [1]}}])
def test_files_may_have_fields_of_others_and_keywords_may_not(added, folder, tiny_model):
    change_config(folder, **added)
    model = FgvcModel.from_pretrained(folder)
    assert all(map(torch.equal, model.parameters(), tiny_model.parameters()))
    Tracker.from_pretrained(folder)
    with pytest.raises(ValueError, match="no field"):
        FgvcConfig(**added)
    with pytest.raises(TypeError, match="unexpected keyword"):
        FgvcModel.from_pretrained(folder, **added)
    with pytest.raises(ValueError, match="no field"):
        Tracker.from_pretrained(folder, **added)


def test_weights_spoilt_after_loading_are_named_where_a_session_starts(tiny_model):
    model = FgvcModel(tiny_model.config)
    model.load_state_dict(tiny_model.state_dict())
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    frames = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8).numpy()
    tracker.track(frames, [(0, 20, 20)])
    model.encoder.layer2[0].conv1.weight.data[0, 0, 0, 0] = torch.nan
    calls = (
        lambda: tracker.track(frames, [(0, 20, 20)]),
        lambda: tracker.flow(*frames),
        lambda: tracker.match(*frames, (20, 20)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"infinite ones in encoder.layer2.0.conv1.weight\."):
            call()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dtype": "int8"}, "dtype must be 'auto' or one of"),
        ({"dtype": torch.int8}, "dtype must be 'auto' or one of"),
        ({"dtype": "float64"}, "dtype must be 'auto' or one of"),
        ({"device": "cuda:99"}, "device cuda:99 is not available here"),
        ({"device": "meta"}, "device meta is not available here"),
        ({"device": "toaster"}, "device toaster is not available here"),
    ],
)
def test_devices_and_types_that_are_not_there(arguments, message, folder):
    with pytest.raises(ValueError, match=message):
        Tracker.from_pretrained(folder, **arguments)


@pytest.mark.parametrize("machine, vendor, bits, onednn, expected", [
    ("x86_64", "AuthenticAMD", {"avx512_bf16"}, True, torch.bfloat16),
    ("x86_64", "GenuineIntel", {"avx512_bf16"}, True, torch.float32),  # no faster there than float32
    ("AMD64", "GenuineIntel", {"avx512_bf16", "amx_tile"}, True, torch.bfloat16),
    ("x86_64", "AuthenticAMD", set(), True, torch.float32),  # AVX-512 alone: oneDNN says yes, and converts
    ("aarch64", "", set(), True, torch.bfloat16),  # oneDNN has asked the CPU
    ("x86_64", "GenuineIntel", {"avx512_bf16", "amx_tile"}, False, torch.float32),
])  # fmt: skip
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(machine, vendor, bits, onednn, expected, monkeypatch):
    from fgvc_hf.io.checkpoints import fast_dtype
    from fgvc_hf.kernels import processor

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(processor, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in bits)
    with torch.backends.mkldnn.flags(enabled=onednn):
        assert fast_dtype(torch.device("cpu")) == expected
