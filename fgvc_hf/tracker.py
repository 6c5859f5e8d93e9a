"""The API for everybody: a model, its processor and a preset as one object, with everything in pixels of the original video.

from fgvc_hf import Tracker

tracker = Tracker.from_pretrained()
tracks = tracker.track("clip.mp4", points=[(0, 20, 30)])  # (t, x, y)
print(tracks.tracks.shape, tracks.visible.shape)  # (N, T, 2), (N, T)
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .configuration_fgvc import FgvcConfig
from .coordinates import exact_dtype, rescale_points
from .encoder.shapes import check_stride
from .image_processing_pil_fgvc import FgvcImageProcessorPil
from .io.checkpoints import check_device, check_dtype, check_preset, resolve_checkpoint
from .io.json_files import reason_of
from .io.point_queries import PointQueries, point_list, points_in_masks, resizing_of, weights_hash
from .io.video import open_video
from .modeling_fgvc import FgvcModel, evaluation_mode
from .processing_fgvc import FgvcProcessor
from .tracking.dense_flow import dense_flow, image_of
from .tracking.encoded_frame import EncodedFrame
from .tracking.following import Following
from .tracking.frames import as_frame
from .tracking.heat_map import match_cells
from .tracking.labels import labels_of
from .tracking.live_tracker import LiveTracker
from .tracking.point_grid import grid_points
from .tracking.prompts import (
    PointLooks,
    PointTarget,
    check_fits,
    check_position,
    check_probability,
    masks_of_ids,
    whole_number,
)
from .tracking.results import FgvcFlowOutput, PointTracks
from .tracking.session import FgvcInferenceSession
from .tracking.suggestions import Suggestion, suggest_frames
from .tracking.template_tracker import looks_of, patch_side


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
            `ValueError`: an unknown preset, device or dtype, what is named is no checkpoint, a revision of a folder, or a field is not accepted.
            `OSError`: the Hub cannot be reached, or has no such repository.
        """
        resizing, method = check_preset(preset)
        source: dict[str, Any] = {name: config_fields.pop(name) for name in HUB_OPTIONS if name in config_fields}
        path, place = resolve_checkpoint(checkpoint, source.get("subfolder")), check_device(device)
        precision, source["revision"] = check_dtype(dtype, place), revision or "main"
        if source["revision"] != "main" and Path(path).is_dir():
            raise ValueError(f"revision {revision!r} is of a Hub id, but {path} is a folder, which has no revisions.")
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
        ids: Sequence[int] | None = None,
        queries: PointQueries | None = None,
    ) -> PointTracks:
        """
        Follow points through a video.

        Args:
            video: A path to a video file or to a folder of images, an array (T, H, W, 3), a list of frames, an iterator over frames;
                everything [`open_video`] takes. One video: for several, call this once for each.
            points (array of shape `(N, 3)`, or a `dict` from id to (t, x, y) or to several of them):
                Labels (t, x, y): frame number, and pixels of the video. A point may have labels on several frames: between two of them it
                goes from the one to the other, with `direction="both"` by what a pass from each found.
            grid (`int` or `tuple[int, int]`): Instead of points, N x N points, or (rows, columns), spread evenly over the first frame.
            direction (`str`, defaults to `"forward"`):
                `"forward"` from each label to the end, `"backward"` from each label to the start, or `"both"`.
            threshold (`float`, *optional*): Confidence in [0, 1] from which a point counts as visible;
                `config.visibility_threshold` if not given.
            progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.
            ids (sequence of `int`, *optional*): Beside an array of points, whose label each row is; rows of one id are of one point.
            queries ([`PointQueries`], *optional*): Instead of points, what they look like, as [`~Tracker.describe`] gives it. Each is looked
                for in whole frames from the first one on (the last one, backward) and followed from where it is found.

        Returns:
            [`PointTracks`] in pixels of the video; `object_ids` are the keys of a `dict` or `ids`, else 0 to N-1, in the order of `points`.

        Raises:
            `ValueError`, `OSError`: the video cannot be read, a point is outside the frame or the clip or has two labels on one frame,
            queries are of another checkpoint, or an argument is not among those accepted.
        """
        passes = _passes(direction)
        check_probability("threshold", threshold)
        if sum(given is not None for given in (points, grid, queries)) != 1:
            raise ValueError("exactly one of points, grid and queries must be given.")
        if queries is not None:
            self._check_queries(queries)
        video = _one_video(video)
        following = Following(self.model, self.processor, video, passes, threshold, progress)
        if queries is not None:
            return following.queries(queries.looks())
        labels = labels_of(points if grid is None else grid_points(grid, video.height, video.width), ids)
        return following.labels(labels, self.look) if labels.several else following.points(labels)

    def describe(self, frame, points=None, masks=None, points_per_mask: int = 8) -> PointQueries:
        """
        What points of an image look like, to look for them in videos: by `track(video, queries=...)` or [`LiveTracker.add_queries`].

        Args:
            frame (`numpy.ndarray` of shape `(H, W, 3)`, uint8, or `PIL.Image.Image`): The image, RGB.
            points (array of shape `(N, 2)`, or a `dict` from id to (x, y)): Positions in pixels of the image.
            masks (array of shape `(H, W)`, integer): Instead of points, object ids, 0 for the background. Points are spread over each mask and
                get the ids 0, 1, ...; `mask_ids` of the result tells whose they are.
            points_per_mask (`int`, defaults to 8): How many.

        Returns:
            [`PointQueries`], which can be saved.

        Raises:
            `ValueError`: a point is outside the image, there is none, or the tracker works by label maps.
        """
        if (points is None) == (masks is None):
            raise ValueError("exactly one of points and masks must be given.")
        self._check_templates()
        frame, mask_ids = as_frame(frame), []
        if masks is None:
            ids, where = point_list(points)
        else:
            mask_ids, where = points_in_masks(masks, points_per_mask, frame.shape[:2])
            ids = list(range(len(where)))
        looks = self.look(frame, where)
        resizing = resizing_of(self.processor.image_processor)
        return PointQueries.of(ids, looks, where, weights_hash(self.model), resizing, mask_ids)

    @torch.inference_mode()
    def look(self, frame: np.ndarray, points: np.ndarray) -> PointLooks:
        """What points (n, 2), in pixels of a frame, look like on it."""
        for row, (x, y) in enumerate(points):
            check_position(row, (x, y))
            check_fits(row, PointTarget(0, (x, y)), frame.shape[:2])
        session, device = self.processor.init_video_session(), self.model.device
        pixel_values = session.preprocess(frame, device)
        encoded = EncodedFrame.of(self.features(pixel_values), pixel_values[0])
        where = rescale_points(torch.from_numpy(points), *session.sizes).to(device, exact_dtype(device))
        return looks_of(where, encoded, self.model.config)

    def add_queries(self, session: FgvcInferenceSession, queries: PointQueries, frame_idx: int = 0) -> None:
        """
        Look for points in a session, from a frame on, by what they look like.

        Raises:
            `ValueError`: as of [`LiveTracker.add_queries`].
        """
        self._check_queries(queries)
        session.add_queries(whole_number("frame_idx", frame_idx), queries.looks())

    def _check_queries(self, queries: PointQueries) -> None:
        if not isinstance(queries, PointQueries):
            raise ValueError(f"queries must be what describe returns, got {type(queries).__name__}.")
        self._check_templates()
        queries.check(weights_hash(self.model), resizing_of(self.processor.image_processor))
        config, side = self.model.config, patch_side()
        patch = (2 * config.template_radius + 1) ** 2, config.hidden_size
        queries.check_patches(patch, (side, side), "this tracker has")

    def _check_templates(self) -> None:
        if self.model.config.point_matching != "templates":
            raise ValueError("points are described by templates, but this tracker works by label maps (preset paper).")

    def suggest(self, tracks: PointTracks, n: int = 5) -> list[Suggestion]:
        """[`suggest_frames`]: the frames on which labels of these tracks would help most."""
        return suggest_frames(tracks, n)

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
            `ValueError`, `OSError`: the video cannot be read, or `masks` is of another size or holds no object, or of a frame
                that is not in the video.
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
        if session.last_frame_idx is None:  # of an iterator; other sources were checked before
            raise ValueError(f"masks start on frame_idx {frame_idx}, but the video ended before that frame.")

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

    def stream(self) -> LiveTracker:
        """Follow targets through frames that come one by one; see [`LiveTracker`]."""
        return LiveTracker(self)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised features (h, w, C) of one frame (1, 3, H, W), as the processor makes it."""
        with evaluation_mode(self.model):
            features = self.model.normalized_features(pixel_values)
        check_stride(pixel_values, features, self.model.config)
        return features[0]


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
        raise ValueError(f"direction must be 'forward', 'backward' or 'both', got {direction!r:.100}.")
    return DIRECTIONS[direction]


def _one_video(video) -> Any:
    """A frame source; a `ValueError` for a list of paths."""
    if isinstance(video, list | tuple) and any(isinstance(one, str | os.PathLike) for one in video):
        raise ValueError(
            "video must be one video, got a list of paths: call this once for each video, or give the folder that holds the images."
        )
    return open_video(video)


__all__ = ["LiveTracker", "Tracker", "load"]
