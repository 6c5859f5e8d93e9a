"""Label maps: from prompts, through frames, to results.

A label map holds one value per feature cell and label, flat as (h*w, labels), so that the labels of one cell lie together
and travel together.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration_fgvc import FgvcConfig
from ..coordinates import ORIGIN, cell_to_point, exact, point_to_cell
from ..kernels.bilinear import read_bilinear
from ..matching.windows import Window, masked_scores


LABEL_CUTOFF = 1e-3  # label values below are zero, so a label has a bounded support and cells outside need no matching
MASK_SAMPLES = (
    5  # per cell along each axis, to measure the share that a mask covers; odd, so that none falls between pixels
)
EVEN_PEAK = 0.12  # height of a label map's peak at which a point is as likely hidden as visible
CELLS_AT_ONCE = 1024  # queries of a softmax over all keys
GONE = 0.02  # largest share of a cell below which an object is nowhere on a frame
LEGACY_PIXELS = 5  # largest pixels that the official code averages


def draw_points(
    points: torch.Tensor, size: tuple[int, int], stride: int, sigma: float, origin: float = ORIGIN
) -> torch.Tensor:
    """Label map of points: a Gaussian around each, sampled at the centres of the cells.

    Args:
        points (`torch.Tensor` of shape `(labels, 2)`): (x, y) in pixels of the model's input.
        size (`tuple[int, int]`): Rows and columns (h, w) of the feature map.
        stride (`int`): Pixels per cell.
        sigma (`float`): Standard deviation in pixels.
        origin (`float`): Coordinate of the centre of cell 0; also below.

    Returns:
        `torch.Tensor` of shape `(h*w, labels)`, float32, at most 1.
    """
    axes = (torch.arange(n, dtype=torch.float32, device=points.device) for n in size)
    y, x = (cell_to_point(axis, stride, origin) for axis in axes)
    dy = (y[:, None] - points[:, 1]) / sigma  # (h, labels)
    dx = (x[:, None] - points[:, 0]) / sigma
    labels = torch.exp(-(dy**2)[:, None] / 2) * torch.exp(-(dx**2)[None] / 2)  # (h, w, labels)
    return cut_off(labels.flatten(0, 1).float())


def draw_masks(
    masks: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int], stride: int, origin: float = ORIGIN
) -> torch.Tensor:
    """Label map of masks: the share of each cell, a square of `stride` pixels around its centre, that the mask covers.

    Args:
        masks (`torch.Tensor` of shape `(labels, H, W)`, bool): Masks at any size of the frame.
        size (`tuple[int, int]`): Rows and columns (h, w) of the feature map.
        input_size (`tuple[int, int]`): (height, width) of the model's input.
        stride (`int`): Pixels of the model's input per cell.

    Returns:
        `torch.Tensor` of shape `(h*w, labels)`, float32, in [0, 1].
    """
    inside = (torch.arange(MASK_SAMPLES, dtype=torch.float32, device=masks.device) + 0.5) / MASK_SAMPLES - 0.5
    indices = []
    for cells, side, length in zip(size, input_size, masks.shape[1:], strict=True):
        cell = torch.arange(cells, device=masks.device)[:, None] + inside
        pixel = (cell_to_point(cell, stride, origin) * (length / side)).floor().long()
        indices.append(pixel.clamp(0, length - 1).flatten())
    samples = masks[:, indices[0][:, None], indices[1]].float()  # (labels, h*k, w*k)
    return cut_off(F.avg_pool2d(samples[None], MASK_SAMPLES)[0].flatten(1).T.contiguous())


def read_masks(
    labels: torch.Tensor,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
    origin: float = ORIGIN,
) -> torch.Tensor:
    """Label maps `(labels, h, w)` at the pixels `(labels, H, W)` of the original video: bilinear between the centres of cells."""
    axes = []
    for side, length in zip(input_size, output_size, strict=True):
        pixel = (torch.arange(length, dtype=torch.float32, device=labels.device) + 0.5) * (side / length)
        axes.append(point_to_cell(pixel, stride, origin))
    return read_bilinear(labels, torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1))


def object_ids(
    maps: torch.Tensor,
    ids: Sequence[int],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
    origin: float = ORIGIN,
) -> np.ndarray:
    """Object ids `(H, W)`, int32, of label maps `(labels, h, w)`: every pixel goes to the object with the largest share of it, or to 0.

    Shares are divided by the largest that each label has on the frame, as in the official code of VFS: small objects are blurred most
    and would lose all of their pixels to large ones.
    """
    shares = read_masks(maps, input_size, output_size, stride, origin)  # (labels, H, W)
    best = _relative(1 - shares.sum(dim=0)).clamp_min(0)  # (H, W), the background's
    result = torch.zeros_like(best, dtype=torch.int32)
    for obj_id, share in zip(ids, shares, strict=True):  # argmax over labels takes ten times as long on a CPU
        share = _relative(share)
        result = torch.where(share > best, obj_id, result)
        best = torch.maximum(best, share)
    return result.cpu().numpy()


def _relative(share: torch.Tensor) -> torch.Tensor:
    """Shares (H, W) of one label divided by the largest; 0 everywhere if it is nowhere."""
    largest = share.amax()
    return (share / largest).masked_fill(largest < GONE, 0)


def cut_off(labels: torch.Tensor) -> torch.Tensor:
    """Set label values below the cut-off to zero, in place."""
    return labels.masked_fill_(labels < LABEL_CUTOFF, 0)


def label_reach(support: torch.Tensor, size: tuple[int, int], reach: int) -> torch.Tensor:
    """Cells (h, w) whose square neighbourhood meets the support of a label, (..., h*w) bool: all others stay zero."""
    support = support.flatten(0, -2).any(dim=0).view(1, 1, *size).float()
    side = 2 * reach + 1  # of a square, whose maximum is that along one axis of those along the other
    across = F.max_pool2d(support, (1, side), stride=1, padding=(0, reach))
    return F.max_pool2d(across, (side, 1), stride=1, padding=(reach, 0))[0, 0] > 0


def propagate_labels(
    scores: torch.Tensor, indices: torch.Tensor, labels: torch.Tensor, temperature: float, active: torch.Tensor
) -> torch.Tensor:
    """New label map: for each cell, the labels of its best keys, averaged with the softmax of their scores.

    Args:
        scores, indices (`torch.Tensor` of shape `(h*w, topk)`): Best keys, as [`window_topk`] gives them.
        labels (`torch.Tensor` of shape `(frames, h*w, labels)`): Label maps that the indices point into.
        temperature (`float`): Temperature of the softmax.
        active (`torch.Tensor` of shape `(h*w,)`, bool): Cells to compute; the others are zero.

    Returns:
        `torch.Tensor` of shape `(h*w, labels)`.
    """
    new = labels.new_zeros(labels.shape[1:])
    weights = torch.softmax(scores[active] / temperature, dim=-1).to(labels.dtype)
    bags = F.embedding_bag(indices[active], labels.flatten(0, 1), per_sample_weights=weights, mode="sum")
    new[active] = cut_off(bags)
    return new


def propagate_softmax(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    labels: torch.Tensor,
    active: torch.Tensor,
    config: FgvcConfig,
    whole: int = 0,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """New label map in the ways of UVC and TimeCycle, and of MAST, whose softmax is over all keys and not just the best.

    `"per_reference"`: of the softmax over one reference frame the best keys are kept, and not scaled up again; then the mean over
    references. `"windowed"`: the softmax over all keys of all references, all of which pass on their labels.

    Args:
        query (`torch.Tensor` of shape `(h, w, C)`): Features of the frame.
        keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the references.
        labels (`torch.Tensor` of shape `(F, h*w, labels)`): Their label maps.
        active (`torch.Tensor` of shape `(h*w,)`, bool): Cells to compute; the others are zero.
        config ([`FgvcConfig`]): Family, window, top-k and temperature.
        whole (`int`): Of the first so many references all cells count, and not just the window.
        allowed (`torch.Tensor` of shape `(F, h*w)`, bool, *optional*): Keys that count; where the window has none of them, the label is 0.

    Returns:
        `torch.Tensor` of shape `(h*w, labels)`.
    """
    new, per_reference = labels.new_zeros(labels.shape[1:]), config.propagation_family == "per_reference"
    window, frame = Window(config.propagation_radius, config.propagation_window), Window(0, "none")
    windows = [frame if i < whole else window for i in range(len(keys))]
    groups = [[i] for i in range(len(keys))] if per_reference else [list(range(len(keys)))]
    for cells in active.nonzero()[:, 0].split(CELLS_AT_ONCE):
        for members in groups:
            scores = masked_scores(query, [keys[i] for i in members], [windows[i] for i in members], cells)
            scores = scores / config.temperature  # (n, F*h*w)
            if allowed is not None:
                scores = scores.masked_fill(~allowed[members].flatten(), -torch.inf)
            weights = torch.softmax(scores, dim=-1).to(labels.dtype)
            weights = weights.nan_to_num() if allowed is not None else weights  # of cells without any key
            if per_reference and weights.shape[1] > config.propagation_topk:
                least = weights.topk(config.propagation_topk, dim=-1).values[:, -1:]
                weights = weights * (weights >= least)
            new[cells] += weights @ labels[members].flatten(0, 1) / len(groups)
    return cut_off(new)


def read_points(
    labels: torch.Tensor,
    size: tuple[int, int],
    input_size: tuple[int, int],
    stride: int,
    sigma: float,
    readout: str,
    origin: float = ORIGIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of label maps.

    `"aligned"` takes the centre of mass of what exceeds half of the peak, within two sigma of it: it averages over many
    cells, each of which is a little off, and respects where cells are centred. `"legacy"` is that of the official code:
    the mean of the five largest pixels after bilinear up-sampling, (stride - 1) / 2 pixels too far right and down.

    Args:
        labels (`torch.Tensor` of shape `(h*w, labels)`): Label maps.
        size (`tuple[int, int]`): Rows and columns (h, w) of the maps.
        input_size (`tuple[int, int]`): (height, width) of the model's input.
        stride (`int`): Pixels per cell.
        sigma (`float`): Standard deviation in pixels of the Gaussian that the points were drawn as.
        readout (`str`): `"aligned"` or `"legacy"`.

    Returns:
        `points` (`torch.Tensor` of shape `(labels, 2)`, float64): (x, y) in input pixels; meaningless where the peak is 0.
        `peak` (`torch.Tensor` of shape `(labels,)`, float32): Largest value of each map.
    """
    if readout == "legacy":
        points = _mean_of_largest_pixels(labels, size, input_size)
    else:
        points = _centre_of_peak(labels, size, stride, max(1, round(2 * sigma / stride)), origin)
    limits = points.new_tensor((input_size[1], input_size[0]))
    return points.clamp_min(0).minimum(limits), labels.amax(dim=0)


