"""The memory that label maps are propagated from: the frame of the prompt, previous frames, and their label maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration_fgvc import FgvcConfig
from ..matching.block_search import best_keys, best_keys_reach
from ..matching.windows import frame_topk, merge_topk, repeat_topk
from .label_maps import label_reach, propagate_labels, propagate_softmax
from .localisation import box_cells, find_object


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

    def resize(self, frames: int) -> list[tuple[int, int]]:
        """Have room for so many frames, and keep the last of them.

        Returns:
            Old and new slot of each that is kept.
        """
        kept = range(max(0, self.count - min(frames, len(self.ring))), self.count)
        moves = [(number % len(self.ring), number % frames) for number in kept]
        old, self.ring = self.ring, self.ring.new_zeros((frames, *self.ring.shape[1:]))
        for before, after in moves:
            self.ring[after] = old[before]
        return moves


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
    halves: torch.Tensor | None = (
        None  # (masks, 2), NaN while unknown: half the sides, in cells, of the boxes of objects
    )

    def resize(self, before: int, frames: int, moves: list[tuple[int, int]]) -> None:
        """Have label maps for `frames` previous frames instead of `before`, and keep those that [`FrameMemory.resize`] keeps."""
        for name in ("labels", "support"):
            old = getattr(self, name)
            new = old.new_zeros((len(old) - before + frames, *old.shape[1:]))
            new[0] = old[0]
            for source, target in moves:
                new[target + 1] = old[source + 1]
            if len(old) > before + 1:
                new[-1] = old[-1]  # the frame that is kept
            setattr(self, name, new)

    @property
    def nbytes(self) -> int:
        """What the group holds in memory."""
        tensors = [self.anchor, self.labels, self.support, *([] if self.kept is None else [self.kept])]
        return sum(tensor.nbytes for tensor in tensors)

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
        self.halves = None if self.halves is None else self.halves[masks]
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
            self.kept = features.to(self.anchor)
            slots.append(-1)
        for place in slots:
            self.labels[place], self.support[place] = labels, (labels > 0).any(dim=-1)

    def kept_beside(self, like: torch.Tensor, remembered: int, config: FgvcConfig) -> list[torch.Tensor]:
        """Features of the frame to keep, `like` those of others, where it is there and not among the `remembered` frames used anyway."""
        back = self.age + 1 - config.kept_frame
        used = back <= remembered and (back - 1) % config.context_step == 0
        return [] if self.kept is None or used else [self.kept.to(like)]


def frames_that_fit(
    limit: int | None,
    groups: Sequence[TargetGroup],
    labels: int,
    others: int,
    features: torch.Tensor,
    config: FgvcConfig,
) -> int:
    """Previous frames that can be remembered within a bound.

    Args:
        limit (`int`, *optional*): Bytes that everything may take.
        groups, labels: The groups there are, and the number of label maps of one to come.
        others (`int`): Bytes of everything else that is remembered.
        features (`torch.Tensor` of shape `(h, w, C)`): As they are remembered.

    Returns:
        At most `config.context_length`; 1 where there are no label maps.

    Raises:
        `ValueError`: not even one fits.
    """
    counts = [len(group.point_ids) + len(group.mask_ids) for group in groups] + [labels] * bool(labels)
    maps = features[..., 0].numel() * sum(4 * count + 1 for count in counts)  # of a frame: float32, and the support
    fixed = others + (1 + bool(config.kept_frame)) * (len(counts) * features.nbytes + maps)
    each = features.nbytes + maps
    if limit is not None and limit < fixed + each:
        raise ValueError(
            f"max_memory_bytes must be at least {fixed + each} for the targets of this session, got {limit}."
        )
    if not counts:
        return 1
    return config.context_length if limit is None else min(config.context_length, (limit - fixed) // each)


def propagate_groups(
    groups: Sequence[TargetGroup], memory: FrameMemory, features: torch.Tensor, config: FgvcConfig
) -> list[torch.Tensor]:
    """New label maps (h*w, targets) of all groups, on a frame with the features (h, w, C)."""
    anywhere = config.propagation_window == "none" or not config.first_windowed
    size, window = memory.size, (config.propagation_radius, config.propagation_window, config)
    reach = max(size) if anywhere else best_keys_reach(config)
    actives = [label_reach(group.support, size, reach) for group in groups]
    any_active = torch.stack(actives).any(dim=0)
    maps, recent_topk = [], {}  # number of recent frames -> their best keys, shared by all groups that are old enough
    for group, active in zip(groups, actives, strict=True):
        recent = memory.recent_slots(group.age, config.context_step)
        room = -(-len(memory.ring) // config.context_step)  # frames
        copies = 1 + (room - len(recent) if config.repeat_first else 0)
        if config.propagation_family != "joint":
            maps.append(_propagate_softmax(group, memory, features, recent, copies, active, config))
            continue
        if config.first_windowed:
            best = best_keys(features, [group.anchor.to(features)], *window, active)
        else:
            best = frame_topk(features, group.anchor.to(features), config.propagation_topk)
        best = repeat_topk(best, copies)
        if kept := group.kept_beside(features, len(memory.ring), config):
            beside = best_keys(features, kept, *window, active)
            best = merge_topk(best, _in_slots(beside, [len(group.labels) - 1], size))
        if recent:
            if len(recent) not in recent_topk:
                keys = [memory.ring[i].to(features) for i in recent]
                recent_topk[len(recent)] = best_keys(features, keys, *window, any_active)
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
    kept = group.kept_beside(features, len(memory.ring), config)
    keys = [group.anchor.to(features)] * copies + kept + [memory.ring[i].to(features) for i in recent]
    slots = [0] * copies + [len(group.labels) - 1] * len(kept) + [i + 1 for i in recent]
    whole = 0 if config.first_windowed else copies
    labels, active = group.labels[slots], active.flatten()  # (F, h*w, targets)
    new = propagate_softmax(features, keys, labels, active, config, whole)
    if not config.object_boxes:
        return new
    latest, points = (recent[0] + 1 if recent else 0), len(group.point_ids)
    halves = group.labels.new_full((len(group.mask_ids), 2), torch.nan) if group.halves is None else group.halves
    group.halves = halves.clone()
    for i in range(len(group.mask_ids)):
        column, before = points + i, None if halves[i].isnan().any() else halves[i]
        reference = memory.ring[recent[0]] if recent else group.anchor
        within, half = find_object(group.labels[latest, :, column], reference, features, before, config)
        if half is not None:
            group.halves[i] = half
        allowed = torch.stack([box_cells(one[:, column], memory.size) for one in labels])
        own = labels[..., column : column + 1]
        new[:, column : column + 1] = propagate_softmax(features, keys, own, active & within, config, whole, allowed)
    return new


def _in_slots(best: tuple[torch.Tensor, torch.Tensor], slots: list[int], size: tuple[int, int]):
    """Indices into frames, whose label maps are in `slots`, become indices into the label slots of a group."""
    scores, indices = best
    cells = size[0] * size[1]
    slot = torch.tensor(slots, device=indices.device)
    return scores, slot[indices // cells] * cells + indices % cells


__all__ = ["FrameMemory", "TargetGroup"]
