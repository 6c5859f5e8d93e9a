"""The windowed losses as Triton kernels, which keep no product in memory: what [`fgvc_hf.training.window_losses`] computes, by the same definitions.

Forward goes through the keys of each tile of queries once, with a running softmax, and keeps the logarithm of its denominator per query. From
that backward computes the probabilities again: once by tiles of queries for their gradient, and once by tiles of keys for theirs. The window
is symmetric: the queries that a key is seen by are those in its own window, so that no two programs add to the same cell.

Triton's interpreter (`TRITON_INTERPRET=1`) runs the kernels on a CPU, for tests.
"""

import os
from typing import NamedTuple

import torch


try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(f"compiled losses need Triton: pip install triton ({error})") from error

from ..kernels.topk_triton import (
    CHANNELS_AT_ONCE,
    KEYS_PER_BLOCK,
    chunk_of,
    filled,
    halo_cells,
    load_features,
    multiply,
    operand,
    tile_cells,
)
from ..matching.windows import TILE
from .window_losses import DiracTarget, GaussianTarget, SoftTarget, Target


# Channels whose gradient a program sums, in registers; for more the products are computed again
CHANNELS_PER_PROGRAM = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
LEAST = tl.constexpr(-1e30)  # stands for -inf where differences are taken


@triton.jit
def _near(own_y, own_x, y, x, radius: tl.constexpr):
    """Which of the cells (m,) are in the square windows of others (n,): (n, m)."""
    return (tl.abs(y[None, :] - own_y[:, None]) <= radius) & (tl.abs(x[None, :] - own_x[:, None]) <= radius)


@triton.jit
def _running_softmax(scores, maximum, total):
    """Take scores (n, m) into the maximum and the sum of exponentials so far (n,). Also gives the exponentials, and how earlier ones shrink."""
    larger = tl.maximum(maximum, tl.max(scores, axis=1))
    weights = tl.exp(scores - larger[:, None])
    shrink = tl.exp(maximum - larger)
    return larger, total * shrink + tl.sum(weights, axis=1), weights, shrink


@triton.jit
def _label_scores(squared_distance, spread, label: tl.constexpr):
    """Labels are softmaxes of scores too: of a Gaussian's exponent, or of 0 at one cell and -inf elsewhere."""
    if label == "gaussian":
        return -squared_distance * spread
    else:
        return tl.where(squared_distance == 0, 0.0, float("-inf"))


