"""Convert published checkpoints of FGVC and of the compared methods.

A [`Source`] describes a kind of file: the entry with the weights, the prefix of the encoder's keys, how keys are renamed (to torchvision's names,
which the encoder has), which keys are ignored, and the configuration with which the encoder computes the same features. Unknown keys and missing
weights are errors.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..configuration_fgvc import FgvcConfig
from ..encoder.loading import check_finite, float32_weights
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..io.json_files import reason_of
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor


RESNET_18 = {"hidden_sizes": [64, 128, 256], "depths": [2, 2, 2]}
RESNET_18_LAYER4 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
RESNET_50 = {"hidden_sizes": [64, 128, 256], "depths": [3, 4, 6], "bottleneck": True}
POOLED = {"stem_pooling": "max", "output_stride": 8}
RGB: dict[str, Any] = {
    "do_convert_lab": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
L_SCALE = 255 / 256 / 100  # UVC's input is 8-bit lightness / 256, repeated in three channels and normalised like RGB
LIGHTNESS = {
    "lightness_only": True,
    "image_mean": [mean / L_SCALE for mean in RGB["image_mean"]],
    "image_std": [std / L_SCALE for std in RGB["image_std"]],
}
SHORT_SIDE_480 = {"resize_policy": "short_side", "size": {"shortest_edge": 480}}


# Label propagation of each method, as in its authors' code for DAVIS; FGVC's is the default of the configuration
FEATURE_LABELS: dict[str, Any] = {"num_context_frames": 20, "propagation_radius": 12, "temperature": 0.05}
DUL_LABELS = {**FEATURE_LABELS, "first_windowed": False}
CRW_LABELS = {**DUL_LABELS, "repeat_first": True}
VFS_LABELS: dict[str, Any] = {"num_context_frames": 20}
UVC_LABELS: dict[str, Any] = {
    "propagation_family": "per_reference",
    "propagation_window": "none",
    "propagation_topk": 5,
    "num_context_frames": 7,
}
TIME_CYCLE_LABELS = {**UVC_LABELS, "repeat_first": True, "temperature": 512**-0.5}
MAST_LABELS: dict[str, Any] = {
    "num_context_frames": 3,
    "context_step": 2,
    "kept_frame": 5,
    "propagation_family": "windowed",
    "propagation_window": "square",
    "propagation_radius": 12,
    "similarity": "dot",
    "temperature": 1.0,
}


def _same(key: str) -> str:
    return key


def _mmcv(key: str) -> str:
    """mmcv's ConvModule has `conv1.conv.weight` and `conv1.bn.weight` for `conv1.weight` and `bn1.weight`."""
    key = re.sub(r"conv(\d)\.conv\.", r"conv\1.", key)
    key = re.sub(r"conv(\d)\.bn\.", r"bn\1.", key)
    return key.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")


def _reflect(key: str) -> str:
    """CRW has a padding layer before some convolutions: `conv1.1.weight` for `conv1.weight`."""
    return re.sub(r"(conv\d)\.1\.", r"\1.", key)


def _mast(key: str) -> str:
    """MAST's residual branch is a `Sequential` named `left`."""
    key = re.sub(r"^conv1\.0\.", "conv1.", key)
    key = re.sub(r"^conv1\.1\.", "bn1.", key)
    for index, name in (("0", "conv1"), ("1", "bn1"), ("3", "conv2"), ("4", "bn2")):
        key = key.replace(f".left.{index}.", f".{name}.")
    return key.replace(".shortcut.", ".downsample.").replace("post_convolution.", "projection.")


@dataclass(frozen=True)
class Source:
    """How one kind of published file is converted.

    Args:
        container (`str`, *optional*): Entry of the file with the weights; `None` if the file is the state dict itself.
        prefixes (`tuple[str, ...]`): Accepted prefixes of the encoder's keys; the first that matches is removed.
        rename (callable): From a key without its prefix to the encoder's.
        ignored (`tuple[str, ...]`): Patterns of keys, with their prefixes, that are left out.
        config (`dict`): Fields of [`FgvcConfig`]: encoder and label propagation. Two steps of MAST are not reproduced: its coarse search
            in frames more than 15 frames old, and its argmax over labels before they are propagated.
        processor (`dict`): Settings of [`FgvcImageProcessorPil`].
    """

    container: str | None = None
    prefixes: tuple[str, ...] = ("",)
    rename: Callable[[str], str] = _same
    ignored: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)


