"""Processor of FGVC: frames and prompts in, results in pixels of the original video out."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import ModelOutput

from .io.checkpoints import check_device
from .tracking.prompts import binary_masks, check_probability, numbers_of, whole_number
from .tracking.results import FgvcVideoOutput, PointTracks, TrackTable
from .tracking.session import FgvcInferenceSession


class FgvcProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {}  # ty: ignore[invalid-typed-dict-statement]


class FgvcProcessor(ProcessorMixin):
    r"""
    Wraps an [`FgvcImageProcessorPil`] and maps prompts and results between the original video and the model's input.

    Args:
        image_processor ([`FgvcImageProcessorPil`]): Resizes, converts and normalises frames.
    """

    valid_processor_kwargs = FgvcProcessorKwargs

    def __init__(self, image_processor=None, **kwargs):
        super().__init__(image_processor, **kwargs)

    def __call__(self, images: ImageInput | None = None, **kwargs: Unpack[ImagesKwargs]) -> BatchFeature:
        """
        Process frames; arguments are those of [`FgvcImageProcessorPil.preprocess`].

        Returns:
            `BatchFeature` with `pixel_values` of shape `(num_images, 3, H, W)`.
        """
        if images is None:
            raise ValueError("images is missing: pass a frame or a list of frames.")
        merged = self._merge_kwargs(FgvcProcessorKwargs, **kwargs)  # ty: ignore[invalid-argument-type]
        return self.image_processor(images, **merged["images_kwargs"])

    def init_video_session(
        self,
        video=None,
        memory_dtype: torch.dtype | None = None,
        memory_device: torch.device | str | None = None,
        max_memory_bytes: int | None = None,
    ) -> FgvcInferenceSession:
        """
        Start a session on a video, or on frames to come.

        Args:
            video (*optional*):
                A path to a video file or to a folder of images, an array (T, H, W, 3), a list of frames, an iterator over
                frames, or a frame source; everything [`open_video`] takes. Frames are read when they are needed. Nothing
                for a live source whose frames are passed to [`FgvcModel.step`].
            memory_dtype (`torch.dtype`, *optional*): Of the features of remembered frames, such as `torch.bfloat16` beside a model in
                float32: half the memory. That of the model if not given.
            memory_device (`torch.device` or `str`, *optional*): Where remembered frames are kept, such as `"cpu"` beside a model on a
                GPU. That of the model if not given.
            max_memory_bytes (`int`, *optional*): What the session may hold in memory. Where label maps and the previous frames of
                `config.num_context_frames` would take more, there are fewer of these frames.

        Raises:
            `OSError`, `ValueError`: the video cannot be read, or an argument is not among those accepted.
        """
        if memory_dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"memory_dtype must be torch.float32, float16 or bfloat16, got {memory_dtype}.")
        if max_memory_bytes is not None:
            max_memory_bytes = whole_number("max_memory_bytes", max_memory_bytes)
            if max_memory_bytes <= 0:
                raise ValueError(f"max_memory_bytes must be positive, got {max_memory_bytes}.")
        if memory_device is not None:
            memory_device = check_device(memory_device)
        if video is not None:
            from .io.video import (
                open_video,  # imported late, so that frames that are in memory already need no decoder
            )

            video = open_video(video)
        return FgvcInferenceSession(self.image_processor, video, memory_dtype, memory_device, max_memory_bytes)

    def add_inputs_to_inference_session(
        self,
        inference_session: FgvcInferenceSession,
        frame_idx: int,
        obj_ids: int | Iterable[int],
        input_points=None,
        input_masks=None,
        input_boxes=None,
    ) -> None:
        """
        Add targets to follow: points, masks or boxes. A target that exists gets another prompt, on another frame: from there it
        starts anew, which corrects it or brings it back.

        Args:
            inference_session ([`FgvcInferenceSession`]): The session.
            frame_idx (`int`): Frame on which the prompts are given.
            obj_ids (`int` or iterable of `int`): An id for each prompt; 1 or more for masks.
            input_points (*optional*): (x, y) of each point in pixels of the original video: shape `(N, 2)`, or nested as in SAM 2,
                `(1, N, 1, 2)`.
            input_masks (*optional*): Mask of each object at the size of the original video: bool `(N, H, W)`, or `(H, W)` for one.
            input_boxes (*optional*): Box of each object in pixels of the original video: sides `(N, 4)`, (x0, y0, x1, y1), nested at will;
                or corners `(N, 4, 2)` one after the other, of boxes that may turn.

        Raises:
            `ValueError`: prompts and ids differ in number, an id has a prompt on that frame or is of another kind, a point is
            outside the frame, a mask is empty or of another size, a box has no area, or the frame is not in the video. Nothing
            is added then.
        """
        one = isinstance(obj_ids, str) or getattr(obj_ids, "ndim", None) == 0 or not isinstance(obj_ids, Iterable)
        ids: list = [obj_ids] if one else list(obj_ids)
        frame_idx, ids = whole_number("frame_idx", frame_idx), [whole_number("obj_ids", obj_id) for obj_id in ids]
        if sum(prompt is not None for prompt in (input_points, input_masks, input_boxes)) != 1:
            raise ValueError("exactly one of input_points, input_masks and input_boxes must be given.")
        add: Any
        if input_points is not None:
            add, prompts = inference_session.add_point, _as_points(input_points, len(ids))
        elif input_masks is not None:
            add, prompts = inference_session.add_mask, binary_masks(input_masks, len(ids))
        else:
            add, prompts = inference_session.add_box, _as_boxes(input_boxes, len(ids))
        added = []
        try:
            for obj_id, prompt in zip(ids, prompts, strict=True):
                add(obj_id, frame_idx, prompt)
                added.append(obj_id)
        except ValueError:
            for obj_id in added:
                del inference_session.prompts[obj_id, frame_idx]
            raise

    def post_process_masks(self, output: FgvcVideoOutput, inference_session: FgvcInferenceSession) -> np.ndarray:
        """
        The masks of one frame: `output.masks`, or background everywhere where there are none.

        Args:
            output ([`FgvcVideoOutput`]): A frame.
            inference_session ([`FgvcInferenceSession`]): The session that it comes from.

        Returns:
            `numpy.ndarray` of shape `(H, W)`, int32, at the size of the original video: object ids, 0 for the background. On the frame
            of its prompt an object is exactly where the prompt says.
        """
        if output.masks is None:
            return np.zeros(inference_session.sizes[0], dtype=np.int32)
        return output.masks

    def post_process_point_tracking(
        self,
        outputs: FgvcVideoOutput | Iterable[FgvcVideoOutput],
        inference_session: FgvcInferenceSession,
        threshold: float | None = None,
    ) -> PointTracks:
        """
        Collect the outputs of a session into tracks in pixels of the original video. Points that were removed from the session since
        are among them, after those that are there.

        Args:
            outputs ([`FgvcVideoOutput`] or an iterable of them): Frames in any order. Of an iterator, no frame is kept beyond its points.
            inference_session ([`FgvcInferenceSession`]): The session that they come from.
            threshold (`float`, *optional*): Confidence from which a point counts as visible, in [0, 1];
                `config.visibility_threshold` of the session's model if not given.

        Returns:
            [`PointTracks`] over all frames of the video, or up to the last frame of a live source.

        Raises:
            `ValueError`: the threshold is outside [0, 1], or the session has seen no frame.
        """
        session, table = inference_session, TrackTable()
        check_probability("threshold", threshold)
        # Not FgvcVideoOutput: from a local folder with its code, transformers loads that class once for the model and once for the processor
        frames: Any = [outputs] if isinstance(outputs, ModelOutput) else outputs
        for output in frames:
            table.add(output)
        if threshold is None:
            threshold = session.config.visibility_threshold if session.config is not None else 0.5
        queries = {obj_id: (float(prompt.frame_idx), *prompt.point) for obj_id, prompt in session.points.items()}
        num_frames = None if session.video is None else session.video.num_frames
        return table.tracks(queries, num_frames, session.sizes[0], threshold)


def _as_points(input_points, number: int) -> np.ndarray:
    """(N, 2) of points given in any nesting."""
    points = numbers_of(input_points)
    if points is None:
        raise ValueError(f"input_points must hold an (x, y) for each of {number} obj_ids.")
    if points.size != 2 * number or (points.ndim and points.shape[-1] != 2):
        raise ValueError(f"input_points must hold an (x, y) for each of {number} obj_ids, got {points.shape}.")
    return points.reshape(-1, 2)


def _as_boxes(input_boxes, number: int) -> np.ndarray:
    """(N, 4) or (N, 4, 2) of boxes given in any nesting."""
    boxes = numbers_of(input_boxes)
    if boxes is None:
        raise ValueError(f"input_boxes must hold a box for each of {number} obj_ids.")
    shape = (number, 4) if boxes.ndim and boxes.shape[-1] == 4 else (number, 4, 2)
    if boxes.size != np.prod(shape) or boxes.shape[-1] not in (2, 4):
        raise ValueError(
            f"input_boxes must hold (x0, y0, x1, y1) or corners for each of {number} obj_ids, got {boxes.shape}."
        )
    return boxes.reshape(shape)


__all__ = ["FgvcProcessor"]
