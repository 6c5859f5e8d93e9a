"""The memory of one video that labels are being propagated through."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import ORIGIN, rescale_points
from .box_tracker import GRID, TrackedBox
from .label_maps import draw_masks, draw_points, label_uncertainty, peak_confidence, read_points
from .memory import FrameMemory, TargetGroup, frames_that_fit, propagate_groups
from .prompts import BoxTarget, MaskTarget, PointTarget, Target, check_fits
from .template_tracker import PointTemplates


BORDER = 0.02  # of the mean side of the frame: points that were seen last as near to its border have left it
MAX_MASKS = 255  # objects with a mask in one session: they fit into 8-bit images


class FgvcInferenceSession:
    """
    One video being propagated: its targets, and a memory of constant size.

    Label maps: features of the n previous frames are kept once, in a ring that all targets share; targets prompted on one
    frame share the features of that frame. A target is matched against its own first frame and the previous frames since.
    Templates: patches of features for each point, and of the frames themselves just the last. Either way other targets change
    nothing in a track.

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
        self.original_size: tuple[int, int] | None = None if video is None else (video.height, video.width)
        self.reset_inference_session()

    # ---- targets ------------------------------------------------------------------------------------------------

    def add_point(self, obj_id: int, frame_idx: int, point: tuple[float, float]) -> None:
        """Add a point to follow; or, where it exists already, say where it is on another frame: from there it starts anew.

        Raises:
            `ValueError`: the id has a prompt on that frame or belongs to a mask, the point is not a finite position inside the
            frame, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, PointTarget)
        if not np.isfinite(point).all():
            raise ValueError(f"input_points must be finite, got {tuple(point)} for target {obj_id}.")
        self._add(obj_id, PointTarget(int(frame_idx), (float(point[0]), float(point[1]))))

    def add_mask(self, obj_id: int, frame_idx: int, mask: np.ndarray) -> None:
        """Add an object to follow by its mask (H, W), bool; or give a new mask of it on another frame.

        Raises:
            `ValueError`: the id is below 1, has a prompt on that frame or belongs to a point, there are 255 masks already, the
            mask is empty or of another size than the video, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, MaskTarget)
        if obj_id < 1:
            raise ValueError(f"obj_ids must be 1 or more for masks, for 0 is the background, got {obj_id}.")
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
            `ValueError`: the id has a prompt on that frame or belongs to another kind of target, the box is not finite or has no
            area, its middle is outside the frame, or the frame is not in the video or has been passed.
        """
        self._check_prompt(obj_id, frame_idx, BoxTarget)
        box = np.asarray(box, dtype=np.float64)
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

    def remove(self, obj_id: int) -> None:
        """Stop following a target, and forget its prompts. The others go on as if it had never been there.

        Raises:
            `ValueError`: there is no such target.
        """
        if obj_id not in self.targets:
            raise ValueError(f"obj_id: there is no target {obj_id}; there are {self.obj_ids}.")
        self.prompts = {key: prompt for key, prompt in self.prompts.items() if key[0] != obj_id}
        self.started = {key for key in self.started if key[0] != obj_id}
        self._drop({obj_id})

    def _drop(self, ids: set[int]) -> None:
        """Forget what is remembered for some targets."""
        if self.templates:
            self.templates.keep([i for i, obj_id in enumerate(self.templates.ids) if obj_id not in ids])
        self.boxes = {obj_id: box for obj_id, box in self.boxes.items() if obj_id not in ids}
        others = set(self.targets) - ids
        self.groups = [group for group in self.groups if group.keep(others)]

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
        """Forget all frames and keep the targets."""
        self.groups: list[TargetGroup] = []
        self.templates: PointTemplates | None = None
        self.boxes: dict[int, TrackedBox] = {}
        self.memory: FrameMemory | None = None
        self.device = torch.device("cpu")  # of the frames' features
        self.cell_origin = ORIGIN
        self.started: set[tuple[int, int]] = set()  # prompts (id, frame) that are being followed
        self.last_frame_idx: int | None = None

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
        """The model's input (1, 3, H, W), on a device, of a frame (H, W, 3) or PIL image."""
        size = (frame.height, frame.width) if hasattr(frame, "height") else tuple(np.shape(frame)[:2])
        if self.original_size is None:
            for (obj_id, _), prompt in self.prompts.items():
                check_fits(obj_id, prompt, size)
        elif size != self.original_size:
            raise ValueError(f"frame must be of size {self.original_size} as those before, got {size}.")
        pixel_values = self.image_processor(frame, return_tensors="pt", device=device).pixel_values
        self.original_size = size
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
    ) -> "OrderedFrames":
        """The frames to process, in order; see [`FgvcModel.propagate_in_video_iterator`] for arguments and errors."""
        if self.video is None:
            raise ValueError("inference_session has no video; pass frames one by one to model.step.")
        if start_frame_idx is None:
            if not self.prompts:
                raise ValueError("inference_session has no targets; add them, or give start_frame_idx.")
            prompted = [frame_idx for _, frame_idx in self.prompts]
            start_frame_idx = max(prompted) if reverse else min(prompted)
        num_frames, limit = self.video.num_frames, max_frame_num_to_track
        if start_frame_idx < 0 or (num_frames is not None and start_frame_idx >= num_frames):
            raise ValueError(
                f"start_frame_idx must be a frame of the video, which has {num_frames}, got {start_frame_idx}."
            )
        if limit is not None and limit < 0:
            raise ValueError(f"max_frame_num_to_track must be 0 or more, got {limit}.")
        if reverse:
            first = 0 if limit is None else max(0, start_frame_idx - limit)
            return OrderedFrames(self.video, first, start_frame_idx + 1, reverse=True)
        ends = [num_frames, None if limit is None else start_frame_idx + limit + 1]
        return OrderedFrames(self.video, start_frame_idx, min((end for end in ends if end is not None), default=None))

    # ---- propagation --------------------------------------------------------------------------------------------

    def start_targets(self, config: FgvcConfig) -> None:
        """Start the targets that are prompted on the frame remembered last, anew where they were followed already."""
        self.cell_origin = config.cell_origin
        due = [key for key in self.prompts if key[1] == self.last_frame_idx and key not in self.started]
        memory = self.memory
        if memory is None or not due:
            return
        new = {obj_id: self.prompts[obj_id, frame_idx] for obj_id, frame_idx in due}
        remembered = memory.ring[memory.recent_slots(1)[0]]  # (h, w, C)
        frames = self._frames_that_fit(new, remembered, config)
        self.started |= set(due)
        self._drop(set(new))
        features = remembered.to(self.device, copy=True)
        prompts = {i: t.point for i, t in new.items() if isinstance(t, PointTarget)}
        points = torch.tensor(list(prompts.values()), dtype=torch.float64).view(-1, 2)
        points = rescale_points(points, *self.sizes).to(features.device)
        masks = {i: torch.from_numpy(t.mask) for i, t in new.items() if isinstance(t, MaskTarget)}
        if config.point_matching == "templates" and prompts:
            self.templates = self.templates or PointTemplates.empty(features, config)
            self.templates.add(list(prompts), points, features, config)
            prompts, points = {}, points[:0]
        for obj_id, prompt in new.items():
            if isinstance(prompt, BoxTarget):
                corners = rescale_points(torch.from_numpy(prompt.corners), *self.sizes).to(features.device)
                self.boxes[obj_id] = TrackedBox.start(corners, prompt.turns, features, config)
        if prompts or masks:
            if frames != (before := len(memory.ring)):
                moves = memory.resize(frames)
                for group in self.groups:
                    group.resize(before, frames, moves)
            anchor = remembered.clone()
            self.groups.append(self._draw_targets(list(prompts), points, masks, anchor, config))

    def _frames_that_fit(self, new: dict[int, Target], features: torch.Tensor, config: FgvcConfig) -> int:
        """Previous frames that can be remembered with the targets `new` as well; a `ValueError` if none can."""
        points, boxes = (sum(isinstance(target, kind) for target in new.values()) for kind in (PointTarget, BoxTarget))
        patches = (points if config.point_matching == "templates" else 0) + GRID**2 * boxes
        labels = len(new) - boxes - (points if config.point_matching == "templates" else 0)
        patches += sum(len(templates.ids) for templates in self._all_templates)
        templates = PointTemplates.bytes_each(features, config) * patches
        return frames_that_fit(self.max_memory_bytes, self.groups, labels, templates, features, config)

    @property
    def _all_templates(self) -> list[PointTemplates]:
        own = [] if self.templates is None else [self.templates]
        return own + [box.templates for box in self.boxes.values()]

    @property
    def memory_bytes(self) -> int:
        """What the session holds in memory: features, label maps and templates."""
        held = 0 if self.memory is None else self.memory.ring.nbytes
        held += sum(group.nbytes for group in self.groups)
        return held + sum(templates.anchor.nbytes + templates.recent.nbytes for templates in self._all_templates)

    def _draw_targets(
        self,
        point_ids: list[int],
        points: torch.Tensor,
        masks: dict[int, torch.Tensor],
        anchor: torch.Tensor,
        config: FgvcConfig,
    ) -> TargetGroup:
        """Targets that are followed by their label maps, on their first frame."""
        assert self.memory is not None
        device, size, stride = self.device, self.memory.size, config.output_stride
        drawn = [draw_points(points, size, stride, config.label_sigma, config.cell_origin)]
        if masks:
            stacked = torch.stack(list(masks.values())).to(device)
            drawn.append(draw_masks(stacked, size, self.sizes[1], stride, config.cell_origin))
        first = torch.cat(drawn, dim=1)
        slots = 1 + len(self.memory.ring) + bool(config.kept_frame)
        labels = torch.zeros((slots, *first.shape), device=device)
        labels[0] = first
        support, confidence = (labels > 0).any(dim=-1), torch.ones(len(points), device=device)
        uncertainty, current = torch.zeros(len(points), device=device), first[:, len(points) :]
        return TargetGroup(point_ids, list(masks), anchor, labels, support, points, confidence, uncertainty, current)

    def propagate(self, config: FgvcConfig, features: torch.Tensor) -> None:
        """Carry all targets over to a frame: templates are found there, label maps propagated and the points read off them.

        Args:
            config ([`FgvcConfig`]): Window, top-k, temperature and read-out.
            features (`torch.Tensor` of shape `(h, w, C)`): Normalised features of the frame.
        """
        if self.templates:
            self.templates.follow(features, self.sizes[1], config)
        for box in self.boxes.values():
            box.follow(features, self.sizes[1], config)
        memory = self.memory
        if memory is None or not self.groups:
            return
        size, input_size = memory.size, self.sizes[1]
        for group, labels in zip(self.groups, propagate_groups(self.groups, memory, features, config), strict=True):
            number = len(group.point_ids)
            if number:
                points, peak = read_points(
                    labels[:, :number],
                    size,
                    input_size,
                    config.output_stride,
                    config.label_sigma,
                    config.readout,
                    config.cell_origin,
                )
                found = peak[:, None] > 0
                group.points = torch.where(found, points, group.points)  # a lost target stays where it was seen last
                group.confidence = peak_confidence(peak)
                shape = size, config.output_stride, config.label_sigma, config.cell_origin
                group.uncertainty = label_uncertainty(labels[:, :number], *shape)
            group.masks = labels[:, number:]
            group.remember(memory.next_slot, features, labels, config)

    def remember(self, features: torch.Tensor, frame_idx: int) -> None:
        """Put the features (h, w, C) of a frame into the memory, in place of the oldest."""
        if self.memory is None:
            dtype, device = self.memory_dtype or features.dtype, self.memory_device or features.device
            # label maps need more frames, see start_targets
            self.memory = FrameMemory(torch.zeros((1, *features.shape), dtype=dtype, device=device))
        self.device = features.device
        self.memory.ring[self.memory.next_slot] = features
        self.memory.count += 1
        self.last_frame_idx = frame_idx

    def _at_border(self, state: PointTemplates | TargetGroup) -> torch.Tensor:
        """Whether points (N,) were about to leave the frame when they were seen last: next to its border, or on their way across."""
        height, width = self.sizes[1]
        last = state.points if isinstance(state, TargetGroup) else state.expected
        x, y = last.unbind(dim=1)
        margin = BORDER * math.sqrt(height * width)
        return (x < margin) | (y < margin) | (x > width - margin) | (y > height - margin)

    def read_targets(self) -> dict:
        """What [`FgvcVideoOutput`] holds: the targets that have started, in the order of `obj_ids`."""
        points, masks = {}, {}
        for state in (self.templates, *self.groups):
            if state is None:
                continue
            ids = state.ids if isinstance(state, PointTemplates) else state.point_ids
            found = state.points, state.confidence, state.uncertainty, self._at_border(state)
            points |= dict(zip(ids, zip(*(part.cpu() for part in found), strict=True), strict=True))
        for group in self.groups:
            masks |= {obj_id: group.masks[:, i] for i, obj_id in enumerate(group.mask_ids)}
        object_ids = [obj_id for obj_id in self.points if obj_id in points]
        mask_ids = [obj_id for obj_id in self.masks if obj_id in masks]
        tracks, confidence, uncertainty, at_border = ([points[obj_id][i] for obj_id in object_ids] for i in range(4))
        box_ids = [obj_id for obj_id in self.targets if obj_id in self.boxes]
        boxes = [self.boxes[obj_id] for obj_id in box_ids]
        size = self.memory.size if self.memory is not None else (0, 0)
        maps = [masks[obj_id].view(size) for obj_id in mask_ids]
        return {
            "object_ids": object_ids,
            "tracks": torch.stack(tracks) if tracks else torch.zeros((0, 2), dtype=torch.float64),
            "confidence": torch.stack(confidence) if tracks else torch.zeros(0),
            "uncertainty": torch.stack(uncertainty) if tracks else torch.zeros(0),
            "at_border": torch.stack(at_border) if tracks else torch.zeros(0, dtype=torch.bool),
            "box_ids": box_ids,
            "boxes": torch.stack([box.corners for box in boxes]).cpu() if boxes else torch.zeros((0, 4, 2)).double(),
            "box_confidence": torch.stack([box.confidence for box in boxes]).cpu() if boxes else torch.zeros(0),
            "mask_ids": mask_ids,
            "mask_maps": torch.stack(maps).cpu() if maps else torch.zeros((0, *size)),
        }


@dataclass
class OrderedFrames:
    """Frames start..stop-1 of a video with their numbers, forward or in reverse; `stop` is None where it is unknown."""

    video: Any
    start: int
    stop: int | None
    reverse: bool = False

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("the length of this source is not known before its end")
        return self.stop - self.start

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        numbers = range(len(self))[::-1] if self.reverse else itertools.count()
        for i, frame in zip(numbers, self.video.frames(self.start, self.stop, self.reverse), strict=False):
            yield self.start + i, frame


__all__ = ["FgvcInferenceSession"]
