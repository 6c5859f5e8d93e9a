"""Flow in pictures: what each colour, arrow and mark says, and the wheel that explains them."""

import colorsys
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fgvc_hf.io import flow_colours
from fgvc_hf.io.flow_colours import (
    draw_arrows,
    draw_flow,
    draw_flow_panels,
    flow_wheel,
    largest_flow,
    with_flow_legend,
)
from fgvc_hf.io.flow_files import save_flow


@pytest.fixture
def frame():
    return np.full((60, 80, 3), 100, np.uint8)


def changed(drawn, frame):
    """Rows and columns of the pixels that were drawn on."""
    return np.nonzero((drawn != frame).any(axis=-1))


def test_flow_colours_tell_direction_and_length():
    flow = np.array([[[1.0, 0], [2, 0], [0, 2], [0, 0]]])
    colours = draw_flow(flow, largest=2)[0].astype(int)
    assert (colours[3] == 255).all()
    assert colours[1, 0] == 255 and colours[1, 1] < 5 and colours[1, 2] < 5  # to the right: red
    assert 100 < colours[0, 1] < 150  # half as long, half as saturated
    assert np.abs(colours[1] - colours[2]).max() > 100


def test_unknown_flow_is_black_and_does_not_count():
    flow = np.array([[[3.0, 0], [np.nan, 0], [0, np.inf], [1e10, 1e10], [0, 0]]])
    colours = draw_flow(flow)[0]
    assert (colours[1:4] == 0).all() and (colours[4] == 255).all() and colours[0].tolist() == [255, 0, 0]
    assert largest_flow(flow) == 3 and largest_flow(flow[:, 1:4]) == 0
    assert (draw_flow(flow[:, 1:4]) == 0).all()


def test_occluded_pixels_are_dark_and_hatched():
    flow, occluded = np.full((60, 80, 2), (2.0, 1.0)), np.zeros((60, 80), bool)
    occluded[10:40, 20:50] = True
    plain, marked = draw_flow(flow), draw_flow(flow, occluded=occluded)
    np.testing.assert_array_equal(marked[~occluded], plain[~occluded])
    inside = marked[occluded].astype(float)
    black = (inside == 0).all(axis=-1)
    assert 0.15 < black.mean() < 0.4 and np.abs(inside[~black] - 0.6 * plain[0, 0]).max() <= 0.5
    assert marked.max(axis=-1)[occluded].max() < plain.max(axis=-1).min()  # no colour of flow is that dark
    assert all(any(black.reshape(30, 30)[i]) and any(black.reshape(30, 30)[:, i]) for i in range(30))  # all over it


def test_the_scale_is_that_of_pixels_with_a_match():
    flow, occluded = np.full((4, 4, 2), (0.0, 2.0)), np.zeros((4, 4), bool)
    flow[0], occluded[0] = (50, 0), True
    assert largest_flow(flow) == 50 and largest_flow(flow, occluded) == 2
    assert largest_flow(flow[:1], occluded[:1]) == 50  # nothing has a match
    np.testing.assert_array_equal(draw_flow(flow, occluded=occluded)[1:], draw_flow(flow[1:]))


