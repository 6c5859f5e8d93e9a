"""Where checkpoints are, and the presets that they run with. torch is imported when there is work for it."""

from pathlib import Path
from typing import Any

from .json_files import read_json


DEFAULT_CHECKPOINT = "fgvc-joint"
FOLDER = Path(__file__).parents[1] / "checkpoints"  # those that ship with the package
PROCESSING = (
    "preprocessor_config.json",
    "processor_config.json",
)  # files of the image processor, where they are there
SETTINGS = "a JSON object of settings"
DTYPES = ("float32", "bfloat16", "float16")

# Name -> settings of the image processor, and fields of the model's configuration
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({"resize_policy": "stretch", "size": {"height": 256, "width": 256}}, {"point_matching": "labels"}),
    "fast": ({"resize_policy": "stretch", "size": {"height": 256, "width": 256}}, {"point_matching": "templates"}),
    "balanced": ({"resize_policy": "short_side", "size": {"shortest_edge": 256}}, {"point_matching": "templates"}),
    "accurate": ({"resize_policy": "short_side", "size": {"shortest_edge": 480}}, {"point_matching": "templates"}),
}


def bundled_checkpoints() -> dict[str, str]:
    """Name and folder of each checkpoint that ships with the package."""
    if not FOLDER.is_dir():  # where this code was loaded from the Hub
        return {}
    return {path.name: str(path) for path in sorted(FOLDER.iterdir()) if (path / "config.json").is_file()}


def default_checkpoint() -> str:
    """Folder of the checkpoint that is used where none is named; it takes the place of a Hub id."""
    bundled = bundled_checkpoints()
    if DEFAULT_CHECKPOINT not in bundled:
        raise ValueError("checkpoint is missing: no checkpoint ships with this code, name a folder or a Hub id.")
    return bundled[DEFAULT_CHECKPOINT]


def resolve_checkpoint(name: str | Path | None, subfolder: str | None = None) -> str:
    """Path or Hub id of a checkpoint. Folders, or the subfolder of one, are checked, so that the error is a plain one.

    Raises:
        `ValueError`: what is named is no checkpoint.
    """
    if name is None:
        return default_checkpoint()
    name = str(name)
    if name in bundled_checkpoints():
        return bundled_checkpoints()[name]
    folder = Path(name)
    if not folder.is_dir():
        if name.count("/") == 1 and not folder.exists() and not name.startswith((".", "/")):
            return name  # a Hub id
        names = ", ".join(bundled_checkpoints())
        raise ValueError(f"{name}: is no checkpoint; accepted are {names}, a folder, or a Hub id such as user/name.")
    folder = folder / (subfolder or "")
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{name}: is no checkpoint, it has no config.json.")
    for file in (config, *(folder / name for name in PROCESSING if (folder / name).is_file())):
        if not isinstance(read_json(file, SETTINGS), dict):
            raise ValueError(f"{file}: must be {SETTINGS}.")
    model_type = read_json(config, SETTINGS).get("model_type")
    if model_type != "fgvc":
        raise ValueError(f"{name}: is a checkpoint of model type {model_type!r:.100}, not 'fgvc'.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{name}: has no weights; there must be a model.safetensors.")
    return name


def check_preset(preset: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the image processor and of the model that a preset stands for; none if it is `None`.

    Raises:
        `ValueError`: there is no such preset.
    """
    if preset is None:
        return {}, {}
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    return PRESETS[preset]


def check_device(device):
    """The `torch.device` that is asked for; CUDA if there is any, else the CPU, if none is.

    Raises:
        `ValueError`: it is not available.
    """
    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place).cpu()
    except (RuntimeError, AssertionError, TypeError):  # also of "meta", which holds no values
        raise ValueError(f"device {device} is not available here; cpu always is.") from None
    return place


def check_dtype(dtype, device):
    """A `torch.dtype`, or `"auto"` for that of the saved weights, of what `from_pretrained` of transformers takes.

    Args:
        dtype (`torch.dtype` or `str`, *optional*): A floating type or its name, or `"auto"`; [`fast_dtype`] of the device if not given.

    Raises:
        `ValueError`: it is another type.
    """
    import torch

    if dtype is None:
        return fast_dtype(device)
    if dtype == "auto":
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be 'auto' or one of {', '.join(DTYPES)}, got {dtype!r}.")
    return getattr(torch, name)


def fast_dtype(device):
    """bfloat16 where the device has fast products for it, otherwise float32: a GPU says so itself, of a CPU see [`multiplies_bfloat16`]."""
    import torch

    from ..kernels.processor import multiplies_bfloat16

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    return torch.float32
