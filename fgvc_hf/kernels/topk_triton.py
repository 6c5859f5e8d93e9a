"""Top-k in windows as one fused Triton kernel: products and selection of a tile of queries, without writing a product to memory.

A tile of queries and its top-k so far stay in the registers or shared memory of a multiprocessor, while all keys of its halo are streamed.
Products of 16-bit features are exact in float32; those of float32 are three products of tf32 each, within 1e-5 of the reference.
"""

from collections.abc import Sequence

import torch


try:  # transformers demands every import of code from the Hub that is outside a try
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(f"the kernels for GPUs need Triton: pip install triton ({error})") from error


LOWEST, HIGHEST = tl.constexpr(-(2**63)), tl.constexpr(2**63 - 1)
KEYS_PER_BLOCK = 32  # keys multiplied at a time: 256 channels of 16 bits take 98 KB of shared memory in two stages
# Most channels that are multiplied at once, and channels per step where there are more; tf32x3 holds each float32 as two numbers
CHANNELS_AT_ONCE = {torch.float32: (32, 32), torch.bfloat16: (256, 128), torch.float16: (256, 128)}
LEAST_SIDE = 16  # smallest side of the operands of a matrix unit


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

    `held` are the first channels of the cells of `a`, mostly all of them: a loop over cells of `b` loads them once.
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

    Few keys of a block are among the best so far, so that this costs less than sorting the block.
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
        frame, outwards = step % frames, step // frames  # from the middle outwards: the best keys are mostly there
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
    reach: int,
    disc: bool,
    topk: int,
    tiles: torch.Tensor,
    tile: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`fgvc_hf.matching.windows.window_topk`] by one kernel. Scores are exact but for the order of float32 sums.

    Args:
        query, keys: Features, of float32, bfloat16 or float16.
        radius (`int`), reach (`int`), disc (`bool`): The window: its radius, its largest offset, and whether it is a disc or a square.
        topk (`int`): Keys kept per query.
        tiles (`torch.Tensor` of shape `(n,)`, int64): Flat numbers of the tiles that are computed.
        tile (`tuple[int, int]`): Rows and columns of queries in a tile, powers of two.

    Returns:
        Scores and indices (h*w, topk). Which of the keys with equal scores are found, and their order, is the same on every call.
    """
    h, w, channels = query.shape
    scores = query.new_full((h * w, topk), -torch.inf, dtype=torch.float32)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    kept = max(2, triton.next_power_of_2(topk))
    if not len(tiles):
        return scores, indices
    with torch.cuda.device_of(query):
        _topk_kernel[(len(tiles),)](
            operand(query),
            operand(torch.stack([key.to(query.dtype) for key in keys])),  # memory may be kept in another type
            tiles,
            scores,
            indices,
            h,
            w,
            tile_columns=-(-w // tile[1]),
            frames=len(keys),
            radius=radius,
            disc=disc,
            reach=reach,
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
