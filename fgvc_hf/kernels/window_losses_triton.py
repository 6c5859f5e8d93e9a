"""The windowed losses of training as Triton kernels. No product reaches memory: forward goes through the keys of each tile of queries once.

Forward is a softmax over a running maximum and keeps the logarithm of its denominator per query. Backward computes the probabilities again
from it: once by tiles of queries for their gradient, and once by tiles of keys for theirs. The window is symmetric, the queries that see a key
are those in the key's own window, so no two programs add to the same cell.

[`fgvc_hf.training.window_losses`] defines them in torch and calls these kernels. `TRITON_INTERPRET=1` runs them on a CPU, for tests.
"""

from typing import NamedTuple

import torch


try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(f"losses on a GPU by Triton need it: pip install triton ({error})") from error

from .topk_triton import (
    KEYS_PER_BLOCK,
    chunk_of,
    filled,
    halo_cells,
    load_features,
    multiply,
    operand,
    tile_cells,
)


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
def _position_scores(dy, dx, spread, label: tl.constexpr):
    """Scores whose softmax over the keys is the label of a query: a Gaussian's exponent, or 0 at one cell and -inf elsewhere."""
    squared_distance = dy * dy + dx * dx
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
            label_scores = label_scale * multiply(
                held_warped, warped, own, own_on_map, teacher, cell, on_map, depth, depth_chunk, precision
            )
        else:
            dy, dx = y[None, :] - target_y[:, None], x[None, :] - target_x[:, None]
            label_scores = _position_scores(dy, dx, label_scale, label)
        label_scores = tl.where(near, label_scores, float("-inf"))
        label_maximum, label_total, labels, shrink = _running_softmax(label_scores, label_maximum, label_total)
        mean = mean * shrink + tl.sum(labels * scores, axis=1)
    found = label_total > 0
    logarithm = maximum + tl.log(total)
    tl.store(losses + first + own, tl.where(found, logarithm - mean / label_total, 0.0), mask=own_on_map)
    tl.store(log_total + first + own, tl.where(found, logarithm, float("inf")), mask=own_on_map)
    label_logarithm = tl.where(found, label_maximum + tl.log(label_total), float("inf"))
    tl.store(label_log_total + first + own, label_logarithm, mask=own_on_map)


