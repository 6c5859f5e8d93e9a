"""FGVC: follow pixels through video.

Public names are imported when they are first used, so that `import fgvc_hf` and the command line's help do not wait for torch.
The Auto classes and pipelines of transformers know FGVC from then on, whichever of the two packages is imported first.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder

from .hub.lazy_auto import make_known


__version__ = "0.2.0"

_HOMES = {
    "BoxTracks": "tracking.box_results",
    "FgvcConfig": "configuration_fgvc",
    "FgvcImageProcessorPil": "image_processing_pil_fgvc",
    "FgvcInferenceSession": "tracking.session",
    "FgvcModel": "modeling_fgvc",
    "FgvcProcessor": "processing_fgvc",
    "LiveTracker": "tracking.live_tracker",
    "PointLabels": "io.formats.point_labels",
    "PointName": "io.formats.point_labels",
    "PointQueries": "io.point_queries",
    "PointTracks": "tracking.results",
    "Tracker": "tracker",
    "VideoWriter": "io.video",
    "boxes_from_supervision": "io.formats.supervision_objects",
    "bundled_checkpoints": "io.checkpoints",
    "camera_motion": "applications.camera_motion",
    "chain_flow": "applications.flow_chaining",
    "contact_sheet": "io.drawing",
    "default_checkpoint": "io.checkpoints",
    "draw_arrows": "io.drawing",
    "draw_flow": "io.drawing",
    "draw_heat_map": "io.drawing",
    "draw_masks": "io.drawing",
    "draw_tracks": "io.drawing",
    "load": "tracker",
    "load_session": "applications.session_files",
    "load_masks": "data.dataset_tracking.mask_encoding",
    "load_tracks": "data.dataset_tracking.row_encoding",
    "model_card": "hub.model_card",
    "model_from_backbone": "conversion.external_backbone",
    "open_video": "io.video",
    "paint": "applications.painting",
    "points_from_supervision": "io.formats.supervision_objects",
    "read_boxes": "io.formats.table",
    "read_labels": "io.tracks",
    "read_mask": "io.masks",
    "read_points_file": "io.tracks",
    "read_stmap": "io.exr_files",
    "read_tracks": "io.tracks",
    "render_clip": "data.synthetic",
    "save_boxes": "io.tracks",
    "save_session": "applications.session_files",
    "save_stmap": "io.exr_files",
    "save_tracks": "io.tracks",
    "side_by_side": "io.drawing",
    "smooth": "applications.track_smoothing",
    "suggest_frames": "tracking.suggestions",
    "track_boxes": "applications.tracked_boxes",
    "track_dataset": "data.dataset_tracking.dataset_run",
    "track_rows": "data.dataset_tracking.clip_tracking",
    "velocity": "applications.track_smoothing",
}
__all__ = list(_HOMES)

_WITHOUT_TORCH = ("bundled_checkpoints", "default_checkpoint")

# Modules of version 0.1 and where their content is now
_MOVED = {
    "auto": "hub.auto",
    "backbones": "conversion.external_backbone",
    "boxes_fgvc": "tracking.box_tracker",
    "coarse_to_fine_fgvc": "encoder.coarse_to_fine",
    "commands": "cli.main",
    "coordinates_fgvc": "coordinates",
    "correlation_fgvc": "matching.windows",
    "encoder_fgvc": "encoder.backbone",
    "export": "conversion.graphs",
    "files": "io.files",
    "flow_chain_fgvc": "applications.flow_chaining",
    "flow_fgvc": "tracking.dense_flow",
    "flow_files": "io.flow_files",
    "folded_encoder_fgvc": "encoder.fused_encoder",
    "heat_map_fgvc": "tracking.heat_map",
    "hub_fgvc": "hub.repository",
    "inference_session_fgvc": "tracking.session",
    "localisation_fgvc": "tracking.localisation",
    "machine_code": "kernels.numba_runtime",
    "masks": "io.masks",
    "memory_fgvc": "tracking.memory",
    "overlays": "io.overlays",
    "patches_fgvc": "matching.patches",
    "patches_numba": "kernels.patches_numba",
    "presets": "io.checkpoints",
    "process": "kernels.process",
    "propagation_fgvc": "tracking.label_maps",
    "refinement_fgvc": "matching.block_search",
    "selection_fgvc": "kernels.dispatch",
    "selection_numba": "kernels.topk_numba",
    "selection_triton": "kernels.topk_triton",
    "session_file": "applications.session_files",
    "targets_fgvc": "tracking.prompts",
    "templates_fgvc": "tracking.template_tracker",
    "textures_fgvc": "applications.painting",
    "tracks": "io.tracks",
    "video": "io.video",
    "visualization": "io.drawing",
    "winograd_numba": "kernels.winograd_numba",
    "conversion.colours": "training.ancestors.published_colours",
    "data.card": "data.dataset_card",
    "evaluation.boxes": "evaluation.box_following",
    "evaluation.tap_vid": "evaluation.tapvid",
    "evaluation.tap_vid_pickle": "evaluation.tapvid_pickle",
    "metrics.boxes": "metrics.box_overlap",
    "metrics.davis": "metrics.region_contour",
    "metrics.flow": "metrics.end_point_error",
    "metrics.keypoints": "metrics.pck",
    "metrics.segmentation": "metrics.mean_iou",
    "metrics.tap_vid": "metrics.average_jaccard",
    "training.card": "training.training_card",
    "training.colours": "training.ancestors.colour_autoencoder",
    "training.localise": "training.ancestors.patch_localisation",
    "training.time_cycle": "training.ancestors.time_cycle",
    "training.uvc": "training.ancestors.uvc",
    "training.videos": "training.ancestors.video_training",
    "training.window": "training.window_losses",
    "training.window_triton": "kernels.window_losses_triton",
}


class _MovedModules(MetaPathFinder):
    """Names the new place of a module of version 0.1. Asked last, so only for modules that do not exist."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == __name__ and name in _MOVED:
            message = f"fgvc_hf.{name} has moved: import from fgvc_hf.{_MOVED[name]} instead."
            raise ImportError(message, name=fullname)
        return None


if not any(type(finder).__name__ == _MovedModules.__name__ for finder in sys.meta_path):
    sys.meta_path.append(_MovedModules())


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'fgvc_hf' has no attribute {name!r}")
    if name not in _WITHOUT_TORCH:
        importlib.import_module(".hub.auto", __name__)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


make_known()
