"""Tiles of the windowed losses by their definition: which keys a query may match, and where keys and queries lie."""

import pytest
import torch

from fgvc_hf.training.window_tiles import Tiling


@pytest.mark.parametrize("outside", ["excluded", "zero"])
@pytest.mark.parametrize(("h", "w", "radius"), [(35, 18, 5), (28, 9, 12), (61, 17, 12), (40, 16, 8), (3, 4, 1)])
def test_keys_of_every_row_of_tiles_are_those_in_the_window(h, w, radius, outside):
    """On maps of many rows of tiles, of which some touch a border with their halo alone."""
    tiling = Tiling(torch.zeros(1, h, w, 1), radius, outside)
    tops = []
    for row in tiling.rows():
        tops.append(row.top)
        columns, half = -(-w // 16), 8 + 2 * radius
        key_y = torch.arange(half) + row.top - radius
        for column in range(columns):
            key_x = torch.arange(16 + 2 * radius) + 16 * column - radius
            for query in range(0, 128, 5):
                y, x = row.top + query // 16, 16 * column + query % 16
                near = ((key_y - y).abs() <= radius)[:, None] & ((key_x - x).abs() <= radius)
                if outside == "excluded":
                    near &= ((key_y >= 0) & (key_y < h))[:, None] & ((key_x >= 0) & (key_x < w))
                expected = near.flatten() if y < h and x < w else torch.ones(near.numel(), dtype=torch.bool)
                assert torch.equal(row.allowed[column, query], expected)
        assert torch.equal(row.bias == 0, row.allowed) and (row.bias[~row.allowed] == -torch.inf).all()
    assert tops == list(range(0, h, 8))


def test_keys_of_tiles_are_read_and_added_where_they_lie():
    """What is added is the sum over all tiles whose halo holds a key."""
    h, w, radius = 18, 21, 3
    values = torch.arange(2.0 * h * w).view(2, h, w, 1) + 1
    tiling = Tiling(values, radius)
    padded, sums = tiling.pad_keys(values), torch.zeros_like(tiling.pad_keys(values))
    counts = torch.zeros(h, w)
    for row in tiling.rows():
        tiles = tiling.keys(padded, row)
        tiling.add_keys(tiles, row, sums)
        for column in range(2):
            top, left = row.top - radius, 16 * column - radius
            for batch in range(2):
                tile = tiles[2 * batch + column].view(8 + 2 * radius, 16 + 2 * radius)
                for y in range(max(top, 0), min(top + 8 + 2 * radius, h)):
                    for x in range(max(left, 0), min(left + 16 + 2 * radius, w)):
                        assert tile[y - top, x - left] == values[batch, y, x, 0]
                        counts[y, x] += batch
    assert torch.equal(tiling.crop_keys(sums)[..., 0], values[..., 0] * counts)
