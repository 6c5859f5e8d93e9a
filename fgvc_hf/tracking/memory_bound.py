"""What a session may hold in memory: the number of previous frames that fit beside its targets."""

from collections import Counter
from collections.abc import Mapping

from .box_tracker import BoxTracker
from .label_tracker import LabelMapTracker
from .prompts import BoxTarget, PointTarget, Target
from .template_tracker import TemplateTracker


def frames_that_fit(
    limit: int | None,
    due: Mapping[tuple[int, int], Target],
    labels: LabelMapTracker,
    templates: TemplateTracker,
    boxes: BoxTracker,
) -> int:
    """Previous frames that can be remembered once prompts are followed, the label maps of each frame as one group.

    Args:
        limit (`int`, *optional*): Bytes that the trackers may hold.
        due (`dict`): The prompts by id and frame.
        labels, templates, boxes: The trackers as they are.

    Raises:
        `ValueError`: not even one frame fits.
    """
    in_templates, looks, in_boxes, groups = 0, 0, 0, Counter()
    for (_, frame_idx), prompt in due.items():
        if isinstance(prompt, BoxTarget):
            in_boxes += 1
        elif isinstance(prompt, PointTarget) and labels.config.point_matching == "templates":
            in_templates += 1
            looks = max(looks, 0 if prompt.looks is None else len(prompt.looks.images) - prompt.sought)
        else:
            groups[frame_idx] += 1
    others = templates.nbytes + templates.bytes_of(in_templates, looks) + boxes.nbytes + boxes.bytes_of(in_boxes)
    return labels.frames_that_fit(limit, list(groups.values()), others)


__all__ = ["frames_that_fit"]
