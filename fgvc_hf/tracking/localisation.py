"""Where an object is on a frame, read off the coordinates that the affinity carries along (UVC, Li et al., NeurIPS 2019).

Every cell of the object is found on the whole frame, or in a window of it, by the softmax of its products; the object's box is the centre
of what was found, and as large as the mean distance from it says. Cells that were found elsewhere than most do not count.
"""

import torch

from ..configuration_fgvc import FgvcConfig


BANDWIDTH = 4.0  # cells: standard deviation of the kernel that most displacements lie in
ROUNDS = 10  # of mean shift
LEAST_CELLS = 3  # of an object that is still there
HALF = 0.5  # share of a cell from which it is the object's
MARGIN = 0.6  # of half a side, around the box that labels are matched in
INERTIA = 0.5  # share of its size before that a box keeps; UVC's 0.9 is nine frames late


def carried(queries: torch.Tensor, features: torch.Tensor, within: torch.Tensor, config: FgvcConfig) -> torch.Tensor:
    """Expected cells (N, 2) (x, y), float64, of queries (N, C) on a frame with features (h, w, C), by the softmax over the best of the
    cells `within` (h, w), bool: all of them together would draw every query to the middle."""
    y, x = within.nonzero().unbind(1)
    scores = queries.float() @ features[y, x].float().T / config.temperature
    best = scores.topk(min(config.propagation_topk, scores.shape[1]), dim=-1)
    return (best.values.softmax(-1).double()[..., None] * torch.stack([x, y], dim=1).double()[best.indices]).sum(1)


def read_box(
    source: torch.Tensor, target: torch.Tensor, bandwidth: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How a box has moved and grown whose points (N, 2) went from `source` to `target`, of one unit with the bandwidth.

    Mean shift finds where most displacements agree; the size is the mean distance from the centre, along each axis. UVC takes the mean
    shift of the positions themselves; displacements do not spread with the size of the object.

    Returns:
        The shift (2,) of the points' mean, the growth (2,), and how much each point counted (N,).
    """
    shifts = target - source
    shift = shifts.median(dim=0).values
    weights = torch.ones(len(shifts), dtype=shifts.dtype, device=shifts.device)
    for _ in range(ROUNDS):
        weights = torch.exp(-(shifts - shift).square().sum(1) / (2 * bandwidth**2)).clamp_min(1e-9)
        shift = (weights[:, None] * shifts).sum(0) / weights.sum()
    deviations = []
    for points in (source, target):
        centre = (weights[:, None] * points).sum(0) / weights.sum()
        deviations.append((weights[:, None] * (points - centre).abs()).sum(0) / weights.sum())
    return shift, deviations[1] / deviations[0].clamp_min(1e-6), weights


def cells_of(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cells (N, 2) (x, y), float64, that are mostly an object's, of its label map (h*w,); of a small one those near its peak."""
    y, x = (labels >= min(HALF, HALF * float(labels.max()))).view(size).nonzero().unbind(1)
    return torch.stack([x, y], dim=1).double() if labels.max() > 0 else labels.new_zeros((0, 2)).double()


def in_box(centre: torch.Tensor, half: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cells (h*w,), bool, in a box of half sides (2,) around a centre (2,), with a margin."""
    axes = [torch.arange(n, device=centre.device) for n in size]
    inside = [(axis - c).abs() <= (1 + MARGIN) * h for axis, c, h in zip(axes[::-1], centre, half + 1, strict=True)]
    return (inside[1][:, None] & inside[0]).flatten()


def box_of(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre (2,) and half sides (2,) of the box of cells (N, 2): twice their mean distance from the mean, as UVC has it."""
    centre = cells.mean(0)
    return centre, 2 * (cells - centre).abs().mean(0)


def find_object(
    labels: torch.Tensor,
    reference: torch.Tensor,
    features: torch.Tensor,
    half: torch.Tensor | None,
    config: FgvcConfig,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The box of an object on a frame with features (h, w, C).

    Args:
        labels (`torch.Tensor` of shape `(h*w,)`): Its label map on the reference, a frame with features `reference` (h, w, C).
        half (`torch.Tensor` of shape `(2,)`, *optional*): Half the sides in cells of its box before.

    Returns:
        The cells (h*w,), bool, in its box, and half the sides of this; all cells, and nothing, where the object has vanished.
    """
    size = features.shape[0], features.shape[1]
    everywhere = torch.ones(size, dtype=torch.bool, device=features.device)
    cells = cells_of(labels, size)
    if len(cells) < LEAST_CELLS:
        return everywhere.flatten(), None
    x, y = cells.long().unbind(1)
    found = carried(reference[y, x], features, everywhere, config)
    shift, growth, _ = read_box(cells, found, BANDWIDTH)
    centre, own = box_of(cells)
    new = own * growth.clamp(0.5, 2)
    half = new if half is None else INERTIA * half + (1 - INERTIA) * new
    return in_box(centre + shift, half, size), half


def box_cells(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cells (h*w,), bool, in the box of an object's own label map (h*w,); all where it has vanished."""
    cells = cells_of(labels, size)
    if len(cells) < LEAST_CELLS:
        return torch.ones_like(labels, dtype=torch.bool)
    return in_box(*box_of(cells), size)
