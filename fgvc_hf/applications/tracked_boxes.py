"""Boxes followed through a video, from labels on any of its frames."""

import numpy as np

from ..io.formats.point_labels import BoxLabels
from ..io.video import open_video
from ..tracker import DIRECTIONS, Tracker
from ..tracking.box_results import BoxTracks
from ..tracking.prompts import check_probability


def track_boxes(
    tracker: Tracker,
    video,
    boxes: BoxLabels,
    direction: str = "forward",
    threshold: float | None = None,
    progress: bool = False,
) -> BoxTracks:
    """
    Follow boxes through a video. Each label of a box is where it is on that frame; from there it is followed anew.

    Args:
        tracker ([`Tracker`]): A tracker.
        video: As of [`Tracker.track`].
        boxes ([`BoxLabels`]): As [`read_boxes`] returns them.
        direction (`str`, defaults to `"forward"`): `"forward"` from the labels to the end, `"backward"` to the start, or `"both"`: forward from
            each label to the next, and backward from the first.
        threshold (`float`, *optional*): Confidence from which a box counts as visible; `config.visibility_threshold` if not given.
        progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

    Returns:
        [`BoxTracks`] in pixels of the video.

    Raises:
        `ValueError`, `OSError`: the video cannot be read, a label is outside the frame or the clip, or an argument is not among those
        accepted.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be 'forward', 'backward' or 'both', got {direction!r}.")
    check_probability("threshold", threshold)
    video = open_video(video)
    session = tracker.processor.init_video_session(video)
    for obj_id, t, sides in zip(boxes.ids.tolist(), boxes.frames.tolist(), boxes.boxes, strict=True):
        tracker.processor.add_inputs_to_inference_session(session, t, [obj_id], input_boxes=[sides.tolist()])
    found: dict[tuple[int, int], tuple[np.ndarray, float]] = {}  # by id and frame
    frames = 0
    for reverse in DIRECTIONS[direction]:
        for output in tracker.model.propagate_in_video_iterator(session, reverse=reverse, show_progress_bar=progress):
            frames = max(frames, output.frame_idx + 1)
            for obj_id, corners, confidence in zip(output.box_ids, output.boxes, output.box_confidence, strict=True):
                found.setdefault((obj_id, output.frame_idx), (corners, float(confidence)))
    ids = list(dict.fromkeys(boxes.ids.tolist()))
    length = frames if video.num_frames is None else video.num_frames
    if (last := boxes.frames.max()) >= length:  # of an iterator; other sources were checked before
        raise ValueError(f"boxes have a label on frame_idx {last}, but the video ended before that frame.")
    corners, confidence = (
        np.full((len(ids), length, 4, 2), np.nan, np.float32),
        np.zeros((len(ids), length), np.float32),
    )
    for (obj_id, t), (place, certain) in found.items():
        corners[ids.index(obj_id), t], confidence[ids.index(obj_id), t] = place, certain
    least = tracker.model.config.visibility_threshold if threshold is None else threshold
    visible = (confidence >= least) & ~np.isnan(corners[..., 0, 0])
    return BoxTracks(ids, corners, visible, confidence, (video.height, video.width))


__all__ = ["track_boxes"]
