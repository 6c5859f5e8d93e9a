"""The windowed losses: softmax averages and cross-entropies over the window of every query, without a `(2r+1)^2` map per query in memory.

The map of matching probabilities (Eq. 1) is computed for a row of tiles at a time: a tile of queries is multiplied with the halo of keys that
its windows reach, and keys outside a query's own window are masked. Backward computes the tiles again, so that memory is that of one row.
Products run in the precision of the features; softmax, sums and gradients are accumulated in float32.

On a GPU, Triton kernels compute the same ([`fgvc_hf.kernels.window_losses_triton`]); `FGVC_KERNELS` or the argument `backend` chooses.
"""

import os
from collections.abc import Callable
from functools import wraps

import torch

from ..kernels.dispatch import SWITCH, backend_for
from ..matching.tiles import TILE, check_frames
from .window_targets import Target, kernel_label
from .window_tiles import Tiling, window_scores


LOSSES_MEMORY = 227 * 2**10  # bytes of shared memory that the Triton kernels need, as much as an H100 has


def _by_triton(features: torch.Tensor, backend: str | None) -> bool:
    """Whether Triton computes the losses, else torch. On a CPU numba is not imported to find out: it takes 150 MiB and has no such kernels."""
    if features.device.type == "cpu" and not (backend or os.environ.get(SWITCH)):
        return False
    return backend_for(features, backend, LOSSES_MEMORY) == "triton"


def _without_autocast(method: Callable) -> Callable:
    """A method of an autograd function in the precision of its tensors: autocast would round the weights and values of averages to bfloat16."""

    @wraps(method)
    def computed(ctx, first: torch.Tensor, *others):
        with torch.autocast(first.device.type, enabled=False):
            return method(ctx, first, *others)

    return computed


class _Average(torch.autograd.Function):
    @staticmethod
    @_without_autocast
    def forward(ctx, query, key, values, scale, tiling):
        q_pad, k_pad, v_pad = tiling.pad_queries(query), tiling.pad_keys(key), tiling.pad_keys(values)
        output = values.new_empty(*q_pad.shape[:3], values.shape[-1], dtype=torch.float32)
        for row in tiling.rows():
            scores = window_scores(tiling.queries(q_pad, row), tiling.keys(k_pad, row), scale, row)
            averages = torch.bmm(scores.softmax(-1), tiling.keys(v_pad, row).float())
            tiling.put_queries(averages, row, output)
        output = tiling.crop_queries(output).contiguous()
        ctx.save_for_backward(query, key, values, output)
        ctx.scale, ctx.tiling = scale, tiling
        return output

    @staticmethod
    @_without_autocast
    def backward(ctx, grad):
        tiling, (query, key, values, output) = ctx.tiling, ctx.saved_tensors
        # The gradient of a score is p (g v - g o), with the average o: one matrix product, of (g, -g o) with (v, 1)
        grad = torch.cat([grad, -(grad * output).sum(-1, keepdim=True)], dim=-1)
        values = torch.cat([values.float(), torch.ones_like(output[..., :1])], dim=-1)
        q_pad, k_pad, v_pad = tiling.pad_queries(query), tiling.pad_keys(key), tiling.pad_keys(values)
        grad_pad = tiling.pad_queries(grad * ctx.scale)
        grad_q, grad_k = torch.zeros_like(q_pad, dtype=torch.float32), torch.zeros_like(k_pad, dtype=torch.float32)
        for row in tiling.rows():
            q, k = tiling.queries(q_pad, row), tiling.keys(k_pad, row)
            d_scores = torch.bmm(tiling.queries(grad_pad, row), tiling.keys(v_pad, row).mT)
            d_scores = d_scores.mul_(window_scores(q, k, ctx.scale, row).softmax(-1)).to(q.dtype)
            tiling.put_queries(torch.bmm(d_scores, k).float(), row, grad_q)
            tiling.add_keys(torch.bmm(d_scores.mT, q).float(), row, grad_k)
        grad_q, grad_k = tiling.crop_queries(grad_q).to(query.dtype), tiling.crop_keys(grad_k).to(key.dtype)
        return grad_q, grad_k, None, None, None


