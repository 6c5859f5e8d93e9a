"""The matching core: for every query cell, the keys most similar to it in a local window of one or more frames.

[`Window`] is the one definition of a window. Two implementations of one search:

* [`reference_topk`] forms the full product of all queries with all keys, masks it and sorts it, as the definition reads.
* [`window_topk`] multiplies a tile of queries with just the halo of keys that their windows reach, and selects from that product,
  in torch, by numba's JIT kernels, or at once by a Triton kernel. Cost is linear in the number of cells, and the extra memory is that
  of a few tiles.

[`fgvc_hf.matching.probability_map`] is the dense counterpart. Features are channels last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from ..kernels.chunks import CHUNK_BYTES, limit_for
from ..kernels.dispatch import backend_for, topk_for
from .tiles import TILE, active_tiles, check_frames, copy_block, exclude_outside, untile


RESCORE_MARGIN = 6  # candidates beyond top-k that are kept from 16-bit scores for the exact re-scoring


@dataclass(frozen=True)
class Window:
    """
    The keys of a frame that a query is matched with, by their offset from it in cells.

    Args:
        radius (`int`): Radius r.
        shape (`str`):
            `"square"`: |dx|, |dy| <= r. `"disc"`: dx^2 + dy^2 < r^2, the strict inequality of the official code (radius 15: 697 cells).
            `"none"`: the whole frame, whatever the radius.

    Raises:
        `ValueError`: another shape, or a window without a cell.
    """

    radius: int
    shape: str

    def __post_init__(self):
        if self.shape not in ("disc", "square", "none"):
            raise ValueError(f"window shape must be 'disc', 'square' or 'none', got {self.shape!r}.")
        least = int(self.shape == "disc")
        if self.radius < least:
            raise ValueError(f"radius of a {self.shape} must be at least {least}, got {self.radius}.")

    def contains(self, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """Whether offsets (integers that broadcast) belong to the window."""
        if self.shape == "disc":
            return dy * dy + dx * dx < self.radius * self.radius
        if self.shape == "square":
            return (dy.abs() <= self.radius) & (dx.abs() <= self.radius)
        return torch.ones(torch.broadcast_shapes(dy.shape, dx.shape), dtype=torch.bool, device=dy.device)

    @property
    def reach(self) -> int:
        """Largest offset along an axis: r for a square; r - 1 for a disc, whose rim is excluded."""
        if self.shape == "none":
            raise ValueError("window shape must be 'disc' or 'square' where a window is searched, got 'none'.")
        return self.radius if self.shape == "square" else self.radius - 1

    @cached_property
    def half_widths(self) -> tuple[int, ...]:
        """Largest |dx| of each row dy = -reach..reach."""
        return tuple(((self.mask("cpu").sum(dim=1) - 1) // 2).tolist())

    def mask(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Boolean (D, D) map, D = 2 * reach + 1, of the offsets that belong to the window."""
        axis = torch.arange(-self.reach, self.reach + 1, device=device)
        return self.contains(axis[:, None], axis)


