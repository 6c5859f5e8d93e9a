"""The search for keys as one Triton kernel: products and selection of a tile of queries, without a product that reaches memory.

A tile of queries stays in the registers or shared memory of a multiprocessor, and so do the best keys so far, while all keys of its halo pass
by. Products of 16-bit features are exact in float32; those of float32 are three products of tf32 each, as exact as `tests/kernels/test_triton.py` asks.
"""

from collections.abc import Sequence

import torch


try:  # where this code is loaded from the Hub, what a `try` imports may be missing
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(f"compiled selection on a GPU needs Triton: pip install triton ({error})") from error


LOWEST, HIGHEST = tl.constexpr(-(2**63)), tl.constexpr(2**63 - 1)
KEYS_PER_BLOCK = 32  # multiplied at a time: 256 channels of 16 bits take 98 KB of shared memory in two stages
# Channels that are multiplied at once, and at a time where there are more; for three products of tf32 each number of float32 is held as two
CHANNELS_AT_ONCE = {torch.float32: (32, 32), torch.bfloat16: (256, 128), torch.float16: (256, 128)}
LEAST_SIDE = 16  # of the operands of a matrix unit


@triton.jit
def tile_cells(tile, tile_columns, h, w, rows: tl.constexpr, columns: tl.constexpr):
    """Corner of a tile, and rows, columns, flat cells (n,) and which of these are on the map."""
    top, left = tile // tile_columns * rows, tile % tile_columns * columns
    place = tl.arange(0, rows * columns)
    y, x = top + place // columns, left + place % columns
    return top, left, y, x, y * w + x, (y < h) & (x < w)


@triton.jit
def halo_cells(
    first, top, left, h, w, reach: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr
):
    """Rows, columns, flat cells (block,), which are in the halo and which are on the map too, of cells of the halo of a tile from `first` on."""
    place = first + tl.arange(0, block)
    y = top - reach + place // (columns + 2 * reach)
    x = left - reach + place % (columns + 2 * reach)
    in_halo = place < (rows + 2 * reach) * (columns + 2 * reach)
    return y, x, y * w + x, in_halo, in_halo & (y >= 0) & (y < h) & (x >= 0) & (x < w)


@triton.jit
def load_features(features, cell, valid, first, channels: tl.constexpr, chunk: tl.constexpr):
    """Channels first : first + chunk of the cells (n,) of a map of features (h * w, C): (n, chunk), 0 where not valid."""
    channel = first + tl.arange(0, chunk)
    there = valid[:, None] & (channel < channels)[None, :]
    return tl.load(features + cell[:, None] * channels + channel[None, :], mask=there, other=0.0)


@triton.jit
def multiply(
    held, a, a_cell, a_valid, b, b_cell, b_valid, channels: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr
):
    """Products (n, m) in float32 of cells (n,) of the features `a` with cells (m,) of the features `b`.

    `held` are the first channels of the cells of `a`, as a rule all: a loop over cells of `b` loads them once.
    """
    right = load_features(b, b_cell, b_valid, 0, channels, chunk)
    products = tl.dot(held, tl.trans(right), input_precision=precision)
    for first in range(chunk, channels, chunk):
        left = load_features(a, a_cell, a_valid, first, channels, chunk)
        right = load_features(b, b_cell, b_valid, first, channels, chunk)
        products = tl.dot(left, tl.trans(right), products, input_precision=precision)
    return products


