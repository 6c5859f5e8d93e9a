"""Objects localised before their masks are matched, as UVC does."""

import numpy as np
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, FgvcModel, load_session, save_session
from fgvc_hf.tracking.localisation import box_cells, find_object


CONFIG = FgvcConfig(propagation_family="per_reference", propagation_window="none", object_boxes=True, temperature=0.02)
H, W = 20, 24


def scene(x, y, size=6):
    """Features (h, w, C) of noise with an object, the same each time, in it."""
    features = torch.randn(H, W, 64, generator=torch.Generator().manual_seed(x))
    features[y : y + size, x : x + size] = torch.randn(6, 6, 64, generator=torch.Generator().manual_seed(99))
    return F.normalize(features, dim=-1)


def label(x, y, size=6):
    labels = torch.zeros(H, W)
    labels[y : y + size, x : x + size] = 1
    return labels.flatten()


def test_the_box_goes_where_the_object_went_and_keeps_its_size():
    within, half = find_object(label(3, 4), scene(3, 4), scene(12, 9), None, CONFIG)
    assert (half - 3).abs().max() < 0.1
    ys, xs = within.view(H, W).nonzero().unbind(1)
    assert (
        12 - int(xs.min()) + 6 >= 9
        and int(xs.min()) < 12
        and int(xs.max()) > 17
        and int(ys.min()) < 9
        and int(ys.max()) > 14
    )
    assert int(xs.max() - xs.min()) <= 14
    _, smooth = find_object(label(3, 4), scene(3, 4), scene(12, 9), torch.tensor([5.0, 5.0]).double(), CONFIG)
    assert (smooth - (0.5 * 5 + 0.5 * 3)).abs().max() < 0.05


def test_what_has_vanished_may_be_anywhere():
    labels = torch.zeros(H * W)
    labels[5] = 1.0
    within, half = find_object(labels, scene(3, 4), scene(12, 9), None, CONFIG)
    assert within.all() and half is None
    assert box_cells(labels, (H, W)).all() and not box_cells(label(3, 4), (H, W)).all()


def label_maps(session):
    """Label maps (masks, h, w) of a session whose masks are from one frame."""
    (readout,) = session.labels.read_masks()
    return readout.maps


def test_masks_travel_from_box_to_box(tiny_model, processor, noise_clip, tmp_path):
    """Far from the object nothing is labelled, each object is as it would be alone, and a saved session goes on the same."""
    found = {}
    for boxes in (False, True):
        config = tiny_model.config.to_dict() | {
            "propagation_family": "per_reference",
            "propagation_window": "none",
            "object_boxes": boxes,
            "output_stride": 4,
        }
        model = FgvcModel(FgvcConfig.from_dict(config)).eval()
        model.load_state_dict(tiny_model.state_dict())
        masks = np.zeros((2, 40, 56), bool)
        masks[0, 4:20, 6:22], masks[1, 22:36, 30:50] = True, True
        session = processor.init_video_session()
        processor.add_inputs_to_inference_session(session, 0, [1, 2], input_masks=masks)
        alone = processor.init_video_session()
        processor.add_inputs_to_inference_session(alone, 0, [2], input_masks=masks[1:])
        for frame in noise_clip[:4]:
            output, single = model.step(session, frame), model.step(alone, frame)
        assert output.frame_idx == single.frame_idx == 3
        found[boxes] = label_maps(session)
        torch.testing.assert_close(found[boxes][1], label_maps(alone)[0], atol=1e-6, rtol=0)
        save_session(session, model, tmp_path / f"{boxes}.safetensors")
        restored = load_session(tmp_path / f"{boxes}.safetensors", model)
        session.remove(1)
        model.step(restored, noise_clip[4])
        model.step(session, noise_clip[4])
        again, rest = (label_maps(of) for of in (restored, session))
        torch.testing.assert_close(again[1], rest[0], atol=1e-6, rtol=0)
    assert (found[True] > 0).sum() < (found[False] > 0).sum()
    assert found[True].amax((1, 2)).min() > 0
