"""The memory that label maps are propagated from: the frame of the prompt, previous frames, and their label maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .configuration_fgvc import FgvcConfig
from .correlation_fgvc import frame_topk, merge_topk, repeat_topk, window_reach, window_topk
from .propagation_fgvc import label_reach, propagate_labels, propagate_softmax


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

    def recent_slots(self, number: int, step: int = 1) -> list[int]:
        """Slots of every `step`-th of the last frames, latest first; at most as many as there are."""
        return [(self.count - back) % len(self.ring) for back in range(1, min(number, len(self.ring)) + 1, step)]

    def grow(self, frames: int) -> None:
        """Make room for so many frames, and keep the last."""
        last = self.ring[self.recent_slots(1)[0]]
        self.ring = self.ring.new_zeros((frames, *last.shape))
        self.ring[0], self.count = last, 1


@dataclass
class TargetGroup:
    """Targets prompted on one frame, with the memory of their own: that frame and its label maps.

    `labels` (n+1, h*w, targets) has in slot 0 the frame of the prompt, and in slot i+1 the frame whose features are in
    slot i of the session's ring, and where the configuration keeps one more frame, that in the last; the labels of the points
    come first, then those of the masks. `support` (n+1, h*w) tells where any of them is non-zero. `age` counts frames since.
    """

    point_ids: list[int]
    mask_ids: list[int]
    anchor: torch.Tensor  # (h, w, C)
    labels: torch.Tensor
    support: torch.Tensor
    points: torch.Tensor  # (points, 2) float64, input pixels
    confidence: torch.Tensor  # (points,)
    uncertainty: torch.Tensor  # (points,), input pixels
    masks: torch.Tensor  # (h*w, masks): label maps of the frame seen last
    age: int = 0
    kept: torch.Tensor | None = None  # (h, w, C)

    def keep(self, ids: set[int]) -> "TargetGroup | None":
        """The group with these targets alone; nothing if none is in it."""
        points = [i for i, obj_id in enumerate(self.point_ids) if obj_id in ids]
        masks = [i for i, obj_id in enumerate(self.mask_ids) if obj_id in ids]
        if not points and not masks:
            return None
        columns = points + [len(self.point_ids) + i for i in masks]
        self.labels = self.labels[..., columns]
        self.support = (self.labels > 0).any(dim=-1)
        self.points, self.masks = self.points[points], self.masks[:, masks]
        self.confidence, self.uncertainty = self.confidence[points], self.uncertainty[points]
        self.point_ids, self.mask_ids = (
            [old[i] for i in kept] for old, kept in ((self.point_ids, points), (self.mask_ids, masks))
        )
        return self

    def remember(self, slot: int, features: torch.Tensor, labels: torch.Tensor, config: FgvcConfig) -> None:
        """Put the label maps of a frame beside its features in a slot of the ring; and keep both if it is the one to keep."""
        self.age += 1
        slots = [slot + 1]
        if config.kept_frame == self.age:
            self.kept = features
            slots.append(-1)
        for place in slots:
            self.labels[place], self.support[place] = labels, (labels > 0).any(dim=-1)

    def kept_beside(self, config: FgvcConfig) -> list[torch.Tensor]:
        """Features of the frame to keep, where it is there and not among the recent frames that are used anyway."""
        back = self.age + 1 - config.kept_frame
        used = back <= config.context_length and (back - 1) % config.context_step == 0
        return [] if self.kept is None or used else [self.kept]


def propagate_groups(
    groups: Sequence[TargetGroup], memory: FrameMemory, features: torch.Tensor, config: FgvcConfig
) -> list[torch.Tensor]:
    """New label maps (h*w, targets) of all groups, on a frame with the features (h, w, C)."""
    anywhere = config.propagation_window == "none" or not config.first_windowed
    size, window = memory.size, (config.propagation_radius, config.propagation_window, config.propagation_topk)
    reach = max(size) if anywhere else window_reach(*window[:2])
    actives = [label_reach(group.support, size, reach) for group in groups]
    any_active = torch.stack(actives).any(dim=0)
    maps, recent_topk = [], {}  # number of recent frames -> their best keys, shared by all groups that are old enough
    for group, active in zip(groups, actives, strict=True):
        recent = memory.recent_slots(group.age, config.context_step)
        copies = 1 + (config.num_context_frames - len(recent) if config.repeat_first else 0)
        if config.propagation_family != "joint":
            maps.append(_propagate_softmax(group, memory, features, recent, copies, active, config))
            continue
        if config.first_windowed:
            best = window_topk(features, [group.anchor], *window, active)
        else:
            best = frame_topk(features, group.anchor, config.propagation_topk)
        best = repeat_topk(best, copies)
        if kept := group.kept_beside(config):
            best = merge_topk(
                best, _in_slots(window_topk(features, kept, *window, active), [len(group.labels) - 1], size)
            )
        if recent:
            if len(recent) not in recent_topk:
                keys = [memory.ring[i] for i in recent]
                recent_topk[len(recent)] = window_topk(features, keys, *window, any_active)
            best = merge_topk(best, _in_slots(recent_topk[len(recent)], [i + 1 for i in recent], size))
        maps.append(propagate_labels(*best, group.labels, config.temperature, active.flatten()))
    return maps


def _propagate_softmax(
    group: TargetGroup,
    memory: FrameMemory,
    features: torch.Tensor,
    recent: list[int],
    copies: int,
    active: torch.Tensor,
    config: FgvcConfig,
) -> torch.Tensor:
    """New label maps of a group where the family is not joint."""
    kept = group.kept_beside(config)
    keys = [group.anchor] * copies + kept + [memory.ring[i] for i in recent]
    slots = [0] * copies + [len(group.labels) - 1] * len(kept) + [i + 1 for i in recent]
    whole = 0 if config.first_windowed else copies
    return propagate_softmax(features, keys, group.labels[slots], active.flatten(), config, whole)


def _in_slots(best: tuple[torch.Tensor, torch.Tensor], slots: list[int], size: tuple[int, int]):
    """Indices into frames, whose label maps are in `slots`, become indices into the label slots of a group."""
    scores, indices = best
    cells = size[0] * size[1]
    slot = torch.tensor(slots, device=indices.device)
    return scores, slot[indices // cells] * cells + indices % cells


__all__ = ["FrameMemory", "TargetGroup"]
