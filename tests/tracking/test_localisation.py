"""Objects localised before their masks are matched, as UVC does."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, FgvcModel, load_session, save_session
from fgvc_hf.tracking import label_tracker
from fgvc_hf.tracking.localisation import box_cells, carried, find_object, read_box


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


def test_queries_are_carried_to_the_mean_of_their_best_cells_by_value():
    """Of the ten best within the cells that are searched, by the softmax of similarity / temperature."""
    features, queries = (
        scene(3, 4),
        F.normalize(torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), dim=-1),
    )
    within = torch.rand(H, W, generator=torch.Generator().manual_seed(2)) < 0.5
    found = carried(queries, features, within, CONFIG)
    assert found.dtype == torch.float64
    for query, place in zip(queries, found, strict=True):
        cells = [(float(query @ features[y, x]), x, y) for y in range(H) for x in range(W) if within[y, x]]
        best = sorted(cells, reverse=True)[: CONFIG.propagation_topk]
        weights = [math.exp((score - best[0][0]) / 0.02) for score, _, _ in best]
        expected = [sum(w * cell[i] for w, cell in zip(weights, best)) / sum(weights) for i in (1, 2)]
        assert place.tolist() == pytest.approx(expected, abs=1e-3)


def test_a_box_moves_with_most_of_its_points_by_value():
    """Mean shift with a Gaussian kernel from the median on, and mean distances from the centre before and after."""
    generator = torch.Generator().manual_seed(4)
    source = 10 * torch.rand(40, 2, generator=generator, dtype=torch.float64)
    moves = torch.tensor([3.0, -2.0]).double() + 0.7 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    moves[:9] += 5.0  # those that moved in another way
    target = 1.3 * source + moves
    shift, growth, weights = read_box(source, target, 2.0)
    displacements = target - source
    mode = displacements.sort(dim=0).values[19]  # the lower median
    for _ in range(10):
        kernel = torch.tensor(
            [max(math.exp(-float((d - mode) @ (d - mode)) / 8), 1e-9) for d in displacements]
        ).double()
        mode = kernel @ displacements / kernel.sum()
    torch.testing.assert_close((shift, weights), (mode, kernel), rtol=1e-6, atol=1e-9)
    sizes = [kernel @ (at - kernel @ at / kernel.sum()).abs() / kernel.sum() for at in (source, target)]
    torch.testing.assert_close(growth, sizes[1] / sizes[0], rtol=1e-6, atol=1e-9)
    point = torch.ones(1, 2).double()
    assert read_box(point, point + 5, 2.0)[1].tolist() == [0, 0]  # one point has no size


def box_mask(centre, half):
    """Cells (h, w) in a box widened by a cell and by six tenths."""
    cells = [
        [abs(x - centre[0]) <= 1.6 * (half[0] + 1) and abs(y - centre[1]) <= 1.6 * (half[1] + 1) for x in range(W)]
        for y in range(H)
    ]
    return torch.tensor(cells)


@pytest.mark.parametrize("peak", [1.0, 0.6])
def test_the_box_of_a_label_map_by_value(peak):
    """Of cells with a label of at least one half, or half the peak of a faint object; a cell has half sides 0."""
    labels = torch.zeros(H, W)
    labels[5:9, 10:13] = peak
    labels[5, 10] = min(0.5, peak / 2)  # just belongs to it
    labels[15, 2] = 0.49 * peak
    centre, half = (11.0, 6.5), (2 * 2 / 3, 2 * 1.0)  # mean distances of three columns and of four rows
    assert torch.equal(box_cells(labels.flatten(), (H, W)).view(H, W), box_mask(centre, half))


def test_three_cells_are_an_object_and_two_are_not():
    labels = torch.zeros(H, W)
    labels[8, 4:6] = 1
    assert box_cells(labels.flatten(), (H, W)).all()
    assert find_object(labels.flatten(), scene(3, 4), scene(3, 4), None, CONFIG)[1] is None
    assert box_cells(torch.zeros(H * W), (H, W)).all()
    labels[8, 6] = 1
    assert torch.equal(box_cells(labels.flatten(), (H, W)).view(H, W), box_mask((5, 8), (4 / 3, 0)))
    within, half = find_object(labels.flatten(), scene(3, 4), scene(3, 4), None, CONFIG)
    assert not within.all() and half is not None


@pytest.mark.parametrize(("times", "grown"), [(1, 1), (2, 2), (3, 2)])
def test_an_object_grows_at_most_to_twice_its_size(times, grown):
    """Its cells are found that many cells apart, to the left and above of where they were."""
    reference, features = (
        scene(14, 13),
        F.normalize(torch.randn(H, W, 64, generator=torch.Generator().manual_seed(5)), dim=-1),
    )
    for i in range(6):
        for j in range(6):
            features[1 + times * i, 1 + times * j] = reference[13 + i, 14 + j]
    within, half = find_object(label(14, 13), reference, features, None, CONFIG)
    assert half.tolist() == pytest.approx([3 * grown] * 2, abs=0.05)
    centre = 1 + 2.5 * times
    assert torch.equal(within.view(H, W), box_mask((centre, centre), half.tolist()))
    shrunk = find_object(label(14, 13), reference, features, torch.tensor([1.0, 7.0]).double(), CONFIG)[1]
    assert shrunk.tolist() == pytest.approx([0.5 + 1.5 * grown, 3.5 + 1.5 * grown], abs=0.05)


def test_an_object_shrinks_at_most_to_half_its_size():
    """All its cells are alike, and found at one."""
    reference, features = scene(3, 4), scene(3, 4)
    reference[13:19, 14:20] = features[2, 20] = F.one_hot(torch.tensor(7), 64).float()
    within, half = find_object(label(14, 13), reference, features, None, CONFIG)
    assert half.tolist() == pytest.approx([1.5, 1.5])
    assert within.view(H, W)[2, 20] and within.sum() <= 81


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


def test_an_object_is_localised_from_the_frame_before_with_the_size_that_it_had(
    tiny_model, processor, noise_clip, monkeypatch
):
    """By its label map and the features there; a size stays while the object has vanished."""
    settings = {"propagation_family": "per_reference", "propagation_window": "none", "object_boxes": True}
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | settings | {"output_stride": 4})
    model, calls = FgvcModel(config).eval(), []
    model.load_state_dict(tiny_model.state_dict())
    answers = [torch.tensor([3.0, 2.0]), torch.tensor([4.0, 5.0]), None, torch.tensor([1.0, 6.0]), None]

    def find(labels, reference, features, half, config):
        calls.append((labels.clone(), reference.clone(), features.clone(), half))
        return torch.ones_like(labels, dtype=torch.bool), answers[len(calls) - 1]

    monkeypatch.setattr(label_tracker, "find_object", find)
    mask = np.zeros((1, 40, 56), bool)
    mask[0, 4:20, 6:22] = True
    session, maps = processor.init_video_session(), []
    processor.add_inputs_to_inference_session(session, 0, [3], input_points=[(20, 20)])
    processor.add_inputs_to_inference_session(session, 0, [1], input_masks=mask)
    for frame in noise_clip[:6]:
        model.step(session, frame)
        maps.append(label_maps(session)[0].flatten().clone())
    assert len(calls) == 5
    for t, (labels, reference, _, _) in enumerate(calls):
        torch.testing.assert_close(labels, maps[t])
        if t:
            assert torch.equal(reference, calls[t - 1][2])
    sizes = [None if half is None else half.tolist() for *_, half in calls]
    assert sizes == [None, [3, 2], [4, 5], [4, 5], [1, 6]]
