"""Positions, errors, borders and visibility of a frame, by value, where the model works at another size than the video."""

import math

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor
from fgvc_hf.tracking.results import FgvcVideoOutput, TrackTable
from fgvc_hf.tracking.session_results import _at_border


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
