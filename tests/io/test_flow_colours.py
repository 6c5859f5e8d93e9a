"""Flow in pictures: what each colour, arrow and mark says, and the wheel that explains them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

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
    save_flow(flow, np.ones((20, 30), bool), tmp_path / "flow.png")
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