def test_the_wheel_has_the_colours_of_its_directions():
    wheel = flow_wheel(81)
    assert wheel.shape == (81, 81, 4) and (wheel[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).all()
    assert (wheel[40, 40] == 255).all()  # no motion
    for x, y in ((30, 0), (0, 30), (-30, 0), (0, -30), (20, -15)):
        expected = draw_flow(np.array([[(x, y)]], float), largest=40.5)[0, 0]
        assert np.abs(wheel[40 + y, 40 + x, :3].astype(int) - expected).max() <= 3


def test_a_legend_stands_in_a_margin_with_the_wheel_and_its_scale():
    flow = np.zeros((300, 400, 2))
    flow[..., 0] = np.linspace(0, 12.5, 400)
    picture = draw_flow(flow, legend=True)
    np.testing.assert_array_equal(picture[:, :400], draw_flow(flow))
    margin = picture[:, 400:]
    assert margin.shape == (300, 112, 3) and (margin[-20:] == (24, 24, 28)).all()
    left, diameter = round(0.14 * 112), round(0.72 * 112)
    wheel, rows = flow_wheel(diameter), slice(left, left + diameter)
    opaque = wheel[..., 3] == 255
    np.testing.assert_array_equal(margin[rows, rows][opaque], wheel[opaque, :3])
    assert margin[left + diameter + 4 : left + diameter + 26].min(axis=-1).max() > 200  # letters
    longer, marked = with_flow_legend(picture, 99), with_flow_legend(picture, 12.5, occluded=True, unknown=True)
    assert (longer[:, -112:] != margin).any() and (longer[:100, -112:] == margin[:100]).all()
    assert (marked[130:, -112:] != margin[130:]).any()


@pytest.mark.parametrize(("largest", "said"), [(0.034, "0.034"), (2.25, "2.2"), (12.54, "12.5"), (312.4, "312")])
def test_the_scale_is_written_in_pixels(largest, said, monkeypatch):
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: written.append(text))
    with_flow_legend(np.zeros((200, 200, 3), np.uint8), largest, occluded=True)
    assert written == [f"rim: {said} px", "occluded"]


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (5, 900), (2000, 8)])
def test_legends_fit_pictures_of_all_sizes(size):
    picture = draw_flow(np.ones((*size, 2)), legend=True)
    assert picture.shape[0] >= max(size[0], 120) and picture.shape[1] >= size[1] + 112
    assert (picture[: size[0], : size[1]] == draw_flow(np.ones((1, 1, 2)))[0, 0]).all()


