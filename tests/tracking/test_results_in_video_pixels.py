"""Positions, errors, borders and visibility of a frame, by value, where the model works at another size than the video."""

import math

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker
from fgvc_hf.tracking.prompts import BoxTarget, MaskTarget, PointTarget, check_fits
from fgvc_hf.tracking.results import BoxReadout, FgvcVideoOutput, MaskReadout, PointReadout, TrackTable
from fgvc_hf.tracking.session_results import _at_border, read_boxes, read_masks, read_points


@pytest.mark.parametrize("matching", ["labels", "templates"])
def test_a_session_gives_positions_and_errors_in_pixels_of_the_video(matching):
    torch.manual_seed(0)
    processor = FgvcProcessor(FgvcImageProcessorPil(size={"height": 32, "width": 48}))
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], point_matching=matching)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [1, 2], [(30.0, 60.0), (70.0, 20.0)])
    first, output = (model.step(session, frame) for frame in frames)
    assert first.points.tolist() == [[30, 60], [70, 20]]
    read = session.templates.read() if matching == "templates" else session.labels.read_points()[0]
    np.testing.assert_allclose(output.points, read.points.numpy() * (2, 3), rtol=1e-6)  # 96 / 48 and 96 / 32
    np.testing.assert_allclose(output.uncertainty, read.uncertainty.numpy() * math.sqrt(6), rtol=1e-5)
    assert (read.uncertainty > 0).all() and not np.array_equal(output.points, first.points)


def test_points_and_boxes_are_followed_in_pixels_of_the_models_input():
    """Of 32 rows and 48 columns, which 96 x 96 pixels of the video become."""
    processor = FgvcProcessor(FgvcImageProcessorPil(size={"height": 32, "width": 48}))
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], point_matching="templates")).eval()
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [1, 2], [(30.0, 60.0), (70.0, 21.0)])
    processor.add_inputs_to_inference_session(session, 0, [3], input_boxes=[(10.0, 24.0, 40.0, 72.0)])
    model.step(session, np.zeros((96, 96, 3), np.uint8))
    assert session.templates.read().points.tolist() == [[15, 20], [35, 7]]
    assert session.boxes.read().corners.tolist() == [[[5, 8], [20, 8], [20, 24], [5, 24]]]


def test_positions_are_kept_in_float64(tiny_model, processor, noise_clip):
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})
    model, session = FgvcModel(config).eval(), processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, [1], [(12.3, 20.1)])
    processor.add_inputs_to_inference_session(session, 0, [2], input_boxes=[(8.1, 9.2, 22.3, 27.4)])
    model.step(session, noise_clip[0])
    assert session.templates.read().points.tolist() == [[12.3, 20.1]]
    assert session.boxes.read().corners[0].tolist() == [[8.1, 9.2], [22.3, 9.2], [22.3, 27.4], [8.1, 27.4]]


def test_the_border_is_two_per_cent_of_the_mean_side_on_a_frame_that_is_not_square():
    """50 x 200 pixels: the mean side is 100, and the border 2 pixels wide on every side."""
    expected = np.array(
        [(100, 25), (1.9, 25), (2.1, 25), (100, 1.9), (100, 2.1), (198.1, 25), (197.9, 25), (100, 48.1), (100, 47.9)]
    )
    found = _at_border(expected, (50, 200))
    assert found.tolist() == [False, True, False, True, False, True, False, True, False]


def test_points_come_in_the_order_of_all_ids_and_exactly_as_they_were_given():
    """Of two trackers. One point has a prompt here, one is next to the right border, and one has not been found yet."""
    places = torch.tensor([[3.0, 5.0], [29.9, 2.0], [math.nan, math.nan]], dtype=torch.float64)
    confidence, uncertainty = torch.tensor([0.5, 0.49, 0.0]), torch.tensor([1.0, 2.0, math.nan])
    readouts = [
        PointReadout(ids, places[rows], confidence[rows], uncertainty[rows], places[rows])
        for ids, rows in (([7, 4], slice(2)), ([9], slice(2, 3)))
    ]
    points = {4: PointTarget(2, (1.0, 1.0)), 7: PointTarget(0, (9.0, 8.0)), 5: PointTarget(8, (1.0, 1.0))}
    points[9] = PointTarget(3)
    here = {7: PointTarget(5, (8.0, 9.5)), 9: points[9], 4: BoxTarget(5, np.zeros((4, 2)), False)}
    found = read_points(readouts, points, here, ((20, 90), (10, 30)), FgvcConfig(visibility_threshold=0.5))
    assert found["ids"] == [4, 7, 9]
    np.testing.assert_allclose(found["points"], [(89.7, 4), (8, 9.5), (np.nan, np.nan)])
    np.testing.assert_array_equal(found["queries"], [(2, 1, 1), (0, 9, 8), (3, np.nan, np.nan)])
    np.testing.assert_allclose(found["uncertainty"], [2 * math.sqrt(6), math.sqrt(6), np.nan], rtol=1e-6)
    np.testing.assert_array_equal(found["confidence"], confidence[[1, 0, 2]])
    assert found["visible"].tolist() == [False, True, False]
    assert found["at_border"].tolist() == found["outside"].tolist() == [True, False, False]
    always = read_points(readouts, points, here, ((20, 90), (10, 30)), FgvcConfig(visibility_threshold=0.0))
    assert always["visible"].tolist() == [True, True, False] and not always["outside"].any()