@triton.jit  # over 60 lines: 27 of them are arguments
def _gradient_kernel(
    own_features,  # (B, h, w, C): queries, or keys if `of_keys`; the gradient of these is computed
    other_features,  # keys, or queries
    own_second,  # (B, h, w, D) of the same cells: gradient of the average, or warped teacher; if `of_keys` values, or teacher
    other_second,  # of the other cells
    positions,  # (B, h, w, 2) of Gaussian and Dirac labels
    log_total,  # (B, h, w) of the queries; inf where a query does not count
    second_log_total,  # (B, h, w) of their labels; for an average, the dot product of the average and its gradient
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
            second = _position_scores(dy, dx, second_scale, kind)
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


class Label(NamedTuple):
    """A label distribution over the window of every query, as kernels read it.

    Args:
        kind (`str`): `"dirac"` and `"gaussian"` are around `positions`; `"soft"` is the softmax of products of `warped` with `teacher`.
        scale (`float`): Half the inverse variance of a Gaussian, in 1 / cells^2; or the factor on the products.
        positions (`torch.Tensor` of shape `(B, h, w, 2)`, float32): (x, y) in cells; whole cells for `"dirac"`.
        warped, teacher (`torch.Tensor` of shape `(B, h, w, T)`): Features of the queries' targets and of the keys.
    """

    kind: str
    scale: float
    positions: torch.Tensor | None = None
    warped: torch.Tensor | None = None
    teacher: torch.Tensor | None = None


class _Launch(NamedTuple):
    """Launches kernels on maps like `features` (B, h, w, C): one program per tile of queries and element of the batch."""

    features: torch.Tensor
    radius: int
    scale: float
    tile: tuple[int, int]

    def __call__(self, kernel, *arguments, parts: int = 1, **options) -> None:
        (batch, h, w, channels), (rows, columns) = self.features.shape, self.tile
        tile_columns = -(-w // columns)
        with torch.cuda.device_of(self.features):
            kernel[(-(-h // rows) * tile_columns, batch, parts)](
                *arguments,
                *(h, w, tile_columns, self.scale),
                radius=self.radius,
                channels=channels,
                chunk=chunk_of(channels, self.features.dtype),
                rows=rows,
                columns=columns,
                block=KEYS_PER_BLOCK,
                precision="tf32x3" if self.features.dtype == torch.float32 else "tf32",
                num_warps=8,
                num_stages=2,
                **options,
            )

    def gradients(self, query, key, kind, second_scale, second, positions, totals, factor):
        """Gradients of the queries and of the keys (B, h, w, C); the other arguments are those of [`_gradient_kernel`]."""
        results, channels, depth = [], query.shape[-1], 1 if second[0] is None else second[0].shape[-1]
        part = min(CHANNELS_PER_PROGRAM[query.dtype], filled(channels))
        pairs = ((query, key), second), ((key, query), second[::-1])
        for of_keys, ((own, other), (own_second, other_second)) in enumerate(pairs):
            gradient = torch.empty(own.shape, dtype=torch.float32, device=own.device)
            self(
                _gradient_kernel,
                *(operand(own), operand(other), own_second, other_second, positions),
                *(*totals, factor.float().contiguous(), gradient),
                second_scale=second_scale,
                kind=kind,
                of_keys=bool(of_keys),
                depth=depth,
                depth_chunk=chunk_of(depth, query.dtype),
                part=part,
                parts=-(-channels // part),
            )
            results.append(gradient.to(own.dtype))
        return results


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, values, radius, scale, zero_outside, tile):
        launch, values = _Launch(query, radius, scale, tile), values.float().contiguous()
        output, log_total = values.new_empty(values.shape), values.new_empty(values.shape[:3])
        launch(
            _average_kernel,
            *(operand(query), operand(key), values, output, log_total),
            zero_outside=zero_outside,
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
        totals = log_total, (grad * output).sum(-1)
        gradients = launch.gradients(query, key, "average", 1.0, (grad, values), None, totals, factor)
        return *gradients, None, None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, valid, label, radius, scale, tile):
        launch, (kind, label_scale, positions, *maps) = _Launch(query, radius, scale, tile), label
        maps = [None if features is None else operand(features) for features in maps]
        losses, *totals = query.new_empty((3, *query.shape[:3]), dtype=torch.float32)
        depth = 1 if maps[0] is None else maps[0].shape[-1]
        launch(
            _cross_entropy_kernel,
            *(operand(query), operand(key), positions, *maps, losses, *totals),
            label_scale=label_scale,
            label=kind,
            depth=depth,
            depth_chunk=chunk_of(depth, query.dtype),
        )
        count = valid.flatten(1).sum(1).clamp_min(1).float()
        totals = [total.masked_fill(~valid, torch.inf) for total in totals]
        ctx.save_for_backward(query, key, count, positions, *maps, *totals)
        ctx.launch, ctx.label = launch, (kind, label_scale)
        return losses.masked_fill(~valid, 0).flatten(1).sum(1) / count

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        query, key, count, positions, warped, teacher, *totals = ctx.saved_tensors
        factor = grad / count * ctx.launch.scale
        gradients = ctx.launch.gradients(query, key, *ctx.label, (warped, teacher), positions, totals, factor)
        return *gradients, None, None, None, None, None


def fused_window_average(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    radius: int,
    scale: float,
    zero_outside: bool,
    tile: tuple[int, int],
) -> torch.Tensor:
    """Softmax average `(B, h, w, V)` of the values in each query's window, differentiable in query and key.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`), values (`(B, h, w, V)`): float32, bfloat16 or float16.
        zero_outside (`bool`): Whether cells outside the map take part with score 0 and value 0; else they take no part.
        tile (`tuple[int, int]`): Rows and columns of queries per program, powers of two.
    """
    return _Average.apply(query, key, values, radius, scale, zero_outside, tile)


def fused_window_cross_entropy(
    query: torch.Tensor,
    key: torch.Tensor,
    valid: torch.Tensor,
    label: Label,
    radius: int,
    scale: float,
    tile: tuple[int, int],
) -> torch.Tensor:
    """Mean cross-entropy `(B,)` of the window maps of the valid queries with their labels, differentiable in query and key.

    A query whose label lies outside its window has loss 0 and no gradient.
    """
    return _CrossEntropy.apply(query, key, valid, label, radius, scale, tile)
