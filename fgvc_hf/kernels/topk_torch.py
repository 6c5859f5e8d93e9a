"""Top-k of matching scores in torch, for any device and precision.

[`fgvc_hf.kernels.topk_numba.NumbaTopk`] has the same three functions for a CPU. On a GPU, [`fgvc_hf.kernels.topk_triton.fused_topk`]
computes the products and their top-k in one kernel.
"""

from collections.abc import Sequence

import torch

from .chunks import CHUNK_BYTES, limit_for


class TorchTopk:
    """Top-k of tiles and of blocks of queries."""

    @staticmethod
    def select(products: torch.Tensor, half_widths: Sequence[int], topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Exact top-k of every window, in two stages: the k rows with the largest maxima hold the k largest values.

        Args:
            products (`torch.Tensor` of shape `(n, tile, tile, F, Ky, Kx)`):
                Of the queries (row, column) of n tiles with the keys of their halos in F frames; the window of query (0, 0) begins
                at key (0, 0), and moves by one key from one query to the next.
            half_widths (sequence of D `int`): Half-width of each row of the window; its row holds 2 * half-width + 1 keys.
            topk (`int`): Keys kept per query.

        Returns:
            Values and flat positions in the halo, (n, cells, k) each, descending; k is smaller than `topk` where there are fewer keys.
        """
        size, reach = len(half_widths), len(half_widths) // 2
        n, rows, columns, frames, ky, kx = products.shape
        queries = rows * columns
        windows = window_view(products, size)
        if min(half_widths) == reach:
            maxima = windows.amax(dim=-1)
        else:  # the rows of a disc differ in width: one slice each, instead of a mask
            row_maxima = [
                windows[..., d, reach - hw : reach + hw + 1].amax(dim=-1) for d, hw in enumerate(half_widths)
            ]
            maxima = torch.stack(row_maxima, dim=-1)
        maxima = maxima.view(n, queries, frames * size)
        best_rows = maxima.topk(min(topk, maxima.shape[-1]), dim=-1, sorted=False).indices  # (n, cells, k)
        frame, row = best_rows // size, best_rows % size

        column = torch.arange(size, device=products.device)
        query = torch.arange(queries, device=products.device)
        first = (frame * ky + row + (query // columns)[:, None]) * kx + (query % columns)[:, None]
        places = (first[..., None] + column).flatten(-2)  # (n, cells, k*D)
        values = products.view(n, queries, -1).gather(-1, places)
        widths = torch.tensor(half_widths, device=products.device)[row]
        beyond = (column - reach).abs() > widths[..., None]  # (n, cells, k, D)
        values = values.masked_fill(beyond.flatten(-2), -torch.inf)
        values, position = values.topk(min(topk, values.shape[-1]), dim=-1)
        return values, places.gather(-1, position)

    @staticmethod
    def score(queries: torch.Tensor, keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Float32 products (n, cells, k) of queries (n, cells, C) with the keys of (n, K, C) that are at `places` (n, cells, k)."""
        tile = torch.arange(len(keys), device=keys.device)[:, None, None]
        return torch.einsum("nqc,nqkc->nqk", queries.float(), keys[tile, places].float())

    @staticmethod
    def refine(
        queries: torch.Tensor, keys: Sequence[torch.Tensor], corners: torch.Tensor, size: tuple[int, int], topk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Top-k of blocks of queries among the keys of one area in each key frame, by float32 products.

        Args:
            queries (`torch.Tensor` of shape `(n, Q, C)`): Blocks of queries that share their keys.
            keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the key frames.
            corners (`torch.Tensor` of shape `(n, F, 2)`, int64): First row and column of each area.
            size (`tuple[int, int]`): Rows and columns of an area.
            topk (`int`): Keys kept per query.

        Returns:
            Scores and flat positions `(frame * h + y) * w + x` in `keys`, (n, Q, topk) each, descending; -inf and 0 where there are fewer.
        """
        n, per_block, channels = queries.shape
        h, w, _ = keys[0].shape
        y, x = (corners[..., axis, None] + torch.arange(size[axis], device=corners.device) for axis in (0, 1))
        scores = torch.full((n, per_block, topk), -torch.inf, dtype=torch.float32, device=queries.device)
        indices = torch.zeros(scores.shape, dtype=torch.long, device=queries.device)
        limit = limit_for(queries, CHUNK_BYTES)
        chunk = max(1, limit // (4 * channels * len(keys) * size[0] * size[1]))
        buffer = scores.new_empty((min(chunk, n), len(keys), size[0] * size[1], channels))
        for blocks in torch.arange(n, device=queries.device).split(chunk) if n else ():
            places = (y[blocks][..., None] * w + x[blocks][:, :, None]).flatten(2)  # (n, F, Ky * Kx)
            around = buffer[: len(blocks)]
            for f, key in enumerate(keys):
                around[:, f] = key.reshape(h * w, channels)[places[:, f]]
            products = torch.bmm(around.flatten(1, 2), queries[blocks].float().transpose(1, 2))  # (n, F * Ky * Kx, Q)
            values, position = _topk_of_rows(products.unflatten(1, (-1, size[1])), topk)  # (n, k, Q)
            places = places + torch.arange(len(keys), device=queries.device)[:, None] * (h * w)
            which = places.flatten(1).gather(1, position.flatten(1)).view_as(position)
            kept = values.shape[1]
            scores[blocks, :, :kept], indices[blocks, :, :kept] = values.transpose(1, 2), which.transpose(1, 2)
        return scores, indices


def _topk_of_rows(products: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k of rows of keys (n, rows, Kx, Q) in two stages, as [`TorchTopk.select`]: values and flat positions (n, k, Q)."""
    kx = products.shape[2]
    best = products.amax(dim=2).topk(min(topk, products.shape[1]), dim=1, sorted=False).indices  # (n, k, Q)
    values = products.gather(1, best[:, :, None].expand(-1, -1, kx, -1)).flatten(1, 2)
    values, position = values.topk(min(topk, values.shape[1]), dim=1)
    return values, best.gather(1, position // kx) * kx + position % kx


def window_view(products: torch.Tensor, size: int) -> torch.Tensor:
    """The D x D windows of all queries of the tiles as one strided view (n, tile, tile, F, D, D): no copy, no gather."""
    n, rows, columns, frames, *_ = products.shape
    s = products.stride()
    return products.as_strided(
        (n, rows, columns, frames, size, size), (s[0], s[1] + s[4], s[2] + s[5], s[3], s[4], s[5])
    )


__all__ = ["TorchTopk", "window_view"]