MMCV = ("module.backbone.", "backbone.", "")
LAYER4 = r"(.*\.)?layer4\."
SOURCES = {
    "fgvc": Source(
        "state_dict",
        MMCV,
        _mmcv,
        (LAYER4, r"(module\.)?(teacher|corr_discriminator|discriminator)\.", r"(module\.)?iteration$"),
        {**RESNET_18},
    ),
    "spa-then-temp": Source(
        "state_dict",
        MMCV,
        _mmcv,
        (LAYER4, r".*(head|teacher)\."),
        {**RESNET_18, "output_stride": 8, **VFS_LABELS, "propagation_radius": 24, "propagation_window": "square"},
    ),
    "vfs-resnet18": Source(
        "state_dict",
        MMCV,
        _mmcv,
        (LAYER4, r"(module\.)?img_head\."),
        {**RESNET_18, **POOLED, **VFS_LABELS, "propagation_radius": 24},
        {**RGB, **SHORT_SIDE_480},
    ),
    "vfs-resnet50": Source(
        "state_dict",
        MMCV,
        _mmcv,
        (LAYER4, r"(module\.)?img_head\."),
        {**RESNET_50, **POOLED, **VFS_LABELS, "propagation_radius": 36},
        {**RGB, **SHORT_SIDE_480},
    ),
    "crw": Source(
        "model",
        ("encoder.model.",),
        _reflect,
        (LAYER4, r"selfsim_", r"encoder\.model\.fc\."),
        {**RESNET_18, **POOLED, "padding_mode": "reflect", **CRW_LABELS},
        {**RGB, **SHORT_SIDE_480},
    ),
    "uvc": Source(
        "state_dict",
        ("module.gray_encoder.",),
        ignored=(r"module\.(rgb_encoder|decoder|normalize)", r".*\.fc\."),
        config={**RESNET_18_LAYER4, **POOLED, **UVC_LABELS, "similarity": "dot", "temperature": 1.0},
        processor={**LIGHTNESS, **SHORT_SIDE_480},
    ),
    "time-cycle": Source(
        "state_dict",
        ("module.encoderVideo.", "module.afterconv1."),
        ignored=(LAYER4, r"module\.(afterconv[34]|linear|encoderVideo\.fc)"),
        config={
            **RESNET_50,
            **POOLED,
            **TIME_CYCLE_LABELS,
            "projection_size": 512,
            "projection_relu": True,
        },
        processor={**RGB, "size": {"height": 320, "width": 320}},
    ),
    "mast": Source(
        "state_dict",
        ("feature_extraction.",),
        _mast,
        config={
            "hidden_sizes": [64, 128, 256, 256],
            "depths": [2, 2, 2, 2],
            "output_stride": 4,
            "projection_size": 64,
            "projection_kernel": 3,
            **MAST_LABELS,
        },
        processor={"resize_policy": "none"},
    ),
    "sfc": Source(
        "model",
        ("online_encoder.",),
        ignored=(LAYER4, r"(target_encoder|predictor|.*\.fc\.|.*head)"),
        config={**RESNET_18, **POOLED, **FEATURE_LABELS},
        processor={**RGB, **SHORT_SIDE_480},
    ),
    "dul": Source(
        "model",
        ("module.fast_net.backbone.", "fast_net.backbone."),
        ignored=(r"(module\.)?(slow_net|fast_net\.(?!backbone))", r".*\.fc\."),
        config={**RESNET_18_LAYER4, **POOLED, **DUL_LABELS},
        processor={**RGB, **SHORT_SIDE_480},
    ),
    "torchvision-resnet18": Source(
        None,
        ignored=(LAYER4, r"fc\."),
        config={**RESNET_18, **POOLED, **VFS_LABELS, "propagation_radius": 24},
        processor={**RGB, **SHORT_SIDE_480},
    ),
    "torchvision-resnet50": Source(
        None,
        ignored=(LAYER4, r"fc\."),
        config={**RESNET_50, **POOLED, **VFS_LABELS, "propagation_radius": 36},
        processor={**RGB, **SHORT_SIDE_480},
    ),
}


