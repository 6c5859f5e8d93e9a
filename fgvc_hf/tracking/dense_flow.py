"""Dense flow between two frames, in both directions at once.

1. Features are matched, coarse to fine, so that motion up to the size of the frame is found ([`feature_flow`]).
2. What passes the forward-backward check is continued over the rest of the frame as locally affine motion ([`affine_flow`]).
3. Patches of the frames themselves are aligned, with that as one of two hypotheses on each level of an image pyramid ([`patch_flow`]).
   Steps 2 and 3 are done twice; from then on, what is known must also lead to like colours.
4. The flow is the locally affine motion of what is known then. The rest, which the other frame mostly does not show, moves as the nearest
   surface ([`flow_of_nearest_layer`]). A pixel is occluded if its flow leaves the frame, or if it fails the check and the colours where it
   leads are others.

The constants were chosen on pairs rendered from real textures; `fgvc-hf evaluate flow --data rendered` measures other ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration_fgvc import FgvcConfig
from ..matching.affine_flow import EdgeAwareSums, affine_flow
from ..matching.feature_flow import ALLOWED, feature_flow
from ..matching.flow_fields import cells_of, consistent, length, outside, read_at, resized, round_trip
from ..matching.motion_layers import flow_of_nearest_layer
from ..matching.patch_flow import patch_flow
from .frames import LUMA
from .label_maps import read_masks


LARGEST = 1 << 20  # pixels of the frames that patches are aligned on; larger ones are reduced, and flow is enlarged
ROUNDS = 2
CELLS = {"reach": 16.0, "edges": 80.0}  # of `EdgeAwareSums` on features, see there
PIXELS = {"reach": 8.0, "edges": 120.0}  # ... on frames
LAYERS = {"reach": 16.0, "edges": 60.0}  # ... for the nearest layer
FITS = 6, 4  # on features and on frames
HALF_WEIGHT = 1.0  # cells or pixels, a residual at which a known pixel counts one half
# Pixels by which flow and backward flow may differ where it is continued from, and where nothing is occluded
KNOWN, VISIBLE = 0.5, 1.0
# Least difference of colours that tells things apart, and how many times the usual difference it is at least
OTHER_COLOUR, TIMES_USUAL = 0.02, 3.0
RETURNS = 2.0  # pixels by which a motion and the backward flow where it leads cancel out
AROUND = 2  # pixels around each that differences of colours are averaged over


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
    size = frames.shape[-2], frames.shape[-1]
    images = _reduced(frames)
    small = _averaged(frames, features.shape[1:3])
    flows = feature_flow(*features)
    known = [consistent(flow, back, ALLOWED[1]) for flow, back in (flows, flows[::-1])]
    sums = [EdgeAwareSums(image, **CELLS) for image in small]
    fitted = [affine_flow(*of, FITS[0], HALF_WEIGHT) for of in zip(flows, known, sums)]
    fitted = [_at_pixels(flow, (images.shape[-2], images.shape[-1]), input_size, config) for flow in fitted]
    grey = 255 * torch.einsum("c,nchw->nhw", images.new_tensor(LUMA), images)
    sums = [EdgeAwareSums(image, **PIXELS) for image in images]
    both = images, images.flip(0)
    for _ in range(ROUNDS):
        flows = patch_flow(grey[0], grey[1], fitted[0]), patch_flow(grey[1], grey[0], fitted[1])
        found = [_found(*of) for of in zip(flows, flows[::-1], both)]
        fitted = [affine_flow(of.flow, of.known, ways, FITS[1], HALF_WEIGHT) for of, ways in zip(found, sums)]
    whole = [_completed(*of) for of in zip(fitted, found, found[::-1], both)]
    forward, backward = (_judged(*of, size) for of in zip(whole, found, found[::-1], both))
    return forward, backward


def image_of(frame: np.ndarray, device: torch.device) -> torch.Tensor:
    """A frame (H, W, 3), uint8, as [`dense_flow`] takes it: (3, H, W), float32, in [0, 1]."""
    return torch.tensor(np.ascontiguousarray(frame), device=device).movedim(-1, 0).float() / 255


@dataclass(frozen=True)
class _Found:
    """
    What was found in one direction.

    Args:
        flow (`torch.Tensor` of shape `(h, w, 2)`), known (`torch.Tensor` of shape `(h, w)`, bool): In pixels, and where it counts.
        other_colour (`float`): Difference of colours from which on two pixels show different things.
    """

    flow: torch.Tensor
    known: torch.Tensor
    other_colour: float


def _found(flow: torch.Tensor, backward: torch.Tensor, images: torch.Tensor) -> _Found:
    """Flow (h, w, 2) that is known where it passes the forward-backward check in the frame and leads to like colours.

    What appears and what disappears may be matched with each other in both directions; only the colours tell. What differs everywhere, as by
    another exposure, is allowed for.
    """
    passed = consistent(flow, backward, KNOWN) & ~outside(cells_of(flow) + flow)
    difference = _difference(flow, images)
    usual = float(difference[passed].median()) if passed.any() else 0.0
    other = max(OTHER_COLOUR, TIMES_USUAL * usual)
    return _Found(flow, passed & (difference < other), other)


def _difference(flow: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean difference (h, w) of the colours around each pixel of the first of two images (2, 3, h, w) and where its flow leads."""
    colours = read_at(images[1].movedim(0, -1), cells_of(flow) + flow).movedim(-1, 0)  # (3, h, w)
    return _around((colours - images[0]).abs().mean(dim=0))


def _around(values: torch.Tensor) -> torch.Tensor:
    """Means (h, w) over the pixels around each."""
    return F.avg_pool2d(values[None, None], 2 * AROUND + 1, 1, AROUND, count_include_pad=False)[0, 0]


def _completed(fitted: torch.Tensor, found: _Found, back: _Found, images: torch.Tensor) -> torch.Tensor:
    """The fitted flow (h, w, 2), where it is not known that of the nearest surface.

    The other frame speaks against a motion that leads to other colours in the frame, where nothing is known to come from elsewhere and cover
    what moves.
    """

    def against(motion: torch.Tensor) -> torch.Tensor:
        there = cells_of(motion) + motion
        seen = read_at(back.known[..., None].to(motion.dtype), there)[..., 0] > 0.5
        covered = seen & (length(motion + read_at(back.flow, there)) >= RETURNS)
        other = _difference(motion, images) > found.other_colour
        return _around((~outside(there) & ~covered & other).to(motion.dtype))

    return flow_of_nearest_layer(found.flow, found.known, fitted, EdgeAwareSums(images[0], **LAYERS), against)


def _judged(flow: torch.Tensor, found: _Found, back: _Found, images: torch.Tensor, size: tuple[int, int]) -> DenseFlow:
    """The whole flow (h, w, 2) of the first of two images (2, 3, h, w), with what is occluded and uncertain, at the size of the frames."""
    gap, _ = round_trip(found.flow, back.flow)
    failed = ~consistent(found.flow, back.flow, VISIBLE)
    occluded = outside(cells_of(flow) + flow) | (failed & (_difference(flow, images) > found.other_colour))
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