@pytest.mark.parametrize("side", [79, 85, 149, 480])
def test_a_point_on_the_border_can_be_a_prompt_again(side):
    """79 * (1920 / 79) is more than 1920 in float64."""
    corner = torch.tensor([[side, side]], dtype=torch.float64)
    ones = torch.ones(1)
    readout, points = PointReadout([1], corner, ones, ones, corner), {1: PointTarget(0, (1.0, 1.0))}
    for length in (300, 854, 1920):
        found = read_points([readout], points, {}, ((length, length), (side, side)), FgvcConfig())["points"]
        check_fits(1, PointTarget(1, tuple(found[0])), (length, length))
        np.testing.assert_allclose(found, [(length, length)], rtol=1e-15)


def test_an_object_is_exactly_its_mask_on_the_frame_of_that_and_takes_no_other_pixels():
    """Object 4 has a prompt here, and a label map of the left half; object 300 has the right half. A cell is a pixel."""
    maps = torch.zeros(2, 4, 6)
    maps[0, :, :3], maps[1, :, 3:] = 1, 1
    mask = np.zeros((4, 6), bool)
    mask[1:3, 1:5] = True
    readouts = [MaskReadout([300], maps[1:]), MaskReadout([4], maps[:1])]
    config, sizes = FgvcConfig(output_stride=2, cell_origin=1.0), ((4, 6), (8, 12))
    free = read_masks(readouts, [4, 300], {}, sizes, config)
    assert free.tolist() == [[4] * 3 + [300] * 3] * 4
    here = {4: MaskTarget(2, mask), 7: PointTarget(2, (1.0, 1.0))}
    found = read_masks(readouts, [4, 300, 8], here, sizes, config)
    assert found.tolist() == [[0, 0, 0, 300, 300, 300], *[[0, 4, 4, 4, 4, 300]] * 2, [0, 0, 0, 300, 300, 300]]
    assert read_masks(readouts, [8], here, sizes, config) is None
    alike = [
        MaskReadout([300, 4], torch.ones(2, 4, 6))
    ]  # the first in the order of all ids, not in that of the readouts
    assert (read_masks(alike, [4, 300], {}, sizes, config) == 4).all()


def test_boxes_come_in_the_order_of_all_ids_and_exactly_as_they_were_given():
    """One that was corrected is the last of its tracker."""
    corners = torch.arange(16.0, dtype=torch.float64).view(2, 4, 2)
    readout, given = BoxReadout([9, 2], corners, torch.tensor([0.5, 0.25])), np.full((4, 2), 7.25)
    found = read_boxes(
        readout, [2, 5, 9], {9: BoxTarget(0, given, True), 2: PointTarget(0, (1.0, 1.0))}, ((20, 90), (10, 30))
    )
    assert found["box_ids"] == [2, 9] and found["box_confidence"].tolist() == [0.25, 0.5]
    np.testing.assert_allclose(found["boxes"], [corners[1].numpy() * (3, 2), given])


def frame(t, confidence, at_border=(False, False)):
    confidence = np.array(confidence, np.float32)
    points, queries = np.array([(t, 1.0), (t, 2.0)]), np.array([(0, 0.0, 1.0), (0, 0.0, 2.0)])
    return FgvcVideoOutput(
        frame_idx=t,
        ids=[4, 9],
        queries=queries,
        points=points,
        confidence=confidence,
        uncertainty=confidence + 1,
        at_border=np.array(at_border),
    )


def test_a_point_is_visible_from_the_threshold_on_and_outside_if_it_was_at_the_border_and_is_not():
    table = TrackTable()
    for t, confidence, at_border in (
        (0, (1, 1), (False, False)),
        (1, (0.5, 0.49), (True, True)),
        (3, (0.2, 0.9), (True, True)),
    ):
        table.add(frame(t, confidence, at_border))
    found = table.tracks({}, None, (10, 10), 0.5)
    assert found.object_ids == [4, 9] and found.tracks.shape == (2, 4, 2)
    assert found.visible.tolist() == [[True, True, False, False], [True, False, False, True]]
    assert found.outside.tolist() == [[False, False, False, True], [False, True, False, False]]
    assert np.isnan(found.tracks[:, 2]).all() and np.isnan(found.uncertainty[:, 2]).all()
    assert found.tracks[1, 3].tolist() == [3, 2] and found.uncertainty[0, 3] == np.float32(1.2)
    assert table.tracks({}, None, (10, 10), 0.0).visible.tolist() == [[True, True, False, True]] * 2
    assert table.tracks({}, 2, (10, 10), 1.0).visible.tolist() == [[True, False], [True, False]]


def test_points_are_visible_from_the_threshold_that_is_given(tiny_model, noise_clip):
    """However they are followed; from that of the configuration if none is given."""
    fields = {"point_matching": "templates", "visibility_threshold": 0.998}
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | fields)
    model = FgvcModel(config).eval()
    model.load_state_dict(tiny_model.state_dict())
    tracker = Tracker(model, FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")))
    other = np.random.default_rng(1).integers(0, 255, (1, *noise_clip.shape[1:]), np.uint8)
    clip, first, second = np.concatenate([noise_clip[:2], other]), (0, 40.0, 25.0), (1, 39.0, 24.0)
    ways = [{"points": {5: first}}, {"points": {5: [first, second]}}]
    ways.append({"points": {5: [first, second]}, "direction": "both"})
    ways.append({"queries": tracker.describe(noise_clip[0], {5: first[1:]})})
    for way in ways:
        default = tracker.track(clip, **way)
        assert (default.confidence < 0.998).any()
        found = {threshold: tracker.track(clip, **way, threshold=threshold) for threshold in (0.0, 0.9999)}
        for threshold, tracks in {0.998: default, **found}.items():
            known = ~np.isnan(tracks.tracks[..., 0])
            np.testing.assert_array_equal(tracks.visible, known & (tracks.confidence >= threshold))
        assert (found[0.0].visible & ~found[0.9999].visible).any()
