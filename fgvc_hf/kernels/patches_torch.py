"""Template matching in torch, for any device and precision: correlation with windows, mean templates, new templates.

[`fgvc_hf.kernels.patches_numba.NumbaPatches`] has the same functions for a CPU. Without it a frame with 30 points takes up to 1.1 times as
long, and one with 500 points 1.25 to 1.5 times (`scripts/benchmark_kernels.py`).
"""

import math

import torch

from .chunks import limit_for


# Windows that are multiplied at once. Always as many, padded with zeros: the last bit of a product depends on the size of the batch,
# and a track must not depend on how many points there are
WINDOWS_AT_ONCE = {"cpu": 16, "accelerator": 32}
POINTS_AT_ONCE = {"cpu": 512, "accelerator": 1024}  # points whose scores are held at a time; changes no result


def sample_patches(features: torch.Tensor, cells: torch.Tensor, radius: int) -> torch.Tensor:
    """Patches (N, P, C) around fractional cells (N, 2), (x, y), of features (h, w, C): bilinear, with the border replicated."""
    h, w, c = features.shape
    first = cells.floor()
    fx, fy = ((cells - first)[:, i, None, None, None] for i in (0, 1))
    axis = torch.arange(-radius, radius + 2, device=cells.device)
    x, y = ((first[:, i, None].long() + axis).clamp(0, side - 1) for i, side in ((0, w), (1, h)))  # (N, D+1)
    index = (y[:, :, None] * w + x[:, None]).flatten()
    block = features.reshape(h * w, c).index_select(0, index).float().view(*y.shape, x.shape[1], c)  # (N, D+1, D+1, C)
    rows = torch.lerp(block[:, :, :-1], block[:, :, 1:], fx)
    return torch.lerp(rows[:, :-1], rows[:, 1:], fy).flatten(1, 2).to(features.dtype)


class TorchPatches:
    """The operations on templates that cost time; P = (2 * radius + 1)^2 cells of a patch, row by row, of C channels.

    Products and sums are in float32 whatever the precision of the features.
    """

    @staticmethod
    def correlate(
        features: torch.Tensor, corner: torch.Tensor, templates: torch.Tensor, weights: torch.Tensor, search: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the cells of windows.

        Args:
            features (`torch.Tensor` of shape `(h, w, C)`): The frame.
            corner (`torch.Tensor` of shape `(N, 2)`, int64): First cell (x, y) of each window, also outside the frame.
            templates (`torch.Tensor` of shape `(N, P, C)`), weights (`torch.Tensor` of shape `(N, P)`, float32): What is searched for.
            search (`int`): Radius of the windows in cells; D is twice it plus 1.

        Returns:
            `scores` (N, D, D), float32: weighted mean of the products of the patch around a cell with the template; cells outside the
            frame count 0. `share` (N, D, D), float32: sum of the weights of the cells inside; 0 where the centre is outside.
        """
        h, w = features.shape[:2]
        n, p, c = templates.shape
        radius = (math.isqrt(p) - 1) // 2
        # Cells along a side of a patch, of a window, and of the area that the window's patches cover
        side, d, b = 2 * radius + 1, 2 * search + 1, 2 * (search + radius) + 1
        axis = torch.arange(b, device=features.device) - radius
        x, y = corner[:, 0, None] + axis, corner[:, 1, None] + axis  # (N, b)
        x_inside, y_inside = (x >= 0) & (x < w), (y >= 0) & (y < h)
        inside = (y_inside[:, :, None] & x_inside[:, None]).flatten(1)[:, None].float()  # (N, 1, b*b)
        index = (y.clamp(0, h - 1)[:, :, None] * w + x.clamp(0, w - 1)[:, None]).flatten(1)  # (N, b*b)
        at_once = limit_for(features, WINDOWS_AT_ONCE)
        weighted = torch.empty((n + -n % at_once, p, c), dtype=torch.float32, device=features.device)
        torch.mul(templates, weights[..., None], out=weighted[:n])
        weighted[n:] = 0
        scores = torch.zeros((n, d * b), dtype=torch.float32, device=features.device)
        length = (d - 1) * b + d  # from the first cell of a window to its last, in rows of b
        # Buffers are reused: allocating them costs more than the arithmetic
        flat = features.reshape(h * w, c)
        windows, products = scores.new_zeros((at_once, b * b, c)), scores.new_empty((at_once, p, b * b))
        for start in range(0, n, at_once):
            part = slice(start, start + at_once)
            k = len(index[part])
            windows[:k].view(-1, c).copy_(flat.index_select(0, index[part].flatten()))
            torch.bmm(weighted[part], windows.transpose(1, 2), out=products)  # (at_once, P, b*b)
            products[:k] *= inside[part]
            # The product with cell (dy, dx) of a patch belongs to the score of the cell dy rows up and dx columns left: one strided view
            shifted = products[:k].as_strided((k, side, side, length), (p * b * b, (side * b + 1) * b, b * b + 1, 1))
            torch.sum(shifted, dim=(1, 2), dtype=torch.float32, out=scores[part, :length])
        columns, rows = (of.float().unfold(1, side, 1) for of in (x_inside, y_inside))  # (N, D, side)
        share = rows @ weights.unflatten(1, (side, side)) @ columns.transpose(1, 2)  # (N, D, D)
        cells = slice(radius, radius + d)
        share = share * (y_inside[:, cells, None] & x_inside[:, None, cells])
        return scores.view(n, d, b)[:, :, :d], share

    @staticmethod
    def mean(anchor: torch.Tensor, share: float, recent: torch.Tensor, trusted: torch.Tensor) -> torch.Tensor:
        """Weighted mean (N, P, C) of first patches and of those of earlier frames.

        Args:
            anchor (`torch.Tensor` of shape `(N, P, C)`), share (`float`): The first patches, and their weight.
            recent (`torch.Tensor` of shape `(N, slots, P, C)`): Patches of earlier frames, 0 where they do not count.
            trusted (`torch.Tensor` of shape `(N, slots)`, bool): Which of them count, with weight 1.
        """
        total = share * anchor.float()
        for slot in range(recent.shape[1]):
            total.add_(recent[:, slot])
        return total.div_((share + trusted.float().sum(dim=1))[:, None, None]).to(anchor.dtype)

    @staticmethod
    def take(
        features: torch.Tensor,
        cells: torch.Tensor,
        mean: torch.Tensor,
        trusted: torch.Tensor,
        recent: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """Write the patches around fractional cells into the template memory.

        Args:
            features (`torch.Tensor` of shape `(h, w, C)`), cells (`torch.Tensor` of shape `(N, 2)`): The frame, and where patches are.
            mean (`torch.Tensor` of shape `(N, P, C)`): What their cells are compared with.
            trusted (`torch.Tensor` of shape `(N,)`, bool): Which patches are stored; zeros are instead of the others.
            recent (`torch.Tensor` of shape `(N, slots, P, C)`), slots (`torch.Tensor` of shape `(N,)`, int64): Where they are written to.

        Returns:
            Cosine similarity (N, P), float32, of each cell of the new patches with that of `mean`.
        """
        found = sample_patches(features, cells, (math.isqrt(mean.shape[1]) - 1) // 2)
        similarity = _cosine(found.float(), mean.float())
        point = torch.arange(len(slots), device=slots.device)
        recent[point, slots] = found.masked_fill_(~trusted[:, None, None], 0).to(recent.dtype)
        return similarity


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine similarity (N, P) of vectors (N, P, C)."""
    return (a * b).sum(dim=-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-8)


__all__ = ["POINTS_AT_ONCE", "TorchPatches", "sample_patches"]
