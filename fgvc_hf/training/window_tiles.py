"""Tiles of queries, and their halos of keys, for the windowed losses: features are taken out by tiles, and gradients are added back by tiles.

A tile is 8x16 queries; its halo is all keys that the windows of its queries reach. Features are channels last, `(B, h, w, C)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..matching.tiles import TILE
from ..matching.windows import Window


@dataclass(frozen=True)
class TileRow:
    """The coordinates and the window masks of one row of nx tiles.

    Args:
        top (`int`): Row of the map at which the tiles start.
        query_y (`(128,)`), query_x (`(nx, 128)`), key_y (`(Ky,)`), key_x (`(nx, Kx)`): Coordinates in cells.
        allowed (`torch.Tensor` of shape `(nx, 128, Ky * Kx)`, bool): Keys in the window; all of them for queries off the map, which are dropped.
        bias (`torch.Tensor` of shape `(nx, 128, Ky * Kx)`): 0 where keys are allowed, -inf elsewhere.
    """

    top: int
    query_y: torch.Tensor
    query_x: torch.Tensor
    key_y: torch.Tensor
    key_x: torch.Tensor
    allowed: torch.Tensor
    bias: torch.Tensor


class Tiling:
    """The tiles that cover a map `(B, h, w, C)`, with halos of `radius` cells.

    Args:
        features (`torch.Tensor` of shape `(B, h, w, C)`): Of the map's size and device.
        radius (`int`): Window radius in cells.
        outside (`str`): `"excluded"`: keys outside the frame take no part. `"zero"`: they take part with score 0, as in the
            released code.

    Raises:
        `ValueError`: an unknown `outside`.
    """

    def __init__(self, features: torch.Tensor, radius: int, outside: str = "excluded"):
        if outside not in ("excluded", "zero"):
            raise ValueError(f"outside must be 'excluded' or 'zero', got {outside!r}.")
        self.h, self.w = features.shape[1], features.shape[2]
        self.radius, self.device, self.outside = radius, features.device, outside
        self.below, self.right = -self.h % TILE[0], -self.w % TILE[1]
        self.columns = (self.w + self.right) // TILE[1]
        self.halo = (TILE[0] + 2 * radius, TILE[1] + 2 * radius)

    def rows(self) -> Iterator[TileRow]:
        """The rows of tiles from top to bottom."""
        r, device = self.radius, self.device
        query = torch.arange(TILE[0] * TILE[1], device=device)
        left = torch.arange(self.columns, device=device)[:, None] * TILE[1]
        query_x = left + query % TILE[1]
        key_x = left - r + torch.arange(self.halo[1], device=device)
        borders, allowed, bias = None, query_x, query_x
        for top in range(0, self.h, TILE[0]):
            query_y = top + query // TILE[1]
            key_y = top - r + torch.arange(self.halo[0], device=device)
            last, borders = borders, (min(top - r, 0), max(top + TILE[0] + r - self.h, 0))
            if borders != last:  # rows that touch no border of the map share one mask
                allowed = self._allowed(query_y, query_x, key_y, key_x)
                bias = torch.zeros(allowed.shape, dtype=torch.float32, device=device).masked_fill_(
                    ~allowed, -torch.inf
                )
            yield TileRow(top, query_y, query_x, key_y, key_x, allowed, bias)

    def _allowed(self, query_y, query_x, key_y, key_x) -> torch.Tensor:
        dy, dx = key_y - query_y[:, None], key_x[:, None] - query_x[..., None]  # (128, Ky), (nx, 128, Kx)
        allowed = Window(self.radius, "square").contains(dy[..., None], dx[:, :, None])  # (nx, 128, Ky, Kx)
        if self.outside == "excluded":
            on_y, on_x = (key_y >= 0) & (key_y < self.h), (key_x >= 0) & (key_x < self.w)
            allowed &= on_y[:, None] & on_x[:, None, None]
        allowed |= ((query_y >= self.h) | (query_x >= self.w))[..., None, None]
        return allowed.flatten(2)

    def pad_queries(self, values: torch.Tensor) -> torch.Tensor:
        """A map `(B, h, w, C)` with zeros below and to the right, up to whole tiles."""
        return F.pad(values, (0, 0, 0, self.right, 0, self.below))

    def pad_keys(self, values: torch.Tensor) -> torch.Tensor:
        """A map `(B, h, w, C)` with zeros on all sides, so that every halo lies on it."""
        r = self.radius
        return F.pad(values, (0, 0, r, r + self.right, r, r + self.below))

    def queries(self, padded: torch.Tensor, row: TileRow) -> torch.Tensor:
        """`(B * nx, 128, C)` of padded queries."""
        strip = padded[:, row.top : row.top + TILE[0]].unflatten(2, (self.columns, TILE[1]))  # (B, 8, nx, 16, C)
        return strip.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def keys(self, padded: torch.Tensor, row: TileRow) -> torch.Tensor:
        """`(B * nx, Ky * Kx, C)` of padded keys."""
        strip = padded[:, row.top : row.top + self.halo[0]].unfold(2, self.halo[1], TILE[1])  # (B, Ky, nx, C, Kx)
        return strip.permute(0, 2, 1, 4, 3).reshape(-1, self.halo[0] * self.halo[1], padded.shape[-1])

    def put_queries(self, tiles: torch.Tensor, row: TileRow, padded: torch.Tensor) -> None:
        """Write `(B * nx, 128, C)` to where [`Tiling.queries`] reads them."""
        strip = tiles.view(-1, self.columns, *TILE, tiles.shape[-1]).transpose(1, 2)
        padded[:, row.top : row.top + TILE[0]] = strip.flatten(2, 3)

    def add_keys(self, tiles: torch.Tensor, row: TileRow, padded: torch.Tensor) -> None:
        """Add `(B * nx, Ky * Kx, C)` to where [`Tiling.keys`] reads them; halos overlap."""
        tiles = tiles.view(-1, self.columns, *self.halo, tiles.shape[-1])
        for column in range(self.columns):
            left = column * TILE[1]
            padded[:, row.top : row.top + self.halo[0], left : left + self.halo[1]] += tiles[:, column]

    def crop_queries(self, padded: torch.Tensor) -> torch.Tensor:
        """The map without the padding of [`Tiling.pad_queries`]."""
        return padded[:, : self.h, : self.w]

    def crop_keys(self, padded: torch.Tensor) -> torch.Tensor:
        """The map without the padding of [`Tiling.pad_keys`]."""
        r = self.radius
        return padded[:, r : r + self.h, r : r + self.w]


def window_scores(q: torch.Tensor, k: torch.Tensor, scale: float, row: TileRow) -> torch.Tensor:
    """Scaled products `(B * nx, 128, Ky * Kx)` in float32, -inf outside the window."""
    products = torch.bmm(q, k.mT).unflatten(0, (-1, len(row.bias)))
    return torch.add(row.bias, products, alpha=scale).flatten(0, 1)
