"""Label maps: from prompts, through frames, to results.

A label map holds one value per feature cell and label, flat as (h*w, labels), so that the labels of one cell lie together
and travel together.
"""

import torch
import torch.nn.functional as F

from .coordinates_fgvc import cell_to_point, point_to_cell


LABEL_CUTOFF = 1e-3  # label values below are zero, so a label has a bounded support and cells outside need no matching
READOUT_PIXELS = 5  # a point is the weighted mean of this many largest pixels of its label map (official code)
READOUT_REACH = 2  # cells around the peak that hold those pixels in the aligned read-out


def draw_points(points: torch.Tensor, size: tuple[int, int], stride: int, sigma: float) -> torch.Tensor:
    """Label map of points: a Gaussian around each, sampled at the centres of the cells.

    Args:
        points (`torch.Tensor` of shape `(labels, 2)`): (x, y) in pixels of the model's input.
        size (`tuple[int, int]`): Rows and columns (h, w) of the feature map.
        stride (`int`): Pixels per cell.
        sigma (`float`): Standard deviation in pixels.

    Returns:
        `torch.Tensor` of shape `(h*w, labels)`, float32, at most 1.
    """
    y = cell_to_point(torch.arange(size[0], device=points.device), stride)
    x = cell_to_point(torch.arange(size[1], device=points.device), stride)
    dy = (y[:, None] - points[:, 1]) / sigma  # (h, labels)
    dx = (x[:, None] - points[:, 0]) / sigma
    labels = torch.exp(-(dy**2)[:, None] / 2) * torch.exp(-(dx**2)[None] / 2)  # (h, w, labels)
    return cut_off(labels.flatten(0, 1).float())


def cut_off(labels: torch.Tensor) -> torch.Tensor:
    """Set label values below the cut-off to zero, in place."""
    return labels.masked_fill_(labels < LABEL_CUTOFF, 0)


def label_reach(support: torch.Tensor, size: tuple[int, int], reach: int) -> torch.Tensor:
    """Cells (h, w) whose square neighbourhood meets the support of a label, (..., h*w) bool: all others stay zero."""
    support = support.flatten(0, -2).any(dim=0).view(1, 1, *size).float()
    return F.max_pool2d(support, 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0


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


def read_points(
    labels: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int], stride: int, readout: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of label maps: the weighted mean of the five largest pixels of each map at input resolution.

    Args:
        labels (`torch.Tensor` of shape `(h*w, labels)`): Label maps.
        size (`tuple[int, int]`): Rows and columns (h, w) of the maps.
        input_size (`tuple[int, int]`): (height, width) of the model's input.
        stride (`int`): Pixels per cell.
        readout (`str`): `"aligned"` or `"legacy"`; see [`FgvcConfig`].

    Returns:
        `points` (`torch.Tensor` of shape `(labels, 2)`, float64): (x, y) in input pixels; meaningless where the peak is 0.
        `peak` (`torch.Tensor` of shape `(labels,)`, float32): Largest value of each map.
    """
    peak, cell = labels.max(dim=0)
    if readout == "legacy":
        maps = labels.T.view(1, -1, *size)
        values = F.interpolate(maps, size=input_size, mode="bilinear", align_corners=False)[0].flatten(1)
        y = torch.arange(input_size[0], device=labels.device).repeat_interleave(input_size[1])
        x = torch.arange(input_size[1], device=labels.device).repeat(input_size[0])
        y, x = y.expand_as(values), x.expand_as(values)
    else:
        values, y, x = _upsample_around(labels, cell, size, input_size, stride)
    top = values.double().topk(min(READOUT_PIXELS, values.shape[1]), dim=1)
    weights = top.values / top.values.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    mean = [(weights * axis.gather(1, top.indices)).sum(dim=1) for axis in (x, y)]
    return torch.stack(mean, dim=1) + 0.5, peak  # pixel indices to coordinates


def _upsample_around(labels, cell, size: tuple[int, int], input_size: tuple[int, int], stride: int):
    """Values of the label maps, bilinear between cell centres, at the pixels around their peak cells.

    Returns values (labels, P*P) and the pixel rows and columns they belong to; pixels outside the frame are -inf.
    """
    near = torch.arange(-READOUT_REACH, READOUT_REACH + 1, device=labels.device)
    rows, columns = (cell // size[1])[:, None] + near, (cell % size[1])[:, None] + near  # (labels, D)
    inside = rows.clamp(0, size[0] - 1)[:, :, None] * size[1] + columns.clamp(0, size[1] - 1)[:, None, :]
    patch = labels.T.gather(1, inside.flatten(1)).view_as(inside)  # (labels, D, D)
    offset = torch.arange(-READOUT_REACH * stride, READOUT_REACH * stride + 1, device=labels.device)  # pixels
    # cell k is centred on pixel index stride * k, so pixel p lies at the fractional cell p / stride
    weights = (1 - (point_to_cell(offset + 0.5, stride)[:, None] - near).abs()).clamp_min(0).to(patch.dtype)  # (P, D)
    values = weights @ patch @ weights.T  # (labels, P, P)
    y, x = (cell // size[1] * stride)[:, None] + offset, (cell % size[1] * stride)[:, None] + offset  # (labels, P)
    y_valid, x_valid = (y >= 0) & (y < input_size[0]), (x >= 0) & (x < input_size[1])
    values = values.masked_fill(~(y_valid[:, :, None] & x_valid[:, None, :]), -torch.inf)
    y, x = torch.broadcast_tensors(y[:, :, None], x[:, None, :])
    return values.flatten(1), y.flatten(1), x.flatten(1)
