"""The pipelines of transformers."""

import numpy as np
import pytest
import transformers

from fgvc_hf import FgvcImageProcessorPil, FgvcProcessor, Tracker


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("checkpoint")
    request.getfixturevalue("tiny_model").save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    return str(folder)


def test_point_tracking(checkpoint, noise_clip):
    points = [(0, 12, 20), (3, 30.5, 8)]
    result = transformers.pipeline("point-tracking", model=checkpoint, device="cpu")(noise_clip, points=points)
    expected = Tracker.from_pretrained(checkpoint, dtype="float32").track(noise_clip, points)
    np.testing.assert_array_equal(result["tracks"], expected.tracks)
    np.testing.assert_array_equal(result["visible"], expected.visible)
    assert result["size"] == (40, 56) and result["queries"].shape == (2, 3)


def test_several_videos_and_both_ways(checkpoint, noise_clip):
    tracker = transformers.pipeline("point-tracking", model=checkpoint, device="cpu")
    results = tracker([noise_clip, noise_clip[:5]], points=[(4, 12, 20)], direction="both")
    assert [result["tracks"].shape for result in results] == [(1, 10, 2), (1, 5, 2)]
    assert not np.isnan(results[0]["tracks"]).any()


def test_mask_propagation(checkpoint, noise_clip):
    ids = np.zeros((40, 56), int)
    ids[10:30, 10:30] = 3
    segment = transformers.pipeline("mask-propagation", model=checkpoint, device="cpu")
    result = segment(noise_clip, masks=ids, frame_idx=2, direction="both")
    assert result["frame_idx"].tolist() == list(range(10)) and result["masks"].shape == (10, 40, 56)
    np.testing.assert_array_equal(result["masks"][2], ids)


def test_prompts_must_be_given(checkpoint, noise_clip):
    with pytest.raises(ValueError, match="points is missing"):
        transformers.pipeline("point-tracking", model=checkpoint, device="cpu")(noise_clip)
    with pytest.raises(ValueError, match="masks is missing"):
        transformers.pipeline("mask-propagation", model=checkpoint, device="cpu")(noise_clip)
