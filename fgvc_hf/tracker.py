"""The API for everybody: a model, its processor and a preset as one object, with everything in pixels of the original video.

from fgvc_hf import Tracker

tracker = Tracker.from_pretrained()
tracks = tracker.track("clip.mp4", points=[(0, 20, 30)])  # (t, x, y)
print(tracks.tracks.shape, tracks.visible.shape)  # (N, T, 2), (N, T)
"""

import os
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .configuration_fgvc import FgvcConfig
from .image_processing_pil_fgvc import FgvcImageProcessorPil
from .io.checkpoints import check_device, check_dtype, check_preset, resolve_checkpoint
from .io.json_files import reason_of
from .io.tracks import grid_points
from .io.video import open_video
from .modeling_fgvc import FgvcModel, evaluation_mode
from .processing_fgvc import FgvcProcessor
from .tracking.dense_flow import dense_flow, image_of
from .tracking.frames import as_frame
from .tracking.heat_map import match_cells
from .tracking.prompts import masks_of_ids
from .tracking.results import FgvcFlowOutput, FgvcVideoOutput, PointTracks


HUB_OPTIONS = ("subfolder", "cache_dir", "token", "local_files_only", "force_download")
DIRECTIONS = {"forward": (False,), "backward": (True,), "both": (False, True)}  # whether each pass is in reverse


