"""Sessions on disk."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, load_session, save_session
from fgvc_hf.applications.session_files import _checksum


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
    assert first.keys() == second.keys() and len(first) > 10
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


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
    with pytest.raises(ValueError, match=r"^video is of size \(20, 56\), but the session of \(40, 56\)"):
        load_session(tmp_path / "s.safetensors", model, noise_clip[:, :20])
    assert load_session(tmp_path / "s.safetensors", model, noise_clip).video.num_frames == 10


def test_errors_of_the_video_and_of_the_model_are_not_of_the_file(model, processor, noise_clip, tmp_path):
    save_session(processor.init_video_session(), model, tmp_path / "s.safetensors")

    def frames(error):
        raise error
        yield

    for error in (RuntimeError("the camera is gone"), KeyError("a"), ValueError("no frame")):
        with pytest.raises(type(error)) as caught:
            load_session(tmp_path / "s.safetensors", model, frames(error))
        assert caught.value is error
    with pytest.raises(ValueError, match="^frame 0 of the video must be uint8"):
        load_session(tmp_path / "s.safetensors", model, noise_clip / 255)
    with torch.device("meta"), pytest.raises(ValueError, match="^model must have its weights in memory"):
        load_session(tmp_path / "s.safetensors", FgvcModel(model.config))
    with pytest.raises(ValueError, match="is a URL"):
        load_session("https://example.org/s.safetensors", model)


@pytest.fixture
def saved(model, processor, noise_clip, tmp_path):
    """A session after three frames, its file, and what it finds on the next frame."""
    session = processor.init_video_session()
    prompt(session, processor)
    processor.add_inputs_to_inference_session(session, 0, [9], input_boxes=[(5, 5, 30, 30)])
    for frame in noise_clip[:3]:
        model.step(session, frame)
    save_session(session, model, tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors", model.step(session, noise_clip[3])


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """Bytes flipped, set, removed, repeated or exchanged, in the header as often as anywhere."""
    header = 8 + struct.unpack("<Q", data[:8])[0]
    end = header if draw.random() < 0.5 else len(data)
    at, length = int(draw.integers(end)), int(draw.integers(1, 40))
    kind = draw.integers(6)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << int(draw.integers(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + draw.bytes(length) + data[at + length :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + data[at + length :]
    if kind == 4:
        return data[:at] + data[at : at + length] * 2 + data[at + length :]
    digits = [i for i in range(8, header) if chr(data[i]).isdigit()]  # a number in the header, valid as before
    at = int(draw.choice(digits))
    return data[:at] + str(int(draw.integers(10))).encode() + data[at + 1 :]


@pytest.mark.slow
def test_a_damaged_file_is_refused_or_is_the_same_session(model, noise_clip, saved):
    path, expected = saved
    data, draw, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        path.write_bytes(mutated(data, draw))
        try:
            restored = load_session(path, model)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(path) in str(error) and str(error).endswith(".") and "\n" not in str(error)
        else:
            assert_equal(model.step(restored, noise_clip[3]), expected)
    assert refused > 150


def read_all(path):
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "what", ["a prompt", "a tensor", "one bit", "its name", "its shape", "its type", "a tensor is gone", "one is new"]
)
def test_a_file_that_was_edited_is_refused(model, saved, what):
    """As somebody would who rewrites the file by its library."""
    path, _ = saved
    metadata, tensors = read_all(path)
    name = max(tensors, key=lambda one: tensors[one].numel())
    if what == "a prompt":
        content = json.loads(metadata["session"])
        content["prompts"][0][2][0] += 1
        metadata["session"] = json.dumps(content)
    elif what == "a tensor":
        tensors[name] = torch.zeros_like(tensors[name])
    elif what == "one bit":
        tensors[name].view(torch.uint8).view(-1)[0] ^= 1
    elif what == "its name":
        tensors[name + "x"] = tensors.pop(name)
    elif what == "its shape":
        tensors[name] = tensors[name].flatten()
    elif what == "its type":
        tensors[name] = tensors[name].view(torch.int32)
    elif what == "a tensor is gone":
        del tensors[name]
    else:
        tensors["new"] = torch.ones(1)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"is damaged or was edited, its checksum does not fit its content\.$"):
        load_session(path, model)


def leaves(value, path=()):
    """Where every value of nested JSON is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from leaves(item, (*path, key))


HOSTILE = (None, True, -1, 0.5, 1e300, 10**400, "x" * 100_000, [0] * 100_000, {}, [[[]]])


def test_a_file_that_lies_with_a_right_checksum_is_refused_or_goes_on(model, noise_clip, saved):
    """Every value of the metadata in turn as one of another type: an error is a sentence, whenever it comes."""
    path, _ = saved
    metadata, tensors = read_all(path)
    content, wrong, types = json.loads(metadata["session"]), [], set()
    draw = np.random.default_rng(0)
    named = {tuple(str(key) if isinstance(key, str) else "i" for key in place): place for place in leaves(content)}
    places = [place for place in named.values() if place[0] != "image_processor"]
    for place in places:
        value = HOSTILE[draw.integers(len(HOSTILE))]
        changed = json.loads(metadata["session"])
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        text = json.dumps(changed)
        save_file(tensors, path, metadata={"session": text, "checksum": _checksum(text, tensors)})
        try:
            model.step(load_session(path, model), noise_clip[3])
        except (ValueError, OSError) as error:
            types.add(type(error))
            if "\n" in str(error) or len(str(error)) > 600:
                wrong.append((place, str(value)[:20], str(error)[:200]))
        except Exception as error:
            wrong.append((place, str(value)[:20], repr(error)[:200]))
    assert not wrong and types == {ValueError} and len(places) > 20


@pytest.mark.parametrize("part", ["last_frame_idx", "last_image", "labels", "templates", "boxes", "trackers"])
def test_a_session_is_stepped_in_all_its_parts(model, saved, part):
    path, _ = saved
    metadata, tensors = read_all(path)
    content = json.loads(metadata["session"])
    if part == "last_image":
        del tensors[part]
    elif part == "last_frame_idx":
        content[part] = None
    elif part == "trackers":
        content[part] = {}
    else:
        del content["trackers"][part]
    text = json.dumps(content)
    save_file(tensors, path, metadata={"session": text, "checksum": _checksum(text, tensors)})
    with pytest.raises(ValueError, match="must all be there, or none"):
        load_session(path, model)


def test_a_file_without_a_checksum_is_refused(model, saved):
    path, _ = saved
    metadata, tensors = read_all(path)
    save_file(tensors, path, metadata={"session": metadata["session"]})
    with pytest.raises(ValueError, match="has no checksum"):
        load_session(path, model)


@pytest.mark.parametrize("change", ["weights", "one weight", "configuration", "precision"])
def test_a_session_of_other_weights_or_settings_is_refused(model, saved, change):
    path, _ = saved
    config = FgvcConfig.from_dict(model.config.to_dict() | ({"temperature": 0.5} if change == "configuration" else {}))
    other = FgvcModel(config).eval()
    if change != "weights":
        other.load_state_dict(model.state_dict())
    if change == "one weight":
        with torch.no_grad():
            next(other.parameters()).view(-1)[0] += 1e-6
    other = other.bfloat16() if change == "precision" else other
    with pytest.raises(ValueError, match="of another checkpoint"):
        load_session(path, other)
