import numpy as np
import pytest

from fgvc_hf.io import drawing
from fgvc_hf.io.drawing import draw_boxes, draw_heat_map, draw_marker, draw_masks, draw_tracks, point_colours
from fgvc_hf.io.overlays import drawn_tracks
from fgvc_hf.tracking.results import PointTracks


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
    np.testing.assert_array_equal(
        draw_tracks(frame, np.zeros((0, 1, 2)), np.zeros((0, 1), bool), 0, uncertainty=np.zeros((0, 1)), scale=6),
        frame.repeat(6, axis=0).repeat(6, axis=1),
    )
    np.testing.assert_array_equal(draw_tracks(frame, np.zeros((0, 1, 2)), np.zeros((0, 1), bool), 0), frame)


def test_colours_depend_on_the_id_alone_and_differ():
    colours = point_colours(range(12))
    np.testing.assert_array_equal(point_colours([7, 3]), colours[[7, 3]])
    assert len({tuple(colour) for colour in colours.tolist()}) == 12


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


PANEL = np.full((300, 500, 3), 100, np.uint8)
CENTRE = (200.5, 100.5)  # of pixel (100, 200)


def drawn_point(visible=True, error=np.nan, place=CENTRE, picture=PANEL):
    """A picture with one point, as differences to the picture without it, (H, W, 3)."""
    return draw_tracks(
        picture, np.array([[place]], float), np.array([[visible]]), 0, uncertainty=np.array([[error]])
    ).astype(int) - picture.astype(int)