def test_a_flow_file_in_colours_is_the_pure_colours_and_tells_their_scale(tmp_path):
    flow = np.random.default_rng(0).normal(size=(20, 30, 2)).astype(np.float32)
    occluded = (
        np.linalg.norm(flow, axis=-1) > 2
    )  # their colours count as those of all pixels, for nothing is drawn over them
    save_flow(flow, occluded, tmp_path / "flow.png")
    with Image.open(tmp_path / "flow.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_flow(flow))
        largest = float(picture.text["largest"])
    assert largest == pytest.approx(np.linalg.norm(flow, axis=-1).max(), rel=1e-5)


def test_arrows_point_where_the_flow_goes(frame):
    copy, flow = frame.copy(), np.zeros((60, 80, 2))
    flow[30, 30] = (15, 0)  # arrows start at (10.5, 10.5), (30.5, 10.5), ...
    drawn = draw_arrows(frame, flow, spacing=20)
    rows, columns = changed(drawn[20:40, 33:49], frame[20:40, 33:49])
    assert set(columns) >= set(range(13)) and max(columns) <= 13  # from the start to x = 45.5
    assert np.mean(rows) + 20.5 == pytest.approx(30.5, abs=0.5)
    red, green, blue = drawn[29:32, 38].astype(int).sum(axis=0)
    assert red - max(green, blue) > 100  # to the right, as in draw_flow
    assert (
        len(changed(drawn[20:40, 53:68], frame[20:40, 53:68])[0]) == 0
    )  # what stands still is a dot, at (50.5, 30.5)
    hidden = draw_arrows(frame, flow, np.ones((60, 80), bool), spacing=20)
    assert len(changed(hidden[20:40, 34:48], frame[20:40, 34:48])[0]) == 0
    np.testing.assert_array_equal(frame, copy)


def test_arrows_are_drawn_after_the_frame_is_scaled(frame):
    flow = np.zeros((60, 80, 2))
    flow[30, 30], flow[30, 50] = (15, 0), np.nan
    drawn = draw_arrows(frame, flow, spacing=20, scale=6)
    assert drawn.shape == (360, 480, 3)
    rows, columns = changed(drawn[150:220, 190:280], frame[:1, :1])
    assert max(columns) + 190 == pytest.approx(6 * 45.5, abs=2) and np.ptp(rows) < 12  # the arrow is not enlarged
    assert len(changed(drawn[170:200, 290:320], frame[:1, :1])[0]) == 0  # not known


def test_panels_show_arrows_colours_and_the_wheel(frame):
    flow, occluded = np.full((60, 80, 2), (3.0, -2.0)), np.zeros((60, 80), bool)
    occluded[:30] = True
    picture = draw_flow_panels(frame, flow, occluded)
    strip, gap, margin = picture.shape[0] - 360, 2, picture.shape[1] - 2 * 480 - 2
    assert 10 < strip < 20 and margin >= 112
    arrows, colours = picture[strip:, :480], picture[strip:, 480 + gap : 2 * 480 + gap]
    assert (arrows == 100).all(axis=-1).mean() > 0.5 and (arrows != 100).any()
    np.testing.assert_array_equal(colours[3::6, 3::6], draw_flow(flow, occluded=occluded))


def test_arrows_are_a_sixteenth_of_the_shorter_side_apart_and_eight_pixels_at_least():
    for size, spacing in (((192, 256), 12), ((256, 192), 12), ((60, 80), 8)):
        frame, flow = np.full((*size, 3), 90, np.uint8), np.full((*size, 2), 5.0, np.float32)
        np.testing.assert_array_equal(draw_arrows(frame, flow), draw_arrows(frame, flow, spacing=spacing))
        assert (draw_arrows(frame, flow) != draw_arrows(frame, flow, spacing=spacing + 1)).any()


# ---- by value -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [9, 1200])
def test_colours_and_stripes_by_value(width):
    """Hue by the angle from red, saturation by the length up to the largest; dark where occluded, with stripes of a quarter."""
    rng = np.random.default_rng(2)
    flow, occluded = rng.normal(size=(8, width, 2)) * 3, rng.random((8, width)) < 0.5
    flow[0, 0], flow[1, 1, 1] = (1e9, 0), np.nan
    period = 6 if width == 9 else 15
    found = draw_flow(flow, 4.0, occluded)
    for y in range(8):
        for x in range(0, width, 1 if width < 99 else 13):
            u, v = flow[y, x]
            if not (abs(u) < 1e9 and abs(v) < 1e9):
                assert not found[y, x].any()
                continue
            hsv = math.atan2(v, u) / (2 * math.pi) % 1, min(math.hypot(u, v) / 4, 1), 1.0
            colour = 255 * np.array(colorsys.hsv_to_rgb(*hsv))
            if occluded[y, x]:
                colour = colour * (0 if (x + y) % period < period / 4 else 0.6)
            assert (
                np.abs(found[y, x] - colour).max() <= 7.1
            )  # a step of a hue of 8 bits is 6 levels, one of a saturation is 1
    known = flow_colours.known_flow(flow)
    assert not known[0, 0] and not known[1, 1] and known.sum() == 8 * width - 2
    assert largest_flow(flow, occluded) == pytest.approx(np.linalg.norm(flow[known & ~occluded], axis=-1).max())
    with pytest.raises(ValueError, match="largest must be positive, got 0"):
        draw_flow(flow, largest=0)


def test_the_wheel_is_opaque_inside_and_fades_within_a_pixel_at_its_rim():
    wheel = flow_wheel(20)
    for y in range(20):
        for x in range(20):
            distance = math.dist((x + 0.5, y + 0.5), (10, 10))
            assert abs(int(wheel[y, x, 3]) - 255 * min(max(10 - distance + 0.5, 0), 1)) <= 0.51
    axis = (np.arange(20) + 0.5) / 10 - 1
    place = np.stack(np.meshgrid(axis, axis), axis=-1)
    np.testing.assert_array_equal(wheel[..., :3], draw_flow(place, largest=1))


@pytest.mark.parametrize(("size", "margin"), [((100, 400), 112), ((900, 800), 160), ((2000, 1500), 300)])
def test_the_legend_grows_with_the_picture_by_value(monkeypatch, size, margin):
    """A fifth of the shorter side: the wheel, its scale in the middle below, and a swatch and a name for each mark."""
    written = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, place, text, **named: written.append((place, text, named["anchor"]))
    )
    picture = np.full((*size, 3), 7, np.uint8)
    shown = with_flow_legend(picture, 3.14159, occluded=True, unknown=True)
    wheel, left, line = flow_wheel(round(0.72 * margin)), round(0.14 * margin), round(0.16 * margin)
    needed = round(0.28 * margin) + len(wheel) + 4 * line
    assert shown.shape == (max(size[0], needed), size[1] + margin, 3)
    assert (shown[: size[0], : size[1]] == 7).all() and (shown[size[0] :, : size[1]] == (24, 24, 28)).all()
    strip, opaque = shown[:, size[1] :], wheel[..., 3] == 255
    np.testing.assert_array_equal(strip[left : left + len(wheel), left : left + len(wheel)][opaque], wheel[opaque, :3])
    y, side = left + len(wheel) + 0.8 * line, round(0.7 * line)
    assert written[0] == ((margin / 2, pytest.approx(y)), "rim: 3.1 px", "mm")
    for number, (name, flow, occluded) in enumerate((("occluded", 0.0, True), ("unknown", np.nan, False)), 1):
        assert written[number] == ((left + 1.4 * side, pytest.approx(y + number * line)), name, "lm")
        top = round(y + number * line - side / 2)
        swatch = draw_flow(np.full((side, side, 2), flow), 1, np.full((side, side), occluded))
        np.testing.assert_array_equal(strip[top + 1 : top + side, left + 1 : left + side], swatch[1:, 1:])
        assert (strip[top, left : left + side + 1] == 150).all() and (strip[top + side, left + side] == 150).all()
    alone = with_flow_legend(picture, 3.14159)
    assert alone.shape[0] == max(size[0], needed - 2 * line) and len(written) == 4


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_arrows_dots_and_rings_by_value(monkeypatch, scale):
    """An arrow from the middle of each pixel of a grid; a dot where it would be shorter than two lines; a ring where it is occluded."""
    arrows, dots, rings = [], [], []
    monkeypatch.setattr(flow_colours, "_draw_arrow", lambda draw, *rest: arrows.append(rest))
    monkeypatch.setattr(flow_colours, "draw_dot", lambda picture, *rest: dots.append(rest))
    monkeypatch.setattr(flow_colours, "draw_ring", lambda picture, *rest, **named: rings.append((*rest, named)))
    frame, flow = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48, 2))
    occluded = np.zeros((32, 48), bool)
    flow[..., 0] = np.linspace(0, 5, 48)
    flow[5, 25], occluded[15, 15] = np.nan, True
    draw_arrows(frame, flow, occluded, spacing=10, scale=scale)
    colours = draw_flow(flow, largest_flow(flow, occluded))
    expected = [(x, y) for y in (5, 15, 25) for x in (5, 15, 25, 35, 45) if (x, y) not in ((25, 5), (15, 15))]
    moving = [(x, y) for x, y in expected if scale * flow[y, x, 0] >= 2]
    still = [place for place in expected if place not in moving]
    assert len(arrows) == len(moving) and len(dots) == len(still) > 0
    for (x, y), (start, end, colour, unit) in zip(moving, arrows):
        assert start.tolist() == [scale * (x + 0.5), scale * (y + 0.5)] and unit == 1
        assert end.tolist() == pytest.approx([scale * (x + 0.5 + flow[y, x, 0]), scale * (y + 0.5)])
        assert colour == tuple(colours[y, x].tolist())
    for (x, y), (place, colour, radius, outline) in zip(still, dots):
        assert place.tolist() == [scale * (x + 0.5), scale * (y + 0.5)] and (colour == colours[y, x]).all()
        assert (radius, outline) == (1.3, 0.5)
    ((place, *rest),) = rings
    assert place.tolist() == [15.5 * scale] * 2 and rest == [(255, 255, 255), 1.5, 0.8, {"opacity": 0.8, "halo": 0.4}]


