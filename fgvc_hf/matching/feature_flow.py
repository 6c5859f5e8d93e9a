"""Dense matching of the features of two frames, coarse to fine.

1. On a coarse pyramid level every second cell is compared, by patches of 3 x 3 cells, with all cells of the other frame, so that motion up
   to the size of the frame is found. Semi-global matching (Hirschmueller, Stereo processing by semiglobal matching and mutual information,
   TPAMI 2008) makes neighbours agree: along each of four directions, a jump of the motion costs more where the features are alike. Small
   bodies that this smooths away keep the best match of each cell alone, where it passes the forward-backward check.
2. Down the pyramid, each cell chooses among the motions of its neighbours, and then searches one cell around, by similarities that are
   averaged over a few cells. What fails the forward-backward check is filled from around, on every level.
"""

import math

import torch
import torch.nn.functional as F

from ..kernels.dispatch import flow_for
from .flow_fields import cells_of, consistent, filled, median, neighbours, read_at
from .pyramid import downsample
from .template_search import vertex


COARSE_CELLS = 4500  # of the level on which all cells are compared: their product bounds time and memory
SMALL_JUMP = 0.03  # cost, in cosine similarity, of a jump of the motion by one cell between neighbouring queries
LARGE_JUMP = 0.25  # ... by more, between queries whose features are equal
EDGE = 0.3  # cosine dissimilarity of neighbouring queries that lowers that cost to a share of 1 / e
LEAST_JUMP = 0.2  # share of it that remains at least
FORBIDDEN = 1e3  # cost of what lies outside the frame
SPREADS = (2, 1)  # cells to the neighbours whose motion is tried, in turn
AVERAGED = 1, 2  # cells around that similarities are averaged over, on the coarse levels and at full resolution
ALLOWED = 1.5, 1.0  # cells by which flow and backward flow may differ, on the coarse levels and at full resolution
ALLOWED_ALONE = 0.6  # ... of the best matches of cells alone


