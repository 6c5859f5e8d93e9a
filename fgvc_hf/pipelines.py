"""Pipelines of transformers: `pipeline("point-tracking", model=...)` and `pipeline("mask-propagation", model=...)`."""

from typing import Any, cast

import numpy as np
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .io.video import open_video
from .modeling_fgvc import FgvcModel
from .processing_fgvc import FgvcProcessor
from .tracker import Tracker


class _VideoPipeline(Pipeline):
    """A pipeline that takes a video and needs the processor alone."""

    _load_processor = True
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def preprocess(self, input_: Any, **prompt) -> dict[str, Any]:
        return {"video": open_video(input_), **prompt}

    def postprocess(self, model_outputs: Any, **_) -> Any:
        return model_outputs

    @property
    def tracker(self) -> Tracker:
        return Tracker(cast(FgvcModel, self.model), cast(FgvcProcessor, self.processor))

    def save_pretrained(self, save_directory, **kwargs: Any) -> None:
        """Save model and processor. The base class saves no processor, and copies this module without the ones it imports."""
        self.model.save_pretrained(save_directory, **kwargs)
        cast(FgvcProcessor, self.processor).save_pretrained(save_directory, **kwargs)

    def check_model_type(self, supported_models) -> None:
        # By name: code that a local checkpoint carries is loaded once for each of its classes
        if type(self.model).__name__ != FgvcModel.__name__:
            raise ValueError(f"{self.task} needs an FgvcModel, got {type(self.model).__name__}.")


class PointTrackingPipeline(_VideoPipeline):
    """
    Follow points through a video.

    ```python
    from transformers import pipeline
    tracker = pipeline("point-tracking", model=default_checkpoint())
    result = tracker("clip.mp4", points=[(0, 20, 30)])
    ```

    Args of a call:
        video: A path, or an array (T, H, W, 3); several in a list are followed one after the other.
        points (array of shape `(N, 3)`): Prompts (t, x, y) in pixels of the video.
        direction (`str`, defaults to `"forward"`), threshold (`float`, *optional*): As of [`Tracker.track`].

    Returns:
        `dict` with `queries` (N, 3), `tracks` (N, T, 2), `visible`, `confidence`, `uncertainty` and `outside` (N, T), and `size` (height,
        width), as in [`PointTracks`].
    """

    def _sanitize_parameters(self, points=None, direction="forward", threshold=None, **_):
        return {"points": points, "direction": direction, "threshold": threshold}, {}, {}

    def _forward(self, input_tensors: dict[str, Any], **_) -> Any:
        if input_tensors["points"] is None:
            raise ValueError("points is missing: pass an array (N, 3) of (t, x, y).")
        tracks = self.tracker.track(**input_tensors)
        names = ("queries", "tracks", "visible", "confidence", "uncertainty", "outside", "size")
        return {name: getattr(tracks, name) for name in names}


class MaskPropagationPipeline(_VideoPipeline):
    """
    Carry the masks of objects through a video.

    Args of a call:
        video: As of [`PointTrackingPipeline`].
        masks (`numpy.ndarray` of shape `(H, W)`, integer): Object ids of one frame, 0 for the background.
        frame_idx (`int`, defaults to 0), direction (`str`, defaults to `"forward"`): As of [`Tracker.propagate_masks`].

    Returns:
        `dict` with `frame_idx` (T,), the frames that were processed in their order in time, and `masks` (T, H, W), their object ids.
    """

    def _sanitize_parameters(self, masks=None, frame_idx=0, direction="forward", **_):
        return {"masks": masks, "frame_idx": frame_idx, "direction": direction}, {}, {}

    def _forward(self, input_tensors: dict[str, Any], **_) -> Any:
        if input_tensors["masks"] is None:
            raise ValueError("masks is missing: pass object ids (H, W) of one frame.")
        found = dict(self.tracker.propagate_masks(**input_tensors))
        frames = sorted(found)
        return {"frame_idx": np.array(frames), "masks": np.stack([found[t] for t in frames])}


def register() -> None:
    """Make both known to `transformers.pipeline`."""
    for task, kind in (("point-tracking", PointTrackingPipeline), ("mask-propagation", MaskPropagationPipeline)):
        if task not in PIPELINE_REGISTRY.get_supported_tasks():
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=kind, pt_model=FgvcModel, type="multimodal")
