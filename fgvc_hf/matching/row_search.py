"""[`window_topk`] as a graph: the same search in operations that leave torch as a `torch.export` program or as ONNX, for any size."""

import torch
import torch.nn.functional as F

from .windows import Window


def row_topk(
    query: torch.Tensor, keys: torch.Tensor, radius: int, shape: str, topk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k keys of every query over the windows in all key frames jointly, one row of the windows at a time.

    Rows are matched with whole rows of keys, and the top-k of each row are kept; the top-k of all rows are among these. Sizes may be
    symbolic, so there are no tiles; memory is that of F * h * w^2 products.

    Args:
        query (`torch.Tensor` of shape `(h, w, C)`), keys (`torch.Tensor` of shape `(F, h, w, C)`): Features, float32.
        radius, shape, topk: As of [`window_topk`].

    Returns:
        Scores and indices (h * w, topk), as [`window_topk`].
    """
    window, (frames, h, w, _) = Window(radius, shape), keys.shape
    rows, columns, frame = (torch.arange(n, device=query.device) for n in (h, w, frames))
    padded = F.pad(keys, (0, 0, 0, 0, window.reach, window.reach))
    scores, indices = [], []
    for d, half in enumerate(window.half_widths):
        products = query @ padded[:, d : d + h].transpose(2, 3)  # (F, h, w, w)
        x = columns[:, None] + torch.arange(-half, half + 1, device=query.device)  # (w, B)
        y = rows + d - window.reach  # (h,)
        inside = ((x >= 0) & (x < w)) & ((y >= 0) & (y < h))[:, None, None]  # (h, w, B)
        row = products.gather(3, x.clamp(0, w - 1).expand(frames, h, -1, -1))  # (F, h, w, B)
        row = row.masked_fill(~inside, -torch.inf).permute(1, 2, 0, 3).flatten(2)  # (h, w, F * B)
        position = (frame[:, None] * h + y[:, None, None, None]) * w + x[:, None]  # (h, w, F, B)
        best, place = F.pad(row, (0, topk), value=-torch.inf).topk(topk)
        scores.append(best)
        indices.append(F.pad(position.flatten(2), (0, topk)).gather(2, place))
    best, place = torch.cat(scores, dim=2).topk(topk)  # (h, w, topk)
    index = torch.cat(indices, dim=2).gather(2, place).masked_fill(best == -torch.inf, 0)
    return best.flatten(0, 1), index.flatten(0, 1)


__all__ = ["row_topk"]