def distance_from(place, height=300, width=500):
    """Distance of the centre of each pixel (H, W) from a place (x, y)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.hypot(x - place[0], y - place[1])


@pytest.mark.parametrize("width", [480, 500, 640, 1920, 3840])
def test_a_dot_is_one_hundredth_of_the_width_across(width):
    picture = np.full((100, width, 3), 100, np.uint8)
    rows, columns = np.nonzero(drawn_point(place=(240.5, 50.5), picture=picture).any(axis=-1))
    for places in (rows, columns):
        assert width / 100 - 1 < np.ptp(places) + 1 < width / 100 + 2  # a faint pixel more on both sides at the most


def test_a_visible_dot_is_solid_with_a_contrasting_outline():
    colour, distance = point_colours([0])[0], distance_from(CENTRE)
    changed = drawn_point()
    assert (changed[100, 200] == colour.astype(int) - 100).all() and (changed[distance > 3.1] == 0).all()
    dark = point_colours([0])[0] @ (0.299, 0.587, 0.114) < 110
    outline = changed[100, 202]  # 2 pixels from the centre of a dot of radius 2.5
    assert dark and outline.min() > 30  # red, so the outline is brighter than the grey in every channel
    bright = draw_tracks(PANEL, np.array([[CENTRE]]), np.ones((1, 1), bool), 0, ids=[2])  # green
    assert bright[100, 202].max() < 100 and bright[100, 200].max() == 255


def test_a_hidden_point_is_hollow_and_smaller():
    seen, hidden = drawn_point(), drawn_point(visible=False)
    assert (hidden[100, 200] == 0).all() and hidden.any(axis=-1).sum() < seen.any(axis=-1).sum()
    for changed in (hidden[100, 201:204], hidden[100, 197:200], hidden[101:104, 200], hidden[97:100, 200]):
        assert np.abs(changed).max() > 60  # a line on every side
    assert (hidden[distance_from(CENTRE) > 2.9] == 0).all()


@pytest.mark.parametrize("error", [6.0, 20.0, 57.3])
def test_the_ring_of_an_uncertain_point_has_the_radius_of_its_error(error):
    added = (drawn_point(error=error) != drawn_point()).any(axis=-1)
    distance = distance_from(CENTRE)
    line = np.abs(drawn_point(error=error)[..., 0]) > 100  # of full opacity
    line[distance < 4] = False
    assert np.median(distance[line]) == pytest.approx(error, abs=0.25)
    assert np.abs(distance[added] - error).max() <= 2
    angles = np.arctan2(*(np.argwhere(line) - (100, 200)).T)
    assert len(np.unique(np.round(angles, 0))) == 7  # all the way around


def test_rings_follow_the_scale_and_are_those_of_visible_points_with_larger_errors():
    np.testing.assert_array_equal(drawn_point(error=2.4), drawn_point())
    np.testing.assert_array_equal(drawn_point(error=np.nan), drawn_point())
    np.testing.assert_array_equal(drawn_point(visible=False, error=30), drawn_point(visible=False))
    np.testing.assert_array_equal(drawn_point(error=1e9), drawn_point())  # says nothing
    small = PANEL[::5, ::5]
    tracks, visible = np.array([[CENTRE]]) / 5, np.ones((1, 1), bool)
    drawn = draw_tracks(small, tracks, visible, 0, uncertainty=np.array([[4.0]]), scale=5)
    np.testing.assert_array_equal(drawn.astype(int) - 100, drawn_point(error=20))


def test_points_outside_the_frame_are_not_drawn():
    for place in ((-1, 50), (501, 50), (50, -0.5), (50, 300.5), (np.nan, np.nan)):
        assert not drawn_point(place=place, error=20).any()
    assert drawn_point(place=(0, 0)).any() and drawn_point(place=(500, 300)).any()
    once, shape = np.ones((1, 1), bool), (1, 1)
    left = PointTracks(
        [0], np.zeros((1, 3)), np.full((1, 1, 2), 50.0), ~once, np.zeros(shape), np.zeros(shape), once, (300, 500)
    )
    np.testing.assert_array_equal(drawn_tracks({"": left})(0, PANEL), PANEL)  # it left, and is kept at the border
    left.outside[:] = False
    assert (drawn_tracks({"": left})(0, PANEL) != PANEL).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 5), (1080, 1920)])
def test_frames_of_all_sizes_are_drawn_on(shape):
    frame, place = np.full((*shape, 3), 100, np.uint8), np.array([[[shape[1] / 2, shape[0] / 2]]])
    seen, error, ids = np.ones((1, 1), bool), np.full((1, 1), 50.0), np.zeros(shape, int)
    for drawn in (
        draw_tracks(frame, place, seen, 0, uncertainty=error),
        draw_masks(frame, ids + 1),
        draw_boxes(frame, np.array([[0, 0, shape[1], shape[0]]])),
    ):
        assert drawn.shape == frame.shape and drawn.dtype == np.uint8 and (drawn != frame).any()
        assert drawn.flags.writeable and (frame == 100).all()


def test_a_mask_has_a_border_of_its_full_colour_on_every_side():
    frame, ids = np.full((40, 60, 3), 100, np.uint8), np.zeros((40, 60), int)
    ids[10:20, 10:20], ids[10:20, 20:30] = 1, 2
    drawn, colours = draw_masks(frame, ids), point_colours([1, 2])
    inside = np.zeros_like(ids)
    inside[11:19, 11:19], inside[11:19, 21:29] = 1, 2
    for obj_id, colour in zip((1, 2), colours, strict=True):
        assert (drawn[(ids == obj_id) & (inside == 0)] == colour).all()
        tint = np.round(0.6 * 100 + 0.4 * colour.astype(float))
        assert (np.abs(drawn[inside == obj_id] - tint) <= 1).all()
    assert (drawn[ids == 0] == 100).all()


@pytest.mark.parametrize(("width", "thickness"), [(480, 1), (1600, 2), (3840, 5)])
def test_borders_of_masks_are_in_proportion_to_the_width(width, thickness):
    ids = np.zeros((60, width), int)
    ids[20:40, 100:200] = 3
    drawn, colour = draw_masks(np.zeros((60, width, 3), np.uint8), ids), point_colours([3])[0]
    assert (drawn[30, 100:200] == colour).all(axis=-1).nonzero()[0].tolist() == [
        *range(thickness),
        *range(100 - thickness, 100),
    ]


def test_masks_are_enlarged_with_a_thin_border_and_reduced_with_their_lines():
    frame, ids = np.full((8, 10, 3), 100, np.uint8), np.zeros((8, 10), int)
    ids[2:5, 3:7] = 1
    large = draw_masks(frame, ids, scale=50)
    assert large.shape == (400, 500, 3) and (large[:100] == 100).all()
    assert (large[100, 150:350] == point_colours([1])[0]).all() and (large[101, 151:349] != large[100, 200]).any(
        -1
    ).all()
    wide = np.zeros((8, 1600, 3), np.uint8)
    thin = np.zeros((8, 1600), int)
    thin[:, 801] = 1  # one pixel that is wrong
    reduced = draw_masks(wide, thin, scale=0.4)
    assert reduced.shape == (3, 640, 3) and reduced[1].any(axis=-1).nonzero()[0].tolist() == [320]
    with pytest.raises(ValueError, match="scale must be a positive number, got 0"):
        draw_masks(frame, ids, scale=0)


def test_boxes_are_outlines():
    drawn = draw_boxes(PANEL, np.array([[100, 50, 300, 150]]), [4])
    changed, colour = (drawn != PANEL).any(axis=-1), point_colours([4])[0]
    assert (drawn[50, 101:299] == colour).all() and (drawn[51:149, 300] == colour).all()
    assert not changed[53:147, 103:297].any() and not changed[:47].any()


def test_a_marker_is_a_ring_that_shows_on_black_and_on_white():
    for value in (0, 255):
        picture = np.full((300, 480, 3), value, np.uint8)
        draw_marker(picture, (200.5, 100.5))
        changed = np.abs(picture[..., 0].astype(int) - value)
        distance = distance_from((200.5, 100.5), width=480)
        assert changed[np.abs(distance - (16 if value == 0 else 18)) < 0.4].min() > 100
        assert not changed[distance < 12].any() and not changed[distance > 20].any()


def test_old_names_are_here():
    for (
        name
    ) in "contact_sheet draw_arrows draw_boxes draw_flow draw_heat_map draw_masks draw_tracks side_by_side".split():
        assert callable(getattr(drawing, name)) and name in drawing.__all__


# ---- by value: what is asked of the pencil, and pictures in loops -----------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the functions that draw dots and rings."""
    calls = []
    for name in ("draw_dot", "draw_ring"):
        monkeypatch.setattr(
            drawing, name, lambda picture, *rest, name=name, **named: calls.append((name, *rest, named))
        )
    return calls


