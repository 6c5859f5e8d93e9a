"""What is done to a dense flow field: reading between its cells, the forward-backward check, filling, the median."""

import torch
import torch.nn.functional as F

from ..kernels.bilinear import read_bilinear


ALLOWED_SHARE = 0.05  # of their lengths by which flow and backward flow may differ, beside what is allowed anyway


def read_at(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values (..., M) of maps (h, w, M) at places (..., 2), (x, y) in cells: bilinear, and constant beyond the border."""
    return read_bilinear(maps.movedim(-1, 0), places).movedim(0, -1)


def length(flow: torch.Tensor) -> torch.Tensor:
    """Lengths (...) of vectors (..., 2)."""
    return torch.hypot(flow[..., 0], flow[..., 1])


def cells_of(flow: torch.Tensor) -> torch.Tensor:
    """The cells (h, w, 2), (x, y), of a flow field (h, w, 2)."""
    rows, columns = (torch.arange(n, dtype=flow.dtype, device=flow.device) for n in flow.shape[:2])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def outside(places: torch.Tensor) -> torch.Tensor:
    """Whether places (h, w, 2), (x, y) in cells, are beyond the border cells of a map of their own size: bool (h, w)."""
    h, w = places.shape[:2]
    return ((places < -0.5) | (places > places.new_tensor([w - 0.5, h - 0.5]))).any(dim=-1)


def round_trip(flow: torch.Tensor, backward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much flow and the backward flow where it leads do not cancel out (h, w), and the sum of their lengths (h, w)."""
    back = read_at(backward, cells_of(flow) + flow)
    return length(flow + back), length(flow) + length(back)


def consistent(flow: torch.Tensor, backward: torch.Tensor, allowed: float) -> torch.Tensor:
    """Whether flow (h, w, 2) passes the forward-backward check, bool (h, w), within `allowed` cells and a share of the lengths."""
    gap, lengths = round_trip(flow, backward)
    return gap <= allowed + ALLOWED_SHARE * lengths


def filled(flow: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Flow (h, w, 2) whose unknown cells have the mean of their known neighbours, from the edge of what is known inwards."""
    values, weight = (flow * known[..., None]).movedim(-1, 0)[None], known[None, None].float()
    if not known.any():
        return flow
    while not weight.bool().all():
        sums = 9 * F.avg_pool2d(torch.cat([values, weight], dim=1), 3, 1, 1)  # (1, 3, h, w)
        new = (weight == 0) & (sums[:, 2:] > 0)
        values = torch.where(new, sums[:, :2] / sums[:, 2:], values)
        weight = torch.where(new, 1.0, weight)
    return values[0].movedim(0, -1)


def median(flow: torch.Tensor, radius: int) -> torch.Tensor:
    """Median of x and of y over (2 * radius + 1)^2 cells of flow (h, w, 2)."""
    side = 2 * radius + 1
    padded = F.pad(flow.movedim(-1, 0)[None], (radius,) * 4, mode="replicate")[0]
    windows = padded.unfold(1, side, 1).unfold(2, side, 1).flatten(3)  # (2, h, w, side^2)
    return windows.median(dim=-1).values.movedim(0, -1)


def neighbours(flow: torch.Tensor, distance: int) -> torch.Tensor:
    """The flow of each cell and of its neighbours up, down, left and right at a distance in cells: (5, h, w, 2)."""
    h, w = flow.shape[:2]
    rows, columns = (torch.arange(n, device=flow.device) for n in (h, w))
    shifts = (0, 0), (-distance, 0), (distance, 0), (0, -distance), (0, distance)
    return torch.stack([flow[(rows + dy).clamp(0, h - 1)][:, (columns + dx).clamp(0, w - 1)] for dy, dx in shifts])


def resized(flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Flow (H, W, 2) in its own pixels of flow (h, w, 2): bilinear."""
    (h, w), (height, width) = flow.shape[:2], size
    if (h, w) == (height, width):
        return flow
    values = F.interpolate(flow.movedim(-1, 0)[None], size=size, mode="bilinear")[0]
    return values.movedim(0, -1) * flow.new_tensor([width / w, height / h])


__all__ = [
    "cells_of",
    "consistent",
    "filled",
    "length",
    "median",
    "neighbours",
    "outside",
    "read_at",
    "resized",
    "round_trip",
]