@pytest.mark.parametrize(("size", "spacing"), [((100, 120), 8), ((320, 400), 20), ((400, 160), 10)])
def test_arrows_are_a_sixteenth_of_the_shorter_side_apart(monkeypatch, size, spacing):
    places = []
    monkeypatch.setattr(flow_colours, "_draw_arrow", lambda draw, start, *rest: places.append(tuple(start - 0.5)))
    draw_arrows(np.zeros((*size, 3), np.uint8), np.full((*size, 2), 9.0))
    half = spacing // 2
    assert places == [(x, y) for y in range(half, size[0], spacing) for x in range(half, size[1], spacing)]
    with pytest.raises(ValueError, match="spacing must be 1 pixel or more, got 0"):
        draw_arrows(np.zeros((*size, 3), np.uint8), np.full((*size, 2), 9.0), spacing=0)


@pytest.mark.parametrize(("length", "head"), [(20, 8), (5, 5)])
def test_an_arrow_by_value(length, head):
    """Its head has two lines of four line widths, or its own length, 30 degrees from the shaft; a wider dark line lies below."""
    lines = []

    class Pencil:
        def line(self, places, fill, width):
            lines.append(([tuple(np.array(place) / flow_colours.SUPERSAMPLING) for place in places], fill, width))

    flow_colours._draw_arrow(Pencil(), np.array([10.0, 20.0]), np.array([10.0 + length, 20.0]), (1, 2, 3), 2.0)
    tip = (10.0 + length, 20.0)
    for number, (fill, width) in enumerate((((0, 0, 0, 130), 8), ((1, 2, 3, 255), 4))):
        shaft, sides = lines[2 * number : 2 * number + 2]
        assert shaft == ([(10, 20), tip], fill, width) and sides[0][1] == tip and sides[1:] == (fill, width)
        for (x, y), turn in zip((sides[0][0], sides[0][2]), (-1, 1)):
            assert (x, y) == pytest.approx((tip[0] - 0.87 * head, 20 + turn * 0.5 * head))


