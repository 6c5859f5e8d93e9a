"""The memory of one video that labels are being propagated through."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .configuration_fgvc import FgvcConfig
from .coordinates_fgvc import rescale_points
from .correlation_fgvc import merge_topk, window_reach, window_topk
from .propagation_fgvc import draw_points, label_reach, propagate_labels, read_points


@dataclass
class Target:
    """A prompt: point (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    point: tuple[float, float]


@dataclass
class FrameMemory:
    """Features of the previous frames: frame number c since the start is in slot c % n of the ring."""

    ring: torch.Tensor  # (n, h, w, C)
    count: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns (h, w) of a feature map."""
        return self.ring.shape[1], self.ring.shape[2]

    @property
    def next_slot(self) -> int:
        """Where the next frame goes, in place of the oldest."""
        return self.count % len(self.ring)

    def recent_slots(self, number: int) -> list[int]:
        """Slots of the last frames, latest first; at most as many as there are."""
        return [(self.count - back) % len(self.ring) for back in range(1, min(number, len(self.ring)) + 1)]


@dataclass
class TargetGroup:
    """Targets prompted on one frame, with the memory of their own: that frame and its label maps.

    `labels` (n+1, h*w, targets) has in slot 0 the frame of the prompt, and in slot i+1 the frame whose features are in
    slot i of the session's ring. `support` (n+1, h*w) tells where any of them is non-zero. `age` counts frames since.
    """

    object_ids: list[int]
    anchor: torch.Tensor  # (h, w, C)
    labels: torch.Tensor
    support: torch.Tensor
    points: torch.Tensor  # (targets, 2) float64, input pixels
    confidence: torch.Tensor  # (targets,)
    age: int = 0


class FgvcInferenceSession:
    """
    One video being propagated: its targets, and a memory of constant size.

    Features of the n previous frames are kept once, in a ring that all targets share; targets prompted on one frame
    share the features of that frame. A target is matched against its own first frame and the previous frames since, so
    other targets change nothing in its track.

    Made by [`FgvcProcessor.init_video_session`].

    Args:
        image_processor ([`FgvcImageProcessorPil`]): Turns a frame into the model's input.
        video (frame source, *optional*): As [`open_video`] gives; nothing for frames that come one by one.
    """

    def __init__(self, image_processor, video: Any = None):
        self.image_processor = image_processor
        self.video = video
        self.original_size: tuple[int, int] | None = None if video is None else (video.height, video.width)
        self.reset_inference_session()

    # ---- targets ------------------------------------------------------------------------------------------------

    def add_point(self, obj_id: int, frame_idx: int, point: tuple[float, float]) -> None:
        """Add a target.

        Raises:
            `ValueError`: the id is taken, the point is not a finite position inside the frame, or the frame is not in the
            video or has been passed.
        """
        if obj_id in self.targets:
            raise ValueError(f"obj_ids: target {obj_id} exists already; every target needs an id of its own.")
        num_frames = None if self.video is None else self.video.num_frames
        if frame_idx < 0 or (num_frames is not None and frame_idx >= num_frames):
            limit = "" if num_frames is None else f" to {num_frames - 1}"
            raise ValueError(f"frame_idx must be a frame of the video, 0{limit}, got {frame_idx}.")
        passed = self.video is None and self.last_frame_idx is not None and frame_idx < self.last_frame_idx
        if passed:
            raise ValueError(
                f"frame_idx must not be before frame {self.last_frame_idx}, the last one seen, got {frame_idx}."
            )
        if not np.isfinite(point).all():
            raise ValueError(f"input_points must be finite, got {tuple(point)} for target {obj_id}.")
        if self.original_size is not None:
            _check_inside(obj_id, point, self.original_size)
        self.targets[obj_id] = Target(int(frame_idx), (float(point[0]), float(point[1])))

    @property
    def obj_ids(self) -> list[int]:
        """Ids of all targets, in the order in which they were added."""
        return list(self.targets)

    def reset_tracking_data(self) -> None:
        """Forget all frames and keep the targets."""
        self.groups: list[TargetGroup] = []
        self.memory: FrameMemory | None = None
        self.last_frame_idx: int | None = None

    def reset_inference_session(self) -> None:
        """Forget all frames and all targets."""
        self.targets: dict[int, Target] = {}
        self.reset_tracking_data()

    # ---- frames -------------------------------------------------------------------------------------------------

    @property
    def next_frame_idx(self) -> int:
        """Number that the next frame of a live source gets."""
        return 0 if self.last_frame_idx is None else self.last_frame_idx + 1

    def preprocess(self, frame) -> torch.Tensor:
        """The model's input (1, 3, H, W) of a frame (H, W, 3) or PIL image."""
        size = (frame.height, frame.width) if hasattr(frame, "height") else tuple(np.shape(frame)[:2])
        if self.original_size is None:
            for obj_id, target in self.targets.items():
                _check_inside(obj_id, target.point, size)
        elif size != self.original_size:
            raise ValueError(f"frame must be of size {self.original_size} as those before, got {size}.")
        pixel_values = self.image_processor(frame, return_tensors="pt").pixel_values
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
            if not self.targets:
                raise ValueError("inference_session has no targets; add them, or give start_frame_idx.")
            prompted = [target.frame_idx for target in self.targets.values()]
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
        """Draw the targets that are prompted on the frame remembered last, and have not started yet."""
        started = {obj_id for group in self.groups for obj_id in group.object_ids}
        new = [i for i, t in self.targets.items() if t.frame_idx == self.last_frame_idx and i not in started]
        memory = self.memory
        if memory is None or not new:
            return
        anchor = memory.ring[memory.recent_slots(1)[0]].clone()
        device, (rows, columns) = anchor.device, memory.size
        points = torch.tensor([self.targets[i].point for i in new], dtype=torch.float64)
        points = rescale_points(points, *self.sizes).to(device)
        labels = torch.zeros((len(memory.ring) + 1, rows * columns, len(new)), device=device)
        labels[0] = draw_points(points, memory.size, config.output_stride, config.label_sigma)
        self.groups.append(
            TargetGroup(new, anchor, labels, (labels > 0).any(dim=-1), points, torch.ones(len(new), device=device))
        )

    def propagate(self, config: FgvcConfig, features: torch.Tensor) -> None:
        """Carry the label maps of all targets over to a frame, and read the points off them.

        Args:
            config ([`FgvcConfig`]): Window, top-k, temperature and read-out.
            features (`torch.Tensor` of shape `(h, w, C)`): Normalised features of the frame.
        """
        memory = self.memory
        if memory is None or not self.groups:
            return
        size, input_size = memory.size, self.sizes[1]
        window = (config.propagation_radius, config.propagation_window, config.propagation_topk)
        reach = window_reach(*window[:2])
        actives = [label_reach(group.support, size, reach) for group in self.groups]
        any_active = torch.stack(actives).any(dim=0)
        recent_topk = {}  # number of recent frames -> their best keys, shared by all groups that are old enough
        for group, active in zip(self.groups, actives, strict=True):
            best = window_topk(features, [group.anchor], *window, active)
            recent = memory.recent_slots(group.age)
            if recent:
                if len(recent) not in recent_topk:
                    recent_topk[len(recent)] = window_topk(
                        features, [memory.ring[i] for i in recent], *window, any_active
                    )
                best = merge_topk(best, _offset(recent_topk[len(recent)], recent, size))
            labels = propagate_labels(*best, group.labels, config.temperature, active.flatten())
            points, peak = read_points(
                labels, size, input_size, config.output_stride, config.label_sigma, config.readout
            )
            found = peak[:, None] > 0
            group.points = torch.where(found, points, group.points)  # a lost target stays where it was seen last
            group.confidence = peak.clamp_max(1)
            slot = memory.next_slot + 1
            group.labels[slot], group.support[slot] = labels, (labels > 0).any(dim=-1)
            group.age += 1

    def remember(self, config: FgvcConfig, features: torch.Tensor, frame_idx: int) -> None:
        """Put the features (h, w, C) of a frame into the memory, in place of the oldest."""
        if self.memory is None:
            self.memory = FrameMemory(features.new_zeros((config.num_context_frames, *features.shape)))
        self.memory.ring[self.memory.next_slot] = features
        self.memory.count += 1
        self.last_frame_idx = frame_idx

    def read_targets(self) -> dict:
        """Ids, points (input pixels) and confidence of the targets that have started, in the order of `obj_ids`."""
        found = {
            obj_id: (group.points[i], group.confidence[i])
            for group in self.groups
            for i, obj_id in enumerate(group.object_ids)
        }
        object_ids = [obj_id for obj_id in self.targets if obj_id in found]
        points = [found[obj_id][0] for obj_id in object_ids]
        confidence = [found[obj_id][1] for obj_id in object_ids]
        return {
            "object_ids": object_ids,
            "tracks": torch.stack(points).cpu() if points else torch.zeros((0, 2), dtype=torch.float64),
            "confidence": torch.stack(confidence).cpu() if points else torch.zeros(0),
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


def _check_inside(obj_id: int, point: tuple[float, float], size: tuple[int, int]) -> None:
    height, width = size
    if not (0 <= point[0] <= width and 0 <= point[1] <= height):
        raise ValueError(
            f"input_points must lie inside the frame, x in 0..{width} and y in 0..{height}, "
            f"got ({point[0]:g}, {point[1]:g}) for target {obj_id}."
        )


def _offset(best: tuple[torch.Tensor, torch.Tensor], slots: list[int], size: tuple[int, int]):
    """Indices into the recent frames, in the order of `slots`, become indices into the label slots of a group."""
    scores, indices = best
    cells = size[0] * size[1]
    slot = torch.tensor(slots, device=indices.device) + 1
    return scores, slot[indices // cells] * cells + indices % cells


__all__ = ["FgvcInferenceSession"]
