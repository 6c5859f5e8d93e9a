"""Object localisation by the coordinates that the affinity carries along (UVC, Li et al., NeurIPS 2019).

Every cell of an object is matched with the next frame, and takes the mean coordinate of its top-k cells there, weighted by the softmax of
similarity / temperature. The object's box is the centre of these coordinates, and its size their mean distance from the centre. Cells that
moved in another way than most are weighted down.
"""

import torch

from ..configuration_fgvc import FgvcConfig
from ..coordinates import exact
from ..matching.windows import frame_topk


BANDWIDTH = 4.0  # cells; standard deviation of the Gaussian kernel of mean shift over displacements
ROUNDS = 10  # of mean shift
LEAST_CELLS = 3  # an object with fewer cells has vanished
LEAST_LABEL = 0.5  # label from which a cell belongs to an object
MARGIN = 0.6  # share of half a side by which a box is widened for matching labels in it
INERTIA = 0.5  # share of the previous size in the new one; with UVC's 0.9 the size lags nine frames behind


def carried(queries: torch.Tensor, features: torch.Tensor, within: torch.Tensor, config: FgvcConfig) -> torch.Tensor:
    """Where queries are on a frame: the expected cell under the softmax of their top-k similarities.

    Args:
        queries (`torch.Tensor` of shape `(N, C)`), features (`torch.Tensor` of shape `(h, w, C)`): Of unit length.
        within (`torch.Tensor` of shape `(h, w)`, bool): Cells that are searched.
        config ([`FgvcConfig`]): `temperature`, and `propagation_topk`: over all cells the mean would be drawn to the middle.

    Returns:
        `torch.Tensor` of shape `(N, 2)`, float64: fractional cells (x, y).
    """
    scores, cells = frame_topk(queries, features, config.propagation_topk, within)  # (N, topk)
    places = exact(torch.stack([cells % features.shape[1], cells // features.shape[1]], dim=-1))  # (N, topk, 2)
    return (exact((scores / config.temperature).softmax(-1))[..., None] * places).sum(1)


def read_box(
    source: torch.Tensor, target: torch.Tensor, bandwidth: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How a box has moved and grown whose points went from `source` to `target`.

    Mean shift finds the mode of the displacements; the size is the weighted mean distance from the centre, along each axis. UVC applies mean
    shift to the positions themselves, which spread with the size of the object; displacements do not.

    Args:
        source, target (`torch.Tensor` of shape `(N, 2)`): Points, in any unit.
        bandwidth (`float`): Of the Gaussian kernel, in this unit.

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
    """Cells (N, 2), (x, y), float64, of an object with label map (h*w,): labels of at least 0.5, or half the peak of a faint object."""
    own = (labels > 0) & (labels >= min(LEAST_LABEL, LEAST_LABEL * float(labels.max())))
    y, x = own.view(size).nonzero().unbind(1)
    return exact(torch.stack([x, y], dim=1))


def in_box(centre: torch.Tensor, half: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cells (h*w,), bool, inside a box with half sides (2,) around a centre (2,), widened by a cell and `MARGIN`."""
    axes = [torch.arange(n, device=centre.device) for n in size]
    inside = [(axis - c).abs() <= (1 + MARGIN) * h for axis, c, h in zip(axes[::-1], centre, half + 1, strict=True)]
    return (inside[1][:, None] & inside[0]).flatten()


def box_of(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre (2,) and half sides (2,) of the box of cells (N, 2): twice their mean distance from the mean (UVC)."""
    centre = cells.mean(0)
    return centre, 2 * (cells - centre).abs().mean(0)


def find_object(
    labels: torch.Tensor,
    reference: torch.Tensor,
    features: torch.Tensor,
    half: torch.Tensor | None,
    config: FgvcConfig,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Localise an object on a frame.

    Args:
        labels (`torch.Tensor` of shape `(h*w,)`): Its label map on the reference frame.
        reference, features (`torch.Tensor` of shape `(h, w, C)`): Features of the reference frame and of the frame.
        half (`torch.Tensor` of shape `(2,)`, *optional*): Half the sides of its previous box, in cells.
        config ([`FgvcConfig`]): As of [`carried`].

    Returns:
        The cells (h*w,), bool, in its box, and half the sides of the box (2,); all cells and `None` if the object has vanished.
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
    """Cells (h*w,), bool, in the box of an object's own label map (h*w,); all cells if it has vanished."""
    cells = cells_of(labels, size)
    if len(cells) < LEAST_CELLS:
        return torch.ones_like(labels, dtype=torch.bool)
    return in_box(*box_of(cells), size)


__all__ = ["box_cells", "carried", "find_object", "read_box"]
