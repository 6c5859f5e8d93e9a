"""Texture painting: an image painted on one frame is warped into the following frames as if it were part of the scene.

Points on the painted region are tracked. The warp is a moving least squares fit of affine maps to these points (Schaefer et al., Image
deformation using moving least squares, SIGGRAPH 2006), weighted by their confidence.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from ..io.video import open_video
from ..tracker import Tracker
from ..tracking.frames import as_frame, decoded, host_array
from ..tracking.prompts import whole_number


POINTS = 256  # approximate number of points on the painted region
NODE = 4  # pixels between the nodes where affine maps are fitted; the warp is bilinear in between
AGREEING = (
    3.0  # pixels: residual at which the weight of a point is halved; the spacing of the points if that is larger
)
SEEN = (
    0.3,
    0.7,
)  # mean confidence times agreement of the points nearby at which the texture starts to show, and is opaque
NODES_AT_ONCE = 4096  # bounds the memory of the distances between nodes and points


def paint(
    tracker: Tracker, video, texture, frame_idx: int = 0, progress: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Paint an image on a frame of a video, and carry it through the following frames.

    Args:
        tracker ([`Tracker`]): Tracks the points; template tracking (`config.point_matching="templates"`) is the most accurate.
        video: As of [`Tracker.track`], if it can be read more than once.
        texture (`numpy.ndarray` of shape `(H, W, 4)`, uint8, or `PIL.Image.Image` of mode RGBA): RGBA at the size of the video; transparent pixels are not painted.
        frame_idx (`int`, defaults to 0): The frame that it is painted on.
        progress (`bool`, defaults to `False`): Show a progress bar on standard error if it is a terminal.

    Yields:
        Number of a frame, and the frame with the texture, `(H, W, 3)` uint8. The texture is hidden where its points are occluded.

    Raises:
        `ValueError`, `OSError`: the video cannot be read, or `texture` has another size or type, or is wholly transparent.
    """
    session, frame_idx = tracker.processor.init_video_session(open_video(video)), whole_number("frame_idx", frame_idx)
    texture = np.asarray(host_array(decoded(texture, "texture")))
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 4:
        raise ValueError(f"texture must be an RGBA image (H, W, 4), uint8, got {texture.dtype} of {texture.shape}.")
    if session.original_size is not None and texture.shape[:2] != session.original_size:
        height, width = session.original_size
        raise ValueError(
            f"texture must be {height}x{width} like the video, got {texture.shape[0]}x{texture.shape[1]}."
        )
    first, distance = points_on(texture[..., 3])
    ids = list(range(len(first)))
    tracker.processor.add_inputs_to_inference_session(session, frame_idx, ids, input_points=first.tolist())
    colours = torch.tensor(texture, device="cpu").float().div(255).movedim(-1, 0)  # (4, H, W)
    colours = torch.cat([colours[:3] * colours[3:], colours[3:]])
    source = torch.from_numpy(first).double()
    frames = session.video.frames(frame_idx)
    outputs = tracker.model.propagate_in_video_iterator(session, frame_idx, show_progress_bar=progress)
    for frame, output in zip(frames, outputs, strict=True):
        target, confidence = (torch.from_numpy(part).double() for part in (output.points, output.confidence))
        layer = warp(colours, source, target, confidence, distance)
        background = torch.tensor(np.ascontiguousarray(as_frame(frame)), device="cpu").movedim(-1, 0).float() / 255
        painted = layer[:3] + (1 - layer[3:]) * background
        yield output.frame_idx, (255 * painted).round().clamp(0, 255).byte().movedim(0, -1).numpy()