def feature_flow(features_0: torch.Tensor, features_1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Flow from each of two frames to the other, before what is wrong is replaced.

    Args:
        features_0, features_1 (`torch.Tensor` of shape `(h, w, C)`): Features of unit length.

    Returns:
        Two tensors of shape `(h, w, 2)`, float32: (x, y) in cells.
    """
    levels = [(features_0, features_1)]
    while len(levels) == 1 or levels[-1][0][..., 0].numel() > COARSE_CELLS:
        levels.append((downsample(levels[-1][0]), downsample(levels[-1][1])))
    first, second = levels[-1]
    forward, backward = completed(all_pairs(first, second), all_pairs(second, first))
    for number in reversed(range(len(levels))):
        first, second = levels[number]
        size, average = first.shape[:2], AVERAGED[number == 0]
        forward = refined(first, second, _doubled(forward, size), average)
        backward = refined(second, first, _doubled(backward, size), average)
        if number:
            forward, backward = agreed(forward, backward, ALLOWED[0])
    return forward, backward


def agreed(forward: torch.Tensor, backward: torch.Tensor, allowed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Both flows (h, w, 2), where they contradict each other filled from around, and without specks."""
    pairs = (forward, backward), (backward, forward)
    first, second = (median(filled(flow, consistent(flow, back, allowed)), 1) for flow, back in pairs)
    return first, second


def completed(
    forward: tuple[torch.Tensor, torch.Tensor], backward: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both flows (h, w, 2) of what [`all_pairs`] gives: a cell's own match where it is confirmed and the smooth flow fails on either side.

    What fails the check then is filled from around.
    """
    pairs = (forward, backward), (backward, forward)
    fails = [~consistent(smooth, back, ALLOWED[0]) for (smooth, _), (back, _) in pairs]
    flows = []
    for ((smooth, alone), (_, alone_back)), here, there in zip(pairs, fails, fails[::-1]):
        fails_there = read_at(there[..., None].float(), cells_of(alone) + alone)[..., 0] > 0
        own = consistent(alone, alone_back, ALLOWED_ALONE) & (here | fails_there)
        flows.append(torch.where(own[..., None], alone, smooth))
    first, second = (filled(flow, consistent(flow, back, ALLOWED[0])) for flow, back in (flows, flows[::-1]))
    return first, second


def all_pairs(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow of every second cell of features (h, w, C), in steps of two cells: by semi-global matching, and of each cell alone.

    Returns:
        Two tensors of shape `(h/2, w/2, 2)`, float32.
    """
    queries, keys = _patches(query)[::2, ::2], _patches(key)
    rows, columns, channels = queries.shape
    h, w = keys.shape[:2]
    cost = 1 - queries.reshape(-1, channels) @ keys.reshape(-1, channels).T
    cost = cost.view(rows, columns, h, w)
    total = semi_global(cost, query[::2, ::2].float())
    y, x = (2 * torch.arange(side, device=query.device) for side in (rows, columns))
    best = (costs.flatten(2).argmin(dim=-1) for costs in (total, cost))  # (rows, columns)
    smooth, alone = (torch.stack([cell % w - x, cell // w - y[:, None]], dim=-1).float() / 2 for cell in best)
    return smooth, alone


def semi_global(cost: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """
    Sums over four directions of the least costs of the paths that end at each query.

    Args:
        cost (`torch.Tensor` of shape `(rows, columns, h, w)`): Of each cell (y, x) of the other frame, for queries at every second cell.
        guide (`torch.Tensor` of shape `(rows, columns, C)`): Features of the queries.
    """
    total = torch.zeros_like(cost)
    for axis in (0, 1):
        costs, sums, features = (
            of.transpose(0, axis) for of in (cost, total, guide)
        )  # paths run along the first axis
        alike = (features[1:] * features[:-1]).sum(dim=-1)
        jump = LARGE_JUMP * torch.exp((alike - 1) / EDGE).clamp_min(LEAST_JUMP)  # (n - 1, m)
        for sign in (1, -1):
            order = list(range(len(costs)))[::sign]
            path = costs[order[0]]
            sums[order[0]] += path
            for before, now in zip(order, order[1:]):
                moved = _moved(path, 2 * sign, axis)
                least = moved.flatten(1).amin(dim=1)[:, None, None]
                near = SMALL_JUMP + _least_around(moved)
                far = least + jump[min(before, now)][:, None, None]
                path = costs[now] + torch.minimum(torch.minimum(moved, near), far) - least
                sums[now] += path
    return total


def refined(query: torch.Tensor, key: torch.Tensor, flow: torch.Tensor, average: int) -> torch.Tensor:
    """Flow (h, w, 2) after each cell has chosen among its neighbours' and the cells around, with the fraction of a cell by a parabola."""
    for spread in SPREADS:
        candidates = neighbours(flow, spread)  # (K, h, w, 2)
        best = _scores(query, key, candidates, average).argmax(dim=0)
        flow = candidates.gather(0, best[None, ..., None].expand(1, -1, -1, 2))[0]
    axis = torch.arange(-1, 2, device=flow.device)
    offsets = torch.cartesian_prod(axis, axis).flip(-1)  # (9, 2), row by row
    scores = _scores(query, key, flow + offsets[:, None, None], average)  # (9, h, w)
    best = scores.argmax(dim=0)
    line = scores.view(3, 3, *best.shape)
    row, column = (best // 3)[None, None], (best % 3)[None, None]
    along_x = line.gather(0, row.expand(1, 3, -1, -1))[0]  # (3, h, w), the row of the best
    along_y = line.gather(1, column.expand(3, 1, -1, -1))[:, 0]
    inner = torch.stack([column == 1, row == 1], dim=-1)[0, 0]  # (h, w, 2): scores on both sides
    fraction = torch.stack([vertex(*along_x), vertex(*along_y)], dim=-1) * inner
    return (flow + offsets[best]).float() + fraction


def _scores(query: torch.Tensor, key: torch.Tensor, flow: torch.Tensor, average: int) -> torch.Tensor:
    """Similarities (K, h, w) of candidates, averaged over the cells around; those outside the frame do not count."""
    scores = flow_for(query).similarity(query, key, flow.contiguous())
    side = 2 * average + 1
    return F.avg_pool2d(scores[:, None], side, 1, average, count_include_pad=False)[:, 0]


def _doubled(flow: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Flow on a level of this size, int64, of flow at every second of its cells, in steps of two cells."""
    fine = flow.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)[: size[0], : size[1]]
    return (2 * fine).round().long()


def _patches(features: torch.Tensor) -> torch.Tensor:
    """Patches (h, w, 9 * C) of 3 x 3 features (h, w, C), float32; the product of two is their mean similarity."""
    h, w, channels = features.shape
    padded = F.pad(features.float().movedim(-1, 0)[None], (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).view(9 * channels, h, w).movedim(0, -1) / math.sqrt(9)


def _moved(costs: torch.Tensor, by: int, axis: int) -> torch.Tensor:
    """Costs (m, h, w) moved along y (axis 0) or x (axis 1), so that equal motion of the next query is at the same place."""
    dim = axis + 1
    side = costs.shape[dim]
    result = torch.full_like(costs, FORBIDDEN)
    if abs(by) < side:
        result.narrow(dim, max(by, 0), side - abs(by)).copy_(costs.narrow(dim, max(-by, 0), side - abs(by)))
    return result


def _least_around(costs: torch.Tensor) -> torch.Tensor:
    """The least of each 3 x 3 costs (m, h, w); a CPU takes less time for it than for a pooling."""
    for dim in (1, 2):
        least, side = costs.clone(), costs.shape[dim]
        ahead, behind = costs.narrow(dim, 1, side - 1), costs.narrow(dim, 0, side - 1)
        for part, other in ((least.narrow(dim, 0, side - 1), ahead), (least.narrow(dim, 1, side - 1), behind)):
            torch.minimum(part, other, out=part)
        costs = least
    return costs


__all__ = ["feature_flow"]
