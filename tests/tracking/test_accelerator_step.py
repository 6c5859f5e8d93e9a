"""A step on an accelerator: the host never waits for the device, and the results are those of a CPU."""

import pytest
import torch
from feature_fields import frame_of, shifted, smooth_field
from torch.utils._python_dispatch import TorchDispatchMode

from fgvc_hf import FgvcConfig
from fgvc_hf.kernels import constants
from fgvc_hf.matching import alignment, redetection, template_search
from fgvc_hf.tracking import template_tracker
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.template_tracker import TemplateTracker


class Copies(TorchDispatchMode):
    """Counts operations that see tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.between = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, result))
        self.between += len({of.device.type for of in leaves if isinstance(of, torch.Tensor)}) > 1
        return result


def tracker_of(features, points, frame):
    tracker = TemplateTracker.empty(features, FgvcConfig(point_matching="templates"))
    tracker.start(list(range(len(points))), points, frame)
    return tracker


@pytest.mark.parametrize("number", [1, 40])
def test_the_host_does_not_wait_for_the_device(number, monkeypatch):
    """Tensors of the device "meta" have no values: an operation whose result depends on them for its size, or a number that is read, fails."""
    features, image = torch.empty(30, 40, 16, device="meta"), torch.empty(60, 80, device="meta")
    first, frame = EncodedFrame(features, image), EncodedFrame(features, image, image)
    tracker = tracker_of(features, torch.empty(number, 2, dtype=torch.float64, device="meta"), first)
    made, tensor, new_tensor = [], torch.tensor, torch.Tensor.new_tensor

    def recorded(make):
        def call(*args, **kwargs):
            result = make(*args, **kwargs)
            made.extend([result] if result.device.type == "meta" else [])
            return result

        return call

    monkeypatch.setattr(torch, "tensor", recorded(tensor))
    monkeypatch.setattr(torch.Tensor, "new_tensor", recorded(new_tensor))
    constants._made.cache_clear()
    tracker.step(frame)
    assert made  # numbers of the code are copied to the device once
    made.clear()
    with Copies() as copies, torch.no_grad():
        tracker.step(frame)
        assert torch.empty(2).to("meta").is_meta  # seen by the count
    assert not made and copies.between == 1
    with pytest.raises(NotImplementedError):
        tracker.state.lost.nonzero()
    assert tracker.read().points.shape == (number, 2)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("at", [0.0, 0.35])
def test_all_points_computed_are_the_same_as_those_that_need_it(at, backend, monkeypatch):
    """Among them are points that are carried on, lost, found again and hidden."""
    monkeypatch.setenv("FGVC_KERNELS", backend)
    h, w = 40, 60
    field, cover = smooth_field(100, 130), shifted(smooth_field(100, 130, seed=9), 0, 0, h, w)
    points = 90 * torch.rand(24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = []
    for t in range(7):
        features = shifted(field, at * t, -at * t, h, w)
        if t in (3, 4):
            features[:, 10:30] = cover[:, 10:30]
        if t >= 5:
            features[12:24, 40:52] = shifted(field, 0, 0, h, w)[2:14, 6:18]
        frames.append(frame_of(features, seed=t // 3))

    def tracked(compute):
        computed = []

        def rows(wanted):
            computed.append((len(chosen := compute(wanted)), len(wanted)))
            return chosen

        for module in (alignment, redetection, template_search, template_tracker):
            monkeypatch.setattr(module, "rows_to_compute", rows)
        tracker, states = tracker_of(frames[0].features, points, frames[0]), []
        for frame in frames[1:]:
            tracker.step(frame)
            states.append([of.clone() for of in tracker.state._tensors()])
        return states, computed

    some, numbers = tracked(lambda wanted: wanted.nonzero()[:, 0])
    everything, _ = tracked(lambda wanted: torch.arange(len(wanted)))
    assert any(0 < few < many for few, many in numbers)
    assert all(map(torch.equal, sum(some, []), sum(everything, [])))


def test_numbers_of_the_code_are_made_once_for_a_device():
    one, other = (torch.empty(2, device="meta") for _ in range(2))
    assert constants.constant_like((1, 2.5), one) is constants.constant_like([1, 2.5], other)
    assert constants.constant_like((1, 2.5), one.double()).dtype == torch.float64
    other = torch.nn.Parameter(one)  # stands for any subclass
    assert constants.constant_like((1, 2.5), other) is not constants.constant_like((1, 2.5), other)
    with torch.inference_mode():
        assert not constants.constant_like((4, 5), one).is_inference()
    here = constants.constant_like((1, 2.5), torch.empty(0, dtype=torch.float64))
    assert here.tolist() == [1, 2.5] and here.dtype == torch.float64
