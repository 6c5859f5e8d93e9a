"""The losses of the paper, one function each.

| loss | function | equation |
|---|---|---|
| labels, one cell | [`dirac_loss`] | 2 |
| labels, Gaussian | [`gaussian_loss`] | 3, 4 |
| labels, soft | [`soft_label_loss`] | 5 |
| reconstruction | [`reconstruction_loss`] | 6, 8, occlusion test 7 |
| adversarial | [`adversarial_loss`] | 9, 10 |
| distillation | [`distillation_loss`] | section 3.2 |

A query is a cell of the frame that is matched, a key a cell of the frame that is searched. Features of both are channels last, `(B, h, w, C)`;
`radius` is the window radius r in cells. Every loss is one number per pair, `(B,)`, but the adversarial one, which is their mean. Where the
paper and the released code differ, an argument chooses.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .recipes import ADVERSARIAL_STEPS
from .window_losses import window_argmax, window_average, window_cross_entropy, window_maps
from .window_targets import DiracTarget, GaussianTarget, SoftTarget


COLOUR_SCALE = 20.0  # of the smooth L1 loss on colours, as in the released code


def cell_grid(values: torch.Tensor) -> torch.Tensor:
    """Positions `(h, w, 2)` (x, y) of all cells of a map `(B, h, w, ...)`."""
    columns, rows = (torch.arange(values.shape[axis], device=values.device) for axis in (2, 1))
    x, y = torch.meshgrid(columns, rows, indexing="xy")
    return torch.stack([x, y], dim=-1).float()


def target_positions(
    flow: torch.Tensor, visible: torch.Tensor, stride: int, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target position of every cell, and whether it can be learnt: visible, on the map and within the window.

    Args:
        flow (`torch.Tensor` of shape `(B, h, w, 2)`): From the centres of the cells, in pixels.
        visible (`torch.Tensor` of shape `(B, h, w)`, bool): Whether the target is visible.
        stride (`int`): Pixels per cell.
        radius (`int`): Window radius in cells.

    Returns:
        Positions `(B, h, w, 2)` (x, y) in cells, and validity `(B, h, w)`.
    """
    shift = flow / stride
    positions = cell_grid(flow) + shift
    last = positions.new_tensor([flow.shape[2] - 1, flow.shape[1] - 1])
    on_map = ((positions >= 0) & (positions <= last)).all(-1)
    return positions, visible & on_map & (shift.abs() <= radius).all(-1)


