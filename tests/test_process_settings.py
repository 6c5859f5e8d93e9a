"""Settings of the process that others change (default type and device, oneDNN, threads) have no say in what is tracked."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from foreign_models import (
    QUERIES,
    moving_frames,
    small_model,
    tracker_of,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fgvc_hf import (
    Tracker,
    chain_flow,
    load_session,
    save_session,
)


@pytest.fixture(scope="module")
def frames():
    return moving_frames()


class MadeHere(TorchDispatchMode):
    """Collects operations that make a tensor of a type, or on a kind of device, that none of their inputs has."""

    def __init__(self, dtype: torch.dtype, device: str):
        super().__init__()
        self.dtype, self.device, self.found = dtype, device, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                new = value.dtype == self.dtype and all(one.dtype != self.dtype for one in given)
                if new or value.device.type == self.device:
                    self.found.add(str(function))
        return output


def flows(tracker: Tracker, frames, folder) -> dict[str, np.ndarray]:
    """The main ways of using a model."""
    height, width = frames.shape[1:3]
    masks = np.zeros((height, width), np.int32)
    masks[20:50, 30:60], masks[55:70, 60:90] = 1, 2
    tracks = tracker.track(frames, QUERIES, direction="both")
    live = tracker.stream()
    live.add_points({7: (20, 20)})
    live.add_masks(masks)
    live.add_boxes({9: (20, 20, 60, 60)})
    live.step(frames[0])
    save_session(live, tracker, folder / "session.safetensors")
    session = load_session(folder / "session.safetensors", tracker)
    later = [tracker.model.step(session, frame) for frame in frames[1:]]
    pixel_values = tracker.processor.image_processor(list(frames[:2]), return_tensors="pt").pixel_values
    with torch.no_grad():
        matched = tracker.model.match(pixel_values[:1], pixel_values[1:], radius=3)
    return {
        "tracks": tracks.tracks,
        "confidence": tracks.confidence,
        "uncertainty": tracks.uncertainty,
        "masks": np.stack([ids for _, ids in tracker.propagate_masks(frames, masks)]),
        "points later": np.stack([output.points for output in later]),
        "boxes later": np.stack([output.boxes for output in later]),
        "masks later": np.stack([output.masks for output in later]),
        "flow": tracker.flow(frames[0], frames[2]).flow,
        "chain": np.stack([output.flow for _, output in chain_flow(tracker, frames)]),
        "heat map": tracker.match(frames[0], frames[2], (40, 40)),
        "Eq. 1": matched.flow.numpy(),
        "entropy": matched.entropy.numpy(),
    }


WAYS = [
    {"point_matching": "templates"},
    {"point_matching": "labels", "output_stride": 4},
    {"point_matching": "labels", "readout": "legacy", "propagation_family": "per_reference", "object_boxes": True}
    | {"box_matching": "coordinates", "output_stride": 4},
    {"fine_size": 8, "num_attention_layers": 2, "num_attention_heads": 2, "attention_window": 4},
]


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("fields", WAYS, ids=["templates", "labels", "UVC", "coarse-to-fine"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_torch_defaults_have_no_say(dtype, fields, kernels, frames, tmp_path, monkeypatch):
    """The meta device as default would lose every tensor whose device is not given."""
    monkeypatch.setenv("FGVC_KERNELS", kernels)
    tracker = tracker_of(small_model(**fields))
    expected = flows(tracker, frames, tmp_path)
    made = MadeHere(dtype, "meta")
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        found = flows(tracker, frames, tmp_path)
        if dtype != torch.float64:  # the type of positions
            with made:
                flows(tracker, frames, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not made.found


@pytest.mark.parametrize("fields", WAYS, ids=["templates", "labels", "UVC", "coarse-to-fine"])
def test_devices_without_float64(fields, frames, tmp_path, monkeypatch):
    """Where a device has no float64, positions there are float32, and no farther off than that."""
    monkeypatch.setenv("FGVC_KERNELS", "torch")
    tracker = tracker_of(small_model(**fields))
    expected = flows(tracker, frames, tmp_path)
    monkeypatch.setattr("fgvc_hf.coordinates.WITHOUT_FLOAT64", ("cpu",))
    made = MadeHere(torch.float64, "meta")
    with made:
        found = flows(tracker, frames, tmp_path)
    for name in ("tracks", "boxes later", "confidence"):
        np.testing.assert_allclose(found[name], expected[name], atol=0.01, err_msg=name)
    assert (found["masks later"] == expected["masks later"]).mean() > 0.999
    assert made.found <= {"aten.detach.default", "aten.lift_fresh.default"}  # prompts, on the CPU in any case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_onednn(dtype, frames):
    model = small_model().to(dtype)
    expected = tracker_of(model).track(frames, QUERIES).tracks
    with torch.backends.mkldnn.flags(enabled=False):
        found = tracker_of(copy.deepcopy(model)).track(frames, QUERIES).tracks
    np.testing.assert_allclose(found, expected, atol=0.25 if dtype == torch.bfloat16 else 0.01)


THREADS = """
import threading
import numpy as np
import torch
from fgvc_hf import FgvcConfig, FgvcModel, Tracker, render_clip

clip = render_clip(num_frames=3, height=48, width=64, num_points=2, seed=0)
start, found, errors = threading.Barrier(8), [], []


def work(number):
    try:
        start.wait()
        for _ in range(2):
            dtype = ("bfloat16", "float32")[number % 2]
            tracker = Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast")
            assert FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32])).dtype == torch.float32
            found.append((dtype, tracker.model.dtype, tracker.track(clip.frames, clip.queries).tracks))
    except BaseException as error:
        errors.append(repr(error))


threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
assert torch.get_default_dtype() == torch.float32 and len(found) == 16
for dtype in ("bfloat16", "float32"):
    alone = Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast").track(clip.frames, clip.queries).tracks
    for name, real, tracks in found:
        if name == dtype:
            assert real == getattr(torch, dtype) and np.array_equal(tracks, alone)
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2))
def test_first_loads_in_eight_threads(attempt):
    result = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]


# ---- sessions and models ----------------------------------------------------------------------------------------------
