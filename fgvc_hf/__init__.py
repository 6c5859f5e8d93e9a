"""FGVC: follow pixels through video.

Public names are imported when they are first used, so that `import fgvc_hf` and the command line's help do not wait for
torch. The Auto classes of transformers know FGVC as soon as a model class is used here, and from the start if transformers
was imported before.
"""

import importlib
import sys
from pathlib import Path


__version__ = "0.1.0"

_HOMES = {
    "FgvcConfig": "auto",
    "FgvcModel": "auto",
    "FgvcImageProcessorPil": "auto",
    "FgvcProcessor": "auto",
    "FgvcInferenceSession": "inference_session_fgvc",
    "PointTracks": "processing_fgvc",
    "load": "presets",
    "model_card": "hub_fgvc",
    "model_from_backbone": "backbones",
    "load_session": "session_file",
    "open_video": "video",
    "match_heat_map": "heat_map_fgvc",
    "paint": "textures_fgvc",
    "VideoWriter": "video",
    "chain_flow": "flow_chain_fgvc",
    "contact_sheet": "visualization",
    "draw_arrows": "visualization",
    "draw_flow": "visualization",
    "draw_heat_map": "visualization",
    "draw_masks": "visualization",
    "draw_tracks": "visualization",
    "save_session": "session_file",
    "side_by_side": "visualization",
    "read_tracks": "tracks",
    "save_tracks": "tracks",
    "read_mask": "masks",
    "read_points_file": "tracks",
    "render_clip": "data.synthetic",
}
__all__ = ["bundled_checkpoints", "default_checkpoint", *_HOMES]


DEFAULT_CHECKPOINT = "fgvc-joint"


def bundled_checkpoints() -> dict[str, str]:
    """Name and folder of each checkpoint that ships with the package."""
    folder = Path(__file__).parent / "checkpoints"
    return {path.name: str(path) for path in sorted(folder.iterdir()) if (path / "config.json").is_file()}


def default_checkpoint() -> str:
    """Folder of the checkpoint that is used where none is named; it takes the place of a Hub id."""
    return bundled_checkpoints()[DEFAULT_CHECKPOINT]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'fgvc_hf' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if "transformers" in sys.modules:
    importlib.import_module(".auto", __name__)
