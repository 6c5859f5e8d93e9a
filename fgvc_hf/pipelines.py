"""Pipelines of transformers: `pipeline("point-tracking", model=...)` and `pipeline("mask-propagation", model=...)`.

Both take the same inputs. One video is a path, an array (T, H, W, 3) or (T, H, W), a frame source, or a list, tuple or iterator of frames; a
frame is a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). A list, tuple, iterator, array (N, T, H, W, 3) or data set of
anything else is several videos, which are followed one after the other.
"""

import inspect
import itertools
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .image_processing_pil_fgvc import FgvcImageProcessorPil
from .io.video import IMAGE_SUFFIXES, open_video
from .modeling_fgvc import FgvcModel
from .processing_fgvc import FgvcProcessor
from .tracker import Tracker


class _VideoPipeline(Pipeline):
    """
    A pipeline over one method of [`Tracker`], whose arguments are the parameters of the pipeline.

    Parameters given at construction hold for every call, and those of a call take their place; `None` is the same as not given.

    Args:
        model ([`FgvcModel`]): The model. `transformers.pipeline` takes the name of a checkpoint as well.
        processor ([`FgvcProcessor`] or `str`, *optional*): The processor or the checkpoint that has it; that of the model's checkpoint if
            not given.
        image_processor ([`FgvcImageProcessorPil`] or `str`, *optional*): Takes the place of the processor's.
        kwargs: Other arguments of [`transformers.Pipeline`], and parameters.

    Raises:
        `ValueError`: the model is no FGVC, or has no processor.
        `TypeError`: a parameter is not among those accepted.
    """

    _load_processor = None  # a model that is loaded already may come with an image processor alone
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False
    method: str  # of Tracker

    def __init__(self, model, *args, processor=None, image_processor=None, **kwargs):
        # By name: code that a local checkpoint carries is loaded once for each of its classes
        if type(model).__name__ != FgvcModel.__name__:
            raise ValueError(f"{type(self).__name__} needs an FgvcModel, got {type(model).__name__}.")
        if isinstance(image_processor, str | os.PathLike):
            image_processor = FgvcImageProcessorPil.from_pretrained(image_processor)
        if isinstance(processor, str | os.PathLike):
            processor = FgvcProcessor.from_pretrained(processor)
        if image_processor is not None:
            processor = FgvcProcessor(image_processor)
        if processor is None:
            raise ValueError(
                "processor is missing: name a checkpoint that has one, or give processor or image_processor."
            )
        kwargs.pop("local_files_only", None)  # transformers.pipeline hands it on
        super().__init__(model, *args, processor=processor, image_processor=processor.image_processor, **kwargs)

    def __call__(self, inputs, *, num_workers: int | None = None, batch_size: int | None = None, **parameters) -> Any:
        """
        Follow targets through one video or several.

        Args:
            inputs: A video, or several, as of this module. A `dict` of `video` and parameters is a video with parameters of its own.
            num_workers (`int`, *optional*): Processes that open the videos.
            batch_size (`int`, *optional*): Accepted as of every pipeline. Videos are followed one after the other whatever it is.
            parameters: Arguments of the method of [`Tracker`].

        Returns:
            One result for one video; a list for a list, tuple or array of videos; an iterator for an iterator or a data set.

        Raises:
            `TypeError`: a parameter is not among those accepted.
            `ValueError`, `OSError`: as of the method, or the input is no video.
        """
        return super().__call__(_as_inputs(inputs), num_workers=num_workers, batch_size=batch_size, **parameters)

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Any:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}.")
        params = preprocess_params, forward_params, postprocess_params
        return super().get_iterator(inputs, num_workers, 1, *params)  # videos differ in size and length

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        accepted = list(inspect.signature(getattr(Tracker, self.method)).parameters)[2:]  # without self and video
        for name in parameters:
            if name not in accepted:
                near = get_close_matches(name, accepted, n=1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise TypeError(f"{self.task} has no parameter {name!r}{hint} Accepted are {', '.join(accepted)}.")
        return {name: value for name, value in parameters.items() if value is not None}, {}, {}

    def preprocess(self, input_: Any, **parameters) -> dict[str, Any]:
        if isinstance(input_, Mapping):
            own = dict(input_)
            if "video" not in own:
                raise ValueError(f"an input that is a dict must have a video, got {', '.join(map(str, own))}.")
            input_ = own.pop("video")
            parameters |= self._sanitize_parameters(**own)[0]
        return {"video": _one_video(input_), **parameters}

    def postprocess(self, model_outputs: Any, **_) -> Any:
        return model_outputs

    @property
    def tracker(self) -> Tracker:
        return Tracker(cast(FgvcModel, self.model), cast(FgvcProcessor, self.processor))

    def save_pretrained(self, save_directory, **kwargs: Any) -> None:
        """Save model and processor. The base class saves no processor, and copies this module without the ones it imports."""
        self.model.save_pretrained(save_directory, **kwargs)
        cast(FgvcProcessor, self.processor).save_pretrained(save_directory, **kwargs)


class PointTrackingPipeline(_VideoPipeline):
    """
    Follow points through a video.

    ```python
    from transformers import pipeline
    tracker = pipeline("point-tracking", model=default_checkpoint())
    result = tracker("clip.mp4", points=[(0, 20, 30)])
    ```

    Parameters are the arguments of [`Tracker.track`]: `points` (and `ids`), `grid` or `queries`; `direction`, `threshold` and `progress`.

    Returns:
        `dict` with `object_ids`, `queries` (N, 3), `tracks` (N, T, 2), `visible`, `confidence`, `uncertainty` and `outside` (N, T), and
        `size` (height, width), as in [`PointTracks`].
    """

    method = "track"
    targets = "points", "grid", "queries"

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        given, forward, after = super()._sanitize_parameters(**parameters)
        if not given.keys().isdisjoint(self.targets):  # one takes the place of the others
            given = dict.fromkeys(self.targets) | given
        return given, forward, after

    def _forward(self, input_tensors: dict[str, Any], **_) -> Any:
        if all(input_tensors.get(name) is None for name in self.targets):
            raise ValueError("points is missing: pass an array (N, 3) of (t, x, y), or grid, or queries.")
        return dict(vars(self.tracker.track(**input_tensors)))


class MaskPropagationPipeline(_VideoPipeline):
    """
    Carry the masks of objects through a video.

    Parameters are the arguments of [`Tracker.propagate_masks`]: `masks`, `frame_idx`, `direction` and `progress`.

    Returns:
        `dict` with `frame_idx` (T,), the frames that were processed in their order in time, and `masks` (T, H, W), their object ids.
    """

    method = "propagate_masks"

    def _forward(self, input_tensors: dict[str, Any], **_) -> Any:
        if "masks" not in input_tensors:
            raise ValueError("masks is missing: pass object ids (H, W) of one frame.")
        found = dict(self.tracker.propagate_masks(**input_tensors))
        frames = sorted(found)
        return {"frame_idx": np.array(frames), "masks": np.stack([found[t] for t in frames])}


def _shape(item) -> tuple[int, ...]:
    """Shape of an array or tensor; empty for anything else, such as a table."""
    return tuple(item.shape) if hasattr(item, "dtype") else ()


def _is_frame(item) -> bool:
    """Whether an item is a frame, and no video: a PIL image, or an array (H, W) or (H, W, C) of 1, 3 or 4 channels."""
    shape = _shape(item)
    return isinstance(item, Image.Image) or len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))


