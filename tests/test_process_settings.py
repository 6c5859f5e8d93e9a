"""Settings of the process that others change (default type and device, oneDNN, threads) have no say in what is tracked."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign_models import QUERIES, moving_frames, small_model, tracker_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fgvc_hf import Tracker, chain_flow, load_session, render_clip, save_session
from fgvc_hf.data.augmentation import change_light
from fgvc_hf.data.scene import Random
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.textures import natural_image
from fgvc_hf.data.training_clips import render_training_clips
from fgvc_hf.training.ancestors.colour_autoencoder import ColourAutoEncoder, ColourAutoEncoderConfig
from fgvc_hf.training.ancestors.time_cycle import TimeCycleRecipe, TimeCycleTraining
from fgvc_hf.training.ancestors.uvc import UvcRecipe, UvcTraining
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.recipes import Recipe


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
    part = frames[:, 20:60, 20:68]  # dense flow takes long by torch's operations
    return {
        "tracks": tracks.tracks,
        "confidence": tracks.confidence,
        "uncertainty": tracks.uncertainty,
        "masks": np.stack([ids for _, ids in tracker.propagate_masks(frames, masks)]),
        "points later": np.stack([output.points for output in later]),
        "boxes later": np.stack([output.boxes for output in later]),
        "masks later": np.stack([output.masks for output in later]),
        "flow": tracker.flow(part[0], part[2]).flow,
        "chain": np.stack([output.flow for _, output in chain_flow(tracker, part[:2])]),
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


@pytest.mark.slow
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


@pytest.mark.slow
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
from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, render_clip

clip = render_clip(num_frames=3, height=48, width=64, num_points=2, seed=0)
small = FgvcProcessor(FgvcImageProcessorPil(resize_policy="none"))  # where bfloat16 is emulated, large frames take minutes
start, found, errors = threading.Barrier(8), [], []


def work(number):
    try:
        start.wait()
        for _ in range(2):
            dtype = ("bfloat16", "float32")[number % 2]
            tracker = Tracker(Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast").model, small)
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
    model = Tracker.from_pretrained(device="cpu", dtype=dtype, preset="fast").model
    alone = Tracker(model, small).track(clip.frames, clip.queries).tracks
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


def rendered_and_learnt(modules: dict[str, JointTraining]) -> dict[str, torch.Tensor]:
    """Rendered textures, pairs and clips, and losses and gradients of a batch."""
    textures = (255 * natural_image(96, 30, 0.4, Random(range(4)))).byte()
    found = {"textures": textures}
    for seed in range(4):
        pairs = render_pairs(textures, [seed, seed + 50], 48, 12.0, 2)
        found |= {f"frames {seed}": pairs.frames, f"flow {seed}": pairs.flow, f"visible {seed}": pairs.visible}
        found[f"light {seed}"] = change_light(pairs.frames, Random([seed, seed + 9]), 1.0)
    clip = render_clip(num_frames=4, height=64, width=96, num_points=5, seed=1)
    found |= {"clip": torch.from_numpy(clip.frames.copy()), "tracks": torch.from_numpy(clip.tracks)}
    clips = render_training_clips(textures, [2, 3], 4, 48, num_points=8)
    found |= {"clips": clips.frames, "clip tracks": clips.tracks, "clip visible": clips.visible}
    for label, module in modules.items():
        losses = module(frames=(255 * pairs.frames).byte(), labelled=pairs, seeds=[1, 2], clips=clips)
        torch.stack(list(losses.values())).sum().backward()
        found |= {f"{label} {name}": loss.detach() for name, loss in losses.items()}
        found[f"{label} gradient"] = module.model.encoder.conv1.weight.grad.clone()
        module.zero_grad()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16], ids=str)
def test_torch_defaults_have_no_say_in_what_is_rendered_and_learnt(dtype):
    torch.manual_seed(0)
    recipe = Recipe(steps=8, batch_size=2, crop=48, radius=4, adversarial_step=2, reach=6.0)
    modules = {
        label: JointTraining(small_model(1), replace(recipe, label=label), small_model(2)).eval()
        for label in ("soft", "gaussian", "dirac")
    }
    expected = rendered_and_learnt(modules)
    torch.set_default_dtype(dtype)
    try:
        found = rendered_and_learnt(modules)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert value.dtype == found[name].dtype, name
        assert torch.equal(value.nan_to_num(), found[name].nan_to_num()), name


def test_torch_defaults_have_no_say_in_the_losses_of_ancestors():
    torch.manual_seed(0)
    sizes = {"steps": 30, "batch_size": 2, "frame": 64, "learning_rate": 1e-3}
    colours = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16]))
    modules = {
        "UVC": UvcTraining(small_model(output_stride=8), UvcRecipe(crop=32, **sizes), colours),
        "TimeCycle": TimeCycleTraining(
            small_model(output_stride=8), TimeCycleRecipe(patch=32, localiser="coordinates", **sizes)
        ),
    }
    frames = {
        name: torch.randint(0, 255, (2, 2 if name == "UVC" else 6, 3, 64, 64), dtype=torch.uint8) for name in modules
    }

    def losses() -> dict[str, torch.Tensor]:
        return {
            f"{name} {step} {loss}": value.detach()
            for name, module in modules.items()
            for step in (1, 15)  # both stages of UVC
            for loss, value in module.eval()(frames=frames[name], labelled=None, seeds=[1, 2], step=step).items()
        }

    expected = losses()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = losses()
    finally:
        torch.set_default_dtype(torch.float32)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.dtype == found[name].dtype and torch.equal(value, found[name]), name
