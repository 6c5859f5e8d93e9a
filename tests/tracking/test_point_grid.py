"""Points spread evenly over a frame that is no square."""

import pytest

from fgvc_hf.tracking.point_grid import grid_points


def test_points_are_the_middles_of_equal_cells():
    expected = [[0, x, y] for y in (3, 9) for x in (5, 15, 25)]
    assert grid_points((2, 3), 12, 30).tolist() == expected
    assert grid_points(1, 12, 30).tolist() == [[0, 15, 6]]


def test_there_are_at_most_as_many_rows_and_columns_as_the_frame_has():
    assert len(grid_points((12, 30), 12, 30)) == 360 and len(grid_points((5, 20), 12, 30)) == 100
    for grid in ((13, 5), (5, 31), (20, 5), 13):
        with pytest.raises(ValueError, match="must not have more points than the frame has pixels, 12x30"):
            grid_points(grid, 12, 30)


def test_there_are_at_most_100_000_points():
    assert len(grid_points((250, 400), 300, 400)) == 100_000
    with pytest.raises(ValueError, match="at most 100000 points"):
        grid_points((251, 400), 300, 400)
