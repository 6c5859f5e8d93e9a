"""Dense flow from one frame to all following frames, by chaining the flow between neighbouring frames."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..tracker import Tracker
from ..tracking.dense_flow import at_video_size, dense_flow
from ..tracking.results import FgvcFlowOutput


@torch.inference_mode()
def chain_flow(tracker: Tracker, video, frame_idx: int = 0) -> Iterator[tuple[int, FgvcFlowOutput]]:
    """
    Dense flow from a frame of a video to each following frame.

    Motion between neighbouring frames must stay within `config.search_radius`; the sum over the clip may be larger. Errors of the steps
    accumulate: for single points [`Tracker.track`] is far more precise.

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
    before: torch.Tensor | None = None
    start = places = occluded = torch.empty(0, dtype=torch.float32, device=model.device)
    for t, frame in session.ordered_frames(frame_idx, None, reverse=False):
        features = tracker.features(session.preprocess(frame, model.device))  # (h, w, C)
        if before is None:
            y, x = (torch.arange(n, dtype=torch.float32, device=features.device) for n in features.shape[:2])
            start = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2), cells
            places, occluded = start.clone(), torch.zeros_like(start[..., 0])
        else:
            flow, lost = dense_flow(before, features, model.config)
            step = _at(torch.cat([flow, lost[..., None].float()], dim=-1), places)
            places = places + step[..., :2]
            occluded = torch.maximum(torch.maximum(occluded, step[..., 2]), _outside(places))
        before = features
        maps = torch.cat([(places - start).movedim(-1, 0), occluded[None]])
        yield t, FgvcFlowOutput(*at_video_size(maps, *session.sizes, model.config))


def _at(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values of maps (h, w, M) at places (h, w, 2) in cells: bilinear, and constant beyond the border."""
    limits = places.new_tensor([max(maps.shape[1] - 1, 1), max(maps.shape[0] - 1, 1)])
    grid = 2 * places / limits - 1
    values = F.grid_sample(maps.movedim(-1, 0)[None].float(), grid[None], padding_mode="border", align_corners=True)
    return values[0].movedim(0, -1)


def _outside(places: torch.Tensor) -> torch.Tensor:
    """1 where places (h, w, 2) are beyond the border cells, else 0."""
    limits = places.new_tensor([places.shape[1] - 0.5, places.shape[0] - 0.5])
    return ((places < -0.5) | (places > limits)).any(dim=-1).float()


__all__ = ["chain_flow"]