def label_uncertainty(
    labels: torch.Tensor, size: tuple[int, int], stride: int, sigma: float, origin: float = ORIGIN
) -> torch.Tensor:
    """By how many pixels of the model's input points are expected to be off: what their maps are broader than they were drawn.

    A map that was drawn with the deviation sigma and moved by uncertain steps has the variance sigma^2 plus theirs; the least is that of
    a position within a cell, and where nothing is left of a map it is the longer side of the frame.

    Args:
        labels (`torch.Tensor` of shape `(h*w, labels)`): Label maps.
        size, stride, sigma: As of [`read_points`].

    Returns:
        `torch.Tensor` of shape `(labels,)`, float32.
    """
    y, x = (cell_to_point(exact(torch.arange(n, device=labels.device)), stride, origin) for n in size)
    found, side = [], float(max(size) * stride)
    for column in exact(labels.T.reshape(-1, *size)):  # one by one: together, the last bit would depend on the others
        total = column.sum()
        if total <= 0:
            found.append(y.new_full((), side))
            continue
        down, across = column.sum(dim=1) / total, column.sum(dim=0) / total
        variance = (down * y**2).sum() - (down * y).sum() ** 2 + (across * x**2).sum() - (across * x).sum() ** 2
        found.append((variance / 2 - sigma**2).clamp_min(stride**2 / 12).sqrt())
    return torch.stack(found).float() if found else labels.new_zeros(0)


