"""Dots, rings and colours by value, pixel by pixel."""

import colorsys
import math

import numpy as np
import pytest

from fgvc_hf.io.strokes import dot_radius, draw_dot, draw_ring, layer_over, line_width, new_layer, point_colours


def picture(height=14, width=17):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def blended(below, colour, opacity):
    return np.rint(below + opacity * (np.array(colour, float) - below))


def covered(distance, radius):
    """How much of a pixel at a distance a disc covers: all but the last half pixel on either side of its border."""
    return min(max(radius - distance + 0.5, 0.0), 1.0)


PLACES = [(8.5, 7.5), (3.2, 11.9), (-2.0, 5.0), (16.4, 0.3), (40.0, 5.0), (8.0, -30.0)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("colour", "contrast"), [((110, 110, 110), 0), ((109, 109, 109), 255), ((0, 190, 0), 0)])
def test_a_dot_by_value(place, colour, contrast):
    """A disc in black or white, by which contrasts, and the colour inside the outline."""
    before = picture()
    drawn = before.copy()
    draw_dot(drawn, place, colour, 4.3, 1.1)
    for y, x in np.ndindex(before.shape[:2]):
        distance = math.dist((x + 0.5, y + 0.5), place)
        outer = blended(before[y, x], (contrast,) * 3, covered(distance, 4.3))
        assert (drawn[y, x] == blended(outer, colour, covered(distance, 4.3 - 1.1))).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("halo", [0.0, 0.4])
def test_a_ring_by_value(place, halo):
    """A line, and a halo of more than twice its width under it."""
    before = picture()
    drawn = before.copy()
    draw_ring(drawn, place, (250, 20, 30), 5.2, 1.5, 0.8, halo)
    for y, x in np.ndindex(before.shape[:2]):
        off = abs(math.dist((x + 0.5, y + 0.5), place) - 5.2)
        under = blended(before[y, x], (255, 255, 255), halo * covered(off, 1.8))
        assert (drawn[y, x] == blended(under, (250, 20, 30), 0.8 * covered(off, 0.75))).all()
    opaque = before.copy()
    draw_ring(opaque, (8.5, 7.5), (1, 2, 3), 5.0, 2.0)
    assert opaque[7, 13].tolist() == [1, 2, 3]


def test_hues_go_round_by_the_golden_ratio_and_every_other_id_is_paler():
    ids = [0, 1, 2, 7, 255, 65_535]
    for number, colour in zip(ids, point_colours(ids), strict=True):
        hue = number * 0.618034 % 1
        expected = colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.95, 1.0)
        assert colour.tolist() == [round(255 * part) for part in expected]
    assert point_colours([]).shape == (0, 3) and point_colours([3]).dtype == np.uint8


def test_lines_are_one_pixel_wide_up_to_480_pixels_and_dots_one_hundredth_of_the_width():
    assert [line_width(width) for width in (1, 480, 960, 1200)] == [1, 1, 2, 2.5]
    assert dot_radius(100) == pytest.approx(2.4) and dot_radius(960) == pytest.approx(4.8)


def test_layers_are_averaged_down_over_the_picture():
    before = picture()
    layer, draw = new_layer(14, 17)
    assert layer.size == (34, 28) and layer.mode == "RGBA"
    draw.rectangle(
        (6, 4, 9, 6), fill=(200, 100, 50, 255)
    )  # pixels (3, 2) and (4, 2), and the upper half of those below
    drawn = layer_over(before, layer).astype(int)
    assert drawn[2, 3].tolist() == drawn[2, 4].tolist() == [200, 100, 50]
    half = (before[3, 3:5].astype(int) + (200, 100, 50)) / 2
    assert np.abs(drawn[3, 3:5] - half).max() <= 1.5
    drawn[2:4, 3:5] = before[2:4, 3:5]
    np.testing.assert_array_equal(drawn, before)
