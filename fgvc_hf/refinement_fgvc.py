"""The search for keys from coarse to fine: the best block of cells first, and then cells just around it.

It has the signature of the whole search, [`window_topk`], and takes a small part of its time; [`best_keys`] chooses.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .configuration_fgvc import COARSE_STRIDE, FINE_STRIDE, FgvcConfig
from .correlation_fgvc import CHUNK_BYTES, window_reach, window_topk


BLOCK = COARSE_STRIDE // FINE_STRIDE  # cells along a side of a block


def refined_topk(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    topk: int,
    active: torch.Tensor | None = None,
    margin: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best `topk` keys from coarse to fine: of the cells around the best block of each key frame, and not of whole neighbourhoods.

    Blocks of 4x4 cells are matched by their mean features (Eq. 1 with a quarter of the radius: 6 for 24), and the cells of a block with those
    of the best block in each frame, and `margin` cells around it. Scores are float32 products. All cells of a block share their keys.

    Args:
        query, keys, radius, shape, topk: As of [`window_topk`].
        active (`torch.Tensor` of shape `(h, w)`, bool, *optional*): Blocks without any active query are skipped.
        margin (`int`): Cells.

    Returns:
        As [`window_topk`].
    """
    h, w, channels = query.shape
    means, coarse_radius = block_means(query), -(-radius // BLOCK)
    rows, columns = means.shape[:2]
    wanted = None if active is None else F.max_pool2d(active[None].float(), BLOCK, ceil_mode=True)[0] > 0
    best = [window_topk(means, [block_means(key)], coarse_radius, shape, 1, wanted)[1] for key in keys]
    found = torch.cat(best, dim=1)  # (rows * columns, F), flat blocks
    ky, kx = min(BLOCK + 2 * margin, h), min(BLOCK + 2 * margin, w)
    y = (found // columns * BLOCK - margin).clamp(0, h - ky)[..., None] + torch.arange(ky, device=query.device)
    x = (found % columns * BLOCK - margin).clamp(0, w - kx)[..., None] + torch.arange(kx, device=query.device)

    cells = _split(query).flatten(1, 2).float()  # (rows * columns, 16, C)
    scores = cells.new_full((len(cells), topk, BLOCK**2), -torch.inf)
    indices = torch.zeros(scores.shape, dtype=torch.long, device=query.device)
    chosen = torch.arange(len(cells), device=query.device) if wanted is None else wanted.flatten().nonzero()[:, 0]
    limit = CHUNK_BYTES["cpu" if query.device.type == "cpu" else "accelerator"]
    chunk = max(1, limit // (4 * channels * len(keys) * ky * kx))
    buffer = cells.new_empty((min(chunk, len(chosen)), len(keys), ky * kx, channels))
    for blocks in chosen.split(chunk):
        places = (y[blocks][..., None] * w + x[blocks][:, :, None]).flatten(2)  # (n, F, Ky * Kx)
        around = buffer[: len(blocks)]
        for f, key in enumerate(keys):
            around[:, f] = key.view(h * w, channels)[places[:, f]]
        products = torch.bmm(around.flatten(1, 2), cells[blocks].transpose(1, 2))  # (n, F * Ky * Kx, 16)
        values, position = _select_rows(products.unflatten(1, (-1, kx)), topk)  # (n, k, 16)
        places = places + torch.arange(len(keys), device=query.device)[:, None] * (h * w)
        which = places.flatten(1).gather(1, position.flatten(1)).view_as(position)
        scores[blocks, : values.shape[1]], indices[blocks, : values.shape[1]] = values, which
    back = [part.view(rows, columns, topk, BLOCK, BLOCK).permute(0, 3, 1, 4, 2) for part in (scores, indices)]
    scores, indices = (part.reshape(rows * BLOCK, columns * BLOCK, topk)[:h, :w].flatten(0, 1) for part in back)
    return scores, indices


def _select_rows(products: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k of rows of keys (n, rows, Kx, queries) in two stages, as [`_select`]: values and flat positions (n, k, queries)."""
    kx = products.shape[2]
    best = products.amax(dim=2).topk(min(topk, products.shape[1]), dim=1, sorted=False).indices  # (n, k, queries)
    values = products.gather(1, best[:, :, None].expand(-1, -1, kx, -1)).flatten(1, 2)
    values, position = values.topk(min(topk, values.shape[1]), dim=1)
    return values, best.gather(1, position // kx) * kx + position % kx


def _split(features: torch.Tensor) -> torch.Tensor:
    """Blocks (rows * columns, 4, 4, C) of features (h, w, C), filled up with zeros at the border."""
    h, w, channels = features.shape
    padded = F.pad(features, (0, 0, 0, -w % BLOCK, 0, -h % BLOCK))
    split = padded.view(-(-h // BLOCK), BLOCK, -(-w // BLOCK), BLOCK, channels).transpose(1, 2)
    return split.flatten(0, 1)


def block_means(features: torch.Tensor) -> torch.Tensor:
    """Means (rows, columns, C) of blocks of 4x4 features (h, w, C), of unit length, for which zeros at the border do not count."""
    means = F.normalize(_split(features).float().sum(dim=(1, 2)), dim=-1)
    return means.view(-(-features.shape[0] // BLOCK), -1, features.shape[2])


def best_keys(
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    radius: int,
    shape: str,
    config: FgvcConfig,
    active: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys that labels are taken from: by [`refined_topk`] where the configuration refines, else by [`window_topk`]."""
    if config.fine_size and config.refine_radius:
        return refined_topk(query, keys, radius, shape, config.propagation_topk, active, config.refine_radius)
    return window_topk(query, keys, radius, shape, config.propagation_topk, active)


def best_keys_reach(config: FgvcConfig) -> int:
    """Largest offset along an axis of what [`best_keys`] finds in the neighbourhood that labels come from."""
    radius, shape = config.propagation_radius, config.propagation_window
    if config.fine_size and config.refine_radius:
        return refined_reach(radius, shape, config.refine_radius)
    return window_reach(radius, shape)


def refined_reach(radius: int, shape: str, margin: int) -> int:
    """Largest offset along an axis of a key that [`refined_topk`] can find; at the border its cells move inwards."""
    return BLOCK * window_reach(-(-radius // BLOCK), shape) + 2 * (BLOCK - 1) + 2 * margin


__all__ = ["best_keys", "best_keys_reach"]