def window_average(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    radius: int,
    scale: float,
    outside: str = "excluded",
    backend: str | None = None,
) -> torch.Tensor:
    """Average of the values in each query's window, weighted by the softmax of scaled products (Eq. 6).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features; differentiable.
        values (`torch.Tensor` of shape `(B, h, w, V)`): What is averaged; no gradient flows into it.
        radius (`int`): Window radius in cells.
        scale (`float`): Factor on the products before the softmax.
        outside (`str`): What cells outside the frame do; see [`Tiling`].
        backend (`str`, *optional*): `"torch"` or `"triton"`; see [`fgvc_hf.kernels.dispatch.backend_for`].

    Returns:
        `torch.Tensor` of shape `(B, h, w, V)`, float32.

    Raises:
        `ValueError`: features that do not fit each other, an unknown `outside`, or a back end that does not take them.
    """
    query, (key,) = check_frames(query, [key], dims=4)
    tiling = Tiling(query, radius, outside)
    if _by_triton(query, backend):
        from ..kernels.window_losses_triton import fused_window_average  # Triton may be missing

        return fused_window_average(query, key, values, radius, scale, outside == "zero", TILE)
    return _Average.apply(query, key, values, scale, tiling)


class _CrossEntropy(torch.autograd.Function):
    """Forward also computes the gradients of the sum, softmax minus label, tile by tile; backward scales them."""

    @staticmethod
    @_without_autocast
    def forward(ctx, query, key, valid, target, scale, tiling):
        q_pad, k_pad = tiling.pad_queries(query), tiling.pad_keys(key)
        valid_pad = tiling.pad_queries(valid[..., None].float())
        grad_q, grad_k = torch.zeros_like(q_pad, dtype=torch.float32), torch.zeros_like(k_pad, dtype=torch.float32)
        total = query.new_zeros(len(query), dtype=torch.float32)
        for row in tiling.rows():
            weight = tiling.queries(valid_pad, row)  # (B * nx, 128, 1)
            if not weight.any():
                continue
            q, k = tiling.queries(q_pad, row), tiling.keys(k_pad, row)
            log_probs = window_scores(q, k, scale, row).log_softmax(-1)
            labels = target(tiling, row)
            losses = -(labels * log_probs.clamp_min(-1e4)).sum(
                -1, keepdim=True
            )  # 0 * -inf would be NaN outside the window
            total += (losses * weight).view(len(query), -1).sum(1)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                d_scores = log_probs.exp_().sub_(labels).mul_(weight * scale).to(q.dtype)
                tiling.put_queries(torch.bmm(d_scores, k).float(), row, grad_q)
                tiling.add_keys(torch.bmm(d_scores.mT, q).float(), row, grad_k)
        count = valid.flatten(1).sum(1).clamp_min(1).float()
        ctx.save_for_backward(tiling.crop_queries(grad_q), tiling.crop_keys(grad_k), count)
        ctx.dtypes = query.dtype, key.dtype
        return total / count

    @staticmethod
    @_without_autocast
    def backward(ctx, grad):
        grad_q, grad_k, count = ctx.saved_tensors
        factor = (grad / count).view(-1, 1, 1, 1)
        return (grad_q * factor).to(ctx.dtypes[0]), (grad_k * factor).to(ctx.dtypes[1]), None, None, None, None


def window_cross_entropy(
    query: torch.Tensor,
    key: torch.Tensor,
    valid: torch.Tensor,
    target: Target,
    radius: int,
    scale: float,
    backend: str | None = None,
) -> torch.Tensor:
    """Mean cross-entropy `(B,)` of the window maps of the valid queries (Eq. 1) with their labels.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features; differentiable.
        valid (`torch.Tensor` of shape `(B, h, w)`, bool): The queries that count. Where there is none the loss is 0.
        target: The labels, a distribution over each query's window: [`DiracTarget`], [`GaussianTarget`] or [`SoftTarget`].
        radius (`int`): Window radius in cells.
        scale (`float`): Factor on the products before the softmax: 1 / temperature.
        backend (`str`, *optional*): `"torch"` or `"triton"`; see [`fgvc_hf.kernels.dispatch.backend_for`].

    Raises:
        `ValueError`: features that do not fit each other, or a back end that does not take them or the target.
    """
    query, (key,) = check_frames(query, [key], dims=4)
    if _by_triton(query, backend):
        from ..kernels.window_losses_triton import fused_window_cross_entropy  # Triton may be missing

        return fused_window_cross_entropy(query, key, valid, kernel_label(target), radius, scale, TILE)
    return _CrossEntropy.apply(query, key, valid, target, scale, Tiling(query, radius))


