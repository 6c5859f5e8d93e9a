"""A session: one video (or live source), its targets, and the trackers that follow them."""

import copy
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import exact_dtype, rescale_points
from .box_tracker import BoxTracker
from .encoded_frame import EncodedFrame
from .frames import as_frame
from .label_tracker import LabelMapTracker
from .memory import FrameMemory
from .memory_bound import frames_that_fit
from .prompts import (
    MAX_MASKS,
    MOST_MASK_ID,
    BoxTarget,
    MaskTarget,
    PointLooks,
    PointTarget,
    Target,
    check_fits,
    check_position,
)
from .results import FgvcVideoOutput
from .session_results import read_boxes, read_masks, read_points
from .template_tracker import TemplateTracker
from .video_order import OrderedFrames, ordered_frames


class ModelReference(weakref.ref):
    """The model of a session: the same one for a copy of the session, or the copy of a model that is copied with it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelReference":
        copied = memo.get(id(self()))
        return self if copied is None else ModelReference(copied)

    def __reduce_ex__(self, protocol):
        raise ValueError("a session that has seen frames cannot be pickled; save_session writes it to a file.")


class FgvcInferenceSession:
    """
    One video that targets are followed through, with a memory of constant size.

    A session belongs to the model that first steps it: it keeps a copy of that model's configuration, and another model cannot step
    it. [`reset_tracking_data`] frees it again.

    Made by [`FgvcProcessor.init_video_session`].

    Args:
        image_processor ([`FgvcImageProcessorPil`]): Turns a frame into the model's input.
        video (frame source, *optional*): As [`open_video`] gives; nothing for frames that come one by one.
        memory_dtype, memory_device, max_memory_bytes (*optional*): As of [`FgvcProcessor.init_video_session`].
    """

    def __init__(
        self,
        image_processor,
        video: Any = None,
        memory_dtype: torch.dtype | None = None,
        memory_device: torch.device | str | None = None,
        max_memory_bytes: int | None = None,
    ):
        self.image_processor = image_processor
        self.video = video
        self.memory_dtype, self.memory_device, self.max_memory_bytes = memory_dtype, memory_device, max_memory_bytes
        self.passes = 0  # over the video; the iterator of the last one goes on
        self.reset_inference_session()

    # ---- prompts ------------------------------------------------------------------------------------------------

    def add_point(
        self, obj_id: int, frame_idx: int, point: tuple[float, float], looks: PointLooks | None = None
    ) -> None:
        """Add a point to follow, or say where a known point is on another frame: it starts anew from there.

        `looks` are what it looks like elsewhere, on other frames or in other images, if that is known.

        Raises:
            `ValueError`: the id has a prompt on that frame or is of another kind of target, the point is not a finite position inside
            the frame, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, PointTarget)
        check_position(obj_id, point)
        self._add(obj_id, PointTarget(int(frame_idx), (float(point[0]), float(point[1])), looks))

    def add_queries(self, frame_idx: int, looks: Mapping[int, PointLooks]) -> None:
        """Add points by what they look like. From a frame on they are looked for in whole frames until they are found, and then followed.

        Raises:
            `ValueError`: an id has a prompt on that frame or is of another kind of target, or the frame is not in the video or has been
            passed. Nothing is added then.
        """
        for obj_id in looks:
            self._check_prompt(obj_id, frame_idx, PointTarget)
        before = dict(self.prompts)
        try:
            for obj_id, look in looks.items():
                self._add(obj_id, PointTarget(frame_idx, looks=look))
        except ValueError:  # they do not fit into the memory
            self.prompts = before
            raise

    def add_mask(self, obj_id: int, frame_idx: int, mask: np.ndarray) -> None:
        """Add an object to follow by its mask (H, W), bool; or give a new mask of it on another frame.

        Raises:
            `ValueError`: the id is below 1 or beyond int32, has a prompt on that frame or is of another kind of target, there are 255 masks already,
            the mask is empty or of another size than the video, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, MaskTarget)
        if obj_id < 1:
            raise ValueError(f"obj_ids must be 1 or more for masks, for 0 is the background, got {obj_id}.")
        if obj_id > MOST_MASK_ID:
            raise ValueError(f"obj_ids must be at most {MOST_MASK_ID} for masks, whose ids are int32, got {obj_id}.")
        if len(self.masks) >= MAX_MASKS and obj_id not in self.masks:
            raise ValueError(f"obj_ids: a session holds at most {MAX_MASKS} masks.")
        if mask.ndim != 2 or mask.dtype != bool or not mask.any():
            problem = "is empty" if mask.ndim == 2 and mask.dtype == bool else f"is {mask.dtype} of {mask.shape}"
            raise ValueError(
                f"input_masks must be bool (H, W) with a pixel set, but that of target {obj_id} {problem}."
            )
        self._add(obj_id, MaskTarget(int(frame_idx), mask.copy()))

    def add_box(self, obj_id: int, frame_idx: int, box: np.ndarray) -> None:
        """Add a box to follow: its sides (x0, y0, x1, y1), or its corners (4, 2) one after the other if it may turn.

        Raises:
            `ValueError`: the id has a prompt on that frame or is of another kind of target, the box is not finite or has no area, its
            centre is outside the frame, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, BoxTarget)
        box = np.array(box, dtype=np.float64)
        if box.shape not in ((4,), (4, 2)) or not np.isfinite(box).all():
            raise ValueError(f"input_boxes must be finite (x0, y0, x1, y1) or corners (4, 2), got {box.tolist()}.")
        turns = box.ndim == 2
        corners = box if turns else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
        a, b = corners[2] - corners[0], corners[3] - corners[1]  # the diagonals
        if (not turns and (box[:2] >= box[2:]).any()) or abs(a[0] * b[1] - a[1] * b[0]) < 1e-6:
            raise ValueError(f"input_boxes must have an area, x0 < x1 and y0 < y1, got {box.tolist()}.")
        self._add(obj_id, BoxTarget(int(frame_idx), corners, turns))

    def _add(self, obj_id: int, prompt: Target) -> None:
        if self.original_size is not None:
            check_fits(obj_id, prompt, self.original_size)
        self.prompts[obj_id, prompt.frame_idx] = prompt
        if self.labels is not None and self.max_memory_bytes is not None:
            try:
                self._frames_that_fit(self._due())  # before the first frame it is not known, and is checked there
            except ValueError:
                del self.prompts[obj_id, prompt.frame_idx]
                raise

    def remove(self, obj_id: int) -> None:
        """Stop following a target, and forget its prompts. The others go on as if it had never been there.

        Raises:
            `ValueError`: there is no such target.
        """
        if obj_id not in self.targets:
            raise ValueError(f"obj_id: there is no target {obj_id}; there are {self.obj_ids}.")
        self.prompts = {key: prompt for key, prompt in self.prompts.items() if key[0] != obj_id}
        self.started = {key for key in self.started if key[0] != obj_id}
        for tracker in self.trackers:
            tracker.drop({obj_id})

    def _check_prompt(self, obj_id: int, frame_idx: int, kind: type) -> None:
        if (obj_id, frame_idx) in self.prompts:
            raise ValueError(f"obj_ids: target {obj_id} exists already, with a prompt on frame {frame_idx}.")
        if obj_id in self.targets and not isinstance(self.targets[obj_id], kind):
            raise ValueError(f"obj_ids: target {obj_id} exists already, as another kind of target.")
        num_frames = None if self.video is None else self.video.num_frames
        if frame_idx < 0 or (num_frames is not None and frame_idx >= num_frames):
            limit = "" if num_frames is None else f" to {num_frames - 1}"
            raise ValueError(f"frame_idx must be a frame of the video, 0{limit}, got {frame_idx}.")
        passed = self.video is None and self.last_frame_idx is not None and frame_idx < self.last_frame_idx
        if passed:
            raise ValueError(
                f"frame_idx must not be before frame {self.last_frame_idx}, the last one seen, got {frame_idx}."
            )

    @property
    def targets(self) -> dict[int, Target]:
        """The first prompt of every target by id, in the order in which they were added."""
        first = {}
        for (obj_id, _), prompt in self.prompts.items():
            first.setdefault(obj_id, prompt)
        return first

    @property
    def obj_ids(self) -> list[int]:
        """Ids of all targets, in the order in which they were added."""
        return list(self.targets)

    @property
    def points(self) -> dict[int, PointTarget]:
        """The points by id, with their first prompts, in the order in which they were added."""
        return {obj_id: prompt for obj_id, prompt in self.targets.items() if isinstance(prompt, PointTarget)}

    @property
    def masks(self) -> dict[int, MaskTarget]:
        """The masks by id, with their first prompts, in the order in which they were added."""
        return {obj_id: prompt for obj_id, prompt in self.targets.items() if isinstance(prompt, MaskTarget)}

    def reset_tracking_data(self) -> None:
        """Forget all frames, and which model was used; keep the targets."""
        video = self.video
        self.original_size: tuple[int, int] | None = None if video is None else (video.height, video.width)
        self._model: ModelReference | None = None
        self.config: FgvcConfig | None = None
        self.labels: LabelMapTracker | None = None
        self.templates: TemplateTracker | None = None
        self.boxes: BoxTracker | None = None
        self.last_image: torch.Tensor | None = None  # (H, W) of the frame seen last, on the device of the features
        self.started: set[tuple[int, int]] = set()  # prompts (id, frame) that are being followed
        self.weights_checked = False  # whether the fused encoder has been compared with the model's weights
        self.last_frame_idx: int | None = None
        self.interrupted = False  # in the middle of a step

    def reset_inference_session(self) -> None:
        """Forget all frames and all targets."""
        self.prompts: dict[tuple[int, int], Target] = {}  # by id and frame
        self.reset_tracking_data()

    # ---- frames -------------------------------------------------------------------------------------------------

    @property
    def next_frame_idx(self) -> int:
        """Number that the next frame of a live source gets."""
        return 0 if self.last_frame_idx is None else self.last_frame_idx + 1

    def preprocess(self, frame, device: torch.device | None = None) -> torch.Tensor:
        """The model's input (1, 3, H, W), on a device, of a frame.

        Raises:
            `ValueError`: it is no frame by the rule of [`as_frame`], or of another size than those before.
        """
        frame = as_frame(frame)
        size = frame.shape[0], frame.shape[1]
        if self.original_size is None:
            for (obj_id, _), prompt in self.prompts.items():
                check_fits(obj_id, prompt, size)
        elif size != self.original_size:
            raise ValueError(f"frame must be of size {self.original_size} as those before, got {size}.")
        options = {"input_data_format": "channels_last", "return_tensors": "pt", "device": device}
        pixel_values, self.original_size = self.image_processor(frame, **options).pixel_values, size
        return pixel_values

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the original video and of the model's input.

        Raises:
            `ValueError`: neither a video nor a frame has been given yet.
        """
        if self.original_size is None:
            raise ValueError("inference_session has no frames yet, so their size is not known.")
        return self.original_size, self.image_processor.output_size(*self.original_size)

    def ordered_frames(
        self, start_frame_idx: int | None, max_frame_num_to_track: int | None, reverse: bool
    ) -> OrderedFrames:
        """The frames to process, in order; see [`FgvcModel.propagate_in_video_iterator`] for arguments and errors."""
        prompted = [frame_idx for _, frame_idx in self.prompts]
        return ordered_frames(self.video, prompted, start_frame_idx, max_frame_num_to_track, reverse)

    # ---- propagation --------------------------------------------------------------------------------------------

    def bind(self, model) -> FgvcConfig:
        """The configuration that this session works by: a copy of that of the model that stepped it first.

        Raises:
            `ValueError`: another model stepped it before.
        """
        if self.config is None:
            self._model, self.config = ModelReference(model), copy.deepcopy(model.config)
        elif self._model is None or self._model() is not model:
            raise ValueError(
                "inference_session was started with another model; make a new session, or call reset_tracking_data() first."
            )
        return self.config

    def check_whole(self) -> None:
        """A `ValueError` if a step ended in an exception: some trackers are on its frame, and others on the one before."""
        if self.interrupted:
            raise ValueError(
                "inference_session was interrupted in the middle of a step; make a new session, or call reset_tracking_data() first."
            )

    @property
    def trackers(self) -> list[Any]:
        """Everything that follows targets; empty before the first frame."""
        return [tracker for tracker in (self.labels, self.templates, self.boxes) if tracker is not None]

    def propagate(self, frame: EncodedFrame, frame_idx: int) -> None:
        """Find all targets on a frame, and start those that are prompted on it.

        Raises:
            `ValueError`: the step before was interrupted, the features are of another shape than before, or the memory does not suffice.
        """
        assert self.config is not None
        self.check_whole()
        if self.labels is None:
            self._make_trackers(frame.features, self.config)
            try:
                self._frames_that_fit(self._due())
            except ValueError:
                self.reset_tracking_data()
                raise
        self.interrupted = True
        self._start_targets()  # prompted since on the frame before
        for tracker in self.trackers:
            tracker.step(frame)
        self.last_frame_idx, self.last_image = frame_idx, frame.image
        self._start_targets()
        self.interrupted = False

    def _make_trackers(self, features: torch.Tensor, config: FgvcConfig) -> None:
        """Trackers without targets, for features (h, w, C)."""
        self.labels = LabelMapTracker(config, FrameMemory.like(features, self.memory_dtype, self.memory_device))
        patches = features.to(self.memory_dtype or features.dtype)
        self.templates, self.boxes = TemplateTracker.empty(patches, config), BoxTracker.empty(patches, config)

    def _due(self, frame_idx: int | None = None) -> dict[tuple[int, int], Target]:
        """The prompts that are not followed yet, on any frame or on one."""
        return {k: p for k, p in self.prompts.items() if k not in self.started and frame_idx in (None, k[1])}

    def _frames_that_fit(self, due: dict[tuple[int, int], Target]) -> int:
        """Previous frames that can be remembered once prompts are followed; a `ValueError` if not even one fits."""
        assert self.labels is not None and self.templates is not None and self.boxes is not None
        return frames_that_fit(self.max_memory_bytes, due, self.labels, self.templates, self.boxes)

    def _start_targets(self) -> None:
        """Start the targets that are prompted on the frame seen last; those that were followed already start anew."""
        if self.last_frame_idx is None or not (due := self._due(self.last_frame_idx)):
            return
        labels, templates, boxes, config, image = self.labels, self.templates, self.boxes, self.config, self.last_image
        assert not (labels is None or templates is None or boxes is None or config is None or image is None)
        new = {obj_id: prompt for (obj_id, _), prompt in due.items()}
        points = {i: t for i, t in new.items() if isinstance(t, PointTarget) and not t.sought}
        sought = {i: t.looks for i, t in new.items() if isinstance(t, PointTarget) and t.sought and t.looks}
        masks = {i: torch.from_numpy(t.mask) for i, t in new.items() if isinstance(t, MaskTarget)}
        new_boxes = {i: t for i, t in new.items() if isinstance(t, BoxTarget)}
        frames = self._frames_that_fit(due)
        self.started |= set(due)
        for tracker in self.trackers:
            tracker.drop(set(new))
        labels.resize(frames)
        device = image.device
        frame = EncodedFrame(labels.memory.last.to(device, copy=True), image)
        where = torch.tensor([t.point for t in points.values()], dtype=torch.float64, device="cpu").view(-1, 2)
        where = rescale_points(where, *self.sizes).to(device, exact_dtype(device))
        if points and config.point_matching == "templates":
            templates.start(list(points), where, frame, [t.looks for t in points.values()])
            points, where = {}, where[:0]
        if sought:
            templates.seek(list(sought), list(sought.values()), frame)
        if new_boxes:
            corners = torch.from_numpy(np.stack([box.corners for box in new_boxes.values()]))
            corners = rescale_points(corners, *self.sizes).to(device, exact_dtype(device))
            boxes.start(list(new_boxes), corners, [box.turns for box in new_boxes.values()], frame)
        if points or masks:
            stacked = torch.stack(list(masks.values())) if masks else None
            labels.start(list(points), where, list(masks), stacked, self.sizes[1], device)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the session holds: features, label maps and templates."""
        return sum(tracker.nbytes for tracker in self.trackers)

    # ---- results ------------------------------------------------------------------------------------------------

    def read(self) -> FgvcVideoOutput:
        """The targets on the frame seen last, in pixels of the original video; a `ValueError` before the first frame."""
        labels, templates, boxes, config = self.labels, self.templates, self.boxes, self.config
        if labels is None or templates is None or boxes is None or config is None or self.last_frame_idx is None:
            raise ValueError("inference_session has seen no frame yet, so there is nothing to read.")
        self.check_whole()
        here = {
            obj_id: prompt for (obj_id, frame_idx), prompt in self.prompts.items() if frame_idx == self.last_frame_idx
        }
        sizes = self.sizes
        return FgvcVideoOutput(
            frame_idx=self.last_frame_idx,
            **read_points([templates.read(), *labels.read_points()], self.points, here, sizes, config),
            **read_boxes(boxes.read(), self.obj_ids, here, sizes),
            masks=read_masks(labels.read_masks(), self.masks, here, sizes, config),
        )


__all__ = ["FgvcInferenceSession"]
