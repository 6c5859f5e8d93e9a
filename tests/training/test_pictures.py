from dataclasses import replace

import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.data.textures import natural_image
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
