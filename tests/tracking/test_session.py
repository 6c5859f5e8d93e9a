"""Sessions in the hands of programs: interrupted, copied, and propagated by several iterators."""

import copy
import pickle

import numpy as np
import pytest

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, save_session
from fgvc_hf.tracking.template_tracker import TemplateTracker


POINTS = {1: (12.3, 20.1), 2: (40.0, 8.5)}


def session_on(processor, frames):
    session = processor.init_video_session(frames)
    processor.add_inputs_to_inference_session(session, 0, list(POINTS), list(POINTS.values()))
    return session


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_session_whose_step_was_interrupted_does_not_go_on(tiny_model, processor, noise_clip, tmp_path, monkeypatch):
    """Label maps are on the new frame then, and templates on the one before."""
    live = Tracker(tiny_model, processor).stream()
    live.add_points(POINTS)
    live.step(noise_clip[0])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TemplateTracker, "step", interrupt)
        live.step(noise_clip[1])
    calls = [
        lambda: live.step(noise_clip[1]),
        lambda: live.session.read(),
        lambda: save_session(live, tiny_model, tmp_path / "s.safetensors"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="was interrupted in the middle of a step; make a new session"):
            call()
    assert not list(tmp_path.iterdir())
    live.session.reset_tracking_data()
    assert live.step(noise_clip[0]).points.tolist() == [list(point) for point in POINTS.values()]


def test_a_session_that_was_interrupted_before_its_step_goes_on(tiny_model, processor, noise_clip, monkeypatch):
    live, other = (Tracker(tiny_model, processor).stream() for _ in range(2))
    for one in (live, other):
        one.add_points(POINTS)
        one.step(noise_clip[0])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(tiny_model), "normalized_features", interrupt)
        live.step(noise_clip[1])
    np.testing.assert_array_equal(live.step(noise_clip[1]).points, other.step(noise_clip[1]).points)


def test_of_two_iterators_over_a_session_the_later_one_goes_on(tiny_model, processor, noise_clip):
    expected = [output.points for output in tiny_model.propagate_in_video_iterator(session_on(processor, noise_clip))]
    session = session_on(processor, noise_clip)
    first = tiny_model.propagate_in_video_iterator(session)
    for _ in range(3):
        next(first)
    second = tiny_model.propagate_in_video_iterator(session)
    found = [next(second).points, next(second).points]
    with pytest.raises(ValueError, match="propagated by another iterator since; make a session for each"):
        next(first)
    found += [output.points for output in second]
    np.testing.assert_array_equal(found, expected)


def test_a_copy_goes_on_by_itself_and_a_pickle_is_refused(tiny_model, processor, noise_clip):
    """A stream is copied with its model, a session without."""
    live = Tracker(tiny_model, processor).stream()
    live.add_points(POINTS)
    for frame in noise_clip[:3]:
        live.step(frame)
    session, stream = copy.deepcopy(live.session), copy.deepcopy(live)
    expected = [live.step(frame).points for frame in noise_clip[3:6]]
    np.testing.assert_array_equal([tiny_model.step(session, frame).points for frame in noise_clip[3:6]], expected)
    np.testing.assert_array_equal([stream.step(frame).points for frame in noise_clip[3:6]], expected)
    assert stream.tracker.model is not tiny_model
    for one in (live, live.session):
        with pytest.raises(ValueError, match="cannot be pickled; save_session writes it to a file"):
            pickle.dumps(one)
    before = pickle.loads(pickle.dumps(session_on(processor, noise_clip)))
    assert len(list(tiny_model.propagate_in_video_iterator(before))) == len(noise_clip)


@pytest.mark.parametrize("late", [{"input_points": [(20, 20)]}, {"input_boxes": [(5, 5, 20, 20)]}])
def test_what_is_followed_by_templates_takes_previous_frames_from_masks(tiny_model, processor, noise_clip, late):
    """A bound on memory holds whatever is added; without one as many frames are remembered as before."""
    model = FgvcModel(FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})).eval()
    mask = np.zeros((40, 56), bool)
    mask[5:25, 5:25] = True
    outputs, held, lengths = {}, {}, {}
    for bound in (None, 1):
        limit = bound and held[None][-1] - bound
        session = processor.init_video_session(max_memory_bytes=limit)
        processor.add_inputs_to_inference_session(session, 0, 1, input_masks=mask)
        processor.add_inputs_to_inference_session(session, 4, 9, **late)
        outputs[bound], held[bound], lengths[bound] = [], [], []
        for frame in noise_clip:
            outputs[bound].append(model.step(session, frame))
            held[bound].append(session.memory_bytes)
            lengths[bound].append(len(session.labels.memory))
    assert max(held[1]) < held[None][-1]
    assert set(lengths[None]) == {3} and lengths[1][:4] == [3] * 4 and set(lengths[1][4:]) <= {1, 2}
    for name in ("points", "boxes", "confidence", "box_confidence"):
        np.testing.assert_array_equal(outputs[1][-1][name], outputs[None][-1][name])
    assert (outputs[1][-1].masks == 1).any()