def masked_scores(
    query: torch.Tensor, keys: Sequence[torch.Tensor], windows: Sequence[Window], cells: torch.Tensor
) -> torch.Tensor:
    """Float32 products of some queries with all keys of all frames, -inf outside the windows: the definition of matching.

    Args:
        query (`torch.Tensor` of shape `(h, w, C)`): Features of the frame being matched.
        keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the key frames.
        windows (sequence of F [`Window`]): The window in each.
        cells (`torch.Tensor` of shape `(Q,)`, int64): The queries, as flat positions.

    Returns:
        `torch.Tensor` of shape `(Q, F * h * w)`, float32.
    """
    h, w, channels = query.shape
    all_keys = torch.cat([key.reshape(-1, channels) for key in keys]).float()
    scores = query.reshape(-1, channels)[cells].float() @ all_keys.T  # (Q, F*h*w)
    y, x = (torch.arange(n, device=query.device) for n in (h, w))
    dy = y[:, None] - (cells // w)[:, None, None]  # (Q, h, 1)
    dx = x - (cells % w)[:, None, None]  # (Q, 1, w)
    inside = {window: window.contains(dy, dx).flatten(1) for window in set(windows)}  # (Q, h*w) each
    return scores.masked_fill_(~torch.cat([inside[window] for window in windows], dim=1), -torch.inf)


def reference_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    query_cells: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`window_topk`] by its definition: the full product, masked and sorted. Time and memory grow with (h w)^2.

    `query_cells` (int64, flat positions) restricts the rows that are computed, so that large maps can be sampled or chunked.
    """
    query, keys = check_frames(query, keys)
    cells = torch.arange(query[..., 0].numel(), device=query.device) if query_cells is None else query_cells
    scores = masked_scores(query, keys, [Window(radius, shape)] * len(keys), cells)
    return _pad_topk(*scores.topk(min(topk, scores.shape[1]), dim=1), topk)


def window_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k keys of every query over the windows in all key frames jointly.

    Scores are float32 dot products. torch and numba multiply 16-bit features in 16 bits, keep `topk` + 6 candidates and score those again in
    float32: fewer than 0.5 % of the keys are missed, and what is found instead differs by less than 0.01 in cosine similarity.

    Args:
        query (`torch.Tensor` of shape `(h, w, C)`): Features of the frame being matched.
        keys (sequence of F `torch.Tensor` of shape `(h, w, C)`): Features of the key frames.
        radius (`int`), shape (`str`): The window, `"disc"` or `"square"`; see [`Window`].
        topk (`int`): Keys kept per query.
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*):
            Tiles without any active query are skipped; their scores are -inf. `None` computes all.
        backend (`str`, *optional*): `"torch"`, `"numba"` or `"triton"`; see [`backend_for`].

    Returns:
        `scores` (`torch.Tensor` of shape `(h*w, topk)`, float32, descending; -inf where there are fewer keys) and
        `indices` (int64, same shape): flat positions `(frame * h + y) * w + x` in `keys`, 0 where the score is -inf.

    Raises:
        `ValueError`: shapes, types or devices do not go together, or the back end is unknown or not available.
    """
    query, keys = check_frames(query, keys, active)
    window, (h, w, _) = Window(radius, shape), query.shape
    reach, tiles = window.reach, active_tiles(active, h, w, query.device)
    backend = backend_for(query, backend)
    if backend == "triton":
        from ..kernels.topk_triton import fused_topk

        return fused_topk(query, keys, radius, reach, shape == "disc", topk, tiles, TILE)
    scores = query.new_full(
        (-(-h // TILE[0]) * -(-w // TILE[1]), TILE[0] * TILE[1], topk), -torch.inf, dtype=torch.float32
    )
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    _tiled_topk(query, keys, window, topk, tiles, backend, scores, indices)
    return untile(scores, h, w), untile(indices, h, w)


def _tiled_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    window: Window,
    topk: int,
    tiles: torch.Tensor,
    backend: str,
    scores: torch.Tensor,
    indices: torch.Tensor,
) -> None:
    """Write the top-k of some tiles to `scores` and `indices` (tiles, cells, topk), as many tiles at a time as fit the cache."""
    h, w, channels = query.shape
    reach, columns = window.reach, -(-w // TILE[1])
    topk_kernels, exact = topk_for(backend), query.dtype == torch.float32
    halo = (TILE[0] + 2 * reach, TILE[1] + 2 * reach)
    cells, halo_cells = TILE[0] * TILE[1], len(keys) * halo[0] * halo[1]
    chunk = limit_for(query, CHUNK_BYTES) // (cells * halo_cells * query.element_size())
    chunk = max(1, min(chunk, len(tiles)))
    # Buffers are reused: allocating them costs more than the arithmetic. What lies outside the map stays as it was, finite
    tile_buffer = query.new_zeros((chunk, *TILE, channels))
    halo_buffer = query.new_zeros((chunk, len(keys), *halo, channels))
    product_buffer = query.new_zeros((chunk, cells, halo_cells))
    for tile_ids in tiles.split(chunk) if len(tiles) else ():
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
            exclude_outside(products[slot], top - reach, left - reach, h, w)
        values, places = topk_kernels.select(products, window.half_widths, topk if exact else topk + RESCORE_MARGIN)
        if not exact:
            rescored = topk_kernels.score(left_hand, right_hand, places).masked_fill(values == -torch.inf, -torch.inf)
            values, order = rescored.topk(min(topk, rescored.shape[-1]), dim=-1)
            places = places.gather(-1, order)
        found = _map_cells(places, torch.tensor(corners, device=query.device) - reach, halo, h, w)
        scores[tile_ids], indices[tile_ids] = _pad_topk(values, found, topk)


def _map_cells(places: torch.Tensor, corners: torch.Tensor, halo: tuple[int, int], h: int, w: int) -> torch.Tensor:
    """Flat positions `(frame * h + y) * w + x` in the key maps of flat places (n, cells, k) in halos with these corners (n, 2)."""
    top, left = (corner[:, None, None] for corner in corners.unbind(1))
    frame, y, x = places // (halo[0] * halo[1]), places // halo[1] % halo[0], places % halo[1]
    return (frame * h + top + y) * w + left + x


def _pad_topk(values: torch.Tensor, indices: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill up to `topk` slots (score -inf, index 0) where fewer keys exist, and point empty slots at cell 0."""
    missing = topk - values.shape[-1]
    values = F.pad(values, (0, missing), value=-torch.inf)
    return values, F.pad(indices, (0, missing)).masked_fill(values == -torch.inf, 0)


def frame_topk(
    query: torch.Tensor, key: torch.Tensor, topk: int, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`window_topk`] without a window: the top-k keys of queries (..., C), flattened, in a whole frame (h, w, C), by float32 products.

    `allowed` (h, w), bool, restricts the keys.
    """
    query, keys = query.reshape(-1, query.shape[-1]).contiguous(), key.reshape(-1, key.shape[-1]).float()
    best = []
    for chunk in query.split(max(1, limit_for(query, CHUNK_BYTES) // (4 * len(keys)))):
        scores = chunk.float() @ keys.T
        if allowed is not None:
            scores = scores.masked_fill_(~allowed.flatten(), -torch.inf)
        best.append(scores.topk(min(topk, len(keys)), dim=1))
    values, indices = (torch.cat(part) for part in zip(*best, strict=True))
    return _pad_topk(values, indices, topk)


def merge_topk(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint top-k of two disjoint sets of keys from the top-k of each: exact, since no other key can be among the best."""
    values, indices = (torch.cat(pair, dim=-1) for pair in zip(first, second, strict=True))
    values, order = values.topk(first[0].shape[-1], dim=-1)
    return values, indices.gather(-1, order)


def repeat_topk(best: tuple[torch.Tensor, torch.Tensor], copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k among `copies` copies of the same keys: each occurs as often."""
    values, indices = (part.repeat_interleave(copies, dim=-1)[..., : part.shape[-1]] for part in best)
    return values, indices


__all__ = ["Window", "frame_topk", "masked_scores", "merge_topk", "reference_topk", "repeat_topk", "window_topk"]