def test_panels_of_flow_by_value(frame):
    rng = np.random.default_rng(3)
    flow, occluded = rng.normal(size=(60, 80, 2)), rng.random((60, 80)) < 0.2
    scale = 6
    arrows, colours = draw_arrows(frame, flow, occluded, scale=scale), draw_flow(flow, occluded=occluded)
    pair = flow_colours.side_by_side(
        [arrows, colours.repeat(scale, 0).repeat(scale, 1)], ["motion", "direction and length"]
    )
    expected = with_flow_legend(pair, largest_flow(flow, occluded), True, False)
    np.testing.assert_array_equal(draw_flow_panels(frame, flow, occluded), expected)
    flow[3, 3] = np.nan
    for marks in (None, np.zeros((60, 80), bool)):
        arrows, colours = draw_arrows(frame, flow, marks, scale=scale), draw_flow(flow)
        pair = flow_colours.side_by_side(
            [arrows, colours.repeat(scale, 0).repeat(scale, 1)], ["motion", "direction and length"]
        )
        expected = with_flow_legend(pair, largest_flow(flow), False, True)
        np.testing.assert_array_equal(draw_flow_panels(frame, flow, marks), expected)


def test_lengths_have_two_digits_at_least():
    lengths = {
        0.034: "0.034",
        0.5: "0.5",
        0.999: "1",
        1.0: "1.0",
        9.96: "10.0",
        99.94: "99.9",
        100.0: "100",
        1234.5: "1234",
    }
    assert {length: flow_colours._pixels(length) for length in lengths} == lengths
