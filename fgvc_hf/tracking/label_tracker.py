"""The label-map tracker: every cell takes labels from its best keys in the memory (the paper's propagation), for points and masks.

One step, for the targets that share a first frame (a [`TargetGroup`]):

1. Cells that a label can reach are active; all others stay zero and are not matched.
2. Every active cell finds its top-k keys in the first frame and in the previous frames jointly.
3. It takes the mean of their labels, weighted by the softmax of similarity / temperature (Eq. 1 over the top-k).
4. Points are read off as the peaks of their label maps.
5. The new label maps and the frame's features go into the memory, in place of the oldest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..configuration_fgvc import FgvcConfig
from ..matching.block_search import best_keys, best_keys_reach
from ..matching.windows import frame_topk, merge_topk, repeat_topk
from .encoded_frame import EncodedFrame
from .label_maps import (
    draw_masks,
    draw_points,
    label_reach,
    label_uncertainty,
    peak_confidence,
    propagate_labels,
    propagate_softmax,
    read_points,
)
from .localisation import box_cells, find_object
from .memory import FrameMemory
from .results import MaskReadout, PointReadout


@dataclass
class TargetGroup:
    """Targets prompted on one frame, with their own memory: that frame's features and the label maps.

    Args:
        point_ids, mask_ids (`list[int]`): Ids; label columns of the points come first, then those of the masks.
        anchor (`torch.Tensor` of shape `(h, w, C)`): Features of the first frame.
        labels (`torch.Tensor` of shape `(slots, h*w, targets)`): Slot 0 is the first frame, slot i+1 the frame in slot i of the
            feature ring; with `config.kept_frame`, the last slot is that frame.
        support (`torch.Tensor` of shape `(slots, h*w)`, bool): Where any label is non-zero.
        points (`torch.Tensor` of shape `(points, 2)`, float64): (x, y) in pixels of the model's input.
        confidence, uncertainty (`torch.Tensor` of shape `(points,)`): As of [`PointReadout`].
        masks (`torch.Tensor` of shape `(h*w, masks)`): Label maps of the masks on the last frame.
        age (`int`): Frames since the first.
        kept (`torch.Tensor` of shape `(h, w, C)`, *optional*): Features of frame `config.kept_frame`.
        halves (`torch.Tensor` of shape `(masks, 2)`, *optional*): With `config.object_boxes`, half the sides of each object's box in
            cells; NaN while unknown.
    """

    point_ids: list[int]
    mask_ids: list[int]
    anchor: torch.Tensor
    labels: torch.Tensor
    support: torch.Tensor
    points: torch.Tensor
    confidence: torch.Tensor
    uncertainty: torch.Tensor
    masks: torch.Tensor
    age: int = 0
    kept: torch.Tensor | None = None
    halves: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the group holds."""
        tensors = [self.anchor, self.labels, self.support, *([] if self.kept is None else [self.kept])]
        return sum(tensor.nbytes for tensor in tensors)

    def resize(self, before: int, frames: int, moves: list[tuple[int, int]]) -> None:
        """Make room for `frames` previous frames instead of `before`, and keep those that [`FrameMemory.resize`] keeps."""
        for name in ("labels", "support"):
            old = getattr(self, name)
            new = old.new_zeros((len(old) - before + frames, *old.shape[1:]))
            new[0] = old[0]
            for source, target in moves:
                new[target + 1] = old[source + 1]
            if len(old) > before + 1:
                new[-1] = old[-1]  # frame `config.kept_frame`
            setattr(self, name, new)

    def without(self, ids: set[int]) -> "TargetGroup | None":
        """The group without some targets; `None` if none is left."""
        points = [i for i, obj_id in enumerate(self.point_ids) if obj_id not in ids]
        masks = [i for i, obj_id in enumerate(self.mask_ids) if obj_id not in ids]
        if not points and not masks:
            return None
        labels = self.labels[..., points + [len(self.point_ids) + i for i in masks]]
        return TargetGroup(
            [self.point_ids[i] for i in points],
            [self.mask_ids[i] for i in masks],
            self.anchor,
            labels,
            (labels > 0).any(dim=-1),
            self.points[points],
            self.confidence[points],
            self.uncertainty[points],
            self.masks[:, masks],
            self.age,
            self.kept,
            None if self.halves is None else self.halves[masks],
        )

    def remember(self, slot: int, features: torch.Tensor, labels: torch.Tensor, config: FgvcConfig) -> None:
        """Store the label maps of a frame beside its features in a slot of the ring, and both if it is frame `config.kept_frame`."""
        self.age += 1
        slots = [slot + 1]
        if config.kept_frame == self.age:
            self.kept = features.to(self.anchor)
            slots.append(-1)
        for place in slots:
            self.labels[place], self.support[place] = labels, (labels > 0).any(dim=-1)

    def kept_beside(self, like: torch.Tensor, remembered: int, config: FgvcConfig) -> list[torch.Tensor]:
        """Features of frame `config.kept_frame`, unless it is among the `remembered` previous frames that are matched anyway."""
        back = self.age + 1 - config.kept_frame
        used = back <= remembered and (back - 1) % config.context_step == 0
        return [] if self.kept is None or used else [self.kept.to(like)]