@pytest.mark.parametrize("size", [1.0, 2.0])
def test_the_parts_of_a_point_by_value(asked, size):
    unit, radius, place, colour = size * 1.25, size * 3, (30.0, 20.0), (1, 2, 3)  # of a picture of 600 pixels
    picture = np.zeros((400, 600, 3), np.uint8)
    assert (drawing.line_width(600), drawing.dot_radius(600)) == (1.25, 3)
    dot = ("draw_dot", place, colour, radius, drawing.OUTLINE * unit, {})
    ring = [
        ("draw_ring", place, colour, error, unit, drawing.UNCERTAIN_OPACITY, drawing.HALO, {})
        for error in (7.0, 599.0)
    ]
    hidden = drawing.HIDDEN_RING * radius, 0.9 * unit, drawing.HIDDEN_RING_OPACITY
    for visible, error, expected in (
        (True, np.nan, [dot]),
        (True, radius, [dot]),
        (True, 600.0, [dot]),
        (True, 7.0, [ring[0], dot]),
        (True, 599.0, [ring[1], dot]),
        (False, 7.0, [("draw_ring", place, colour, *hidden, {})]),
    ):
        drawing.draw_point(picture, place, colour, visible, error, size)
        assert asked == expected
        asked.clear()
    draw_marker(picture, place)
    assert asked == [("draw_ring", place, (255, 255, 255), drawing.MARKER * 1.25, 2.5, {"halo": 0.8})]


def test_points_on_the_picture_are_drawn_with_their_errors_at_its_scale(monkeypatch, frame):
    calls = []
    monkeypatch.setattr(drawing, "draw_point", lambda picture, *rest: calls.append((picture.shape, *rest)))
    tracks = np.array(
        [[[9, 9], [80, 60]], [[9, 9], [80.1, 5]], [[9, 9], [0, 0]], [[9, 9], [np.nan] * 2], [[9, 9], [7, -1]]]
    )
    visible = np.array([[True, False], [True, True], [False, True], [True, True], [True, True]])
    errors = np.array([[1.0, 2.0]] * 5)
    colours = point_colours([4, 9, 2, 3, 1])
    draw_tracks(frame, tracks, visible, 1, ids=[4, 9, 2, 3, 1], trail=0, uncertainty=errors, scale=3)
    (first, second) = calls
    assert first[0] == second[0] == (180, 240, 3)
    assert first[1].tolist() == [240, 180] and second[1].tolist() == [0, 0]
    assert (first[2] == colours[0]).all() and (second[2] == colours[2]).all()
    assert (first[3], second[3]) == (False, True) and first[4] == second[4] == 6
    draw_tracks(frame, tracks, visible, 1, trail=0)
    assert np.isnan(calls[-1][4]) and (calls[-1][2] == point_colours([2])[0]).all()


@pytest.mark.parametrize("trail", [1, 3, 7])
@pytest.mark.parametrize("now", [2, 8])
def test_trails_by_value(trail, now):
    """Each step between frames fades in four levels with its age, and is fainter where the point is not seen at both ends."""
    rng = np.random.default_rng(3)
    tracks, visible = rng.uniform(0, 60, (4, 9, 2)), rng.random((4, 9)) < 0.6
    tracks[1, 3] = tracks[2, 8] = np.nan
    colours, drawn = [(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)], {}

    class Pencil:
        def line(self, places, fill, width):
            assert width == round(1.5 * drawing.SUPERSAMPLING)
            corners = np.reshape(places, (-1, 2)) / drawing.SUPERSAMPLING
            for start, end in zip(corners, corners[1:]):
                drawn[tuple(start), tuple(end)] = fill

    drawing._draw_trails(Pencil(), tracks, visible, now, trail, colours, 1.5)
    expected = {}
    for n in range(4):
        for t in range(max(0, now - trail), now):
            start, end = tracks[n, t], tracks[n, t + 1]
            if not np.isnan([start, end]).any():
                age = now - (t + 1)
                fresh = np.ceil(4 * (trail - age) / trail - 1e-12) / 4
                opacity = 255 * fresh * (1 if visible[n, t] and visible[n, t + 1] else drawing.HIDDEN_OPACITY)
                expected[tuple(start), tuple(end)] = (*colours[n], round(opacity))
    assert {line: fill[:3] for line, fill in drawn.items()} == {line: fill[:3] for line, fill in expected.items()}
    assert all(abs(drawn[line][3] - fill[3]) <= 1 for line, fill in expected.items())


