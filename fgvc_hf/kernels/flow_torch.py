"""The operations of dense flow that cost time, in torch, for any device and precision.

[`fgvc_hf.kernels.flow_numba.NumbaFlow`] has the same functions for a CPU.
"""

import torch

from .bilinear import read_bilinear


OUTSIDE = (
    -0.2
)  # similarity of a cell with one outside the frame: below that of most matches, above that of clear contradictions
LARGEST_STEP = 2.0  # pixels of one iteration of the inverse search, along x and along y


class TorchFlow:
    """P pixels of a patch, row by row; N patches; K candidates for each cell."""

    @staticmethod
    def similarity(query: torch.Tensor, key: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Products of features with those that candidates of flow point to.

        Args:
            query, key (`torch.Tensor` of shape `(h, w, C)`): Features of the two frames.
            flow (`torch.Tensor` of shape `(K, h, w, 2)`, int64): Candidates (x, y) in cells.

        Returns:
            `torch.Tensor` of shape `(K, h, w)`, float32; [`OUTSIDE`] where a candidate leaves the frame.
        """
        h, w, channels = query.shape
        rows, columns = (torch.arange(side, device=flow.device) for side in (h, w))
        query, key, products = query.float(), key.reshape(h * w, channels), []
        for candidate in flow:
            x, y = columns + candidate[..., 0], rows[:, None] + candidate[..., 1]
            found = key[y.clamp(0, h - 1) * w + x.clamp(0, w - 1)]  # (h, w, C)
            inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            products.append((found.float() * query).sum(-1).masked_fill(~inside, OUTSIDE))
        return torch.stack(products)

    @staticmethod
    def difference(
        image: torch.Tensor, patches: torch.Tensor, corner: torch.Tensor, flow: torch.Tensor
    ) -> torch.Tensor:
        """Differences (N, P), each less its mean, between an image where flow points to and patches of another one.

        Args:
            image (`torch.Tensor` of shape `(h, w)`): Read bilinearly, constant beyond its border.
            patches (`torch.Tensor` of shape `(N, P)`): Less their means.
            corner (`torch.Tensor` of shape `(N, 2)`): First pixel (x, y) of each.
            flow (`torch.Tensor` of shape `(N, 2)`): (x, y) in pixels.
        """
        side = round(patches.shape[1] ** 0.5)
        axis = torch.arange(side, device=image.device)
        offsets = torch.cartesian_prod(axis, axis).flip(-1)  # (P, 2)
        places = (corner + flow)[:, None] + offsets  # (N, P, 2)
        values = read_bilinear(image[None], places)[0]
        return values - values.mean(dim=1, keepdim=True) - patches

    @classmethod
    def search(
        cls,
        image: torch.Tensor,
        patches: torch.Tensor,
        slopes: torch.Tensor,
        inverse: torch.Tensor,
        corner: torch.Tensor,
        flow: torch.Tensor,
        iterations: int,
    ) -> torch.Tensor:
        """Flow (N, 2) of patches after some Gauss-Newton steps from the flow given (inverse compositional search).

        Args:
            image, patches, corner, flow: As of [`difference`].
            slopes (`torch.Tensor` of shape `(2, N, P)`): Derivatives of the patches along x and y, less their means.
            inverse (`torch.Tensor` of shape `(N, 3)`): Of the 2 x 2 matrices of their products: xx, xy, yy.
            iterations (`int`): How many steps.
        """
        for _ in range(iterations):
            difference = cls.difference(image, patches, corner, flow)
            x, y = (slopes * difference).sum(dim=-1)
            step = torch.stack([inverse[:, 0] * x + inverse[:, 1] * y, inverse[:, 1] * x + inverse[:, 2] * y], dim=-1)
            flow = flow - step.clamp(-LARGEST_STEP, LARGEST_STEP)
        return flow

    @staticmethod
    def spread(values: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
        """Sums (C, h, w) of values (C, h, w) along x, each weighted by the product of the decays (h, w) on the way to it.

        A recursive filter, once forwards and once backwards: what a cell gets from its left neighbour is multiplied by its decay.
        """
        forward, backward = values.clone(), torch.zeros_like(values)
        for x in range(1, values.shape[2]):
            forward[..., x] += decay[:, x] * forward[..., x - 1]
            back = values.shape[2] - 1 - x
            backward[..., back] = decay[:, back + 1] * (backward[..., back + 1] + values[..., back + 1])
        return forward + backward


__all__ = ["LARGEST_STEP", "OUTSIDE", "TorchFlow"]
