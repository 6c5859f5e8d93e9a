"""Boxes tracked through DAVIS: the prompt and the truth of an object are the bounding boxes of its masks."""

import numpy as np

from ..io.video import open_video
from ..metrics.box_overlap import box_iou, mask_box
from ..metrics.region_contour import VOID
from ..tracker import Tracker
from .davis import DavisVideo, read_truth


FRAMES = 32  # of each sequence, the same as have annotated points


def follow_boxes(tracker: Tracker, video: DavisVideo) -> tuple[dict[int, np.ndarray], dict[int, list[float | None]]]:
    """Track the boxes of the objects of the first frame.

    Returns:
        Sides (x0, y0, x1, y1) of each object, `(T, 4)`, and its intersection over union (IoU) on the frames after the first; `None` on
        frames without the object.

    Raises:
        `ValueError`: a mask is of another size than its frame, or the first one shows no object.
    """
    source = open_video(video.frames)
    truth = read_truth(video, source)[:FRAMES]
    ids = [int(obj_id) for obj_id in np.unique(truth[0]) if obj_id not in (0, VOID)]
    if not ids:
        raise ValueError("the first frame shows no object to follow.")
    session = tracker.processor.init_video_session(source)
    first = [mask_box(truth[0] == obj_id) for obj_id in ids]
    tracker.processor.add_inputs_to_inference_session(session, 0, ids, input_boxes=np.stack(first))
    outputs = tracker.model.propagate_in_video_iterator(session, max_frame_num_to_track=len(truth) - 1)
    corners = np.stack([np.asarray(output.boxes) for output in outputs])  # (T, objects, 4, 2)
    found = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1)  # (T, objects, 4)
    overlaps: dict[int, list[float | None]] = {}
    for column, obj_id in enumerate(ids):
        seen = [mask == obj_id for mask in truth]
        overlaps[obj_id] = [
            box_iou(found[t, column], mask_box(seen[t])) if seen[t].any() else None for t in range(1, len(truth))
        ]
    return {obj_id: found[:, column] for column, obj_id in enumerate(ids)}, overlaps
