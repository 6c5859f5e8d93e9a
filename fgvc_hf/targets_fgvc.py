"""What is followed through a video, and what is remembered for it."""

from dataclasses import dataclass

import numpy as np
import torch


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
class BoxTarget:
    """A prompt: corners (4, 2) of a box one after the other, (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    corners: np.ndarray
    turns: bool  # given by its corners, not by its sides: it may turn


Target = PointTarget | MaskTarget | BoxTarget


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

    def keep(self, ids: set[int]) -> "TargetGroup | None":
        """The group with these targets alone; nothing if none is in it."""
        points = [i for i, obj_id in enumerate(self.point_ids) if obj_id in ids]
        masks = [i for i, obj_id in enumerate(self.mask_ids) if obj_id in ids]
        if not points and not masks:
            return None
        columns = points + [len(self.point_ids) + i for i in masks]
        self.labels = self.labels[..., columns]
        self.support = (self.labels > 0).any(dim=-1)
        self.points, self.confidence, self.masks = self.points[points], self.confidence[points], self.masks[:, masks]
        self.point_ids, self.mask_ids = (
            [old[i] for i in kept] for old, kept in ((self.point_ids, points), (self.mask_ids, masks))
        )
        return self


def check_fits(obj_id: int, target: Target, size: tuple[int, int]) -> None:
    """A `ValueError` if a prompt does not fit frames of a size (height, width)."""
    height, width = size
    if isinstance(target, MaskTarget):
        if target.mask.shape != size:
            shape = "x".join(map(str, target.mask.shape))
            raise ValueError(
                f"input_masks must be {height}x{width} like the video, but that of target {obj_id} is {shape}."
            )
        return
    if isinstance(target, BoxTarget):
        middle = target.corners.mean(axis=0)
        if not (0 <= middle[0] <= width and 0 <= middle[1] <= height):
            raise ValueError(
                f"input_boxes must have their middle inside the frame, {height}x{width}, but that of target {obj_id} is "
                f"({middle[0]:g}, {middle[1]:g})."
            )
        return
    x, y = target.point
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"input_points must lie inside the frame, x in 0..{width} and y in 0..{height}, "
            f"got ({x:g}, {y:g}) for target {obj_id}."
        )


__all__ = ["BoxTarget", "FrameMemory", "MaskTarget", "PointTarget", "Target", "TargetGroup"]