@dataclass
class LabelMapTracker:
    """Points and masks followed by their label maps, and the memory of frames.

    Args:
        config ([`FgvcConfig`]): Window, top-k, temperature and read-out.
        memory ([`FrameMemory`]): Previous frames; one while there are no targets.
        groups (`list[TargetGroup]`): The targets, by first frame.
    """

    config: FgvcConfig
    memory: FrameMemory
    groups: list[TargetGroup] = field(default_factory=list)

    def start(
        self,
        point_ids: list[int],
        points: torch.Tensor,
        mask_ids: list[int],
        masks: torch.Tensor | None,
        input_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Begin to follow targets from the last frame in the memory.

        Args:
            point_ids, mask_ids (`list[int]`): Ids.
            points (`torch.Tensor` of shape `(N, 2)`, float64): (x, y) in pixels of the model's input.
            masks (`torch.Tensor` of shape `(M, H, W)`, bool, *optional*): Masks, at any size of the frame.
            input_size (`tuple[int, int]`): (height, width) of the model's input.
            device (`torch.device`): Where label maps are kept.
        """
        config, size, stride = self.config, self.memory.size, self.config.output_stride
        drawn = [draw_points(points, size, stride, config.label_sigma, config.cell_origin)]
        if masks is not None:
            drawn.append(draw_masks(masks.to(device), size, input_size, stride, config.cell_origin))
        first = torch.cat(drawn, dim=1)
        slots = 1 + len(self.memory) + bool(config.kept_frame)
        labels = torch.zeros((slots, *first.shape), dtype=torch.float32, device=device)
        labels[0] = first
        support, n = (labels > 0).any(dim=-1), len(points)
        ones, zeros = labels.new_ones(n), labels.new_zeros(n)
        anchor = self.memory.last.clone()
        self.groups.append(
            TargetGroup(point_ids, mask_ids, anchor, labels, support, points, ones, zeros, first[:, n:])
        )

    def step(self, frame: EncodedFrame) -> None:
        """Carry all targets over to a frame, and remember its features.

        Raises:
            `ValueError`: the features are of another shape than those before.
        """
        features = frame.features
        self.memory.check(features)
        if self.groups:
            for group, labels in zip(self.groups, self._propagate(features), strict=True):
                self._read_points(group, labels, frame.size)
                group.masks = labels[:, len(group.point_ids) :]
                group.remember(self.memory.next_slot, features, labels, self.config)
        self.memory.add(features)

    def _read_points(self, group: TargetGroup, labels: torch.Tensor, input_size: tuple[int, int]) -> None:
        """Read the points of a group off its new label maps (h*w, targets). A point whose map is empty stays where it was."""
        config, size, n = self.config, self.memory.size, len(group.point_ids)
        if not n:
            return
        where = config.output_stride, config.label_sigma
        points, peak = read_points(labels[:, :n], size, input_size, *where, config.readout, config.cell_origin)
        group.points = torch.where(peak[:, None] > 0, points, group.points)
        group.confidence = peak_confidence(peak)
        group.uncertainty = label_uncertainty(labels[:, :n], size, *where, config.cell_origin)

    def read_points(self) -> list[PointReadout]:
        """The points of each group."""
        return [
            PointReadout(group.point_ids, group.points, group.confidence, group.uncertainty, group.points)
            for group in self.groups
            if group.point_ids
        ]

    def read_masks(self) -> list[MaskReadout]:
        """The masks of each group."""
        return [
            MaskReadout(group.mask_ids, group.masks.T.reshape(-1, *self.memory.size))
            for group in self.groups
            if group.mask_ids
        ]

    def drop(self, ids: set[int]) -> None:
        """Forget targets; the others go on as if these had never been there."""
        self.groups = [kept for group in self.groups if (kept := group.without(ids)) is not None]

    def resize(self, frames: int) -> None:
        """Make room for `frames` previous frames."""
        before = len(self.memory)
        if frames != before:
            moves = self.memory.resize(frames)
            for group in self.groups:
                group.resize(before, frames, moves)

    def frames_that_fit(self, limit: int | None, new_groups: list[int], others: int) -> int:
        """Previous frames that can be remembered within a bound.

        Args:
            limit (`int`, *optional*): Bytes that everything may take.
            new_groups (`list[int]`): Label maps of each group to come.
            others (`int`): Bytes of everything beside label maps and features.

        Returns:
            At most `config.context_length`; 1 where there are no label maps.

        Raises:
            `ValueError`: not even one fits.
        """
        features, config = self.memory.ring[0], self.config
        counts = [len(group.point_ids) + len(group.mask_ids) for group in self.groups] + new_groups
        maps = features[..., 0].numel() * sum(
            4 * count + 1 for count in counts
        )  # of a frame: float32, and the support
        fixed = others + (1 + bool(config.kept_frame)) * (len(counts) * features.nbytes + maps)
        each = features.nbytes + maps
        if limit is not None and limit < fixed + each:
            raise ValueError(
                f"max_memory_bytes must be at least {fixed + each} for the targets of this session, got {limit}."
            )
        if not counts:
            return 1
        return config.context_length if limit is None else min(config.context_length, (limit - fixed) // each)

    @property
    def nbytes(self) -> int:
        """Bytes of features and label maps."""
        return self.memory.ring.nbytes + sum(group.nbytes for group in self.groups)

    def _propagate(self, features: torch.Tensor) -> list[torch.Tensor]:
        """New label maps (h*w, targets) of all groups on a frame with features (h, w, C)."""
        config, memory = self.config, self.memory
        margin = config.refine_radius if config.fine_size else 0
        window = config.propagation_radius, config.propagation_window
        search = *window, config.propagation_topk
        anywhere = config.propagation_window == "none" or not config.first_windowed
        reach = max(memory.size) if anywhere else best_keys_reach(*window, margin)
        actives = [label_reach(group.support, memory.size, reach) for group in self.groups]
        any_active = torch.stack(actives).any(dim=0)
        maps, recent_topk = (
            [],
            {},
        )  # number of previous frames -> their top-k, shared by the groups that are old enough
        for group, active in zip(self.groups, actives, strict=True):
            recent = memory.recent_slots(group.age, config.context_step)
            room = -(-len(memory) // config.context_step)  # frames
            copies = 1 + (room - len(recent) if config.repeat_first else 0)
            if config.propagation_family != "joint":
                maps.append(self._propagate_softmax(group, features, recent, copies, active))
                continue
            if config.first_windowed:
                best = best_keys(features, [group.anchor.to(features)], *search, active, margin)
            else:
                best = frame_topk(features, group.anchor.to(features), config.propagation_topk)
            best = repeat_topk(best, copies)
            if kept := group.kept_beside(features, memory.held, config):
                beside = best_keys(features, kept, *search, active, margin)
                best = merge_topk(best, _in_slots(beside, [len(group.labels) - 1], memory.size))
            if recent:
                if len(recent) not in recent_topk:
                    keys = [memory.ring[i].to(features) for i in recent]
                    recent_topk[len(recent)] = best_keys(features, keys, *search, any_active, margin)
                best = merge_topk(best, _in_slots(recent_topk[len(recent)], [i + 1 for i in recent], memory.size))
            maps.append(propagate_labels(*best, group.labels, config.temperature, active.flatten()))
        return maps

    def _propagate_softmax(
        self, group: TargetGroup, features: torch.Tensor, recent: list[int], copies: int, active: torch.Tensor
    ) -> torch.Tensor:
        """New label maps of a group where the softmax is not over the joint top-k (UVC, TimeCycle, MAST)."""
        config, ring = self.config, self.memory.ring
        kept = group.kept_beside(features, self.memory.held, config)
        keys = [group.anchor.to(features)] * copies + kept + [ring[i].to(features) for i in recent]
        slots = [0] * copies + [len(group.labels) - 1] * len(kept) + [i + 1 for i in recent]
        whole = 0 if config.first_windowed else copies
        labels, active = group.labels[slots], active.flatten()  # (F, h*w, targets)
        new = propagate_softmax(features, keys, labels, active, config, whole)
        if not config.object_boxes:
            return new
        latest, reference = (recent[0] + 1, ring[recent[0]]) if recent else (0, group.anchor)
        halves = group.labels.new_full((len(group.mask_ids), 2), torch.nan) if group.halves is None else group.halves
        group.halves = halves.clone()
        for i in range(len(group.mask_ids)):
            column, before = len(group.point_ids) + i, None if halves[i].isnan().any() else halves[i]
            within, half = find_object(group.labels[latest, :, column], reference, features, before, config)
            if half is not None:
                group.halves[i] = half
            allowed = torch.stack([box_cells(one[:, column], self.memory.size) for one in labels])
            own = labels[..., [column]]
            new[:, column] = propagate_softmax(features, keys, own, active & within, config, whole, allowed)[:, 0]
        return new


def _in_slots(
    best: tuple[torch.Tensor, torch.Tensor], slots: Sequence[int], size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k whose indices into frames become indices into the label slots that these frames have."""
    scores, indices = best
    cells = size[0] * size[1]
    slot = torch.tensor(slots, device=indices.device)
    return scores, slot[indices // cells] * cells + indices % cells


__all__ = ["LabelMapTracker", "TargetGroup"]
