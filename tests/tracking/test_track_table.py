"""Tracks that grow frame by frame."""

import gc
import tracemalloc

import numpy as np
import pytest

from fgvc_hf import FgvcConfig, FgvcModel, Tracker
from fgvc_hf.tracking.results import FgvcVideoOutput, TrackTable


def output(t: int, ids: list[int]) -> FgvcVideoOutput:
    """Point i of frame t is at (1000 i + t, t)."""
    n = np.array(ids, dtype=np.float64).reshape(-1)
    return FgvcVideoOutput(
        frame_idx=t,
        ids=ids,
        queries=np.stack([0 * n, n, n], axis=1),
        points=np.stack([1000 * n + t, 0 * n + t], axis=1),
        confidence=np.full(len(ids), 0.75, np.float32),
        uncertainty=np.full(len(ids), t, np.float32),
        at_border=np.full(len(ids), t % 2 == 1),
    )


@pytest.mark.parametrize("order", [range(70), range(69, -1, -1), np.random.default_rng(0).permutation(70).tolist()])
@pytest.mark.parametrize("num_frames", [None, 70, 90])
def test_any_order_and_ids_that_come_and_go(order, num_frames):
    table = TrackTable()
    present = {t: [i for i in (5, -3, 9, 2**60) if (t + i) % 3] for t in range(70)}
    for t in order:
        table.add(output(t, present[t]))
    tracks = table.tracks({9: (0.0, 9.1, 9.2), 77: (1.0, 2.0, 3.0)}, num_frames, (10, 20), 0.5)
    assert tracks.object_ids[:2] == [9, 77] and set(tracks.object_ids) == {9, 77, 5, -3, 2**60}
    assert tracks.tracks.shape == (5, num_frames or 70, 2) and tracks.tracks.dtype == np.float32
    assert tracks.queries[:3].tolist() == [[0, 9.1, 9.2], [1, 2, 3], [0, 5, 5]] and tracks.queries.dtype == np.float64
    for row, obj_id in enumerate(tracks.object_ids):
        for t in range(num_frames or 70):
            if t < 70 and obj_id in present[t]:
                np.testing.assert_array_equal(tracks.tracks[row, t], np.float32([1000 * obj_id + t, t]))
                assert tracks.visible[row, t] and tracks.uncertainty[row, t] == t and not tracks.outside[row, t]
            else:
                assert np.isnan(tracks.tracks[row, t]).all() and np.isnan(tracks.uncertainty[row, t])
                assert tracks.confidence[row, t] == 0 and not tracks.visible[row, t] and not tracks.outside[row, t]
    hidden = table.tracks({}, num_frames, (10, 20), 0.9)
    assert not hidden.visible.any() and hidden.outside.sum() == sum(len(present[t]) for t in range(1, 70, 2))


def test_prompts_are_the_labels_of_points_that_are_there():
    table = TrackTable()
    table.add(output(0, [5, 9]))
    tracks = table.tracks({}, None, (10, 20), 0.5)
    rows, positions = tracks.prompts
    assert rows.tolist() == [0, 1] and positions.tolist() == [[0, 5, 5], [0, 9, 9]]
    tracks.labels = np.array([(9, 0, 1.5, 2), (7, 3, 1, 1), (5, 0, 3, 4), (5, 8, 5, 6)], float)
    rows, positions = tracks.prompts
    assert rows.tolist() == [1, 0, 0] and positions.tolist() == [[0, 1.5, 2], [0, 3, 4], [8, 5, 6]]


def test_an_iterator_of_outputs_is_read_frame_by_frame(tiny_model, processor, noise_clip):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 0, [3], [(20, 20)])
    kept = list(tiny_model.propagate_in_video_iterator(session))
    expected = processor.post_process_point_tracking(kept, session)
    lazy = processor.post_process_point_tracking(tiny_model.propagate_in_video_iterator(session), session)
    np.testing.assert_array_equal(lazy.tracks, expected.tracks)
    np.testing.assert_array_equal(lazy.visible, expected.visible)


@pytest.mark.slow
def test_a_long_video_takes_less_than_half_a_kilobyte_for_a_frame(processor):
    config = FgvcConfig(
        hidden_sizes=[8, 16, 32], propagation_radius=2, num_context_frames=1, point_matching="templates"
    )
    tracker, peak = Tracker(FgvcModel(config).eval(), processor), {}
    frame = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)

    def frames(length):
        for t in range(length):
            if t % 20 == 0:
                gc.collect()  # so that the peak does not depend on when Python collects
            yield frame

    for length in (60, 100, 400):  # the first one loads what is loaded once
        tracemalloc.start()
        tracker.track(frames(length), [(0, 5 + i, 9) for i in range(4)])
        peak[length] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (
        peak[400] - peak[100] < 300 * 500
    )  # 17 for each point, three times while the arrays grow; an output object takes 3,200