class Tracker:
    """
    Follows points, boxes and masks through videos and live sources, and matches pairs of frames.

    Args:
        model ([`FgvcModel`]): A model that is loaded already.
        processor ([`FgvcProcessor`]): Sets the working resolution.
    """

    def __init__(self, model: FgvcModel, processor: FgvcProcessor):
        if not (hasattr(model, "propagate_in_video_iterator") and hasattr(processor, "init_video_session")):
            got = f"{type(model).__name__} and {type(processor).__name__}"
            raise ValueError(
                f"Tracker needs an FgvcModel and an FgvcProcessor, got {got}; from_pretrained loads both."
            )
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | None = None,
        preset: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        **config_fields,
    ) -> "Tracker":
        """
        Load a checkpoint, ready to track.

        Args:
            checkpoint (`str` or `Path`, *optional*): Name of a bundled checkpoint, folder or Hub id; the default one if not given.
            preset (`str`, *optional*): `"paper"`, `"fast"`, `"balanced"` or `"accurate"`: working resolution and method; the
                checkpoint's own settings if not given.
            device (`torch.device` or `str`, *optional*): Where to run; CUDA if there is any, else the CPU.
            dtype (`torch.dtype` or `str`, *optional*): `torch.bfloat16`, `"bfloat16"`, `"auto"`, ... as in transformers; bfloat16
                where the device multiplies it fast, else float32, if not given.
            revision (`str`, *optional*): Branch, tag or commit of a Hub id, for model and processor alike; its main branch if not given.
            config_fields: Fields of [`FgvcConfig`] to change. `subfolder`, `cache_dir`, `token`, `local_files_only` and `force_download` are
                no fields, and are as of transformers' `from_pretrained`.

        Raises:
            `ValueError`: an unknown preset, device or dtype, what is named is no checkpoint, or a field is not accepted.
            `OSError`: the Hub cannot be reached, or has no such repository.
        """
        resizing, method = check_preset(preset)
        source: dict[str, Any] = {name: config_fields.pop(name) for name in HUB_OPTIONS if name in config_fields}
        path, place = resolve_checkpoint(checkpoint, source.get("subfolder")), check_device(device)
        precision, source["revision"] = check_dtype(dtype, place), revision or "main"
        try:
            config = FgvcConfig.from_pretrained(path, **source, **(method | config_fields))
            model = FgvcModel.from_pretrained(path, config=config, dtype=precision, **source)
            processor = FgvcProcessor(FgvcImageProcessorPil.from_pretrained(path, **source))
            processor.image_processor.try_out()
        except (ImportError, torch.OutOfMemoryError):
            raise  # these say what is wrong
        except Exception as error:  # transformers raises anything on settings of other types
            of_hub = isinstance(error, OSError) and not Path(path).is_dir()
            if of_hub or (isinstance(error, ValueError) and str(error).endswith(".") and "\n" not in str(error)):
                raise
            raise ValueError(f"{path}: is no checkpoint that can be loaded ({reason_of(error)}).") from None
        if resizing:
            processor = FgvcProcessor(FgvcImageProcessorPil(**(processor.image_processor.to_dict() | resizing)))
        return cls(model.to(place), processor)

    def track(
        self,
        video,
        points=None,
        grid: int | tuple[int, int] | None = None,
        direction: str = "forward",
        threshold: float | None = None,
        progress: bool = False,
    ) -> PointTracks:
        """
        Follow points through a video.

        Args:
            video: A path to a video file or to a folder of images, an array (T, H, W, 3), a list of frames, an iterator over frames;
                everything [`open_video`] takes. One video: for several, call this once for each.
            points (array of shape `(N, 3)`, or a `dict` from id to (t, x, y)): Prompts (t, x, y): frame number, and pixels of the video.
            grid (`int` or `tuple[int, int]`): Instead of points, N x N points, or (rows, columns), spread evenly over the first frame.
            direction (`str`, defaults to `"forward"`):
                `"forward"` from each prompt to the end, `"backward"` from each prompt to the start, or `"both"`.
            threshold (`float`, *optional*): Confidence in [0, 1] from which a point counts as visible;
                `config.visibility_threshold` if not given.
            progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

        Returns:
            [`PointTracks`] in pixels of the video; `object_ids` are the keys of a `dict`, else 0 to N-1, in the order of `points`.

        Raises:
            `ValueError`, `OSError`: the video cannot be read, a point is outside the frame or the clip, or an argument is not among
            those accepted.
        """
        passes = _passes(direction)
        if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be a probability from 0 to 1, got {threshold!r}.")
        if (points is None) == (grid is None):
            raise ValueError("exactly one of points and grid must be given.")
        video = _one_video(video)
        if grid is not None:
            points = grid_points(grid, video.height, video.width)
        ids, points = _as_queries(points)
        session = self.processor.init_video_session(video)
        for obj_id, (t, x, y) in zip(ids, points, strict=True):
            self.processor.add_inputs_to_inference_session(session, int(t), obj_id, [(x, y)])
        outputs = (
            output
            for reverse in passes
            for output in self.model.propagate_in_video_iterator(session, reverse=reverse, show_progress_bar=progress)
        )
        tracks = self.processor.post_process_point_tracking(outputs, session, threshold)
        last = points[:, 0].max()
        if last >= tracks.tracks.shape[1]:  # an iterator ends when it ends; other sources were checked before
            raise ValueError(f"points start on frame_idx {last:.0f}, but the video ended before that frame.")
        return tracks

    def propagate_masks(
        self, video, masks: np.ndarray, frame_idx: int = 0, direction: str = "forward", progress: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """
        Carry the masks of objects through a video.

        Args:
            video: As of [`~Tracker.track`].
            masks (`numpy.ndarray` of shape `(H, W)`, integer): Object ids at the size of the video, 0 for the background.
            frame_idx (`int`, defaults to 0): The frame that they are of.
            direction (`str`, defaults to `"forward"`): As of [`~Tracker.track`]; with `"both"`, first forward, then backward.
            progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

        Yields:
            Number of a frame, and its object ids `(H, W)`, int32.

        Raises:
            `ValueError`, `OSError`: the video cannot be read, or `masks` is of another size or holds no object.
        """
        passes, (ids, separate) = _passes(direction), masks_of_ids(masks)
        session = self.processor.init_video_session(_one_video(video))
        self.processor.add_inputs_to_inference_session(session, frame_idx, ids, input_masks=separate)
        return self._carry_masks(session, passes, frame_idx, progress)

    def _carry_masks(self, session, passes, frame_idx: int, progress: bool) -> Iterator[tuple[int, np.ndarray]]:
        for number, reverse in enumerate(passes):
            for output in self.model.propagate_in_video_iterator(session, reverse=reverse, show_progress_bar=progress):
                if number == 0 or output.frame_idx != frame_idx:  # the second pass starts where the first did
                    yield output.frame_idx, self.processor.post_process_masks(output, session)

    @torch.inference_mode()
    def flow(self, frame_0, frame_1) -> FgvcFlowOutput:
        """
        Dense flow between two frames, of neighbouring times or far apart.

        Args:
            frame_0, frame_1 (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frames, RGB, of one size.

        Returns:
            [`FgvcFlowOutput`] at the size of the frames. Motion may be as large as the frame.

        Raises:
            `ValueError`: the frames differ in size.
        """
        session, device = self.processor.init_video_session(), self.model.device
        pair = [as_frame(frame) for frame in (frame_0, frame_1)]
        features = torch.stack([self.features(session.preprocess(frame, device)) for frame in pair])  # (2, h, w, C)
        images = torch.stack([image_of(frame, device) for frame in pair])  # (2, 3, H, W)
        found, _ = dense_flow(images, features, session.sizes[1], self.model.config)
        return FgvcFlowOutput.of(found)

    @torch.inference_mode()
    def match(self, frame_0, frame_1, point: tuple[float, float]) -> np.ndarray:
        """
        The probability of every pixel of a frame to show what a point of another frame shows (Figure 3 of the paper).

        The softmax over all cells of frame 1 of similarity / `config.temperature`: Eq. 1 of the paper without its window, so the two
        frames may be far apart in time, of different size, or of different scenes. The templates by which points are followed are
        compared, or single cells with `config.point_matching="labels"`.

        Args:
            frame_0, frame_1 (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frames, RGB.
            point (sequence of 2 `float`): (x, y) in pixels of frame 0.

        Returns:
            `numpy.ndarray` of shape `(H, W)`, float32: one value for each pixel of frame 1; their sum is 1. [`draw_heat_map`] draws it.

        Raises:
            `ValueError`: the point is not a finite position inside frame 0.
        """
        first, second = (self.processor.init_video_session() for _ in range(2))
        features_0 = self.features(first.preprocess(frame_0, self.model.device))  # (h, w, C)
        features_1 = self.features(second.preprocess(frame_1, self.model.device))
        return match_cells(features_0, features_1, point, first.sizes, second.sizes, self.model.config)

    def stream(self) -> "LiveTracker":
        """Follow targets through frames that come one by one; see [`LiveTracker`]."""
        return LiveTracker(self)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised features (h, w, C) of one frame (1, 3, H, W), as the processor makes it."""
        with evaluation_mode(self.model):
            return self.model.normalized_features(pixel_values)[0]


class LiveTracker:
    """
    Targets followed through frames as they come, from a camera for instance. The results are the same as offline, and each frame
    costs the same however many came before.

    A prompt is for the frame that [`~LiveTracker.step`] was given last, the one that a user has before them; before the first frame,
    for the first.

    Made by [`Tracker.stream`].
    """

    def __init__(self, tracker: Tracker):
        self.tracker, self.session = tracker, tracker.processor.init_video_session()

    def add_points(self, points: Mapping[int, tuple[float, float]]) -> None:
        """
        Follow points, or correct points that are followed already.

        Args:
            points (`dict[int, tuple[float, float]]`): Id and position (x, y) in pixels of the frame.

        Raises:
            `ValueError`: a position is outside the frame, or an id has a prompt on this frame or is of another kind of target. Nothing
            is added then. Before the first frame its size is not known: the first `step` raises it, until the point is removed.
        """
        if not isinstance(points, Mapping):
            raise ValueError(f"points must be a dict from id to (x, y), got {type(points).__name__}.")
        self._add(list(points), input_points=list(points.values()))

    def add_boxes(self, boxes: Mapping[int, Any]) -> None:
        """
        Follow boxes.

        Args:
            boxes (`dict`): Id and sides (x0, y0, x1, y1), or corners (4, 2) one after the other if the boxes may turn, in pixels.

        Raises:
            `ValueError`: as of [`~LiveTracker.add_points`], or a box has no area.
        """
        if not isinstance(boxes, Mapping):
            raise ValueError(f"boxes must be a dict from id to (x0, y0, x1, y1), got {type(boxes).__name__}.")
        self._add(list(boxes), input_boxes=list(boxes.values()))

    def add_masks(self, masks: np.ndarray) -> None:
        """
        Follow objects by their masks.

        Args:
            masks (`numpy.ndarray` of shape `(H, W)`, integer): Object ids at the size of the frame, 0 for the background.

        Raises:
            `ValueError`: as of [`~LiveTracker.add_points`], or `masks` is of another size or holds no object.
        """
        ids, separate = masks_of_ids(masks)
        self._add(ids, input_masks=separate)

    def _add(self, ids: list[int], **prompts) -> None:
        if ids:
            frame_idx = self.session.last_frame_idx or 0
            self.tracker.processor.add_inputs_to_inference_session(self.session, frame_idx, ids, **prompts)

    def remove(self, obj_id: int) -> None:
        """Stop following a target. The others go on as if it had never been there.

        Raises:
            `ValueError`: there is no such target.
        """
        self.session.remove(obj_id)

    def step(self, frame) -> FgvcVideoOutput:
        """
        Find all targets on the next frame.

        Args:
            frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The frame, RGB.

        Returns:
            [`FgvcVideoOutput`] in pixels of the frame.

        Raises:
            `ValueError`: the frame is of another size than those before.
        """
        return self.tracker.model.step(self.session, frame)


def load(
    checkpoint: str | Path | None = None,
    preset: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    **config_fields,
) -> Tracker:
    """[`Tracker.from_pretrained`]."""
    return Tracker.from_pretrained(checkpoint, preset, device, dtype, revision, **config_fields)


def _passes(direction: str) -> tuple[bool, ...]:
    """Whether each pass over the video is in reverse."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be 'forward', 'backward' or 'both', got {direction!r}.")
    return DIRECTIONS[direction]


def _one_video(video) -> Any:
    """A frame source; a `ValueError` for a list of paths."""
    if isinstance(video, list | tuple) and any(isinstance(one, str | os.PathLike) for one in video):
        raise ValueError(
            "video must be one video, got a list of paths: call this once for each video, or give the folder that holds the images."
        )
    return open_video(video)


def _as_queries(points) -> tuple[list[int], np.ndarray]:
    """Ids, and queries (N, 3) of (t, x, y), float64, of points given as an array or by id."""
    ids = list(points) if isinstance(points, Mapping) else None
    try:
        queries = np.asarray(list(points.values()) if isinstance(points, Mapping) else points, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError("points must be an array (N, 3) of (t, x, y), or a dict from id to (t, x, y).") from None
    if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) == 0:
        raise ValueError(f"points must be an array (N, 3) of (t, x, y), got shape {queries.shape}.")
    if not (np.isfinite(queries[:, 0]) & (queries[:, 0] == np.round(queries[:, 0]))).all():
        raise ValueError("points must have whole frame numbers t in (t, x, y).")
    return list(range(len(queries))) if ids is None else ids, queries


__all__ = ["LiveTracker", "Tracker", "load"]
