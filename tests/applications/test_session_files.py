"""Sessions on disk."""

import numpy as np
import pytest

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, load_session, save_session


@pytest.fixture(params=["labels", "templates"])
def model(tiny_model, request):
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": request.param})
    other = FgvcModel(config).eval()
    other.load_state_dict(tiny_model.state_dict())
    return other


def prompt(session, processor):
    mask = np.zeros((40, 56), bool)
    mask[10:25, 8:30] = True
    processor.add_inputs_to_inference_session(session, 0, [1, 2], [(12.3, 20.1), (40.0, 8.5)])
    processor.add_inputs_to_inference_session(session, 1, 7, input_masks=mask)
    processor.add_inputs_to_inference_session(session, 7, 2, [(30, 30)])  # a correction to come


def assert_equal(first, second):
    assert first.frame_idx == second.frame_idx and first.ids == second.ids
    for name in ("points", "visible", "confidence", "uncertainty", "outside"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert (first.masks is None) == (second.masks is None)
    if first.masks is not None:
        np.testing.assert_array_equal(first.masks, second.masks)


@pytest.mark.parametrize("moment", [0, 1, 4, 8])
def test_a_restored_session_goes_on_as_if_nothing_had_happened(model, processor, noise_clip, tmp_path, moment):
    session = processor.init_video_session()
    prompt(session, processor)
    for frame in noise_clip[:moment]:
        model.step(session, frame)
    save_session(session, model, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", model)
    assert restored.obj_ids == session.obj_ids
    for frame in noise_clip[moment:]:
        assert_equal(model.step(restored, frame), model.step(session, frame))
    assert processor.post_process_masks(model.step(restored, noise_clip[0]), restored).shape == (40, 56)


def test_a_stream_is_saved_by_its_tracker(model, processor, noise_clip, tmp_path):
    tracker = Tracker(model, processor)
    live = tracker.stream()
    live.add_points({1: (12.3, 20.1), 5: (40.0, 8.5)})
    for frame in noise_clip[:3]:
        live.step(frame)
    save_session(live, tracker, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", tracker)
    for frame in noise_clip[3:]:
        assert_equal(model.step(restored, frame), live.step(frame))
    with pytest.raises(ValueError, match="was started with another model"):
        save_session(live, FgvcModel(model.config), tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_a_session_belongs_to_its_checkpoint(model, processor, noise_clip, tmp_path):
    session = processor.init_video_session()
    prompt(session, processor)
    model.step(session, noise_clip[0])
    save_session(session, model, tmp_path / "s.safetensors")
    other = FgvcModel(model.config)
    with pytest.raises(ValueError, match="of another checkpoint"):
        load_session(tmp_path / "s.safetensors", other)


def test_what_is_no_session(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_session(tmp_path / "none.safetensors", model)
    (tmp_path / "text.safetensors").write_text("hello")
    model.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "text.safetensors", tmp_path / "model" / "model.safetensors"):
        with pytest.raises(ValueError, match="is no saved session"):
            load_session(path, model)


def test_nothing_half_written(model, processor, tmp_path):
    session = processor.init_video_session()
    with pytest.raises(OSError, match="no/such/folder|No such file"):
        save_session(session, model, tmp_path / "no/such/folder/s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_video_must_be_of_the_same_size(model, processor, noise_clip, tmp_path):
    session = processor.init_video_session()
    model.step(session, noise_clip[0])
    save_session(session, model, tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=r"video is of size \(20, 56\), but the session of \(40, 56\)"):
        load_session(tmp_path / "s.safetensors", model, noise_clip[:, :20])
    assert load_session(tmp_path / "s.safetensors", model, noise_clip).video.num_frames == 10