@torch.no_grad()
def window_argmax(query: torch.Tensor, key: torch.Tensor, radius: int) -> torch.Tensor:
    """Position `(B, h, w, 2)` (x, y) of the best key in each query's window, in cells."""
    tiling = Tiling(query, radius)
    q_pad, k_pad = tiling.pad_queries(query), tiling.pad_keys(key)
    output = query.new_empty(*q_pad.shape[:3], 2, dtype=torch.float32)
    for row in tiling.rows():
        best = window_scores(tiling.queries(q_pad, row), tiling.keys(k_pad, row), 1.0, row).argmax(-1)
        tile = torch.arange(len(best), device=best.device)[:, None] % tiling.columns
        x, y = row.key_x[tile, best % tiling.halo[1]], row.key_y[best // tiling.halo[1]]
        tiling.put_queries(torch.stack([x, y], dim=-1).float(), row, output)
    return tiling.crop_queries(output)


class _Windows(torch.autograd.Function):
    """The windows `(n, 8, 16, D, D)` of halo products `(n, 128, Ky * Kx)`, as a strided view of them, and its gradient."""

    @staticmethod
    def forward(ctx, products, halo, size):
        ctx.halo, ctx.size, ctx.shape = halo, size, products.shape
        return _window_view(products.contiguous(), halo, size).contiguous()

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        products = grad.new_zeros(ctx.shape)
        _window_view(products, ctx.halo, ctx.size).copy_(grad)
        return products, None, None


def _window_view(products: torch.Tensor, halo: tuple[int, int], size: int) -> torch.Tensor:
    n, queries, _ = products.shape
    ky, kx = halo
    strides = (queries * ky * kx, TILE[1] * ky * kx + kx, ky * kx + 1, kx, 1)
    return products.as_strided((n, *TILE, size, size), strides)


def window_maps(query: torch.Tensor, key: torch.Tensor, radius: int, scale: float, probabilities: bool, step: int):
    """The window maps of every `step`-th query along each axis, a row of tiles at a time; differentiable.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features.
        radius (`int`): Window radius r in cells.
        scale (`float`): Factor on the products.
        probabilities (`bool`): Whether maps are after the softmax (Eq. 1); else they are scaled products.
        step (`int`): Of the queries, in cells.

    Yields:
        A function of no arguments that returns maps `(M, (2r+1)^2)`, and `(M,)` bool, whether each is of a query on the map. Called in
        `torch.utils.checkpoint` it keeps nothing for backward.
    """
    tiling = Tiling(query, radius, "excluded" if probabilities else "zero")
    q_pad, k_pad = tiling.pad_queries(query), tiling.pad_keys(key)
    size = 2 * radius + 1
    for row in tiling.rows():

        def maps(row=row):
            products = torch.bmm(tiling.queries(q_pad, row), tiling.keys(k_pad, row).mT).float() * scale
            if probabilities:
                allowed = row.allowed.repeat(len(products) // len(row.allowed), 1, 1)
                products = products.masked_fill(~allowed, -torch.inf).softmax(-1)
            windows = _Windows.apply(products, tiling.halo, size)[:, ::step, ::step].flatten(3).flatten(0, 2)
            on_map = ((row.query_y < tiling.h) & (row.query_x < tiling.w)).unflatten(-1, TILE)[:, ::step, ::step]
            return windows, on_map.repeat(len(query), 1, 1).flatten()

        yield maps