@pytest.mark.parametrize("width", [90, 1200, 2000])
def test_masks_by_value(width):
    """Tinted by four tenths, and a border of one pixel for 800 of width inside each object."""
    rng = np.random.default_rng(4)
    height, thickness = 20, max(1, round(width / 800))
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    ids = np.kron(rng.integers(0, 3, (4, width // 5)), np.ones((5, 5), int))
    drawn, colours = draw_masks(frame, ids), point_colours([1, 2])
    for y in range(height):
        for x in range(0, width, 1 if width < 100 else 7):
            if ids[y, x] == 0:
                assert (drawn[y, x] == frame[y, x]).all()
                continue
            colour = colours[ids[y, x] - 1]
            beside = [(y + d, x) for d in (-1, 1)] + [(y, x + d) for d in (-1, 1)]
            if any(0 <= v < height and 0 <= u < width and ids[v, u] != ids[y, x] for v, u in beside):
                assert (drawn[y, x] == colour).all()
            elif min(y % 5, 4 - y % 5, x % 5, 4 - x % 5) >= thickness:
                assert np.abs(drawn[y, x] - (0.6 * frame[y, x] + 0.4 * colour)).max() <= 0.5
    solid = draw_masks(frame, np.ones_like(ids), opacity=0.0)
    np.testing.assert_array_equal(solid, frame)


@pytest.mark.parametrize(("width", "thickness"), [(800, 1), (1200, 2), (2000, 2), (2400, 3)])
def test_the_border_of_a_mask_is_as_thick_as_the_picture_is_wide(width, thickness):
    ids = np.zeros((40, width), np.int64)
    ids[10:30, 50:90] = 7
    drawn = draw_masks(np.zeros((40, width, 3), np.uint8), ids)
    line = (drawn == point_colours([7])[0]).all(axis=-1)
    expected = ids > 0
    expected[10 + thickness : 30 - thickness, 50 + thickness : 90 - thickness] = False
    np.testing.assert_array_equal(line, expected)


def test_masks_of_a_picture_of_another_size(frame):
    """A larger one is scaled before, so that its line stays thin; a smaller one after."""
    ids = np.zeros((60, 80), np.int64)
    ids[10:30, 20:60] = 3
    large = draw_masks(frame, ids, scale=2)
    np.testing.assert_array_equal(large, draw_masks(drawing.scaled(frame, 2), ids.repeat(2, 0).repeat(2, 1)))
    between = draw_masks(np.zeros((4, 6, 3), np.uint8), np.kron([[0, 3, 0]], np.ones((4, 2), int)), scale=1.5)
    assert between.any(axis=-1).tolist() == [[False] * 3 + [True] * 3 + [False] * 3] * 6
    small = draw_masks(frame, ids, scale=0.5)
    np.testing.assert_array_equal(small, drawing.scaled(draw_masks(frame, ids), 0.5))


@pytest.mark.parametrize("largest", [None, 0.04])
def test_a_heat_map_by_value(largest):
    rng = np.random.default_rng(5)
    frame, probability = rng.integers(0, 256, (4, 5, 3), np.uint8), rng.random((4, 5)) ** 3 / 20
    drawn = draw_heat_map(frame, probability, largest)
    for y in range(4):
        for x in range(5):
            heat = min(probability[y, x] / (largest or probability.max()), 1)
            step = min(int(3 * heat), 2)
            colour = drawing.HEAT[step] + (3 * heat - step) * (drawing.HEAT[step + 1] - drawing.HEAT[step])
            grey = 0.65 * (frame[y, x] @ (0.299, 0.587, 0.114))
            assert np.abs(drawn[y, x] - (grey * (1 - heat**0.5) + colour * heat**0.5)).max() <= 0.51
    assert (draw_heat_map(frame, np.zeros((4, 5))).std(axis=-1) == 0).all()


def test_boxes_are_drawn_on_the_frame_after_it_is_scaled(frame):
    boxes = np.array([[10, 5, 40, 30], [20.5, 10, 60, 55]])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    expected = draw_boxes(frame.repeat(6, 0).repeat(6, 1), 6 * boxes, [3, 8])
    np.testing.assert_array_equal(draw_boxes(frame, boxes, [3, 8], scale=6), expected)
    np.testing.assert_array_equal(draw_boxes(frame, corners, [3, 8], scale=6), expected)
