"""The matching core: for every query cell, the key cells that resemble it most in a local window of one or more frames.

Two implementations of one definition:

* [`reference_topk`] forms the full product of all queries with all keys, masks it and sorts it, as the definition reads.
* [`window_topk`] multiplies a tile of queries with just the halo of keys that their windows can reach, and selects from
  that product (see `selection_fgvc.py`). Cost is linear in the number of pixels, and the extra memory is that of a few
  tiles.

[`window_correlation`] is the dense counterpart: Eq. 1 of the paper before its softmax. Features are channels last.
"""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

from ..kernels.dispatch import CHUNK_BYTES, fused_topk_for, limit_for, selection_for, window_view


TILE = (8, 16)  # queries per tile (rows, columns): 128 rows feed a matrix unit well and keep the halo small
RESCORE_MARGIN = 6  # candidates beyond top-k that are kept from low-precision scores for the exact re-scoring


def window_reach(radius: int, shape: str) -> int:
    """Largest offset of a neighbourhood along an axis: r for a square; r - 1 for a disc, whose rim is excluded."""
    if shape not in ("disc", "square"):
        raise ValueError(f"window_shape must be 'disc' or 'square', got {shape!r}.")
    return radius if shape == "square" else radius - 1


def window_half_widths(radius: int, shape: str) -> list[int]:
    """Half-width of each row dy = -reach..reach of the neighbourhood.

    A square holds the offsets with |dx|, |dy| <= radius; a disc those with dx^2 + dy^2 < radius^2, the strict inequality
    of the official code (radius 15: 697 cells).
    """
    reach = window_reach(radius, shape)
    if shape == "square":
        return [reach] * (2 * reach + 1)
    rows = range(-reach, reach + 1)
    return [max(dx for dx in range(reach + 1) if dx * dx + dy * dy < radius * radius) for dy in rows]


def window_mask(radius: int, shape: str, device: torch.device | str | None = None) -> torch.Tensor:
    """Boolean (D, D) map, D = 2 reach + 1, of the offsets that belong to the neighbourhood."""
    half_widths = torch.tensor(window_half_widths(radius, shape), device=device)
    reach = window_reach(radius, shape)
    return torch.arange(-reach, reach + 1, device=device).abs()[None, :] <= half_widths[:, None]