def sample_cells(features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Bilinear samples `(B, h, w, C)` of a feature map at positions (x, y) in cells; 0 outside the map."""
    size = positions.new_tensor([features.shape[2] - 1, features.shape[1] - 1]).clamp_min(
        1
    )  # a map may be one cell wide
    grid = positions / size * 2 - 1
    sampled = F.grid_sample(features.permute(0, 3, 1, 2), grid.to(features.dtype), align_corners=True)
    return sampled.permute(0, 2, 3, 1)


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Features divided by their length along the last axis. Zero vectors, as cells outside the frame have, stay zero and get no gradient."""
    values = features.float()
    length = values.norm(dim=-1, keepdim=True)
    return (values / length.clamp_min(1e-12).masked_fill(length == 0, torch.inf)).to(features.dtype)


def dirac_loss(query, key, positions, valid, radius: int, temperature: float) -> torch.Tensor:
    """Cross-entropy with the cell nearest to the target (Eq. 2).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features; normalised here.
        positions (`torch.Tensor` of shape `(B, h, w, 2)`), valid (`(B, h, w)`, bool): As [`target_positions`] gives them.
        temperature (`float`): Divides the cosines before the softmax.
    """
    query, key = unit_length(query), unit_length(key)
    return window_cross_entropy(query, key, valid, DiracTarget(positions), radius, 1 / temperature)


def gaussian_loss(query, key, positions, valid, radius: int, temperature: float, sigma: float) -> torch.Tensor:
    """Cross-entropy with a Gaussian of `sigma` cells around the target (Eqs. 3 and 4). Arguments are as of [`dirac_loss`]."""
    query, key = unit_length(query), unit_length(key)
    target = GaussianTarget(positions, sigma)
    return window_cross_entropy(query, key, valid, target, radius, 1 / temperature)


def soft_label_loss(
    query,
    key,
    teacher_key,
    positions,
    valid,
    radius: int,
    temperature: float,
    teacher_norm: str = "channel",
) -> torch.Tensor:
    """Cross-entropy with the map of a frozen teacher, whose query is its own feature at the true target (Eq. 5).

    Args:
        query, key, positions, valid, radius, temperature: As of [`dirac_loss`].
        teacher_key (`torch.Tensor` of shape `(B, h, w, C)`): The teacher's features of the key frame, not normalised.
        teacher_norm (`str`): `"channel"` normalises them over channels, for cosine similarity; `"height"` over the rows of the
            image, as the released code does, which makes the labels sharper.

    Raises:
        `ValueError`: an unknown `teacher_norm`.
    """
    warped = sample_cells(teacher_key.float(), positions)
    if teacher_norm == "channel":
        warped, teacher_key = unit_length(warped), unit_length(teacher_key.float())
    elif teacher_norm == "height":
        warped, teacher_key = F.normalize(warped, dim=1), F.normalize(teacher_key.float(), dim=1)
    else:
        raise ValueError(f"teacher_norm must be 'channel' or 'height', got {teacher_norm!r}.")
    target = SoftTarget(warped.to(query.dtype), teacher_key.to(query.dtype), 1 / temperature)
    query, key = unit_length(query), unit_length(key)
    return window_cross_entropy(query, key, valid, target, radius, 1 / temperature)


def distillation_loss(
    query: torch.Tensor,
    key: torch.Tensor,
    teacher_query: torch.Tensor,
    teacher_key: torch.Tensor,
    radius: int,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy of each query's map with that of a frozen teacher, on any pair (section 3.2).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): The student's features; normalised here.
        teacher_query, teacher_key (`torch.Tensor` of shape `(B, h, w, C')`): The teacher's; normalised here.
    """
    teacher_query, teacher_key = (unit_length(features).to(query.dtype) for features in (teacher_query, teacher_key))
    everywhere = torch.ones(query.shape[:3], dtype=torch.bool, device=query.device)
    target = SoftTarget(teacher_query, teacher_key, 1 / temperature)
    query, key = unit_length(query), unit_length(key)
    return window_cross_entropy(query, key, everywhere, target, radius, 1 / temperature)


def reconstruction_loss(
    query: torch.Tensor,
    key: torch.Tensor,
    query_colours: torch.Tensor,
    key_colours: torch.Tensor,
    radius: int,
    form: str = "aligned",
    occlusion_test: bool = False,
) -> torch.Tensor:
    """Copy the dropped colour channel of one frame from the other by matching (Eq. 6), and compare by smooth L1 (Eq. 8).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features as they leave the encoder; products are divided by sqrt(C).
        query_colours, key_colours (`torch.Tensor` of shape `(B, V, H, W)`): The colour channels that the encoder did not see.
        form (`str`): `"aligned"` compares at the centres of the cells. `"official"` enlarges the copy to the frame, which shifts
            it by half a pixel at stride 2, and lets cells outside the frame take part with score 0.
        occlusion_test (`bool`): Leave out cells that fail the forward-backward check (Eq. 7). The released code does not.

    Raises:
        `ValueError`: an unknown `form`.
    """
    stride = query_colours.shape[-1] // query.shape[2]
    values = key_colours[..., ::stride, ::stride].permute(0, 2, 3, 1)
    outside = "zero" if form == "official" else "excluded"
    copy = window_average(query, key, values, radius, query.shape[-1] ** -0.5, outside).permute(0, 3, 1, 2)
    if form == "official":
        copy = F.interpolate(copy, size=query_colours.shape[-2:], mode="bilinear")
    elif form == "aligned":
        query_colours = query_colours[..., ::stride, ::stride]
    else:
        raise ValueError(f"form must be 'aligned' or 'official', got {form!r}.")
    losses = F.smooth_l1_loss(COLOUR_SCALE * copy, COLOUR_SCALE * query_colours, reduction="none").mean(1)  # (B, H, W)
    if not occlusion_test:
        return losses.mean((1, 2))
    visible = forward_backward_check(query, key, radius)[:, None].float()
    visible = F.interpolate(visible, size=losses.shape[-2:], mode="nearest")[:, 0]
    return (losses * visible).sum((1, 2)) / visible.sum((1, 2)).clamp_min(1)


@torch.no_grad()
def forward_backward_check(
    query: torch.Tensor, key: torch.Tensor, radius: int, tolerance: float = 1.5
) -> torch.Tensor:
    """Whether the best match of each query has its own best match within `tolerance` cells of the query, `(B, h, w)` (Eq. 7).

    The default accepts a cell and its diagonal neighbours, for the best match on a smooth surface is not sharp.
    """
    query, key = unit_length(query), unit_length(key)
    forward, backward = window_argmax(query, key, radius), window_argmax(key, query, radius)
    returned = sample_cells(backward, forward)
    return (returned - cell_grid(query)).norm(dim=-1) <= tolerance


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        return -grad


class MapDiscriminator(nn.Module):
    """Logits `(M,)` of window maps `(M, (2r+1)^2)` to be of real pairs (above 0) or synthetic ones (below 0)."""

    def __init__(self, radius: int):
        super().__init__()
        size = (2 * radius + 1) ** 2
        widths = (size, size // 2, size // 4)  # 2401, 1200 and 600 at r = 24, as in the released code
        self.layers = nn.Sequential(
            nn.Linear(widths[0], widths[1], dtype=torch.float32),
            nn.ReLU(),
            nn.Linear(widths[1], widths[2], dtype=torch.float32),
            nn.ReLU(),
            nn.Linear(widths[2], 1, dtype=torch.float32),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layers(maps)[:, 0]


def adversarial_loss(
    discriminator: MapDiscriminator,
    query: torch.Tensor,
    key: torch.Tensor,
    is_real: bool,
    radius: int,
    maps: str = "probability",
    step: int = 1,
) -> torch.Tensor:
    """Mean cross-entropy of the discriminator on the domain of the maps, with the gradient to the features reversed (Eqs. 9 and 10).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features as they leave the encoder.
        is_real (`bool`): The domain of these pairs.
        maps (`str`): `"probability"`: maps after the softmax, as in the paper, times the number of their cells so that inputs
            are of order one. `"correlation"`: the products alone, as in the released code.
        step (`int`): Use every `step`-th cell along each axis, 1, 2, 4 or 8, so that tiles of queries hold whole numbers of them; on all cells
            the discriminator costs more than the encoder.

    Raises:
        `ValueError`: unknown `maps`, or another `step`.
    """
    if step not in ADVERSARIAL_STEPS:
        raise ValueError(f"step must be one of {ADVERSARIAL_STEPS}, got {step!r}.")
    if maps not in ("probability", "correlation"):
        raise ValueError(f"maps must be 'probability' or 'correlation', got {maps!r}.")
    probabilities = maps == "probability"
    scale = query.shape[-1] ** -0.5 if probabilities else 1.0
    total = query.new_zeros((), dtype=torch.float32)
    for window_row in window_maps(query, key, radius, scale, probabilities, step):

        def row_loss(window_row=window_row):
            windows, on_map = window_row()
            windows = _ReverseGradient.apply(windows[on_map])
            logits = discriminator(windows * windows.shape[1] if probabilities else windows).float()
            return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)), reduction="sum")

        total = total + checkpoint(row_loss, use_reentrant=False)
    count = len(query) * (-(-query.shape[1] // step)) * (-(-query.shape[2] // step))
    return total / count