def convert(method: str, checkpoint: str | Path) -> tuple[FgvcModel, FgvcProcessor]:
    """Convert a published checkpoint.

    Args:
        method (`str`): Key of `SOURCES`.
        checkpoint (`str` or `Path`): The published file.

    Returns:
        [`FgvcModel`] in evaluation mode, and [`FgvcProcessor`].

    Raises:
        `OSError`: The file is missing, or is no PyTorch checkpoint of tensors.
        `ValueError`: The method is unknown, keys are unknown, missing, there twice or of another shape, or weights are no finite
            floating-point numbers; the message names them.
    """
    if method not in SOURCES:
        raise ValueError(f"method must be one of {', '.join(SOURCES)}, got {method!r}.")
    source = SOURCES[method]
    weights = encoder_weights(read_checkpoint(checkpoint, source.container), source)
    with float32_weights():
        model = FgvcModel(FgvcConfig(**source.config))
    expected = {name: tensor for name, tensor in model.encoder.state_dict().items() if "num_batches" not in name}
    if "projection.bias" in expected and "projection.bias" not in weights:
        weights["projection.bias"] = torch.zeros_like(
            expected["projection.bias"]
        )  # TimeCycle's convolution has no bias
    compare_weights(weights, expected)
    model.encoder.load_state_dict(weights, strict=False)
    check_finite(model, f"{checkpoint}: ")
    return model.eval(), FgvcProcessor(FgvcImageProcessorPil(**source.processor))


def read_checkpoint(path: str | Path, container: str | None) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch file by name. Only tensors and plain containers are unpickled."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is none
        raise OSError(f"{path}: is no PyTorch checkpoint of tensors ({reason_of(error)}).") from None
    if container is not None:
        if not isinstance(content, dict) or container not in content:
            keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path}: the weights were expected under {container!r}, found {keys[:200]}.")
        content = content[container]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: must hold tensors by name, got a {type(content).__name__}.")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def encoder_weights(state: Mapping[str, torch.Tensor], source: Source) -> dict[str, torch.Tensor]:
    """Rename the encoder's weights to the names of [`FgvcEncoder`]; a `ValueError` names unknown keys, and a weight that is there twice."""
    weights, unknown = {}, []
    for key, value in state.items():
        if "num_batches_tracked" in key or any(re.match(pattern, key) for pattern in source.ignored):
            continue
        prefix = next((prefix for prefix in source.prefixes if key.startswith(prefix)), None)
        name = None if prefix is None else source.rename(key[len(prefix) :])
        if name is not None and prefix == "module.afterconv1.":
            name = f"projection.{name}"
        if name is None or not re.match(r"(conv1|bn1|layer\d|projection)\.", name):
            unknown.append(key)
            continue
        if name in weights:
            raise ValueError(f"the checkpoint has {name} twice, the second time as {key}.")
        # TimeCycle's convolutions are 3-D with a kernel of one frame
        weights[name] = value.squeeze(2) if value.ndim == 5 else value
    if unknown:
        raise ValueError(f"the checkpoint has keys that were not expected: {_some(unknown)}.")
    return weights


def compare_weights(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raise a `ValueError` that names weights that are missing, unknown, of another shape, or of no floating-point numbers."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise ValueError(f"the checkpoint lacks {_some(missing)}.")
    if extra:
        raise ValueError(f"the checkpoint has keys that were not expected: {_some(extra)}.")
    for name, weight in expected.items():
        given, shape = found[name], tuple(weight.shape)
        if tuple(given.shape) != shape:
            raise ValueError(f"{name} is {tuple(given.shape)} in the checkpoint, but {shape} was expected.")
        if not given.is_floating_point() or given.layout != torch.strided or given.is_meta:
            kind = f"{given.dtype}, {given.layout}, on {given.device}"
            raise ValueError(f"{name} must be a dense tensor of floating-point numbers in memory, got {kind}.")


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