@triton.jit
def pack(score, key):
    """Scores (float32) with keys (int32, not negative) as int64 whose order is that of the scores."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative numbers are kept as sign and size: more bits are less
    return (ordered.to(tl.int64) << 32) | key.to(tl.int64)


@triton.jit
def unpack(packed):
    """Scores (float32) and keys (int64) of what [`pack`] made."""
    ordered = (packed >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return score, packed & 0x7FFFFFFF


@triton.jit
def _insert(best, worst, packed):
    """Move the best of what is packed (queries, keys) into `best` (queries, kept), in place of the worst there, until nothing is better.

    Few keys of a block are among the best so far as a rule, so that this takes less than to sort the block.
    """
    largest = tl.max(packed, axis=1)
    while tl.max((largest > worst).to(tl.int32), axis=0) > 0:
        better = (largest > worst)[:, None]  # all that is packed differs, for keys differ: exactly one is replaced
        best = tl.where(better & (best == worst[:, None]), largest[:, None], best)
        packed = tl.where(packed == largest[:, None], LOWEST, packed)
        worst = tl.min(best, axis=1)
        largest = tl.max(packed, axis=1)
    return best, worst


@triton.jit
def _topk_kernel(
    query,  # (h, w, C)
    keys,  # (F, h, w, C)
    tiles,  # (n,) flat numbers of the tiles to be computed
    scores,  # (h * w, topk)
    indices,  # (h * w, topk)
    h,
    w,
    tile_columns,
    frames,
    radius: tl.constexpr,
    disc: tl.constexpr,
    reach: tl.constexpr,
    channels: tl.constexpr,
    chunk: tl.constexpr,
    topk: tl.constexpr,
    kept: tl.constexpr,  # topk, filled up to a power of two
    rows: tl.constexpr,  # queries of a tile
    columns: tl.constexpr,
    block: tl.constexpr,  # keys that are multiplied at a time
):
    blocks: tl.constexpr = ((rows + 2 * reach) * (columns + 2 * reach) + block - 1) // block
    tile = tl.load(tiles + tl.program_id(0)).to(tl.int32)
    top, left, query_y, query_x, query_cell, query_on_map = tile_cells(tile, tile_columns, h, w, rows, columns)
    slot = tl.arange(0, kept)[None, :]
    empty = pack(tl.full((1, kept), float("-inf"), tl.float32), slot)
    best = tl.where(slot < topk, empty, HIGHEST)  # what fills up is never the worst
    best = tl.broadcast_to(best, (rows * columns, kept))
    worst = tl.min(best, axis=1)
    held = load_features(query, query_cell, query_on_map, 0, channels, chunk)

    for step in range(blocks * frames):
        frame, outwards = step % frames, step // frames  # from the middle on, where the best keys are as a rule
        number = (blocks - 1) // 2 + (outwards + 1) // 2 * (outwards % 2 * 2 - 1)
        y, x, key, _, on_map = halo_cells(number * block, top, left, h, w, reach, rows, columns, block)
        frame_keys = keys + tl.cast(frame, tl.int64) * h * w * channels
        products = multiply(held, query, query_cell, query_on_map, frame_keys, key, on_map, channels, chunk, "tf32x3")
        dy, dx = y[None, :] - query_y[:, None], x[None, :] - query_x[:, None]
        if disc:
            near = dy * dy + dx * dx < radius * radius
        else:
            near = (tl.abs(dy) <= radius) & (tl.abs(dx) <= radius)
        products = tl.where(near & on_map[None, :], products, float("-inf"))
        least, _ = unpack(worst)
        if tl.max((tl.max(products, axis=1) > least).to(tl.int32), axis=0) > 0:
            names = tl.broadcast_to((frame * h * w + key)[None, :], (rows * columns, block))
            candidates = tl.where(products > least[:, None], pack(products, names), LOWEST)
            best, worst = _insert(best, worst, candidates)

    best = tl.where(slot < topk, best, LOWEST)
    for rank in range(topk):
        largest = tl.max(best, axis=1)
        best = tl.where(best == largest[:, None], LOWEST, best)
        score, index = unpack(largest)
        tl.store(scores + query_cell * topk + rank, score, mask=query_on_map)
        tl.store(indices + query_cell * topk + rank, tl.where(score > float("-inf"), index, 0), mask=query_on_map)


def operand(features: torch.Tensor) -> torch.Tensor:
    """Features as kernels read them. Triton's interpreter, which alone takes those on a CPU, multiplies float32 only."""
    return features.contiguous() if features.is_cuda else features.float().contiguous()


def filled(channels: int) -> int:
    """Channels as a kernel holds them: a power of two that a matrix unit takes."""
    return max(LEAST_SIDE, triton.next_power_of_2(channels))


def chunk_of(channels: int, dtype: torch.dtype) -> int:
    """Channels that are multiplied at a time."""
    most, otherwise = CHANNELS_AT_ONCE[dtype]
    return filled(channels) if filled(channels) <= most else otherwise


def fused_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    tiles: torch.Tensor,
    tile: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`window_topk`] by one kernel. Scores are exact but for the order of float32 sums: products of 16-bit numbers fit into float32.

    Args:
        query, keys, radius, shape, topk: As of [`window_topk`], of float32, bfloat16 or float16.
        tiles (`torch.Tensor` of shape `(n,)`, long): Flat numbers of the tiles that are computed.
        tile (`tuple[int, int]`): Rows and columns of queries in a tile, powers of two.

    Returns:
        As [`window_topk`]. Which of the keys with equal scores are found, and in which order, is always the same for the same input.

    Raises:
        `ValueError`: the features are of another type.
    """
    if query.dtype not in CHANNELS_AT_ONCE:
        raise ValueError(f"compiled selection on a GPU takes float32, bfloat16 or float16, got {query.dtype}.")
    h, w, channels = query.shape
    scores = query.new_full((h * w, topk), -torch.inf, dtype=torch.float32)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    kept = max(2, triton.next_power_of_2(topk))
    if not len(tiles):
        return scores, indices
    with torch.cuda.device_of(query):
        _topk_kernel[(len(tiles),)](
            operand(query),
            operand(
                torch.stack([key.to(query.dtype) for key in keys])
            ),  # memory may be kept in another type than queries
            tiles,
            scores,
            indices,
            h,
            w,
            tile_columns=-(-w // tile[1]),
            frames=len(keys),
            radius=radius,
            disc=shape == "disc",
            reach=radius - 1 if shape == "disc" else radius,
            channels=channels,
            chunk=chunk_of(channels, query.dtype),
            topk=topk,
            kept=kept,
            rows=tile[0],
            columns=tile[1],
            block=KEYS_PER_BLOCK,
            num_warps=8,
            num_stages=2,
        )
    return scores, indices
