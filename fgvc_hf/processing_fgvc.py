"""Processor of FGVC: frames and prompts in, results in pixels of the original video out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, Unpack

from .coordinates import rescale_points
from .tracking.label_maps import read_masks
from .tracking.prompts import BoxTarget, MaskTarget
from .tracking.session import FgvcInferenceSession


GONE = 0.02  # largest share of a cell below which an object is nowhere on a frame


@dataclass
class PointTracks:
    """
    Tracks of N points over the T frames of a video, in pixels of the original video.

    Args:
        object_ids (`list[int]`): Ids of the points.
        queries (`numpy.ndarray` of shape `(N, 3)`, float32): Prompts (t, x, y).
        tracks (`numpy.ndarray` of shape `(N, T, 2)`, float32): (x, y); NaN on frames that were not processed for a point.
        visible (`numpy.ndarray` of shape `(N, T)`, bool): Whether the confidence reaches the threshold; always on the
            frame of the prompt, never on frames that were not processed.
        confidence (`numpy.ndarray` of shape `(N, T)`, float32): In [0, 1].
        uncertainty (`numpy.ndarray` of shape `(N, T)`, float32): Distance in pixels by which a visible point is expected to be
            off; NaN on frames that were not processed for it.
        outside (`numpy.ndarray` of shape `(N, T)`, bool): Whether the point is not visible because it has left the frame.
        size (`tuple[int, int]`): (height, width) of the original video.
    """

    object_ids: list[int]
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    outside: np.ndarray
    size: tuple[int, int]


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
        if max_memory_bytes is not None and max_memory_bytes <= 0:
            raise ValueError(f"max_memory_bytes must be positive, got {max_memory_bytes}.")
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
        ids: list = list(obj_ids) if isinstance(obj_ids, Iterable) else [obj_ids]
        for name, number in (("frame_idx", frame_idx), *(("obj_ids", obj_id) for obj_id in ids)):
            if not (np.isfinite(number) and number == int(number)):
                raise ValueError(f"{name} must be a whole number, got {number}.")
        if sum(prompt is not None for prompt in (input_points, input_masks, input_boxes)) != 1:
            raise ValueError("exactly one of input_points, input_masks and input_boxes must be given.")
        add: Any
        if input_points is not None:
            add, prompts = inference_session.add_point, _as_points(input_points, len(ids))
        elif input_masks is not None:
            add, prompts = inference_session.add_mask, _as_masks(input_masks, len(ids))
        else:
            add, prompts = inference_session.add_box, _as_boxes(input_boxes, len(ids))
        added = []
        try:
            for obj_id, prompt in zip(ids, prompts, strict=True):
                add(int(obj_id), int(frame_idx), prompt)
                added.append(int(obj_id))
        except ValueError:
            for obj_id in added:
                del inference_session.prompts[obj_id, int(frame_idx)]
            raise

    def post_process_masks(self, output, inference_session: FgvcInferenceSession) -> np.ndarray:
        """
        The masks of one frame: every pixel goes to the object with the largest share of it, or to the background. Shares are compared
        in proportion to the largest that each has on the frame, as in the official code of VFS: what is small is blurred most on its way,
        and would else lose all of its pixels to what is large.

        Args:
            output ([`FgvcVideoOutput`]): A frame.
            inference_session ([`FgvcInferenceSession`]): The session that it comes from.

        Returns:
            `numpy.ndarray` of shape `(H, W)`, int32, at the size of the original video: object ids, 0 for the background. On the frame
            of its prompt an object is exactly where the prompt says.
        """
        session = inference_session
        original_size, input_size = session.sizes
        if not output.mask_ids:
            return np.zeros(original_size, dtype=np.int32)
        stride = -(-input_size[0] // output.mask_maps.shape[1])
        shares = read_masks(output.mask_maps, input_size, original_size, stride, session.cell_origin)  # (masks, H, W)
        background = (1 - shares.sum(dim=0, keepdim=True)).clamp_min(0)
        shares = torch.cat([background, shares])
        largest = shares.amax(dim=(1, 2), keepdim=True)
        best = (shares / largest).masked_fill(largest < GONE, 0).argmax(dim=0).numpy()
        result = np.array([0, *output.mask_ids], dtype=np.int32)[best]
        for (obj_id, frame_idx), prompt in session.prompts.items():
            if isinstance(prompt, MaskTarget) and frame_idx == output.frame_idx and obj_id in output.mask_ids:
                result[(result == obj_id) & ~prompt.mask] = 0
                result[prompt.mask] = obj_id
        return result

    def post_process_boxes(self, output, inference_session: FgvcInferenceSession) -> np.ndarray:
        """
        The boxes of one frame.

        Args:
            output ([`FgvcVideoOutput`]): A frame.
            inference_session ([`FgvcInferenceSession`]): The session that it comes from.

        Returns:
            `numpy.ndarray` of shape `(N, 4, 2)`, float64: corners of the boxes `output.box_ids` in pixels of the original video. On the
            frame of its prompt a box is exactly where the prompt says.
        """
        session = inference_session
        original_size, input_size = session.sizes
        boxes = rescale_points(output.boxes.numpy(), input_size, original_size)
        for row, obj_id in enumerate(output.box_ids):
            prompt = session.prompts.get((obj_id, output.frame_idx))
            if isinstance(prompt, BoxTarget):
                boxes[row] = prompt.corners
        return boxes

    def post_process_point_tracking(
        self, outputs, inference_session: FgvcInferenceSession, threshold: float = 0.5
    ) -> PointTracks:
        """
        Collect the outputs of a session into tracks in pixels of the original video.

        Args:
            outputs ([`FgvcVideoOutput`] or a list of them): Frames in any order.
            inference_session ([`FgvcInferenceSession`]): The session that they come from.
            threshold (`float`, defaults to 0.5):
                Confidence from which a point counts as visible, as `FgvcConfig.visibility_threshold`.

        Returns:
            [`PointTracks`] over all frames of the video, or up to the last frame of a live source.
        """
        session = inference_session
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        object_ids, (original_size, input_size) = list(session.points), session.sizes
        row = {obj_id: i for i, obj_id in enumerate(object_ids)}
        num_frames = session.video.num_frames if session.video is not None else None
        if num_frames is None:
            num_frames = 1 + max((output.frame_idx for output in outputs), default=-1)
        tracks = np.full((len(object_ids), num_frames, 2), np.nan, dtype=np.float32)
        confidence = np.zeros((len(object_ids), num_frames), dtype=np.float32)
        uncertainty = np.full_like(confidence, np.nan)
        left = np.zeros(confidence.shape, dtype=bool)
        scale = float(np.sqrt(np.prod(original_size) / np.prod(input_size)))
        for output in outputs:
            rows = [row[obj_id] for obj_id in output.object_ids]
            points = output.tracks.numpy()  # float64: a prompt survives the way there and back exactly
            tracks[rows, output.frame_idx] = rescale_points(points, input_size, original_size)
            confidence[rows, output.frame_idx] = output.confidence.numpy()
            uncertainty[rows, output.frame_idx] = scale * output.uncertainty.numpy()
            left[rows, output.frame_idx] = output.at_border.numpy()
        queries = np.array([(t.frame_idx, *t.point) for t in session.points.values()], dtype=np.float32).reshape(-1, 3)
        visible = (confidence >= threshold) & ~np.isnan(tracks[..., 0])
        return PointTracks(
            object_ids, queries, tracks, visible, confidence, uncertainty, left & ~visible, original_size
        )


def _as_points(input_points, number: int) -> np.ndarray:
    """(N, 2) of points given in any nesting."""
    try:
        points = np.asarray(input_points, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"input_points must hold an (x, y) for each of {number} obj_ids.") from None
    if points.size != 2 * number or (points.ndim and points.shape[-1] != 2):
        raise ValueError(f"input_points must hold an (x, y) for each of {number} obj_ids, got {points.shape}.")
    return points.reshape(-1, 2)


def _as_boxes(input_boxes, number: int) -> np.ndarray:
    """(N, 4) or (N, 4, 2) of boxes given in any nesting."""
    try:
        boxes = np.asarray(input_boxes, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"input_boxes must hold a box for each of {number} obj_ids.") from None
    shape = (number, 4) if boxes.ndim and boxes.shape[-1] == 4 else (number, 4, 2)
    if boxes.size != np.prod(shape) or boxes.shape[-1] not in (2, 4):
        raise ValueError(
            f"input_boxes must hold (x0, y0, x1, y1) or corners for each of {number} obj_ids, got {boxes.shape}."
        )
    return boxes.reshape(shape)


def _as_masks(input_masks, number: int) -> np.ndarray:
    """(N, H, W) bool of masks."""
    masks = np.asarray(input_masks)
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or len(masks) != number or not np.isin(masks, (0, 1)).all():
        raise ValueError(
            f"input_masks must hold a mask (H, W) of 0 and 1 for each of {number} obj_ids, got {masks.dtype} of {masks.shape}."
        )
    return masks.astype(bool)


__all__ = ["FgvcProcessor", "PointTracks"]
