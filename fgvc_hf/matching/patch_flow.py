"""Dense flow by patches of the images themselves, from hypotheses: DIS (Kroeger et al., Fast optical flow using dense inverse search, ECCV 2016).

Features tell what belongs together, to a pixel or two; the images tell by how much it moved, to a tenth of a pixel. From the coarsest level
of an image pyramid to the finest, patches of 8 x 8 pixels at stride 4 take the better of two hypotheses (the flow of the coarser level, and
the one from features), are moved to the least difference by Gauss-Newton steps, try what their neighbours found, and vote for the flow of
every pixel they cover. Differences are less their means, so that light may change.
"""

import math

import torch
import torch.nn.functional as F

from ..kernels.dispatch import flow_for
from .flow_fields import length, median, neighbours, read_at, resized


SIDE, STRIDE = 8, 4  # pixels of a patch, and from one to the next
SMALLEST = 16  # pixels of the shorter side of the coarsest level
STEPS = 8, 4  # Gauss-Newton steps from a hypothesis, and from what a neighbour found
DAMPING = 20.0  # squared grey levels per pixel, added to the matrix of the slopes: plain patches move little
LEFT = 1e3  # squared grey levels, added to the difference of patches whose centre leaves the frame
SMOOTHED = 1  # pixels around each of which the median of the flow is taken, on every level


class ImageLevel:
    """
    A level of two image pyramids: N patches of the first image, in rows and columns, and the second image.

    Args:
        first, second (`torch.Tensor` of shape `(h, w)`, float32): Grey levels, 0 to 255.
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor):
        self.size, self.second = (first.shape[0], first.shape[1]), second
        self.rows, self.columns = (max(0, -(-(side - SIDE) // STRIDE)) + 1 for side in first.shape)
        self.padded = tuple((n - 1) * STRIDE + SIDE for n in (self.rows, self.columns))
        patches = self._cut(torch.stack([first, *slopes(first)]))  # (3, N, P)
        patches = patches - patches.mean(dim=-1, keepdim=True)
        self.patches, self.slopes = patches[0].contiguous(), patches[1:].contiguous()
        xx, yy = (self.slopes**2).sum(dim=-1) + DAMPING
        xy = self.slopes.prod(dim=0).sum(dim=-1)
        self.inverse = torch.stack([yy, -xy, xx], dim=-1) / (xx * yy - xy**2)[:, None]
        axes = (STRIDE * torch.arange(n, dtype=first.dtype, device=first.device) for n in (self.columns, self.rows))
        self.corner = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1).flatten(0, 1)  # (N, 2)
        self.kernels = flow_for(first)

    def _cut(self, images: torch.Tensor) -> torch.Tensor:
        """Patches (M, N, P) of images (M, h, w)."""
        below, right = self.padded[0] - self.size[0], self.padded[1] - self.size[1]
        padded = F.pad(images[None], (0, right, 0, below), mode="replicate")
        return F.unfold(padded, SIDE, stride=STRIDE).view(len(images), SIDE**2, -1).transpose(1, 2)

    def at_patches(self, flow: torch.Tensor) -> torch.Tensor:
        """Flow (N, 2) at the centres of the patches, of flow (h, w, 2)."""
        return read_at(flow, self.corner + (SIDE - 1) / 2)

    def cost(self, flow: torch.Tensor) -> torch.Tensor:
        """Mean squared difference (N,) of the patches where flow (N, 2) leads."""
        difference = self.kernels.difference(self.second, self.patches, self.corner, flow)
        centre = self.corner + (SIDE - 1) / 2 + flow
        left = ((centre < 0) | (centre > centre.new_tensor([self.size[1] - 1, self.size[0] - 1]))).any(dim=-1)
        return difference.square().mean(dim=-1) + LEFT * left.to(flow.dtype)

    def better(self, hypotheses: torch.Tensor) -> torch.Tensor:
        """The hypothesis (N, 2), of K (K, N, 2), that costs each patch least; the first of equals."""
        best = torch.stack([self.cost(flow) for flow in hypotheses]).argmin(dim=0)
        return hypotheses.gather(0, best[None, :, None].expand(1, -1, 2))[0]

    def search(self, start: torch.Tensor, steps: int) -> torch.Tensor:
        """Flow (N, 2) after Gauss-Newton steps; the start where that costs more, or is more than a patch away."""
        found = self.kernels.search(
            self.second, self.patches, self.slopes, self.inverse, self.corner, start.contiguous(), steps
        )
        good = (self.cost(found) < self.cost(start)) & (length(found - start) < SIDE)
        return torch.where(good[:, None], found, start)

    def around(self, flow: torch.Tensor) -> torch.Tensor:
        """The flow of each patch and of its four neighbours (5, N, 2)."""
        return neighbours(flow.view(self.rows, self.columns, 2), 1).flatten(1, 2)

    def spread(self, flow: torch.Tensor) -> torch.Tensor:
        """Flow (h, w, 2) of all pixels: the mean over the patches that cover each, weighted by the inverse of their differences there."""
        difference = self.kernels.difference(self.second, self.patches, self.corner, flow.contiguous())
        weight = 1 / difference.abs().clamp_min(1)  # (N, P)
        votes = torch.cat([weight, weight * flow[:, :1], weight * flow[:, 1:]], dim=1).T[None]  # (1, 3P, N)
        sums = F.fold(votes, self.padded, SIDE, stride=STRIDE)[0, :, : self.size[0], : self.size[1]]
        return (sums[1:] / sums[:1]).movedim(0, -1)


def patch_flow(first: torch.Tensor, second: torch.Tensor, hypothesis: torch.Tensor) -> torch.Tensor:
    """
    Flow from one image to another.

    Args:
        first, second (`torch.Tensor` of shape `(H, W)`, float32): Grey levels, 0 to 255.
        hypothesis (`torch.Tensor` of shape `(H, W, 2)`): Flow that may be wrong, in pixels.

    Returns:
        `torch.Tensor` of shape `(H, W, 2)`, in pixels.
    """
    count = max(1, int(math.log2(max(1, min(first.shape) / SMALLEST))) + 1)
    flow = torch.zeros_like(hypothesis)
    for images in reversed(list(zip(pyramid(first, count), pyramid(second, count)))):
        level = ImageLevel(*images)
        hypotheses = torch.stack([level.at_patches(resized(of, level.size)) for of in (flow, hypothesis)])
        found = level.search(level.better(hypotheses), STEPS[0])
        found = level.search(level.better(level.around(found)), STEPS[1])
        flow = median(level.spread(found), SMOOTHED)
    return flow


def pyramid(image: torch.Tensor, count: int) -> list[torch.Tensor]:
    """An image (h, w) and its means over 2 x 2 pixels, again and again: `count` levels, the finest first."""
    levels = [image]
    while len(levels) < count:
        h, w = levels[-1].shape
        padded = F.pad(levels[-1][None, None], (0, w % 2, 0, h % 2), mode="replicate")
        levels.append(F.avg_pool2d(padded, 2)[0, 0])
    return levels


def slopes(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives (h, w) of an image (h, w) along x and y, by differences of fourth order."""
    weights = image.new_tensor([1, -8, 0, 8, -1]) / 12
    padded = F.pad(image[None, None], (2, 2, 2, 2), mode="replicate")
    along_x = F.conv2d(padded[:, :, 2:-2], weights.view(1, 1, 1, 5))
    return along_x[0, 0], F.conv2d(padded[..., 2:-2], weights.view(1, 1, 5, 1))[0, 0]


__all__ = ["patch_flow", "pyramid"]
