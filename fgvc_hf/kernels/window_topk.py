"""The best keys of every query in its windows, in one kernel: products never leave the chip.

A program has a tile of queries. It goes through the halo of keys that their windows reach, frame by frame and block by block, multiplies,
masks what is outside a window or the frame, and keeps the best so far. A score and its place are one 64-bit number, whose order is that
of the score first, so that a plain top-k keeps both. Features in bfloat16 are multiplied exactly and summed in float32, hence there is
nothing to score again.

Equal to [`fgvc_hf.correlation_fgvc.reference_topk`]; tested in Triton's interpreter, not yet timed on a GPU.
"""

from collections.abc import Sequence

import torch
import triton  # ty: ignore[import-not-found]
import triton.language as tl  # ty: ignore[import-not-found]

from ..correlation_fgvc import TILE, active_tiles, window_reach


KEYS = 64  # keys of a block
CHANNELS = 64  # channels multiplied at a time


@triton.jit
def _window_topk(
    query,
    keys,
    tiles,
    scores,
    indices,
    h,
    w,
    channels,
    frames,
    columns,
    radius,
    topk,
    DISC: tl.constexpr,
    REACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
    CHANNELS: tl.constexpr,
    KEPT: tl.constexpr,
):
    tile = tl.load(tiles + tl.program_id(0))
    cell = tl.arange(0, ROWS * COLUMNS)
    qy = tile // columns * ROWS + cell // COLUMNS  # (M,)
    qx = tile % columns * COLUMNS + cell % COLUMNS
    on_map = (qy < h) & (qx < w)
    top, left = tile // columns * ROWS - REACH, tile % columns * COLUMNS - REACH
    halo: tl.constexpr = COLUMNS + 2 * REACH
    number: tl.constexpr = (ROWS + 2 * REACH) * halo
    best = tl.full((ROWS * COLUMNS, KEPT), -(2**63), tl.int64)
    for frame in range(frames):
        for start in range(0, number, KEYS):
            n = start + tl.arange(0, KEYS)
            ky, kx = top + n // halo, left + n % halo  # (N,)
            there = (n < number) & (ky >= 0) & (ky < h) & (kx >= 0) & (kx < w)
            place = (frame * h + ky) * w + kx
            products = tl.zeros((ROWS * COLUMNS, KEYS), tl.float32)
            for first in range(0, channels, CHANNELS):
                c = first + tl.arange(0, CHANNELS)
                q = tl.load(
                    query + (qy * w + qx)[:, None] * channels + c,
                    mask=on_map[:, None] & (c < channels)[None],
                    other=0.0,
                )
                k = tl.load(
                    keys + place.to(tl.int64)[None] * channels + c[:, None],
                    mask=there[None] & (c < channels)[:, None],
                    other=0.0,
                )
                products = tl.dot(q, k, products, input_precision="ieee")
            dy, dx = ky[None] - qy[:, None], kx[None] - qx[:, None]
            if DISC:
                inside = dy * dy + dx * dx < radius * radius
            else:
                inside = (tl.abs(dy) <= radius) & (tl.abs(dx) <= radius)
            # In two's complement the order of floats is that of their bits, once those of negative ones are turned over
            bits = products.to(tl.int32, bitcast=True)
            ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
            packed = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)[None]  # of equal ones the first
            packed = tl.where(inside & there[None], packed, -(2**63))
            both = tl.join(best, tl.topk(packed, KEPT))
            best = tl.topk(tl.reshape(both, (ROWS * COLUMNS, 2 * KEPT)), KEPT)
    found = best != -(2**63)
    ordered = (best >> 32).to(tl.int32)
    value = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    slot = tl.arange(0, KEPT)
    where = (qy * w + qx)[:, None] * topk + slot
    keep = on_map[:, None] & (slot < topk)[None]
    tl.store(scores + where, tl.where(found, value, float("-inf")), mask=keep)
    tl.store(indices + where, tl.where(found, 0x7FFFFFFF - (best & 0xFFFFFFFF), 0), mask=keep)


def window_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`fgvc_hf.correlation_fgvc.window_topk`], with its arguments and results."""
    h, w, channels = query.shape
    rows, columns = -(-h // TILE[0]), -(-w // TILE[1])
    scores = query.new_full((h * w, topk), -torch.inf, dtype=torch.float32)
    indices = torch.zeros((h * w, topk), dtype=torch.long, device=query.device)
    tiles = active_tiles(active, rows, columns, query.device)
    if len(tiles):
        sizes = {"ROWS": TILE[0], "COLUMNS": TILE[1], "KEYS": max(KEYS, triton.next_power_of_2(topk))}
        _window_topk[(len(tiles),)](
            query.contiguous(),
            torch.stack(list(keys)),  # (F, h, w, C)
            tiles,
            scores,
            indices,
            h,
            w,
            channels,
            len(keys),
            columns,
            radius,
            topk,
            DISC=shape == "disc",
            REACH=window_reach(radius, shape),
            CHANNELS=CHANNELS,
            KEPT=triton.next_power_of_2(topk),
            **sizes,
        )
    return scores, indices
