"""Motion of what the other frame does not show, by the surfaces that it belongs to.

The known flow is divided into layers that move by one affine motion each, the largest first, as in layered representations of motion (Wang
and Adelson, Representing moving images with layers, IEEE Transactions on Image Processing 1994). A pixel of unknown flow takes the motion of
the layer that lies nearest on ways that avoid edges of the image; a layer whose motion the other frame speaks against counts as farther.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..coordinates import exact
from .affine_flow import EdgeAwareSums
from .flow_fields import cells_of, length


MOST = 12  # layers
LEAST_SHARE = 0.01  # of the frame, that a layer has at least
INSIDE = 2.0  # pixels by which known flow may differ from the motion of its layer
POINTS = 1 << 14  # pixels that a motion is fitted to
TILES = 8  # along each side of the frame; the motions of these are tried
SCALES = 2.0, 1.0, 1.0, 0.5, 0.5  # pixels; residual that counts a quarter, in turn
RIDGE = 1e-6  # of the sum of weights, so that a motion is defined where points lie on a line
AGAINST = 5.0  # how many reaches farther a layer counts that the other frame speaks against


@dataclass(frozen=True)
class MotionLayers:
    """
    Layers of a flow field, and what belongs to none.

    Args:
        motions (`torch.Tensor` of shape `(K, h, w, 2)`): The affine motion of each, continued over the whole frame.
        members (`torch.Tensor` of shape `(K, h, w)`, bool): The known pixels of each.
        rest (`torch.Tensor` of shape `(h, w)`, bool): The known pixels of none.
    """

    motions: torch.Tensor
    members: torch.Tensor
    rest: torch.Tensor


def motion_layers(flow: torch.Tensor, known: torch.Tensor) -> MotionLayers:
    """The layers of a flow field (h, w, 2) whose values count where `known`, bool (h, w)."""
    h, w = known.shape
    cells = cells_of(flow)
    places = exact((cells - cells.new_tensor([w - 1, h - 1]) / 2) / max(h, w))
    terms = torch.cat([torch.ones_like(places[..., :1]), places], dim=-1)  # (h, w, 3): 1, x, y
    x, y = (cells * TILES / cells.new_tensor([w, h])).long().unbind(-1)
    tiles = TILES * y + x  # (h, w)
    step = max(1, round((h * w / POINTS) ** 0.5))
    motions, members, rest = [], [], known
    while len(motions) < MOST:
        some = rest[::step, ::step]
        if not some.any():
            break
        fit = _dominant(*(of[::step, ::step][some] for of in (terms, exact(flow), tiles)))
        motion = (terms @ fit).to(flow.dtype)
        own = rest & (length(motion - flow) < INSIDE)
        if own.sum() < LEAST_SHARE * h * w:
            break
        motions.append(motion)
        members.append(own)
        rest = rest & ~own
    if not motions:
        return MotionLayers(flow.new_zeros((0, h, w, 2)), known.new_zeros((0, h, w)), rest)
    return MotionLayers(torch.stack(motions), torch.stack(members), rest)


def _dominant(terms: torch.Tensor, flow: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """Coefficients (3, 2) of the motion that most of the flow (n, 2) follows: of the tile whose motion suits most, fitted to all anew.

    Args:
        terms (`torch.Tensor` of shape `(n, 3)`): 1, x and y of the points.
        tiles (`torch.Tensor` of shape `(n,)`, int64): The tile that each lies in.
    """
    products = terms.new_zeros((TILES**2, 3, 5))
    products.index_add_(0, tiles, terms[:, :, None] * torch.cat([terms, flow], dim=1)[:, None])
    fits = _solved(products)  # (T, 3, 2)
    suits = length(torch.einsum("nk,tkc->tnc", terms, fits) - flow) < INSIDE  # (T, n)
    fit = fits[suits.sum(dim=1).argmax()]
    for scale in SCALES:
        weight = 1 / (1 + (length(terms @ fit - flow) / scale) ** 2) ** 2
        fit = _solved((terms * weight[:, None]).T @ torch.cat([terms, flow], dim=1))
    return fit


def _solved(products: torch.Tensor) -> torch.Tensor:
    """Coefficients (..., 3, 2) of least squares with these sums of products (..., 3, 5) of the terms with terms and flow."""
    ridge = torch.eye(3, dtype=products.dtype, device=products.device)
    return torch.linalg.solve(products[..., :3] + RIDGE * (1 + products[..., :1, :1]) * ridge, products[..., 3:])


def flow_of_nearest_layer(
    flow: torch.Tensor,
    known: torch.Tensor,
    fitted: torch.Tensor,
    sums: EdgeAwareSums,
    against: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """
    The flow of all pixels: locally affine where it is known, that of a layer elsewhere.

    Args:
        flow (`torch.Tensor` of shape `(h, w, 2)`), known (`torch.Tensor` of shape `(h, w)`, bool): In pixels, and where it counts.
        fitted (`torch.Tensor` of shape `(h, w, 2)`): The locally affine motion, also what unknown pixels take that are nearest to known
            flow of no layer.
        sums ([`EdgeAwareSums`]): Of the frame that the flow starts from.
        against (callable): From flow (h, w, 2) to how much the other frame speaks against it at each pixel (h, w), 0 to 1.
    """
    layers = motion_layers(flow, known)
    weight = sums(exact(layers.rest[None].float()))[0]  # (h, w)
    nearest, motion = weight.log() - AGAINST * against(fitted), fitted
    for plane, members in zip(layers.motions, layers.members):
        weight = sums(exact(members[None].float()))[0]
        # What is left of the flow of its members is continued from the nearest of them
        left = sums((exact(flow - plane) * members[..., None]).movedim(-1, 0))  # (2, h, w)
        mean = left / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        moved = plane + mean.movedim(0, -1).to(flow.dtype)
        near = weight.log() - AGAINST * against(moved)
        motion = torch.where((near > nearest)[..., None], moved, motion)
        nearest = torch.maximum(nearest, near)
    return torch.where(known[..., None], fitted, motion)


__all__ = ["MotionLayers", "flow_of_nearest_layer", "motion_layers"]
