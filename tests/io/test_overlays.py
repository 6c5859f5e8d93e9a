"""Results over every frame of a video, or over a few: what is drawn of them, and where it goes, by value."""

from types import SimpleNamespace

import numpy as np
import pytest

from fgvc_hf.io import overlays
from fgvc_hf.io.overlays import drawn_boxes, drawn_tracks, sheet_frames, write_overlay, write_panels, write_sheet
from fgvc_hf.tracking.box_results import BoxTracks
from fgvc_hf.tracking.results import PointTracks


FRAME = np.full((30, 40, 3), 100, np.uint8)


def asked(monkeypatch, name, answer=None):
    """Calls of a function of the module, which gives an answer instead."""
    calls = []

    def spy(*arguments, **named):
        calls.append((arguments, named))
        return answer

    monkeypatch.setattr(overlays, name, spy)
    return calls


def tracks(seed):
    rng = np.random.default_rng(seed)
    values, flags = rng.random((4, 2, 3)).astype(np.float32), rng.random((2, 2, 3)) < 0.5
    return PointTracks(
        [7, 4],
        np.zeros((2, 3)),
        30 * np.moveaxis(values[:2], 0, -1),
        flags[0],
        *values[2:],
        flags[1] & ~flags[0],
        (30, 40),
    )


def test_points_are_drawn_with_their_ids_and_errors_but_not_those_that_left(monkeypatch):
    one, two = tracks(0), tracks(1)
    calls, beside = asked(monkeypatch, "draw_tracks", FRAME), asked(monkeypatch, "side_by_side", FRAME + 1)
    assert (drawn_tracks({"a run": one})(2, FRAME, 3.0) == FRAME).all() and not beside
    assert (drawn_tracks({"first": one, "second": two})(1, FRAME) == FRAME + 1).all()
    for (arguments, named), (of, t, scale) in zip(calls, ((one, 2, 3.0), (one, 1, 1.0), (two, 1, 1.0)), strict=True):
        frame, places, visible, frame_idx, ids = arguments
        assert frame is FRAME and visible is of.visible and (frame_idx, ids) == (t, [7, 4])
        assert of.outside.any() and np.isnan(places[of.outside]).all()
        np.testing.assert_array_equal(places[~of.outside], of.tracks[~of.outside])
        assert named["uncertainty"] is of.uncertainty and named["scale"] == scale
    (((pictures, names), _),) = beside
    assert len(pictures) == 2 and names == ["first", "second"]


def test_boxes_that_are_visible_are_drawn_with_their_ids(monkeypatch):
    corners = np.arange(48, dtype=np.float32).reshape(3, 2, 4, 2)
    visible = np.array([[True, True], [True, False], [True, True]])
    boxes, calls = BoxTracks([5, 2, 9], corners, visible, np.ones((3, 2)), (30, 40)), asked(monkeypatch, "draw_boxes")
    drawn_boxes(boxes)(1, FRAME, 2.0)
    (((frame, shown, ids), named),) = calls
    assert frame is FRAME and ids == [5, 9] and named == {"scale": 2.0}
    np.testing.assert_array_equal(shown, corners[[0, 2], 1])


class Video(SimpleNamespace):
    """Frames of one grey level each, that are shown at uneven times."""

    height, width, fps = 30, 40, 12.5

    def frames(self):
        for t in range(self.num_frames):
            yield np.full((30, 40, 3), t, np.uint8)

    def time(self, index):
        return index**2 / 8


@pytest.mark.parametrize("aspect", [None, 2])
def test_every_frame_is_written_at_its_time(monkeypatch, aspect):
    video, written = Video(num_frames=4, **({} if aspect is None else {"pixel_aspect": aspect})), []

    class Writer:
        def __init__(self, *arguments):
            written.append(arguments)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            written.append("closed")

        def write(self, picture, time):
            written.append((picture.shape, picture[0, 0, 0], time))

    monkeypatch.setattr(overlays, "VideoWriter", Writer)
    write_overlay(video, lambda t, frame: np.concatenate([frame + 10 * t] * 2), "out.mp4")
    pictures = [((60, 40, 3), 11 * t, t**2 / 8) for t in range(4)]
    assert written == [("out.mp4", 12.5, 60, 40, aspect or 1), *pictures, "closed"]


def test_a_sheet_has_six_frames_at_most_from_the_first_to_the_last(monkeypatch):
    assert sheet_frames(0, 11) == [0, 2, 4, 6, 8, 10] and sheet_frames(3, 5) == [3, 4] and sheet_frames(4, 5) == [4]
    calls = asked(monkeypatch, "write_panels")
    write_sheet(Video(num_frames=16), lambda t, frame, scale: (t, frame[0, 0, 0], scale), "sheet.png")
    assert calls == [(({t: (t, t, 12.0) for t in (0, 3, 6, 9, 12, 15)}, "sheet.png"), {})]  # 40 pixels become 480


@pytest.mark.parametrize(
    ("number", "width", "columns"),
    [(6, 480, 3), (4, 480, 2), (5, 640, 3), (6, 1000, 2), (5, 1001, 1), (1, 480, 1), (2, 9000, 1)],
)
def test_rows_of_a_sheet_are_as_full_as_they_can_be_in_2000_pixels(monkeypatch, number, width, columns):
    calls, pictures = asked(monkeypatch, "contact_sheet", "a sheet"), asked(monkeypatch, "write_picture")
    panels = {3 * i + 1: np.full((2, width, 3), i, np.uint8) for i in range(number)}
    write_panels(panels, "sheet.png")
    ((arguments, _),) = calls
    assert arguments[1:] == (columns, columns * width, [f"frame {t}" for t in panels], 4)
    assert all(a is b for a, b in zip(arguments[0], panels.values(), strict=True))
    assert pictures == [(("a sheet", "sheet.png"), {})]