def _as_inputs(inputs) -> Any:
    """What the base class takes for one video or several: a frame source or a `dict`; a list, generator or data set."""
    if isinstance(inputs, str | os.PathLike | Mapping | Dataset) or hasattr(inputs, "num_frames"):
        return inputs
    dims = len(_shape(inputs))
    if isinstance(inputs, Image.Image) or dims in (2, 3, 4):
        return _one_video(inputs)
    if not isinstance(inputs, Iterable):
        raise ValueError(f"inputs must be a video or several of them, got {type(inputs).__name__}.")
    if isinstance(inputs, list | tuple) or dims:
        videos = list(inputs)
        if any(map(_is_frame, videos)):
            return _one_video(videos)
        if not videos:
            raise ValueError("inputs is empty: there is no video.")
        return [_one_of_several(video) for video in videos]
    videos = iter(inputs)  # of an iterator, or of a column of a data set, which is read as it is needed
    first = next(videos, None)
    if first is None:
        raise ValueError("inputs is empty: there is no video.")
    videos = itertools.chain([first], videos)
    return open_video(videos) if _is_frame(first) else (_one_of_several(video) for video in videos)


def _one_of_several(video) -> Any:
    """A video as [`_one_video`] takes it, without what is more likely to be meant as a frame.

    Raises:
        `ValueError`: it is a list that is no video, the path of an image, or an array whose channels may come first.
    """
    shape = _shape(video)
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        raise ValueError(
            f"frames must be (H, W, 3), with the channels last, and grey videos (T, H, W, 1), got {shape}."
        )
    if isinstance(video, str | os.PathLike) and os.fspath(video).lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{video}: is one image; a video in images is their folder, or a list of what they hold.")
    return _one_video(video) if isinstance(video, list | tuple) else video


def _one_video(video) -> Any:
    """The frame source of one video, which can only be one.

    Raises:
        `ValueError`: it is a single frame, a list of anything but frames, or an array whose channels may come first.
        `OSError`: it cannot be read.
    """
    if _is_frame(video):
        raise ValueError(
            f"a video must be frames (T, H, W, 3), or (T, H, W) for grey, got one frame {np.shape(video)}."
        )
    if isinstance(video, list | tuple) and not all(map(_is_frame, video)):
        other = next(one for one in video if not _is_frame(one))
        got = f"an array {_shape(other)}" if _shape(other) else type(other).__name__
        raise ValueError(f"a list that is one video must hold frames (H, W, 3) and nothing else, got {got}.")
    return open_video(video)


def register() -> None:
    """Make both known to `transformers.pipeline`."""
    for task, kind in (("point-tracking", PointTrackingPipeline), ("mask-propagation", MaskPropagationPipeline)):
        if task not in PIPELINE_REGISTRY.get_supported_tasks():
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=kind, pt_model=FgvcModel, type="multimodal")
