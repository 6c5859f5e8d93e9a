"""Panels are large enough to judge what is drawn, and pictures are enlarged and reduced without inventing anything."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from fgvc_hf.io.overlays import write_sheet
from fgvc_hf.io.panels import contact_sheet, label_height, labelled, panel_scale, resized, scaled, side_by_side
from fgvc_hf.io.strokes import draw_dot


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((256, 256), 2),
        ((72, 120), 4),
        ((270, 479), 2),
        ((270, 480), 1),
        ((360, 640), 1),
        ((720, 1280), 0.5),
        ((2160, 3840), 1 / 6),
        ((1920, 1080), 640 / 1080),
        ((1, 1), 480),
        ((1000, 1), 4),  # bounded by its height
        ((9000, 600), 4096 / 9000),
    ],
)
def test_panels_are_enlarged_by_whole_numbers_and_reduced_to_640_pixels(size, scale):
    assert panel_scale(*size) == pytest.approx(scale)


def test_enlarging_repeats_pixels_and_reducing_averages_them_by_area():
    frame = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(scaled(frame, 3)[1::3, 1::3], frame)
    np.testing.assert_array_equal(scaled(frame, 3)[::3, 2::3], frame)
    assert scaled(frame, 1) is frame
    means = frame.reshape(2, 3, 3, 3, 3).mean(axis=(1, 3))
    assert np.abs(scaled(frame, 1 / 3) - means).max() <= 0.5
    ramp = np.array([[[0] * 3, [60] * 3, [120] * 3]], np.uint8)
    assert resized(ramp, 1, 2)[0, :, 0].tolist() == [20, 100]  # the middle pixel counts in both by half
    assert scaled(frame, 0.01).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="scale must be a positive number, got -1"):
        scaled(frame, -1)


def test_a_sheet_shows_the_frames_row_by_row():
    frames = [np.full((40, 80, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    sheet = contact_sheet(frames, columns=3, width=120)
    assert sheet.shape == (40, 120, 3)
    assert [int(sheet[10, x, 0]) for x in (20, 60, 100)] == [10, 20, 30]
    assert [int(sheet[30, x, 0]) for x in (20, 60, 100)] == [40, 0, 0]


def test_a_sheet_without_a_width_has_panels_that_show_details():
    frames = [np.full((40, 100, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    sheet = contact_sheet(frames, columns=2, labels=["a", "b", "c", "d"], gap=4)
    strip = sheet.shape[0] // 2 - 2 - 200
    assert sheet.shape == (2 * (200 + strip) + 4, 2 * 500 + 4, 3) and 10 < strip < 20
    assert (sheet[strip : strip + 200, :500] == 10).all() and (sheet[-200:, 504:] == 40).all()
    assert sheet[:strip, :500].max() > 200 and (sheet[strip + 200 : strip + 204] == 0).all()
    assert contact_sheet([np.zeros((90, 1920, 3), np.uint8)], columns=1).shape == (30, 640, 3)
    with pytest.raises(ValueError, match="labels as many, got 1 frames"):
        contact_sheet(frames[:1], labels=[])


class Clip:
    """A video of grey frames."""

    def __init__(self, num_frames, height, width):
        self.num_frames, self.height, self.width = num_frames, height, width

    def frames(self):
        return (np.full((self.height, self.width, 3), 10 * t, np.uint8) for t in range(self.num_frames))


@pytest.mark.parametrize(
    ("clip", "panel", "grid", "shown"),
    [
        (Clip(1, 40, 60), (320, 480), (1, 1), [0]),
        (Clip(2, 40, 60), (320, 480), (2, 1), [0, 1]),
        (Clip(4, 40, 60), (320, 480), (2, 2), [0, 1, 2, 3]),
        (Clip(11, 40, 60), (320, 480), (3, 2), [0, 2, 4, 6, 8, 10]),
        (Clip(3, 20, 479), (40, 958), (2, 2), [0, 1, 2]),
        (Clip(2, 45, 1920), (15, 640), (2, 1), [0, 1]),
    ],
)
def test_panels_are_drawn_on_after_they_are_scaled(clip, panel, grid, shown, tmp_path):
    asked = []

    def draw(t, frame, scale):
        asked.append((t, scale))
        picture = scaled(frame, scale).copy()
        draw_dot(picture, (10.5, 10.5), (255, 0, 0), 2.4, 0.7)
        return picture

    write_sheet(clip, draw, tmp_path / "sheet.png")
    assert asked == [(t, pytest.approx(panel_scale(clip.height, clip.width))) for t in shown]
    (height, width), (columns, rows) = panel, grid
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    strip = (sheet.shape[0] - 4 * (rows - 1)) // rows - height
    assert sheet.shape == (rows * (height + strip) + 4 * (rows - 1), columns * width + 4 * (columns - 1), 3)
    for i, t in enumerate(shown):
        top, left = strip + i // columns * (height + strip + 4), i % columns * (width + 4)
        cell = sheet[top : top + height, left : left + width]
        assert (cell[10, 10] == (255, 0, 0)).all() and (cell[:, 20:] == 10 * t).all()
        assert (cell != 10 * t).any(axis=-1).sum() < 40  # the dot was not enlarged


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


@pytest.mark.parametrize("size", [(4, 7), (5, 3), (1, 11), (9, 1)])
def test_a_reduced_picture_is_the_mean_of_areas_by_value(size):
    """A pixel on the border of two parts counts in both by its share."""
    frame = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    height, width = size

    def shares(part, parts, length):
        first, last = part * length / parts, (part + 1) * length / parts
        return np.array([max(0, min(last, i + 1) - max(first, i)) for i in range(length)]) * parts / length

    found = resized(frame, height, width)
    for y in range(height):
        for x in range(width):
            expected = np.einsum("i,j,ijc->c", shares(y, height, 9), shares(x, width, 11), frame.astype(float))
            assert np.abs(found[y, x] - expected).max() <= 0.51


def test_a_picture_that_is_enlarged_along_one_axis_alone_is_interpolated():
    frame = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for height, width in ((18, 12), (10, 22), (4, 22), (18, 5)):
        expected = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(resized(frame, height, width), expected)


@pytest.mark.parametrize(
    ("size", "height"), [((100, 100), 14), ((720, 1280), 46), ((280, 1400), 20), ((2000, 560), 20), ((9, 9), 14)]
)
def test_labels_are_a_fourteenth_of_the_height_or_of_half_the_width(size, height):
    assert label_height(*size) == height


def test_a_label_stands_in_the_middle_of_its_strip(monkeypatch):
    asked = []
    monkeypatch.setattr(ImageFont, "load_default", lambda size: asked.append(size))
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, place, text, **named: asked.append((place, text, named))
    )
    shown = labelled(np.full((50, 70, 3), 9, np.uint8), "a label", 20)
    assert asked == [14, ((6, 10), "a label", {"fill": "white", "font": None, "anchor": "lm"})]
    assert shown.shape == (70, 70, 3) and (shown[:20] == (24, 24, 28)).all() and (shown[20:] == 9).all()


def test_frames_of_other_sizes_are_scaled_to_the_height_of_the_first_with_wider_gaps_between():
    frames = [np.full((*size, 3), 10 * n, np.uint8) for n, size in enumerate(((720, 300), (360, 200), (1440, 2)), 1)]
    shown, strip = side_by_side(frames, ["", "", ""]), label_height(720, 300)
    assert shown.shape == (720 + strip, 300 + 3 + 400 + 3 + 1, 3)
    row = shown[strip + 5, :, 0]
    assert row.tolist() == [10] * 300 + [24] * 3 + [20] * 400 + [24] * 3 + [30]
    assert (shown[:strip] == (24, 24, 28)).all()
    with pytest.raises(ValueError, match="must be as many, and one at least, got 0 and 0"):
        side_by_side([], [])


def test_a_sheet_by_value():
    frames = [np.full((30, 40, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = contact_sheet(frames, columns=2, width=40, gap=3)
    assert sheet.shape == (3 * 15 + 2 * 3, 2 * 20 + 3, 3)
    expected = np.zeros_like(sheet)
    for top, left, value in ((0, 0, 10), (0, 23, 20), (18, 0, 30), (18, 23, 40), (36, 0, 50)):
        expected[top : top + 15, left : left + 20] = value
    np.testing.assert_array_equal(sheet, expected)
    assert contact_sheet(frames[:1], width=120).shape == (30, 120, 3)  # three columns
    for wrong in ({"frames": []}, {"frames": frames, "labels": ["a"]}):
        with pytest.raises(ValueError, match="frames must be one or more, and labels as many"):
            contact_sheet(**wrong)
