"""Dense flow from one frame to all following frames, by chaining the flow between neighbouring frames."""

from collections.abc import Iterator

import torch

from ..matching.flow_fields import cells_of, outside, read_at
from ..tracker import Tracker
from ..tracking.dense_flow import DenseFlow, dense_flow, image_of
from ..tracking.frames import as_frame
from ..tracking.results import FgvcFlowOutput


def chain_flow(tracker: Tracker, video, frame_idx: int = 0) -> Iterator[tuple[int, FgvcFlowOutput]]:
    """
    Dense flow from a frame of a video to each following frame.

    Errors of the steps accumulate: for single points [`Tracker.track`] is far more precise.

    Args:
        tracker ([`Tracker`]): Computes the features, once for each frame.
        video: As of [`Tracker.track`].
        frame_idx (`int`, defaults to 0): The frame that flow starts from.

    Yields:
        Number of a frame, from `frame_idx` on, and [`FgvcFlowOutput`] from `frame_idx` to it at the size of the frames. A pixel that was
        occluded on any frame in between stays occluded.

    Raises:
        `ValueError`, `OSError`: the video cannot be read, or has no such frame.
    """
    session, model = tracker.processor.init_video_session(video), tracker.model
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    start = places = occluded = uncertainty = torch.empty(0, dtype=torch.float32, device=model.device)
    for t, frame in session.ordered_frames(frame_idx, None, reverse=False):
        with torch.inference_mode():  # not while the next frame is read: that runs code of others
            frame = as_frame(frame)
            features = tracker.features(session.preprocess(frame, model.device))  # (h, w, C)
            image = image_of(frame, model.device)  # (3, H, W)
            if before is None:
                start = places = cells_of(image.movedim(0, -1))  # (H, W, 2)
                occluded, uncertainty = torch.zeros_like(start[..., 0]), torch.zeros_like(start[..., 0])
            else:
                pairs = (torch.stack(pair) for pair in zip(before, (image, features)))
                found, _ = dense_flow(*pairs, session.sizes[1], model.config)
                maps = torch.cat([found.flow, found.occluded[..., None].float(), found.uncertainty[..., None]], dim=-1)
                step = read_at(maps, places)
                places = places + step[..., :2]
                occluded = torch.maximum(torch.maximum(occluded, step[..., 2]), outside(places).float())
                uncertainty = uncertainty + step[..., 3]
            before = image, features
            output = FgvcFlowOutput.of(DenseFlow(places - start, occluded >= 0.5, uncertainty))
        yield t, output
    if before is None:  # of an iterator; other sources were checked before
        raise ValueError(f"flow starts on frame_idx {frame_idx}, but the video ended before that frame.")


__all__ = ["chain_flow"]
