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
from .propagation_fgvc import draw_masks, draw_points, label_reach, peak_confidence, propagate_labels, read_points
from .templates_fgvc import PointTemplates


MAX_MASKS = 255  # objects with a mask in one session: they fit into 8-bit images


@dataclass
class PointTarget:
    """A prompt: point (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    point: tuple[float, float]


@dataclass
class MaskTarget:
    """A prompt: mask (H, W), bool, at the size of the original video, on a frame."""

    frame_idx: int
    mask: np.ndarray


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

    def grow(self, frames: int) -> None:
        """Make room for so many frames, and keep the last."""
        last = self.ring[self.recent_slots(1)[0]]
        self.ring = self.ring.new_zeros((frames, *last.shape))
        self.ring[0], self.count = last, 1


@dataclass
class TargetGroup:
    """Targets prompted on one frame, with the memory of their own: that frame and its label maps.

    `labels` (n+1, h*w, targets) has in slot 0 the frame of the prompt, and in slot i+1 the frame whose features are in
    slot i of the session's ring; the labels of the points come first, then those of the masks. `support` (n+1, h*w) tells
    where any of them is non-zero. `age` counts frames since.
    """

    point_ids: list[int]
    mask_ids: list[int]
    anchor: torch.Tensor  # (h, w, C)
    labels: torch.Tensor
    support: torch.Tensor
    points: torch.Tensor  # (points, 2) float64, input pixels
    confidence: torch.Tensor  # (points,)
    masks: torch.Tensor  # (h*w, masks): label maps of the frame seen last
    age: int = 0


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
    """

    def __init__(self, image_processor, video: Any = None):
        self.image_processor = image_processor
        self.video = video
        self.original_size: tuple[int, int] | None = None if video is None else (video.height, video.width)
        self.reset_inference_session()

    # ---- targets ------------------------------------------------------------------------------------------------

    def add_point(self, obj_id: int, frame_idx: int, point: tuple[float, float]) -> None:
        """Add a point to follow.

        Raises:
            `ValueError`: the id is taken, the point is not a finite position inside the frame, or the frame is not in the
            video or has been passed.
        """
        self._check_new(obj_id, frame_idx)
        if not np.isfinite(point).all():
            raise ValueError(f"input_points must be finite, got {tuple(point)} for target {obj_id}.")
        target = PointTarget(int(frame_idx), (float(point[0]), float(point[1])))
        if self.original_size is not None:
            _check_fits(obj_id, target, self.original_size)
        self.targets[obj_id] = target

    def add_mask(self, obj_id: int, frame_idx: int, mask: np.ndarray) -> None:
        """Add an object to follow by its mask (H, W), bool.

        Raises:
            `ValueError`: the id is taken or below 1, there are 255 masks already, the mask is empty or of another size than the
            video, or the frame is not in the video or has been passed.
        """
        self._check_new(obj_id, frame_idx)
        if obj_id < 1:
            raise ValueError(f"obj_ids must be 1 or more for masks, for 0 is the background, got {obj_id}.")
        if len(self.masks) >= MAX_MASKS:
            raise ValueError(f"obj_ids: a session holds at most {MAX_MASKS} masks.")
        if mask.ndim != 2 or mask.dtype != bool or not mask.any():
            problem = "is empty" if mask.ndim == 2 and mask.dtype == bool else f"is {mask.dtype} of {mask.shape}"
            raise ValueError(
                f"input_masks must be bool (H, W) with a pixel set, but that of target {obj_id} {problem}."
            )
        target = MaskTarget(int(frame_idx), mask.copy())
        if self.original_size is not None:
            _check_fits(obj_id, target, self.original_size)
        self.targets[obj_id] = target

    def _check_new(self, obj_id: int, frame_idx: int) -> None:
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

    @property
    def obj_ids(self) -> list[int]:
        """Ids of all targets, in the order in which they were added."""
        return list(self.targets)

    @property
    def points(self) -> dict[int, PointTarget]:
        """The points by id, in the order in which they were added."""
        return {obj_id: target for obj_id, target in self.targets.items() if isinstance(target, PointTarget)}

    @property
    def masks(self) -> dict[int, MaskTarget]:
        """The masks by id, in the order in which they were added."""
        return {obj_id: target for obj_id, target in self.targets.items() if isinstance(target, MaskTarget)}

    def reset_tracking_data(self) -> None:
        """Forget all frames and keep the targets."""
        self.groups: list[TargetGroup] = []
        self.templates: PointTemplates | None = None
        self.memory: FrameMemory | None = None
        self.last_frame_idx: int | None = None

    def reset_inference_session(self) -> None:
        """Forget all frames and all targets."""
        self.targets: dict[int, PointTarget | MaskTarget] = {}
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
                _check_fits(obj_id, target, size)
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
        """Start the targets that are prompted on the frame remembered last, and have not started yet."""
        started = {obj_id for group in self.groups for obj_id in (*group.point_ids, *group.mask_ids)}
        started |= set(self.templates.ids) if self.templates else set()
        new = {i: t for i, t in self.targets.items() if t.frame_idx == self.last_frame_idx and i not in started}
        memory = self.memory
        if memory is None or not new:
            return
        features = memory.ring[memory.recent_slots(1)[0]].clone()  # (h, w, C)
        prompts = {i: t.point for i, t in new.items() if isinstance(t, PointTarget)}
        points = torch.tensor(list(prompts.values()), dtype=torch.float64).view(-1, 2)
        points = rescale_points(points, *self.sizes).to(features.device)
        masks = {i: torch.from_numpy(t.mask) for i, t in new.items() if isinstance(t, MaskTarget)}
        if config.point_matching == "templates" and prompts:
            self.templates = self.templates or PointTemplates.empty(features, config.template_radius)
            self.templates.add(list(prompts), points, features, config)
            prompts, points = {}, points[:0]
        if prompts or masks:
            if not self.groups:
                memory.grow(config.num_context_frames)
            self.groups.append(self._draw_targets(list(prompts), points, masks, features, config))

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
        device, size, stride = anchor.device, self.memory.size, config.output_stride
        drawn = [draw_points(points, size, stride, config.label_sigma)]
        if masks:
            drawn.append(draw_masks(torch.stack(list(masks.values())).to(device), size, self.sizes[1], stride))
        first = torch.cat(drawn, dim=1)
        labels = torch.zeros((len(self.memory.ring) + 1, *first.shape), device=device)
        labels[0] = first
        support, confidence = (labels > 0).any(dim=-1), torch.ones(len(points), device=device)
        current = first[:, len(points) :]
        return TargetGroup(point_ids, list(masks), anchor, labels, support, points, confidence, current)

    def propagate(self, config: FgvcConfig, features: torch.Tensor) -> None:
        """Carry all targets over to a frame: templates are found there, label maps propagated and the points read off them.

        Args:
            config ([`FgvcConfig`]): Window, top-k, temperature and read-out.
            features (`torch.Tensor` of shape `(h, w, C)`): Normalised features of the frame.
        """
        if self.templates:
            self.templates.follow(features, self.sizes[1], config)
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
            number = len(group.point_ids)
            if number:
                points, peak = read_points(
                    labels[:, :number], size, input_size, config.output_stride, config.label_sigma, config.readout
                )
                found = peak[:, None] > 0
                group.points = torch.where(found, points, group.points)  # a lost target stays where it was seen last
                group.confidence = peak_confidence(peak)
            group.masks = labels[:, number:]
            slot = memory.next_slot + 1
            group.labels[slot], group.support[slot] = labels, (labels > 0).any(dim=-1)
            group.age += 1

    def remember(self, features: torch.Tensor, frame_idx: int) -> None:
        """Put the features (h, w, C) of a frame into the memory, in place of the oldest."""
        if self.memory is None:
            self.memory = FrameMemory(
                features.new_zeros((1, *features.shape))
            )  # label maps need more, see start_targets
        self.memory.ring[self.memory.next_slot] = features
        self.memory.count += 1
        self.last_frame_idx = frame_idx

    def read_targets(self) -> dict:
        """What [`FgvcVideoOutput`] holds: the targets that have started, in the order of `obj_ids`."""
        points, masks = {}, {}
        if self.templates:
            found = zip(self.templates.points, self.templates.confidence, strict=True)
            points = dict(zip(self.templates.ids, found, strict=True))
        for group in self.groups:
            points |= {obj_id: (group.points[i], group.confidence[i]) for i, obj_id in enumerate(group.point_ids)}
            masks |= {obj_id: group.masks[:, i] for i, obj_id in enumerate(group.mask_ids)}
        object_ids = [obj_id for obj_id in self.points if obj_id in points]
        mask_ids = [obj_id for obj_id in self.masks if obj_id in masks]
        tracks, confidence = ([points[obj_id][i] for obj_id in object_ids] for i in (0, 1))
        size = self.memory.size if self.memory is not None else (0, 0)
        maps = [masks[obj_id].view(size) for obj_id in mask_ids]
        return {
            "object_ids": object_ids,
            "tracks": torch.stack(tracks).cpu() if tracks else torch.zeros((0, 2), dtype=torch.float64),
            "confidence": torch.stack(confidence).cpu() if tracks else torch.zeros(0),
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


def _check_fits(obj_id: int, target: PointTarget | MaskTarget, size: tuple[int, int]) -> None:
    """A `ValueError` if a prompt does not fit frames of a size (height, width)."""
    height, width = size
    if isinstance(target, MaskTarget):
        if target.mask.shape != size:
            shape = "x".join(map(str, target.mask.shape))
            raise ValueError(
                f"input_masks must be {height}x{width} like the video, but that of target {obj_id} is {shape}."
            )
        return
    x, y = target.point
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"input_points must lie inside the frame, x in 0..{width} and y in 0..{height}, "
            f"got ({x:g}, {y:g}) for target {obj_id}."
        )


def _offset(best: tuple[torch.Tensor, torch.Tensor], slots: list[int], size: tuple[int, int]):
    """Indices into the recent frames, in the order of `slots`, become indices into the label slots of a group."""
    scores, indices = best
    cells = size[0] * size[1]
    slot = torch.tensor(slots, device=indices.device) + 1
    return scores, slot[indices // cells] * cells + indices % cells


__all__ = ["FgvcInferenceSession"]
