"""Boxes followed through DAVIS: each object's first box is that of its mask, and so is the truth on the frames after it."""

import numpy as np

from ..io.video import open_video
from ..metrics.box_overlap import box_iou, mask_box
from ..modeling_fgvc import FgvcModel
from ..processing_fgvc import FgvcProcessor
from .davis import DavisVideo, read_truth


FRAMES = 32  # of each sequence, as of the point tracks


def follow_boxes(
    model: FgvcModel, processor: FgvcProcessor, video: DavisVideo
) -> tuple[dict[int, np.ndarray], dict[int, list[float | None]]]:
    """Follow the boxes of the objects of the first frame.

    Returns:
        Sides (T, 4) (x0, y0, x1, y1) of each object, and its intersection over union on the frames after the first; `None` where it is not
        seen.

    Raises:
        `ValueError`: a mask is of another size than its frame.
    """
    source = open_video(video.frames)
    truth = read_truth(video, source)[:FRAMES]
    ids = [int(obj_id) for obj_id in np.unique(truth[0]) if obj_id]
    session = processor.init_video_session(source)
    first = [mask_box(truth[0] == obj_id) for obj_id in ids]
    processor.add_inputs_to_inference_session(session, 0, ids, input_boxes=np.stack(first))
    outputs = model.propagate_in_video_iterator(session, max_frame_num_to_track=len(truth) - 1)
    corners = np.stack([processor.post_process_boxes(output, session) for output in outputs])  # (T, objects, 4, 2)
    found = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1)  # (T, objects, 4)
    overlaps: dict[int, list[float | None]] = {}
    for column, obj_id in enumerate(ids):
        seen = [mask == obj_id for mask in truth]
        overlaps[obj_id] = [
            box_iou(found[t, column], mask_box(seen[t])) if seen[t].any() else None for t in range(1, len(truth))
        ]
    return {obj_id: found[:, column] for column, obj_id in enumerate(ids)}, overlaps
