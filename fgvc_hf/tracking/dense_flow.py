"""Dense flow between two frames, in both directions at once.

1. Features are matched, coarse to fine, so that motion up to the size of the frame is found ([`feature_flow`]).
2. What passes the forward-backward check is continued over the rest of the frame as locally affine motion ([`affine_flow`]).
3. Patches of the frames themselves are aligned, with that as one of two hypotheses on each level of an image pyramid ([`patch_flow`]).
   Steps 2 and 3 are done twice.
4. The flow is the locally affine motion of what passes the check then. A pixel is occluded if its flow leaves the frame, or if it fails the
   check and the colours where it leads are others.

The constants were chosen on pairs rendered from real textures; `fgvc-hf evaluate flow --data rendered` measures other ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration_fgvc import FgvcConfig
from ..matching.affine_flow import affine_flow
from ..matching.feature_flow import ALLOWED, feature_flow
from ..matching.flow_fields import cells_of, consistent, outside, read_at, resized, round_trip
from ..matching.patch_flow import patch_flow
from .frames import LUMA
from .label_maps import read_masks


LARGEST = 1 << 20  # pixels of the frames that patches are aligned on; larger ones are reduced, and flow is enlarged
ROUNDS = 2
REACH = 16.0  # cells or pixels over which the weight of a known pixel falls to 1 / e
EDGES = 80.0, 60.0  # lengthening of ways by edges, in step 2 on features and on frames, see `affine_flow`
FITS = 6, 4
HALF_WEIGHT = 1.0  # cells or pixels, a residual at which a known pixel counts one half
KNOWN, VISIBLE = (
    0.5,
    1.0,
)  # pixels by which flow and backward flow may differ where it is continued from, and where nothing is occluded
OTHER_COLOUR = 4 / 255  # mean difference of colours around a pixel, from which it may be occluded
AROUND = 2  # pixels around that it is averaged over


@dataclass(frozen=True)
class DenseFlow:
    """
    Flow from one frame to another.

    Args:
        flow (`torch.Tensor` of shape `(H, W, 2)`): (x, y) in pixels of the frame.
        occluded (`torch.Tensor` of shape `(H, W)`, bool): Pixels that are not seen on the other frame.
        uncertainty (`torch.Tensor` of shape `(H, W)`): Pixels by which flow and backward flow do not cancel out.
    """

    flow: torch.Tensor
    occluded: torch.Tensor
    uncertainty: torch.Tensor


def dense_flow(
    frames: torch.Tensor, features: torch.Tensor, input_size: tuple[int, int], config: FgvcConfig
) -> tuple[DenseFlow, DenseFlow]:
    """
    Flow from each of two frames to the other.

    Args:
        frames (`torch.Tensor` of shape `(2, 3, H, W)`, float32): RGB in [0, 1].
        features (`torch.Tensor` of shape `(2, h, w, C)`): Their normalised features.
        input_size (`tuple[int, int]`): (height, width) of the model's input.
        config ([`FgvcConfig`]): `output_stride` and `cell_origin`.
    """
    height, width = frames.shape[-2:]
    images = _reduced(frames)
    small = _averaged(frames, features.shape[1:3])
    found = feature_flow(*features)
    fitted = [_continued(flow, back, image, ALLOWED[1], 0) for flow, back, image in _each(found, small)]
    fitted = [_at_pixels(flow, (images.shape[-2], images.shape[-1]), input_size, config) for flow in fitted]
    grey = 255 * torch.einsum("c,nchw->nhw", images.new_tensor(LUMA), images)
    for _ in range(ROUNDS):
        found = patch_flow(grey[0], grey[1], fitted[0]), patch_flow(grey[1], grey[0], fitted[1])
        fitted = [_continued(flow, back, image, KNOWN, 1) for flow, back, image in _each(found, images)]
    size = height, width
    return _judged(fitted[0], found, images, size), _judged(fitted[1], found[::-1], images.flip(0), size)


def image_of(frame: np.ndarray, device: torch.device) -> torch.Tensor:
    """A frame (H, W, 3), uint8, as [`dense_flow`] takes it: (3, H, W), float32, in [0, 1]."""
    return torch.tensor(np.ascontiguousarray(frame), device=device).movedim(-1, 0).float() / 255


def _each(flows, images):
    """Flow, backward flow and frame, of both directions."""
    return (flows[0], flows[1], images[0]), (flows[1], flows[0], images[1])


def _continued(
    flow: torch.Tensor, backward: torch.Tensor, image: torch.Tensor, allowed: float, on_frames: int
) -> torch.Tensor:
    """The locally affine motion (h, w, 2) of what passes the forward-backward check."""
    known = consistent(flow, backward, allowed)
    return affine_flow(flow, known, image, REACH, EDGES[on_frames], FITS[on_frames], HALF_WEIGHT)


def _judged(
    flow: torch.Tensor, found: tuple[torch.Tensor, torch.Tensor], images: torch.Tensor, size: tuple[int, int]
) -> DenseFlow:
    """The flow with what is occluded and uncertain, at the size of the frames.

    Args:
        flow (`torch.Tensor` of shape `(h, w, 2)`), found (two of these): The fitted flow, and what it was fitted to with its backward flow.
        images (`torch.Tensor` of shape `(2, 3, h, w)`): The frame of the flow, and the other one.
    """
    there = cells_of(flow) + flow
    colours = read_at(images[1].movedim(0, -1), there).movedim(-1, 0)  # (3, h, w)
    difference = (colours - images[0]).abs().mean(dim=0)
    difference = F.avg_pool2d(difference[None, None], 2 * AROUND + 1, 1, AROUND, count_include_pad=False)[0, 0]
    gap, _ = round_trip(*found)
    occluded = outside(there) | (~consistent(*found, VISIBLE) & (difference > OTHER_COLOUR))
    flow, gap = resized(flow, size), resized(gap[..., None].expand(-1, -1, 2), size).amax(dim=-1)
    if occluded.shape != size:
        occluded = F.interpolate(occluded[None, None].float(), size=size)[0, 0] > 0
    return DenseFlow(flow, occluded, gap)


def _reduced(frames: torch.Tensor) -> torch.Tensor:
    """Frames (2, 3, H, W) of at most `LARGEST` pixels."""
    height, width = frames.shape[-2:]
    scale = (LARGEST / (height * width)) ** 0.5
    return frames if scale >= 1 else _averaged(frames, (max(1, int(scale * height)), max(1, int(scale * width))))


def _averaged(frames: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(frames, size=size, mode="area")


def _at_pixels(
    flow: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int], config: FgvcConfig
) -> torch.Tensor:
    """Flow (H, W, 2) in pixels of frames of this size, of flow (h, w, 2) in cells."""
    maps = read_masks(flow.movedim(-1, 0), input_size, size, config.output_stride, config.cell_origin)
    scale = [config.output_stride * side / length for side, length in zip(size[::-1], input_size[::-1], strict=True)]
    return maps.movedim(0, -1) * maps.new_tensor(scale)


__all__ = ["DenseFlow", "dense_flow", "image_of"]
