"""Windowed attention for training, differentiable, that never holds a (2r+1)^2 map for every pixel.

The map of matching probabilities (Eq. 1 of the paper) is computed tile by tile, as in the matching core: a tile of queries
is multiplied with the halo of keys that its windows reach, and keys of the halo outside a query's own window are masked.
Backward computes the tiles again instead of keeping them, so that memory is that of one row of tiles.

Features are channels last, `(B, h, w, C)`. Products run in the precision of the features; softmax, sums and gradients
are accumulated in float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..kernels.dispatch import TRITON_TYPES, triton_fits
from ..matching.windows import TILE


LOSSES_MEMORY = 227 * 2**10  # bytes of shared memory that Triton's kernels may take: an H100 has so much


@dataclass(frozen=True)
class TileRow:
    """One row of tiles: where its queries and keys are, and which keys are in whose window.

    Args:
        top (`int`): Row of the map at which the tiles start.
        query_y (`(128,)`), query_x (`(nx, 128)`), key_y (`(Ky,)`), key_x (`(nx, Kx)`): Coordinates in cells.
        allowed (`torch.Tensor` of shape `(nx, 128, Ky * Kx)`, bool): Keys in the window; all, for queries off the map.
        bias (`torch.Tensor` of shape `(nx, 128, Ky * Kx)`): 0 where keys are allowed, -inf elsewhere.
    """

    top: int
    query_y: torch.Tensor
    query_x: torch.Tensor
    key_y: torch.Tensor
    key_x: torch.Tensor
    allowed: torch.Tensor
    bias: torch.Tensor


class Tiling:
    """The tiles that cover a map `(B, h, w, C)`, with halos of `radius` cells.

    Args:
        outside (`str`): `"excluded"`: keys outside the frame take no part. `"zero"`: they take part with score 0, as in the
            official code.
    """

    def __init__(self, features: torch.Tensor, radius: int, outside: str = "excluded"):
        if outside not in ("excluded", "zero"):
            raise ValueError(f"outside must be 'excluded' or 'zero', got {outside!r}.")
        self.h, self.w = features.shape[1], features.shape[2]
        self.radius, self.device, self.outside = radius, features.device, outside
        self.below, self.right = -self.h % TILE[0], -self.w % TILE[1]
        self.columns = (self.w + self.right) // TILE[1]
        self.halo = (TILE[0] + 2 * radius, TILE[1] + 2 * radius)

    def rows(self) -> Iterator[TileRow]:
        r, device = self.radius, self.device
        query = torch.arange(TILE[0] * TILE[1], device=device)
        left = torch.arange(self.columns, device=device)[:, None] * TILE[1]
        query_x = left + query % TILE[1]
        key_x = left - r + torch.arange(self.halo[1], device=device)
        borders, allowed, bias = None, query_x, query_x
        for top in range(0, self.h, TILE[0]):
            query_y = top + query // TILE[1]
            key_y = top - r + torch.arange(self.halo[0], device=device)
            last, borders = borders, (min(top - r, 0), max(top + TILE[0] + r - self.h, 0))
            if borders != last:  # rows away from the border of the map have the same windows
                allowed = self._allowed(query_y, query_x, key_y, key_x)
                bias = torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, -torch.inf)
            yield TileRow(top, query_y, query_x, key_y, key_x, allowed, bias)

    def _allowed(self, query_y, query_x, key_y, key_x) -> torch.Tensor:
        near_y = (key_y - query_y[:, None]).abs() <= self.radius  # (128, Ky)
        near_x = (key_x[:, None] - query_x[..., None]).abs() <= self.radius  # (nx, 128, Kx)
        if self.outside == "excluded":
            near_y = near_y & (key_y >= 0) & (key_y < self.h)
            near_x = near_x & ((key_x >= 0) & (key_x < self.w))[:, None]
        allowed = near_y[..., None] & near_x[:, :, None]  # (nx, 128, Ky, Kx)
        allowed |= ((query_y >= self.h) | (query_x >= self.w))[..., None, None]  # their results are dropped
        return allowed.flatten(2)

    def pad_queries(self, values: torch.Tensor) -> torch.Tensor:
        return F.pad(values, (0, 0, 0, self.right, 0, self.below))

    def pad_keys(self, values: torch.Tensor) -> torch.Tensor:
        r = self.radius
        return F.pad(values, (0, 0, r, r + self.right, r, r + self.below))

    def queries(self, padded: torch.Tensor, row: TileRow) -> torch.Tensor:
        """`(B * nx, 128, C)` of padded queries."""
        strip = padded[:, row.top : row.top + TILE[0]].unflatten(2, (self.columns, TILE[1]))  # (B, 8, nx, 16, C)
        return strip.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def keys(self, padded: torch.Tensor, row: TileRow) -> torch.Tensor:
        """`(B * nx, Ky * Kx, C)` of padded keys."""
        strip = padded[:, row.top : row.top + self.halo[0]].unfold(2, self.halo[1], TILE[1])  # (B, Ky, nx, C, Kx)
        return strip.permute(0, 2, 1, 4, 3).reshape(-1, self.halo[0] * self.halo[1], padded.shape[-1])

    def put_queries(self, tiles: torch.Tensor, row: TileRow, padded: torch.Tensor) -> None:
        """Write `(B * nx, 128, C)` back to where [`Tiling.queries`] took them from."""
        strip = tiles.view(-1, self.columns, *TILE, tiles.shape[-1]).transpose(1, 2)
        padded[:, row.top : row.top + TILE[0]] = strip.flatten(2, 3)

    def add_keys(self, tiles: torch.Tensor, row: TileRow, padded: torch.Tensor) -> None:
        """Add `(B * nx, Ky * Kx, C)` to where [`Tiling.keys`] took them from; halos overlap."""
        tiles = tiles.view(-1, self.columns, *self.halo, tiles.shape[-1])
        for column in range(self.columns):
            left = column * TILE[1]
            padded[:, row.top : row.top + self.halo[0], left : left + self.halo[1]] += tiles[:, column]

    def crop_queries(self, padded: torch.Tensor) -> torch.Tensor:
        return padded[:, : self.h, : self.w]

    def crop_keys(self, padded: torch.Tensor) -> torch.Tensor:
        r = self.radius
        return padded[:, r : r + self.h, r : r + self.w]


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float, row: TileRow) -> torch.Tensor:
    """Scaled products `(B * nx, 128, Ky * Kx)` in float32, -inf outside the window."""
    products = torch.bmm(q, k.transpose(1, 2)).unflatten(0, (-1, len(row.bias)))
    return torch.add(row.bias, products, alpha=scale).flatten(0, 1)


def _by_triton(features: torch.Tensor, compiled: bool | None) -> bool:
    """Whether Triton computes what is asked of these features."""
    if compiled is not None:
        return compiled
    return features.dtype in TRITON_TYPES and triton_fits(features.device, LOSSES_MEMORY)


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, values, scale, tiling):
        q_pad, k_pad, v_pad = tiling.pad_queries(query), tiling.pad_keys(key), tiling.pad_keys(values)
        output = values.new_empty(*q_pad.shape[:3], values.shape[-1], dtype=torch.float32)
        for row in tiling.rows():
            scores = _scores(tiling.queries(q_pad, row), tiling.keys(k_pad, row), scale, row)
            averages = torch.bmm(scores.softmax(-1), tiling.keys(v_pad, row).float())
            tiling.put_queries(averages, row, output)
        output = tiling.crop_queries(output).contiguous()
        ctx.save_for_backward(query, key, values, output)
        ctx.scale, ctx.tiling = scale, tiling
        return output

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        tiling, (query, key, values, output) = ctx.tiling, ctx.saved_tensors
        # A score's gradient is p (g v - g o), with the average o: one product, of (g, -g o) and (v, 1)
        grad = torch.cat([grad, -(grad * output).sum(-1, keepdim=True)], dim=-1)
        values = torch.cat([values.float(), torch.ones_like(output[..., :1])], dim=-1)
        q_pad, k_pad, v_pad = tiling.pad_queries(query), tiling.pad_keys(key), tiling.pad_keys(values)
        grad_pad = tiling.pad_queries(grad * ctx.scale)
        grad_q, grad_k = torch.zeros_like(q_pad, dtype=torch.float32), torch.zeros_like(k_pad, dtype=torch.float32)
        for row in tiling.rows():
            q, k = tiling.queries(q_pad, row), tiling.keys(k_pad, row)
            d_scores = torch.bmm(tiling.queries(grad_pad, row), tiling.keys(v_pad, row).transpose(1, 2))
            d_scores = d_scores.mul_(_scores(q, k, ctx.scale, row).softmax(-1)).to(q.dtype)
            tiling.put_queries(torch.bmm(d_scores, k).float(), row, grad_q)
            tiling.add_keys(torch.bmm(d_scores.transpose(1, 2), q).float(), row, grad_k)
        grad_q, grad_k = tiling.crop_queries(grad_q).to(query.dtype), tiling.crop_keys(grad_k).to(key.dtype)
        return grad_q, grad_k, None, None, None


def window_average(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    radius: int,
    scale: float,
    outside: str = "excluded",
    compiled: bool | None = None,
) -> torch.Tensor:
    """Average of the values of the keys in each query's window, weighted by the softmax of scaled products (Eq. 6).

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features; differentiable.
        values (`torch.Tensor` of shape `(B, h, w, V)`): What is averaged; no gradient flows into it.
        radius (`int`): Window radius in cells.
        scale (`float`): Factor on the products before the softmax.
        outside (`str`): What cells outside the frame do; see [`Tiling`].
        compiled (`bool`, *optional*): Whether by Triton, see [`fgvc_hf.training.window_losses_triton`]; if not given, on GPUs that it is made for.

    Returns:
        `torch.Tensor` of shape `(B, h, w, V)`, float32.
    """
    tiling = Tiling(query, radius, outside)
    if _by_triton(query, compiled):
        from .window_losses_triton import window_average as compiled_average  # Triton may be missing

        return compiled_average(query, key, values, radius, scale, outside)
    return _Average.apply(query, key, values, scale, tiling)


Target = Callable[[Tiling, TileRow], torch.Tensor]  # label probabilities (B * nx, 128, Ky * Kx) of a row of tiles


class _CrossEntropy(torch.autograd.Function):
    """The gradient of a mean is known as soon as the mean is: forward computes it along the way, backward scales it."""

    @staticmethod
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
            log_probs = _scores(q, k, scale, row).log_softmax(-1)
            labels = target(tiling, row)
            losses = -(labels * log_probs.clamp_min(-1e4)).sum(-1, keepdim=True)  # a label is 0 where that is -inf
            total += (losses * weight).view(len(query), -1).sum(1)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                d_scores = log_probs.exp_().sub_(labels).mul_(weight * scale).to(q.dtype)
                tiling.put_queries(torch.bmm(d_scores, k).float(), row, grad_q)
                tiling.add_keys(torch.bmm(d_scores.transpose(1, 2), q).float(), row, grad_k)
        count = valid.flatten(1).sum(1).clamp_min(1).float()
        ctx.save_for_backward(tiling.crop_queries(grad_q), tiling.crop_keys(grad_k), count)
        ctx.dtypes = query.dtype, key.dtype
        return total / count

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
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
    compiled: bool | None = None,
) -> torch.Tensor:
    """Mean cross-entropy `(B,)` between the window map of each valid query and its label.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features; differentiable.
        valid (`torch.Tensor` of shape `(B, h, w)`, bool): The queries that count. Where there is none the loss is 0.
        target: The labels, a distribution over each query's window: [`DiracTarget`], [`GaussianTarget`] or [`SoftTarget`].
        radius (`int`): Window radius in cells.
        scale (`float`): Factor on the products before the softmax.
        compiled (`bool`, *optional*): Whether by Triton, see [`fgvc_hf.training.window_losses_triton`]; if not given, on GPUs that it is made for.
    """
    if _by_triton(query, compiled):
        from .window_losses_triton import window_cross_entropy as compiled_cross_entropy  # Triton may be missing

        return compiled_cross_entropy(query, key, valid, target, radius, scale)
    tiling = Tiling(query, radius)
    return _CrossEntropy.apply(query, key, valid, target, scale, tiling)


@dataclass(frozen=True)
class DiracTarget:
    """All the mass of a label at the cell nearest to the target position `(B, h, w, 2)`, (x, y) in cells (Eq. 2)."""

    positions: torch.Tensor

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        positions = tiling.queries(tiling.pad_queries(self.positions.round()), row)
        x, y = positions.unflatten(0, (-1, tiling.columns)).unbind(-1)
        labels_y = (row.key_y == y[..., None])[..., None]  # (B, nx, 128, Ky, 1)
        labels_x = (row.key_x[:, None] == x[..., None])[..., None, :]  # (B, nx, 128, 1, Kx)
        return (labels_y & labels_x).flatten(3).flatten(0, 1).float()


@dataclass(frozen=True)
class GaussianTarget:
    """A Gaussian of `sigma` cells around the target position `(B, h, w, 2)`, cut off at the window (Eqs. 3 and 4)."""

    positions: torch.Tensor
    sigma: float

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        positions = tiling.queries(tiling.pad_queries(self.positions), row)
        x, y = positions.unflatten(0, (-1, tiling.columns)).unbind(-1)
        labels_y = (-((row.key_y - y[..., None]) ** 2) / (2 * self.sigma**2)).exp()[..., None]
        labels_x = (-((row.key_x[:, None] - x[..., None]) ** 2) / (2 * self.sigma**2)).exp()[..., None, :]
        labels = (labels_y * labels_x).flatten(3) * row.allowed
        return (labels / labels.sum(-1, keepdim=True).clamp_min(1e-12)).flatten(0, 1)


@dataclass(frozen=True)
class SoftTarget:
    """The map of a teacher that looks for its own feature at the target position (Eq. 5).

    Args:
        warped (`torch.Tensor` of shape `(B, h, w, C)`): The teacher's features of the key frame, at the target positions.
        teacher (`torch.Tensor` of shape `(B, h, w, C)`): The teacher's features of the key frame.
        scale (`float`): Factor on their products before the softmax.
    """

    warped: torch.Tensor
    teacher: torch.Tensor
    scale: float

    def __call__(self, tiling: Tiling, row: TileRow) -> torch.Tensor:
        q = tiling.queries(tiling.pad_queries(self.warped), row)
        return _scores(q, tiling.keys(tiling.pad_keys(self.teacher), row), self.scale, row).softmax(-1)


@torch.no_grad()
def window_argmax(query: torch.Tensor, key: torch.Tensor, radius: int) -> torch.Tensor:
    """Position `(B, h, w, 2)` (x, y) of the best key in each query's window, in cells."""
    tiling = Tiling(query, radius)
    q_pad, k_pad = tiling.pad_queries(query), tiling.pad_keys(key)
    output = query.new_empty(*q_pad.shape[:3], 2, dtype=torch.float32)
    for row in tiling.rows():
        best = _scores(tiling.queries(q_pad, row), tiling.keys(k_pad, row), 1.0, row).argmax(-1)
        tile = torch.arange(len(best), device=best.device)[:, None] % tiling.columns
        x, y = row.key_x[tile, best % tiling.halo[1]], row.key_y[best // tiling.halo[1]]
        tiling.put_queries(torch.stack([x, y], dim=-1).float(), row, output)
    return tiling.crop_queries(output)


class _Windows(torch.autograd.Function):
    """The windows `(n, 8, 16, D, D)` of halo products `(n, 128, Ky * Kx)`: every element of the output is one of the input."""

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
    """The window maps of every `step`-th query in both directions, a row of tiles at a time; differentiable.

    Yields:
        A function of no arguments that gives maps `(M, (2r+1)^2)` and which of them belong to queries on the map. Called under
        `torch.utils.checkpoint` it keeps nothing for backward.
    """
    tiling = Tiling(query, radius, "excluded" if probabilities else "zero")
    q_pad, k_pad = tiling.pad_queries(query), tiling.pad_keys(key)
    size = 2 * radius + 1
    for row in tiling.rows():

        def maps(row=row):
            products = torch.bmm(tiling.queries(q_pad, row), tiling.keys(k_pad, row).transpose(1, 2)).float() * scale
            if probabilities:
                allowed = row.allowed.repeat(len(products) // len(row.allowed), 1, 1)
                products = products.masked_fill(~allowed, -torch.inf).softmax(-1)
            windows = _Windows.apply(products, tiling.halo, size)[:, ::step, ::step].flatten(3).flatten(0, 2)
            on_map = ((row.query_y < tiling.h) & (row.query_x < tiling.w)).unflatten(-1, TILE)[:, ::step, ::step]
            return windows, on_map.repeat(len(query), 1, 1).flatten()

        yield maps
