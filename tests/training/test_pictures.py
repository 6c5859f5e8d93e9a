from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.augmentation import rgb_to_pixel_values
from fgvc_hf.data.scene import Random
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.textures import natural_image
from fgvc_hf.io.drawing import draw_flow
from fgvc_hf.training.pictures import real_picture, synthetic_picture
from fgvc_hf.training.recipes import Recipe


RECIPE = Recipe(crop=64, radius=8)


def model():
    torch.manual_seed(0)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32])).eval()


def pairs(**settings):
    images = (255 * natural_image(128, 20, 0.4, Random(range(3)))).byte()
    return render_pairs(images, [1, 2], 64, stride=2, **settings)


def test_a_row_shows_frames_flows_and_maps():
    picture = synthetic_picture(model(), model(), pairs(reach=8.0), RECIPE)
    assert picture.shape == (2 * 64, 6 * 64, 3)
    label, student = picture[:64, 256:320], picture[:64, 320:]
    assert label.max() > 200 and student.max() > 200
    without = synthetic_picture(model(), None, pairs(reach=8.0), RECIPE)
    assert (without[:64, 256:320, 0] > 128).mean() < 0.02  # a Dirac instead of a teacher's map


def test_a_pair_that_does_not_move_is_rebuilt():
    frames = pairs(reach=0.0, num_bodies=0).frames
    still = (255 * frames[:, :1].expand(-1, 2, -1, -1, -1)).byte()
    sharp = replace(RECIPE, temperature=0.003)
    picture = real_picture(model(), still, sharp).astype(int)
    second, rebuilt = picture[:, 64:128], picture[:, 128:]
    assert abs(second - rebuilt).mean() < 20 < abs(second - rebuilt[:, ::-1]).mean()


# ---- by value, in loops over the 16 x 16 cells of frames of 32 pixels -------------------------------------------------


SMALL = Recipe(crop=32, radius=3, temperature=0.1)


def features_of(network, frames):
    with torch.no_grad():
        return F.normalize(network(rgb_to_pixel_values(frames)).features.movedim(2, -1), dim=-1)


def window_map(feature, keys, x, y):
    """Probabilities (7, 7) over the window of cell (x, y); 0 outside the map."""
    around, inside = (F.pad(of, (0, 0, 3, 3, 3, 3))[y : y + 7, x : x + 7] for of in (keys, torch.ones(16, 16, 1)))
    found = (around @ feature / 0.1).exp() * inside[..., 0]
    return found / found.sum()


@cache
def small_pairs():
    images = (255 * natural_image(64, 20, 0.4, Random(range(3)))).byte()
    return render_pairs(images, [3, 5], 32, reach=6.0, stride=2)


def as_bytes(values):
    return (255 * values).round().byte().movedim(0, -1).numpy()


def heat(values):
    rows = torch.arange(32) * 7 // 32
    return as_bytes((values / values.max())[rows][:, rows].sqrt().expand(3, -1, -1))


@pytest.mark.parametrize("taught", [True, False])
def test_a_row_of_labelled_pairs_by_value(taught):
    """The flow from the second frame to the first, true and by the best match, and the maps of the learnable cell in the middle."""
    pairs, student, teacher = small_pairs(), model(), model()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    picture = synthetic_picture(student, teacher if taught else None, pairs, SMALL)
    own, taught_by = features_of(student, pairs.frames), features_of(teacher, pairs.frames)
    for i, row in enumerate(np.split(picture, 2)):
        second, first, flow, matched, label, found = np.split(row, 6, axis=1)
        np.testing.assert_array_equal(second, as_bytes(pairs.frames[i, 1]))
        np.testing.assert_array_equal(first, as_bytes(pairs.frames[i, 0]))
        true, best = pairs.flow[i, 1], torch.zeros(16, 16, 2)
        learnable = {}
        for y in range(16):
            for x in range(16):
                place = window_map(own[i, 1, y, x], own[i, 0], x, y).argmax()
                best[y, x] = 2 * torch.tensor([place % 7 - 3, place // 7 - 3])
                at = torch.tensor([x, y]) + true[y, x] / 2
                if pairs.visible[i, 1, y, x] and at.min() >= 0 and at.max() <= 15 and true[y, x].abs().max() <= 6:
                    learnable[y, x] = np.hypot(x - 8, y - 8)
        for shown, expected in ((flow, true), (matched, best)):
            drawn = draw_flow(expected.numpy().repeat(2, 0).repeat(2, 1), 6)
            assert (shown != drawn).any(-1).mean() < 0.02  # two cells may match alike
        y, x = min(learnable, key=learnable.get)
        assert np.abs(found.astype(int) - heat(window_map(own[i, 1, y, x], own[i, 0], x, y))).max() <= 1
        u, v = (torch.tensor([x, y]) + true[y, x] / 2).tolist()
        if taught:
            a, b = int(u), int(v)
            corners = F.pad(taught_by[i, 0], (0, 0, 0, 1, 0, 1))[b : b + 2, a : a + 2]
            feature = torch.lerp(*torch.lerp(*corners.unbind(1), u - a), v - b)
            expected = window_map(F.normalize(feature, dim=-1), taught_by[i, 0], x, y)
        else:
            expected = torch.zeros(7, 7)
            expected[round(v) - y + 3, round(u) - x + 3] = 1
        assert np.abs(label.astype(int) - heat(expected)).max() <= 1


def test_a_row_of_real_pairs_by_value():
    """The second frame by the colours of the first, at the centres of cells, enlarged."""
    frames, network = (255 * small_pairs().frames).byte(), model()
    picture, features = real_picture(network, frames, SMALL), features_of(network, frames / 255)
    for i, row in enumerate(np.split(picture, 2)):
        colours, copy = F.pad(frames[i, 0, :, ::2, ::2] / 255, (3, 3, 3, 3)), torch.zeros(1, 3, 16, 16)
        for y in range(16):
            for x in range(16):
                shares = window_map(features[i, 1, y, x], features[i, 0], x, y)
                copy[0, :, y, x] = (shares * colours[:, y : y + 7, x : x + 7]).sum((1, 2))
        expected = as_bytes(F.interpolate(copy, (32, 32), mode="bilinear")[0])
        for shown, whole in zip(
            np.split(row, 3, axis=1), (as_bytes(frames[i, 0] / 255), as_bytes(frames[i, 1] / 255), expected)
        ):
            assert np.abs(shown.astype(int) - whole).max() <= 1
