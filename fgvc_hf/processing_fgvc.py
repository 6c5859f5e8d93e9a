"""Processor of FGVC: frames and prompts in, results in pixels of the original video out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, Unpack

from .coordinates_fgvc import rescale_points
from .inference_session_fgvc import FgvcInferenceSession


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
        size (`tuple[int, int]`): (height, width) of the original video.
    """

    object_ids: list[int]
    queries: np.ndarray
    tracks: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
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

    def init_video_session(self, video=None) -> FgvcInferenceSession:
        """
        Start a session on a video, or on frames to come.

        Args:
            video (*optional*):
                A path to a video file or to a folder of images, an array (T, H, W, 3), a list of frames, an iterator over
                frames, or a frame source; everything [`open_video`] takes. Frames are read when they are needed. Nothing
                for a live source whose frames are passed to [`FgvcModel.step`].

        Raises:
            `OSError`, `ValueError`: the video cannot be read.
        """
        if video is not None:
            from .video import open_video  # imported late, so that frames that are in memory already need no decoder

            video = open_video(video)
        return FgvcInferenceSession(self.image_processor, video)

    def add_inputs_to_inference_session(
        self, inference_session: FgvcInferenceSession, frame_idx: int, obj_ids: int | Iterable[int], input_points
    ) -> None:
        """
        Add targets to follow.

        Args:
            inference_session ([`FgvcInferenceSession`]): The session.
            frame_idx (`int`): Frame on which the points are given.
            obj_ids (`int` or iterable of `int`): An id for each point, new to the session.
            input_points: (x, y) of each point in pixels of the original video: shape `(N, 2)`, or nested as in SAM 2,
                `(1, N, 1, 2)`.

        Raises:
            `ValueError`: points and ids differ in number, an id is taken, a point is outside the frame, or the frame is not
            in the video. Nothing is added then.
        """
        ids: list = list(obj_ids) if isinstance(obj_ids, Iterable) else [obj_ids]
        for name, number in (("frame_idx", frame_idx), *(("obj_ids", obj_id) for obj_id in ids)):
            if not (np.isfinite(number) and number == int(number)):
                raise ValueError(f"{name} must be a whole number, got {number}.")
        try:
            points = np.asarray(input_points, dtype=np.float64)
        except (ValueError, TypeError):
            raise ValueError(f"input_points must hold an (x, y) for each of {len(ids)} obj_ids.") from None
        if points.size != 2 * len(ids) or (points.ndim and points.shape[-1] != 2):
            raise ValueError(f"input_points must hold an (x, y) for each of {len(ids)} obj_ids, got {points.shape}.")
        added = []
        try:
            for obj_id, point in zip(ids, points.reshape(-1, 2), strict=True):
                inference_session.add_point(int(obj_id), int(frame_idx), tuple(point))
                added.append(int(obj_id))
        except ValueError:
            for obj_id in added:
                del inference_session.targets[obj_id]
            raise

    def post_process_point_tracking(
        self, outputs, inference_session: FgvcInferenceSession, threshold: float = 0.12
    ) -> PointTracks:
        """
        Collect the outputs of a session into tracks in pixels of the original video.

        Args:
            outputs ([`FgvcVideoOutput`] or a list of them): Frames in any order.
            inference_session ([`FgvcInferenceSession`]): The session that they come from.
            threshold (`float`, defaults to 0.12):
                Confidence from which a point counts as visible, as `FgvcConfig.visibility_threshold`.

        Returns:
            [`PointTracks`] over all frames of the video, or up to the last frame of a live source.
        """
        session = inference_session
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        object_ids, (original_size, input_size) = session.obj_ids, session.sizes
        row = {obj_id: i for i, obj_id in enumerate(object_ids)}
        num_frames = session.video.num_frames if session.video is not None else None
        if num_frames is None:
            num_frames = 1 + max((output.frame_idx for output in outputs), default=-1)
        tracks = np.full((len(object_ids), num_frames, 2), np.nan, dtype=np.float32)
        confidence = np.zeros((len(object_ids), num_frames), dtype=np.float32)
        for output in outputs:
            rows = [row[obj_id] for obj_id in output.object_ids]
            points = output.tracks.numpy()  # float64: a prompt survives the way there and back exactly
            tracks[rows, output.frame_idx] = rescale_points(points, input_size, original_size)
            confidence[rows, output.frame_idx] = output.confidence.numpy()
        targets = [session.targets[obj_id] for obj_id in object_ids]
        queries = np.array([(t.frame_idx, *t.point) for t in targets], dtype=np.float32).reshape(-1, 3)
        visible = (confidence >= threshold) & ~np.isnan(tracks[..., 0])
        return PointTracks(object_ids, queries, tracks, visible, confidence, original_size)


__all__ = ["FgvcProcessor", "PointTracks"]