@triton.jit
def _average_kernel(
    query,  # (B, h, w, C)
    key,
    values,  # (B, h, w, V)
    output,  # (B, h, w, V)
    log_total,  # (B, h, w) logarithm of the softmax's denominator
    h,
    w,
    tile_columns,
    scale,
    zero_outside: tl.constexpr,
    radius: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    depth: tl.constexpr,  # V
    depth_filled: tl.constexpr,  # V, filled up to a power of two
    rows: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    top, left, own_y, own_x, own, own_on_map = tile_cells(tl.program_id(0), tile_columns, h, w, rows, columns)
    first = tl.program_id(1).to(tl.int64) * h * w  # cell of this element of the batch
    query, key, values = query + first * channels, key + first * channels, values + first * depth
    maximum, total = tl.full((rows * columns,), LEAST, tl.float32), tl.zeros((rows * columns,), tl.float32)
    average = tl.zeros((rows * columns, depth_filled), tl.float32)
    held = load_features(query, own, own_on_map, 0, channels, chunk)
    for start in range(0, (rows + 2 * radius) * (columns + 2 * radius), block):
        y, x, cell, in_halo, on_map = halo_cells(start, top, left, h, w, radius, rows, columns, block)
        scores = multiply(held, query, own, own_on_map, key, cell, on_map, channels, chunk, precision) * scale
        counts = in_halo if zero_outside else on_map
        scores = tl.where(_near(own_y, own_x, y, x, radius) & counts[None, :], scores, float("-inf"))
        maximum, total, weights, shrink = _running_softmax(scores, maximum, total)
        average *= shrink[:, None]
        here = load_features(values, cell, on_map, 0, depth, depth_filled)
        average = tl.dot(weights, here, average, input_precision=precision)
    channel = tl.arange(0, depth_filled)[None, :]
    target = output + (first + own)[:, None] * depth + channel
    tl.store(target, average / total[:, None], mask=own_on_map[:, None] & (channel < depth))
    tl.store(log_total + first + own, maximum + tl.log(total), mask=own_on_map)


@triton.jit
def _cross_entropy_kernel(
    query,  # (B, h, w, C)
    key,
    positions,  # (B, h, w, 2), of Gaussian and Dirac labels
    warped,  # (B, h, w, T), of soft labels
    teacher,
    losses,  # (B, h, w)
    log_total,  # (B, h, w) logarithm of the softmax's denominator
    label_log_total,  # (B, h, w) and of the labels'; inf where no label is in the window
    h,
    w,
    tile_columns,
    scale,
    label_scale,  # of a teacher's products, or of squared distances
    label: tl.constexpr,
    radius: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    depth: tl.constexpr,  # T
    depth_chunk: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    top, left, own_y, own_x, own, own_on_map = tile_cells(tl.program_id(0), tile_columns, h, w, rows, columns)
    first = tl.program_id(1).to(tl.int64) * h * w  # cell of this element of the batch
    query, key = query + first * channels, key + first * channels
    held = load_features(query, own, own_on_map, 0, channels, chunk)
    if label == "soft":
        warped, teacher = warped + first * depth, teacher + first * depth
        held_warped = load_features(warped, own, own_on_map, 0, depth, depth_chunk)
    else:
        target_x = tl.load(positions + (first + own) * 2, mask=own_on_map, other=0.0)
        target_y = tl.load(positions + (first + own) * 2 + 1, mask=own_on_map, other=0.0)
    maximum, total = tl.full((rows * columns,), LEAST, tl.float32), tl.zeros((rows * columns,), tl.float32)
    label_maximum, label_total, mean = maximum, total, total  # mean: of the scores, weighted by the labels
    for start in range(0, (rows + 2 * radius) * (columns + 2 * radius), block):
        y, x, cell, _, on_map = halo_cells(start, top, left, h, w, radius, rows, columns, block)
        near = _near(own_y, own_x, y, x, radius) & on_map[None, :]
        scores = multiply(held, query, own, own_on_map, key, cell, on_map, channels, chunk, precision) * scale
        maximum, total, _, _ = _running_softmax(tl.where(near, scores, float("-inf")), maximum, total)
        if label == "soft":
            products = multiply(
                held_warped, warped, own, own_on_map, teacher, cell, on_map, depth, depth_chunk, precision
            )
            label_scores = products * label_scale
        else:
            dy, dx = y[None, :] - target_y[:, None], x[None, :] - target_x[:, None]
            label_scores = _label_scores(dy * dy + dx * dx, label_scale, label)
        label_scores = tl.where(near, label_scores, float("-inf"))
        label_maximum, label_total, labels, shrink = _running_softmax(label_scores, label_maximum, label_total)
        mean = mean * shrink + tl.sum(labels * scores, axis=1)
    found = label_total > 0
    logarithm = maximum + tl.log(total)
    tl.store(losses + first + own, tl.where(found, logarithm - mean / label_total, 0.0), mask=own_on_map)
    tl.store(log_total + first + own, tl.where(found, logarithm, float("inf")), mask=own_on_map)
    label_logarithm = tl.where(found, label_maximum + tl.log(label_total), float("inf"))
    tl.store(label_log_total + first + own, label_logarithm, mask=own_on_map)


@triton.jit
def _gradient_kernel(
    own_features,  # (B, h, w, C): of the queries, or (`of_keys`) of the keys; the gradient of these is computed
    other_features,  # of the keys, or of the queries
    own_second,  # (B, h, w, D): gradient of the average or warped teacher, or (`of_keys`) values or teacher
    other_second,  # the other of the two
    positions,  # (B, h, w, 2) of Gaussian and Dirac labels
    log_total,  # (B, h, w) of the queries; inf where a query does not count
    second_log_total,  # (B, h, w) of their labels; for an average, the product of the average and its gradient
    factor,  # (B,)
    gradient,  # (B, h, w, C), float32
    h,
    w,
    tile_columns,
    scale,
    second_scale,
    kind: tl.constexpr,  # "average", or a label
    of_keys: tl.constexpr,
    radius: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    depth: tl.constexpr,  # D
    depth_chunk: tl.constexpr,
    part: tl.constexpr,  # channels that one program computes the gradient of
    rows: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
):
    top, left, own_y, own_x, own, own_on_map = tile_cells(tl.program_id(0), tile_columns, h, w, rows, columns)
    first = tl.program_id(1).to(tl.int64) * h * w  # cell of this element of the batch
    own_features, other_features = own_features + first * channels, other_features + first * channels
    log_total, second_log_total = log_total + first, second_log_total + first
    held = load_features(own_features, own, own_on_map, 0, channels, chunk)
    by_product: tl.constexpr = kind == "average" or kind == "soft"
    if by_product:
        own_second, other_second = own_second + first * depth, other_second + first * depth
        held_second = load_features(own_second, own, own_on_map, 0, depth, depth_chunk)
    else:
        positions = positions + first * 2
    first_channel = tl.program_id(2) * part
    total = tl.zeros((rows * columns, part), tl.float32)
    for start in range(0, (rows + 2 * radius) * (columns + 2 * radius), block):
        y, x, other, _, on_map = halo_cells(start, top, left, h, w, radius, rows, columns, block)
        near = _near(own_y, own_x, y, x, radius) & on_map[None, :]
        scores = multiply(
            held, own_features, own, own_on_map, other_features, other, on_map, channels, chunk, precision
        )
        if of_keys:
            query, counts = other[None, :], on_map[None, :]
            key_y, key_x = own_y[:, None], own_x[:, None]
        else:
            query, counts = own[:, None], own_on_map[:, None]
            key_y, key_x = y[None, :], x[None, :]
        probabilities = tl.exp(scores * scale - tl.load(log_total + query, mask=counts, other=float("inf")))
        logarithm = tl.load(second_log_total + query, mask=counts, other=0.0)
        if by_product:
            second = multiply(
                held_second, own_second, own, own_on_map, other_second, other, on_map, depth, depth_chunk, precision
            )
        else:
            dx = key_x - tl.load(positions + query * 2, mask=counts, other=0.0)
            dy = key_y - tl.load(positions + query * 2 + 1, mask=counts, other=0.0)
            second = _label_scores(dy * dy + dx * dx, second_scale, kind)
        if kind == "average":
            slopes = probabilities * (second - logarithm)
        else:
            slopes = probabilities - tl.exp((second * second_scale if kind == "soft" else second) - logarithm)
        slopes = tl.where(near, slopes, 0.0)
        here = load_features(other_features, other, on_map, first_channel, channels, part)
        total = tl.dot(slopes.to(here.dtype), here, total, input_precision=precision)
    channel = first_channel + tl.arange(0, part)[None, :]
    target = gradient + (first + own)[:, None] * channels + channel
    there = own_on_map[:, None] & (channel < channels)
    tl.store(target, total * tl.load(factor + tl.program_id(1)), mask=there)


def _check(features: torch.Tensor) -> None:
    if not (features.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError(f"compiled losses need features on a GPU, got {features.device.type}.")
    if features.dtype not in CHANNELS_AT_ONCE:
        raise ValueError(f"compiled losses take float32, bfloat16 or float16, got {features.dtype}.")


class _Launch:
    """What all kernels on maps like these features (B, h, w, C) are given."""

    def __init__(self, features: torch.Tensor, radius: int, scale: float):
        _check(features)
        self.batch, self.h, self.w, self.channels = features.shape
        self.features, self.radius, self.scale = features, radius, scale

    def __call__(self, kernel, *arguments, parts: int = 1, **options) -> None:
        tile_columns = -(-self.w // TILE[1])
        with torch.cuda.device_of(self.features):
            kernel[(-(-self.h // TILE[0]) * tile_columns, self.batch, parts)](
                *arguments,
                self.h,
                self.w,
                tile_columns,
                self.scale,
                radius=self.radius,
                channels=self.channels,
                chunk=chunk_of(self.channels, self.features.dtype),
                rows=TILE[0],
                columns=TILE[1],
                block=KEYS_PER_BLOCK,
                precision="tf32x3" if self.features.dtype == torch.float32 else "tf32",
                num_warps=8,
                num_stages=2,
                **options,
            )

    def gradients(
        self, query, key, second, positions, log_total, second_log_total, factor, second_scale, kind
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of queries and of keys; `second` are the features (B, h, w, D) whose products are the other part of the slope."""
        results, depth = [], 1 if second[0] is None else second[0].shape[-1]
        part = min(CHANNELS_PER_PROGRAM[query.dtype], filled(self.channels))
        for of_keys, (own, other), (own_second, other_second) in (
            (False, (query, key), second),
            (True, (key, query), second[::-1]),
        ):
            gradient = torch.empty(own.shape, dtype=torch.float32, device=own.device)
            self(
                _gradient_kernel,
                *(operand(own), operand(other), own_second, other_second, positions),
                *(log_total, second_log_total, factor.float().contiguous(), gradient),
                second_scale=second_scale,
                kind=kind,
                of_keys=of_keys,
                depth=depth,
                depth_chunk=chunk_of(depth, query.dtype),
                part=part,
                parts=-(-self.channels // part),
            )
            results.append(gradient.to(own.dtype))
        return results[0], results[1]


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, values, radius, scale, outside):
        launch, values = _Launch(query, radius, scale), values.float().contiguous()
        output = values.new_empty(values.shape)
        log_total = values.new_empty(values.shape[:3])
        launch(
            _average_kernel,
            *(operand(query), operand(key), values, output, log_total),
            zero_outside=outside == "zero",
            depth=values.shape[-1],
            depth_filled=filled(values.shape[-1]),
        )
        ctx.save_for_backward(query, key, values, output, log_total)
        ctx.launch = launch
        return output

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        (query, key, values, output, log_total), launch = ctx.saved_tensors, ctx.launch
        grad = grad.contiguous()
        factor = values.new_full((len(query),), launch.scale)
        slopes = (grad * output).sum(-1)
        gradients = launch.gradients(query, key, (grad, values), None, log_total, slopes, factor, 1.0, "average")
        return *gradients, None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, valid, target, radius, scale):
        launch, label = _Launch(query, radius, scale), _label(target)
        losses, log_total, label_log_total = query.new_empty((3, *query.shape[:3]), dtype=torch.float32)
        depth = 1 if label.warped is None else label.warped.shape[-1]
        launch(
            _cross_entropy_kernel,
            *(operand(query), operand(key), label.positions, label.warped, label.teacher),
            *(losses, log_total, label_log_total),
            label_scale=label.scale,
            label=label.kind,
            depth=depth,
            depth_chunk=chunk_of(depth, query.dtype),
        )
        count = valid.flatten(1).sum(1).clamp_min(1).float()
        ctx.save_for_backward(
            *(query, key, count, label.positions, label.warped, label.teacher),
            *(part.masked_fill(~valid, torch.inf) for part in (log_total, label_log_total)),
        )
        ctx.launch, ctx.label = launch, (label.scale, label.kind)
        return losses.masked_fill(~valid, 0).flatten(1).sum(1) / count

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        query, key, count, positions, warped, teacher, log_total, label_log_total = ctx.saved_tensors
        factor = grad / count * ctx.launch.scale
        totals = log_total, label_log_total
        gradients = ctx.launch.gradients(query, key, (warped, teacher), positions, *totals, factor, *ctx.label)
        return *gradients, None, None, None, None


class _Label(NamedTuple):
    """A target as kernels read it."""

    kind: str
    positions: torch.Tensor | None = None  # (B, h, w, 2)
    warped: torch.Tensor | None = None  # (B, h, w, T)
    teacher: torch.Tensor | None = None
    scale: float = 1.0


def _label(target: Target) -> _Label:
    if isinstance(target, DiracTarget):
        return _Label("dirac", positions=target.positions.float().round().contiguous())
    if isinstance(target, GaussianTarget):
        return _Label("gaussian", positions=target.positions.float().contiguous(), scale=0.5 / target.sigma**2)
    if isinstance(target, SoftTarget):
        return _Label("soft", warped=operand(target.warped), teacher=operand(target.teacher), scale=target.scale)
    raise ValueError(f"compiled losses know dirac, gaussian and soft targets, got {type(target).__name__}.")


def window_average(
    query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, radius: int, scale: float, outside: str
) -> torch.Tensor:
    """As [`fgvc_hf.training.window_losses.window_average`].

    Raises:
        `ValueError`: the features are not on a GPU (nor interpreted), or neither float32, bfloat16 nor float16.
    """
    return _Average.apply(query, key, values, radius, scale, outside)


def window_cross_entropy(
    query: torch.Tensor, key: torch.Tensor, valid: torch.Tensor, target: Target, radius: int, scale: float
) -> torch.Tensor:
    """As [`fgvc_hf.training.window_losses.window_cross_entropy`]; a query whose label lies outside its window has loss 0, and no gradient."""
    return _CrossEntropy.apply(query, key, valid, target, radius, scale)
