"""Ways to run a checkpoint, and the loading of one with all that goes with it. torch is imported when there is work for it."""

import json
from pathlib import Path
from typing import Any


DEFAULT_CHECKPOINT = "fgvc-joint"
FOLDER = Path(__file__).parents[1] / "checkpoints"  # those that ship with the package


def bundled_checkpoints() -> dict[str, str]:
    """Name and folder of each checkpoint that ships with the package."""
    return {path.name: str(path) for path in sorted(FOLDER.iterdir()) if (path / "config.json").is_file()}


def default_checkpoint() -> str:
    """Folder of the checkpoint that is used where none is named; it takes the place of a Hub id."""
    return bundled_checkpoints()[DEFAULT_CHECKPOINT]


# Name -> settings of the image processor, and fields of the model's configuration
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({"resize_policy": "stretch", "size": {"height": 256, "width": 256}}, {"point_matching": "labels"}),
    "fast": ({"resize_policy": "stretch", "size": {"height": 256, "width": 256}}, {"point_matching": "templates"}),
    "balanced": ({"resize_policy": "short_side", "size": {"shortest_edge": 256}}, {"point_matching": "templates"}),
    "accurate": ({"resize_policy": "short_side", "size": {"shortest_edge": 480}}, {"point_matching": "templates"}),
}


def load(
    checkpoint: str | None = None,
    preset: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str = "main",
    **settings,
):
    """Model and processor, ready to track.

    Args:
        checkpoint (`str`, *optional*): Name of a bundled checkpoint, folder or Hub id; the default one if not given.
        preset (`str`, *optional*): `"paper"`, `"fast"`, `"balanced"` or `"accurate"`; the checkpoint's own settings if not given.
        device (`str`, *optional*): Where to run; CUDA if there is any, else the CPU.
        dtype (`str`, *optional*): `"float32"` or `"bfloat16"`; bfloat16 where the device multiplies it fast.
        revision (`str`, defaults to `"main"`): Branch, tag or commit of a Hub id, for model and processor alike.
        settings: Fields of [`FgvcConfig`] to change.

    Returns:
        [`FgvcModel`], [`FgvcProcessor`].

    Raises:
        `ValueError`: an unknown preset or device, what is named is no checkpoint, or a setting is not accepted.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from ..hub.auto import FgvcImageProcessorPil, FgvcModel, FgvcProcessor

    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    path = resolve_checkpoint(checkpoint)
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {device} is not available here; cpu always is.") from None
    resizing, method = PRESETS[preset] if preset else ({}, {})
    precision = getattr(torch, dtype) if dtype else fast_dtype(place)
    try:
        model = FgvcModel.from_pretrained(path, revision=revision, dtype=precision, **(method | settings)).to(place)
        processor = FgvcProcessor.from_pretrained(path, revision=revision)
    except (StrictDataclassError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: is no checkpoint that can be loaded ({error}).") from None
    if resizing:
        processor = FgvcProcessor(FgvcImageProcessorPil(**(processor.image_processor.to_dict() | resizing)))
    return model, processor


def resolve_checkpoint(name: str | None) -> str:
    """Path or Hub id of a checkpoint; folders are checked, so that the error is a plain one."""
    if name is None:
        return default_checkpoint()
    if name in bundled_checkpoints():
        return bundled_checkpoints()[name]
    folder = Path(name)
    if not folder.is_dir():
        if name.count("/") == 1 and not folder.exists() and not name.startswith((".", "/")):
            return name  # a Hub id
        names = ", ".join(bundled_checkpoints())
        raise ValueError(f"{name}: is no checkpoint; accepted are {names}, a folder, or a Hub id such as user/name.")
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{name}: is no checkpoint, it has no config.json.")
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"{config}: is not valid JSON.") from None
    if model_type != "fgvc":
        raise ValueError(f"{name}: is a checkpoint of model type {model_type!r}, not 'fgvc'.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{name}: has no weights; there must be a model.safetensors.")
    return name


def fast_dtype(device):
    """bfloat16 where the device has fast products for it, otherwise float32."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.float32