def peak_confidence(peak: torch.Tensor) -> torch.Tensor:
    """Confidence in [0, 1) of points by the height of their peaks: a bare measure, 0.5 where it says nothing."""
    return peak / (peak + EVEN_PEAK)


def _centre_of_peak(
    labels: torch.Tensor, size: tuple[int, int], stride: int, reach: int, origin: float
) -> torch.Tensor:
    """Centres of mass (labels, 2) of the disc around the peak cell, counting what exceeds half of the peak.

    Where the disc meets the border of the map it loses as much on the other side, or the centre would move inwards.
    """
    peak, cell = labels.max(dim=0)
    near = torch.arange(-reach, reach + 1, device=labels.device)
    rows, columns = (cell // size[1])[:, None] + near, (cell % size[1])[:, None] + near  # (labels, D)
    to_border_y = torch.minimum(rows[:, reach], size[0] - 1 - rows[:, reach])
    to_border_x = torch.minimum(columns[:, reach], size[1] - 1 - columns[:, reach])
    inside_y, inside_x = near.abs() <= to_border_y[:, None], near.abs() <= to_border_x[:, None]  # (labels, D)
    disc = near[:, None] ** 2 + near**2 <= reach**2
    index = rows.clamp(0, size[0] - 1)[:, :, None] * size[1] + columns.clamp(0, size[1] - 1)[:, None, :]
    patch = labels.T.gather(1, index.flatten(1)).view_as(index)  # (labels, D, D)
    near_peak = inside_y[:, :, None] & inside_x[:, None, :] & disc
    weights = exact((patch - peak[:, None, None] / 2).clamp_min(0) * near_peak)
    total = weights.sum(dim=(1, 2)).clamp_min(torch.finfo(weights.dtype).tiny)
    row = (weights.sum(dim=2) * rows).sum(dim=1) / total
    column = (weights.sum(dim=1) * columns).sum(dim=1) / total
    return cell_to_point(torch.stack([column, row], dim=1), stride, origin)


def _mean_of_largest_pixels(labels: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> torch.Tensor:
    """Weighted means (labels, 2) of the five largest pixels of the maps, up-sampled as the official code does."""
    maps = labels.T.reshape(-1, 1, 1, *size)  # one by one: together, the last bit would depend on the others
    upsampled = [F.interpolate(m, size=input_size, mode="bilinear").flatten() for m in maps]
    values = torch.stack(upsampled)
    top = exact(values).topk(min(LEGACY_PIXELS, values.shape[1]), dim=1)
    weights = top.values / top.values.sum(dim=1, keepdim=True).clamp_min(torch.finfo(top.values.dtype).tiny)
    x, y = top.indices % input_size[1], top.indices // input_size[1]
    return torch.stack([(weights * x).sum(dim=1), (weights * y).sum(dim=1)], dim=1) + 0.5
