import numpy as np
import pytest

from fgvc_hf.io.drawing import (
    contact_sheet,
    draw_arrows,
    draw_flow,
    draw_heat_map,
    draw_tracks,
    point_colours,
    side_by_side,
)


@pytest.fixture
def frame():
    return np.full((60, 80, 3), 100, np.uint8)


def changed(drawn, frame):
    """Rows and columns of the pixels that were drawn on."""
    return np.nonzero((drawn != frame).any(axis=-1))


def test_a_point_is_drawn_where_it_is(frame):
    copy = frame.copy()
    drawn = draw_tracks(frame, np.array([[[20.5, 40.5]]]), np.array([[True]]), 0)
    rows, columns = changed(drawn, frame)
    assert np.mean(rows) + 0.5 == pytest.approx(40.5, abs=0.5) and np.mean(columns) + 0.5 == pytest.approx(
        20.5, abs=0.5
    )
    np.testing.assert_array_equal(frame, copy)


def test_hidden_points_are_fainter(frame):
    track = np.array([[[20.0, 40.0]]])
    seen, hidden = (draw_tracks(frame, track, np.array([[visible]]), 0).astype(int) for visible in (True, False))
    assert 0 < np.abs(hidden - frame).max() < np.abs(seen - frame).max()


def test_trails_have_the_length_asked_for_and_skip_gaps(frame):
    track = np.stack([np.arange(0, 60, 5.0), np.full(12, 30.0)], axis=1)[None]
    visible = np.ones((1, 12), bool)
    assert changed(draw_tracks(frame, track, visible, 11, trail=3), frame)[1].min() >= 38
    assert changed(draw_tracks(frame, track, visible, 11, trail=30), frame)[1].min() <= 2
    track[0, 9] = np.nan
    assert changed(draw_tracks(frame, track, visible, 11, trail=3), frame)[1].min() >= 48
    np.testing.assert_array_equal(draw_tracks(frame, np.full((1, 2, 2), np.nan), np.zeros((1, 2), bool), 1), frame)


def test_no_points(frame):
    np.testing.assert_array_equal(draw_tracks(frame, np.zeros((0, 1, 2)), np.zeros((0, 1), bool), 0), frame)


def test_colours_depend_on_the_id_alone_and_differ():
    colours = point_colours(range(12))
    np.testing.assert_array_equal(point_colours([7, 3]), colours[[7, 3]])
    assert len({tuple(colour) for colour in colours.tolist()}) == 12


def test_a_sheet_shows_the_frames_row_by_row():
    frames = [np.full((40, 80, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    sheet = contact_sheet(frames, columns=3, width=120)
    assert sheet.shape == (40, 120, 3)
    assert [int(sheet[10, x, 0]) for x in (20, 60, 100)] == [10, 20, 30]
    assert [int(sheet[30, x, 0]) for x in (20, 60, 100)] == [40, 0, 0]


def test_flow_colours_tell_direction_and_length():
    flow = np.array([[[1.0, 0], [2, 0], [0, 2], [0, 0]]])
    colours = draw_flow(flow, largest=2)[0].astype(int)
    assert (colours[3] == 255).all()
    assert colours[1, 0] == 255 and colours[1, 1] < 5 and colours[1, 2] < 5  # to the right: red
    assert 100 < colours[0, 1] < 150  # half as long, half as saturated
    assert np.abs(colours[1] - colours[2]).max() > 100


def test_a_heat_map_is_brightest_where_the_probability_is_largest(frame):
    probability = np.zeros((60, 80), np.float32)
    probability[10, 20], probability[40, 50] = 0.02, 0.01
    copy, drawn = frame.copy(), draw_heat_map(frame, probability).astype(int)
    assert (drawn.sum(axis=-1).argmax(), drawn[10, 20].tolist()) == (10 * 80 + 20, [255, 255, 190])
    assert drawn[40, 50, 0] > 2.5 * drawn[0, 0, 0] and (drawn[0, 0] == 65).all()  # dimmed, and no colour
    assert draw_heat_map(frame, probability, largest=1.0)[10, 20].sum() < 200
    np.testing.assert_array_equal(frame, copy)
    with pytest.raises(ValueError, match=r"of the frame's size \(60, 80\)"):
        draw_heat_map(frame, probability[1:])


def test_frames_side_by_side_keep_their_pixels_and_have_their_labels_above():
    first, second = np.full((60, 80, 3), 200, np.uint8), np.full((120, 100, 3), 100, np.uint8)
    shown = side_by_side([first, second, first], ["first", "", "third"])
    strip = shown.shape[0] - 60
    assert shown.shape == (74, 80 + 50 + 80 + 2, 3)
    assert (
        (shown[strip:, :80] == 200).all()
        and (shown[strip:, 81:131] == 100).all()
        and (shown[strip:, 132:] == 200).all()
    )
    assert shown[:strip, :80].max() > 200 and shown[:strip, 81:131].max() < 40  # white letters, and none
    with pytest.raises(ValueError, match="must be as many, and one at least, got 1 and 2"):
        side_by_side([first], ["a", "b"])


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