def points_on(alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """Points (N, 2), (x, y), on a regular grid over the pixels that are not transparent, and the spacing of the grid in pixels.

    Raises:
        `ValueError`: every pixel is transparent.
    """
    opaque = alpha > 0
    if not opaque.any():
        raise ValueError("texture must not be transparent everywhere.")
    step = max(2, round(float(np.sqrt(opaque.sum() / POINTS))))
    rows, columns = np.nonzero(opaque)
    top, left = rows.min() + min(step, np.ptp(rows) + 1) // 2, columns.min() + min(step, np.ptp(columns) + 1) // 2
    y, x = np.nonzero(opaque[top::step, left::step])
    points = np.stack([left + step * x, top + step * y], axis=1) + 0.5
    if not len(points):  # a shape too thin for the grid
        points = np.stack([columns, rows], axis=1)[:: max(1, len(rows) // POINTS)] + 0.5
    return points.astype(np.float64), float(step)


def warp(
    colours: torch.Tensor, source: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor, distance: float
) -> torch.Tensor:
    """Warp an image by the motion of points.

    Args:
        colours (`torch.Tensor` of shape `(4, H, W)`): RGB premultiplied by alpha, and alpha.
        source, target (`torch.Tensor` of shape `(N, 2)`): Positions of the points in the image and in the warped image, in pixels.
        confidence (`torch.Tensor` of shape `(N,)`): Probability that a point is visible in the warped image.
        distance (`float`): Spacing of neighbouring points, in pixels.

    Returns:
        `torch.Tensor` of shape `(4, H, W)`: the warped image, transparent where points are occluded.
    """
    height, width = colours.shape[1:]
    agreeing = agreement(source, target, confidence, distance)
    weights = confidence.clamp_min(1e-3) * agreeing
    y, x = (torch.arange(0, side + NODE, NODE, dtype=torch.float64, device="cpu") for side in (height, width))
    nodes = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows, columns, 2)
    where, seen = nodes.new_full(nodes.shape, -1e4).flatten(0, 1), nodes.new_zeros(nodes.shape[:2]).flatten()
    flat = nodes.flatten(0, 1)
    low, high = target.amin(dim=0) - 3 * distance, target.amax(dim=0) + 3 * distance
    near = ((flat >= low) & (flat <= high)).all(dim=1).nonzero()[:, 0]
    for part in near.split(NODES_AT_ONCE):
        closeness = 1 / (torch.cdist(flat[part], target).square() + (distance / 2) ** 2) ** 2  # (n, N)
        where[part] = moving_least_squares(flat[part], target, source, closeness * weights, distance)
        seen[part] = (closeness * confidence * agreeing).sum(dim=1) / closeness.sum(dim=1)
    show = ((seen - SEEN[0]) / (SEEN[1] - SEEN[0])).clamp(0, 1)
    maps = torch.cat([where, show[:, None]], dim=1).view(*nodes.shape[:2], 3).movedim(-1, 0).float()
    rows, columns = (torch.arange(side, dtype=torch.float32, device="cpu") + 0.5 for side in (height, width))
    pixels = _grid(rows, columns, *(n * NODE for n in maps.shape[1:]), NODE)
    maps = F.grid_sample(maps[None], pixels, align_corners=True)[0]
    grid = 2 * maps[:2].movedim(0, -1) / maps.new_tensor([width, height]) - 1
    return F.grid_sample(colours[None], grid[None], align_corners=False)[0] * maps[2]


def moving_least_squares(
    places: torch.Tensor, source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, distance: float
) -> torch.Tensor:
    """Each place (n, 2) mapped by its own affine map: the weighted (n, N) least squares fit of `source` to `target` (N, 2)."""
    total = weights.sum(dim=1, keepdim=True)
    share = (weights / total)[..., None]  # (n, N, 1)
    from_centre, to_centre = (share * source).sum(dim=1), (share * target).sum(dim=1)  # (n, 2)
    a, b = source - from_centre[:, None], target - to_centre[:, None]
    # A ridge towards the identity, because few points or collinear ones do not determine an affine map
    ridge = (distance / 2) ** 2 * torch.eye(2, dtype=source.dtype, device=source.device)
    matrix = torch.linalg.solve(a.mT @ (share * a) + ridge, a.mT @ (share * b) + ridge)  # (n, 2, 2)
    return ((places - from_centre)[:, None] @ matrix)[:, 0] + to_centre


def agreement(source: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor, distance: float) -> torch.Tensor:
    """Weights (N,) in [0, 1] of points, low where a point moves differently from its neighbours."""
    near = 1 / (torch.cdist(source, source).square() + distance**2)
    near = near * ~torch.eye(len(source), dtype=torch.bool, device=source.device) * confidence.clamp_min(1e-3)
    if len(source) < 3:
        return torch.ones_like(confidence)
    expected = moving_least_squares(source, source, target, near**2, distance)
    residual = (target - expected).norm(dim=1)
    return 1 / (1 + (residual / max(AGREEING, distance)) ** 2)


def _grid(y: torch.Tensor, x: torch.Tensor, height: int, width: int, step: int) -> torch.Tensor:
    """Coordinates for `grid_sample` on nodes that are `step` pixels apart, the first at 0."""
    y, x = (2 * axis / (side - step) - 1 for axis, side in ((y, height), (x, width)))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].float()


__all__ = ["paint"]