def reference_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    query_cells: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`window_topk`] by its definition: the full product, masked and sorted. Time and memory grow with (h w)^2.

    `query_cells` (long, flat indices) restricts the rows that are computed, so that large maps can be sampled or chunked.
    """
    h, w, channels = query.shape
    cells = torch.arange(h * w, device=query.device) if query_cells is None else query_cells
    all_keys = torch.cat([key.reshape(-1, channels) for key in keys]).float()
    scores = query.reshape(-1, channels)[cells].float() @ all_keys.T  # (Q, F*h*w)
    grid = torch.arange(h * w, device=query.device)
    dy = (grid[None] // w - cells[:, None] // w).abs()  # (Q, h*w)
    dx = (grid[None] % w - cells[:, None] % w).abs()
    inside = (dy <= radius) & (dx <= radius) if shape == "square" else dy * dy + dx * dx < radius * radius
    scores = scores.masked_fill(~inside.repeat(1, len(keys)), -torch.inf)
    return _pad_topk(*scores.topk(min(topk, scores.shape[1]), dim=1), topk)


def window_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    compiled: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best `topk` keys of every query over the neighbourhoods in all key frames jointly.

    Scores are float32 dot products. Features of lower precision are multiplied in that precision, `topk` + 6 candidates
    are kept, and those are scored again in float32.

    Args:
        query (`torch.Tensor` of shape `(h, w, C)`): Features of the frame being matched.
        keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the key frames.
        radius (`int`), shape (`str`): The neighbourhood, in cells; see [`window_half_widths`].
        topk (`int`): Keys kept per query.
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*):
            Tiles without any active query are skipped; their scores are `-inf`. `None` computes all.
        compiled (`bool`, *optional*):
            Whether machine code selects: numba's on a CPU, see [`selection_for`], or Triton's on a GPU, see [`fused_topk_for`]. `None`:
            wherever that works.

    Returns:
        `scores` (`torch.Tensor` of shape `(h*w, topk)`, float32, descending; `-inf` where there are fewer keys) and
        `indices` (long, same shape): flat positions `(frame * h + y) * w + x` in `keys`.
    """
    h, w, channels = query.shape
    reach = window_reach(radius, shape)
    rows, columns = -(-h // TILE[0]), -(-w // TILE[1])  # tiles that cover the map
    chosen = _active_tiles(active, rows, columns, query.device)
    if fused_topk := fused_topk_for(query, compiled):
        return fused_topk(query, keys, radius, shape, topk, chosen, TILE)
    selection = selection_for(query, compiled)
    exact = query.dtype == torch.float32
    candidates = topk if exact else topk + RESCORE_MARGIN
    halo = (TILE[0] + 2 * reach, TILE[1] + 2 * reach)
    cells, halo_cells = TILE[0] * TILE[1], len(keys) * halo[0] * halo[1]

    scores = query.new_full((rows * columns, cells, topk), -torch.inf, dtype=torch.float32)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    limit = limit_for(query, CHUNK_BYTES)
    chunk = max(1, min(limit // (cells * halo_cells * query.element_size()), len(chosen)))
    tile_buffer = query.new_zeros((chunk, *TILE, channels))  # buffers are reused, for fresh memory costs more than the
    halo_buffer = query.new_zeros((chunk, len(keys), *halo, channels))  # arithmetic that fills it
    product_buffer = query.new_zeros((chunk, cells, halo_cells))
    for tile_ids in chosen.split(chunk) if len(chosen) else ():
        n = len(tile_ids)
        corners = [(tile // columns * TILE[0], tile % columns * TILE[1]) for tile in tile_ids.tolist()]
        for slot, (top, left) in enumerate(corners):
            copy_block(query, top, left, tile_buffer[slot])
            for frame, key in enumerate(keys):
                copy_block(key, top - reach, left - reach, halo_buffer[slot, frame])
        left_hand, right_hand = tile_buffer[:n].view(n, cells, channels), halo_buffer[:n].view(n, halo_cells, channels)
        products = torch.bmm(left_hand, right_hand.transpose(1, 2), out=product_buffer[:n])
        products = products.view(n, *TILE, len(keys), *halo)
        for slot, (top, left) in enumerate(corners):
            _exclude_outside(products[slot], top - reach, left - reach, h, w)
        values, places = selection.select(products, window_half_widths(radius, shape), candidates)  # (n, cells, k)
        if not exact:
            scored = selection.score(left_hand, right_hand, places).masked_fill(values == -torch.inf, -torch.inf)
            values, order = scored.topk(min(topk, scored.shape[-1]), dim=-1)
            places = places.gather(-1, order)
        found = _map_cells(places, torch.tensor(corners, device=query.device) - reach, halo, h, w)
        scores[tile_ids], indices[tile_ids] = _pad_topk(values, found, topk)
    return _untile(scores, rows, columns, h, w), _untile(indices, rows, columns, h, w)


def _untile(values: torch.Tensor, rows: int, columns: int, h: int, w: int) -> torch.Tensor:
    """(tiles, cells, k) back to (h*w, k)."""
    k = values.shape[-1]
    values = values.view(rows, columns, *TILE, k).transpose(1, 2).reshape(rows * TILE[0], columns * TILE[1], k)
    return values[:h, :w].reshape(h * w, k)


def _active_tiles(active: torch.Tensor | None, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Flat numbers of the tiles that hold an active query."""
    if active is None:
        return torch.arange(rows * columns, device=device)
    below, right = rows * TILE[0] - active.shape[0], columns * TILE[1] - active.shape[1]
    padded = F.pad(active, (0, right, 0, below)).view(rows, TILE[0], columns, TILE[1])
    return padded.any(dim=3).any(dim=1).flatten().nonzero()[:, 0]


def _map_cells(places: torch.Tensor, corners: torch.Tensor, halo: tuple[int, int], h: int, w: int) -> torch.Tensor:
    """Flat positions `(frame * h + y) * w + x` in the key maps of flat places (n, cells, k) in halos with these corners (n, 2)."""
    top, left = (corner[:, None, None] for corner in corners.unbind(1))
    frame, y, x = places // (halo[0] * halo[1]), places // halo[1] % halo[0], places % halo[1]
    return (frame * h + top + y) * w + left + x


def _overlap(top: int, left: int, height: int, width: int, h: int, w: int) -> tuple[int, int, int, int]:
    """The part y0:y1, x0:x1 of a block at (top, left) that lies on the h x w map."""
    return max(0, -top), min(height, h - top), max(0, -left), min(width, w - left)


def copy_block(source: torch.Tensor, top: int, left: int, block: torch.Tensor) -> None:
    """Copy a block at (top, left) of the (h, w, C) map; what lies outside the map is left as it was."""
    y0, y1, x0, x1 = _overlap(top, left, *block.shape[:2], *source.shape[:2])
    block[y0:y1, x0:x1] = source[top + y0 : top + y1, left + x0 : left + x1]


def _exclude_outside(products: torch.Tensor, top: int, left: int, h: int, w: int) -> None:
    """Keys (..., Ky, Kx) of a halo at (top, left) that lie outside the map score -inf, and never win over one inside."""
    y0, y1, x0, x1 = _overlap(top, left, *products.shape[-2:], h, w)
    for outside in (
        products[..., :y0, :],
        products[..., y1:, :],
        products[..., :x0],
        products[..., x1:],
    ):
        outside.fill_(-torch.inf)


def _pad_topk(values: torch.Tensor, indices: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill up to `topk` slots (score -inf, index 0) where fewer keys exist, and point empty slots at cell 0."""
    missing = topk - values.shape[-1]
    values = F.pad(values, (0, missing), value=-torch.inf)
    return values, F.pad(indices, (0, missing)).masked_fill(values == -torch.inf, 0)


def merge_topk(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint top-k of two disjoint sets of keys from the top-k of each: exact, since no other key can be among the best."""
    values, indices = (torch.cat(pair, dim=-1) for pair in zip(first, second, strict=True))
    values, order = values.topk(first[0].shape[-1], dim=-1)
    return values, indices.gather(-1, order)


def frame_topk(query: torch.Tensor, key: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[`window_topk`] without a window: the best keys of every query (h, w, C) in a whole frame (h, w, C)."""
    h, w, channels = query.shape
    keys, best = key.reshape(h * w, channels).float(), []
    rows = max(1, limit_for(query, CHUNK_BYTES) // (4 * h * w))
    for chunk in query.reshape(h * w, channels).split(rows):
        best.append((chunk.float() @ keys.T).topk(min(topk, h * w), dim=1))
    values, indices = (torch.cat(part) for part in zip(*best, strict=True))
    return _pad_topk(values, indices, topk)


def repeat_topk(best: tuple[torch.Tensor, torch.Tensor], copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k among so many copies of the same keys: each is there so many times."""
    values, indices = (part.repeat_interleave(copies, dim=-1)[..., : part.shape[-1]] for part in best)
    return values, indices


def window_correlation(query: torch.Tensor, key: torch.Tensor, radius: int) -> torch.Tensor:
    """Products of every query with every key of its square window: Eq. 1 before temperature and softmax.

    Args:
        query, key (`torch.Tensor` of shape `(B, h, w, C)`): Features of the two frames.
        radius (`int`): Window radius r in cells.

    Returns:
        `torch.Tensor` of shape `(B, h, w, (2r+1)^2)`, float32, offsets in dy-major order; -inf outside the frame.
    """
    batch, h, w, channels = query.shape
    size, halo = 2 * radius + 1, (TILE[0] + 2 * radius, TILE[1] + 2 * radius)
    output = query.new_empty((batch, h, w, size, size), dtype=torch.float32)
    for top, left in product(range(0, h, TILE[0]), range(0, w, TILE[1])):
        tile, keys = query.new_zeros((batch, *TILE, channels)), query.new_zeros((batch, *halo, channels))
        for b in range(batch):
            copy_block(query[b], top, left, tile[b])
            copy_block(key[b], top - radius, left - radius, keys[b])
        products = torch.bmm(tile.flatten(1, 2), keys.flatten(1, 2).transpose(1, 2)).view(batch, *TILE, 1, *halo)
        _exclude_outside(products, top - radius, left - radius, h, w)
        windows = window_view(products, size)[:, : h - top, : w - left, 0]  # (B, <=8, <=16, D, D)
        output[:, top : top + TILE[0], left : left + TILE[1]] = windows
    return output.view(batch, h, w, size * size)
