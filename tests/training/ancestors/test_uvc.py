"""UVC's losses where their values are known, its schedule, and what is refused before training."""

from dataclasses import replace

import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.training.ancestors.colour_autoencoder import (
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    colour_loss,
    load_colours,
)
from fgvc_hf.training.ancestors.uvc import (
    UVC,
    UvcRecipe,
    UvcTraining,
    concentration_loss,
    orthogonality_loss,
    transported,
    views,
)
from fgvc_hf.training.experiment import parse_recipe
from fgvc_hf.training.objectives import cell_grid


TINY = UvcRecipe(steps=30, batch_size=2, frame=96, crop=64, learning_rate=1e-3, temperature=16.0)


@pytest.fixture(scope="module")
def training():
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[16, 16, 32], depths=[1, 1, 1], output_stride=8))
    with torch.no_grad():
        for parameter in model.parameters():  # residual branches start at zero, and let no gradient through
            parameter.add_(0.1 * torch.randn_like(parameter))
    colours = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16]))
    return UvcTraining(model, TINY, colours)


def permutation(cells, seed=0):
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))
    return 1e4 * torch.eye(cells)[order][None], order


def test_a_permutation_is_orthogonal_and_a_blur_is_not():
    grid = cell_grid(torch.zeros(1, 6, 8))
    affinity, _ = permutation(48)
    assert float(orthogonality_loss(affinity, grid)) == pytest.approx(0, abs=1e-5)
    assert float(orthogonality_loss(torch.zeros(1, 48, 48), grid)) == pytest.approx(
        float(((grid - grid.mean((0, 1))) / (torch.tensor([7, 5]) / 2)).abs().mean()), abs=1e-5
    )


def test_a_permutation_carries_coordinates():
    affinity, order = permutation(48)
    grid = cell_grid(torch.zeros(1, 6, 8))
    torch.testing.assert_close(transported(affinity, grid)[0].flatten(0, 1), grid.flatten(0, 1)[order])


def test_a_rigid_shift_is_concentrated_and_torn_regions_are_not():
    grid = cell_grid(torch.zeros(1, 16, 16))[None]
    shifted = grid + torch.tensor([3.5, -2.25])
    assert float(concentration_loss(shifted)) == 0
    # as the released code has it, a region's own extent costs: the variance of 8 cells along both axes, in half maps
    assert float(concentration_loss(shifted, truncated=False)) == pytest.approx(2 * 63 / 12 / 7.5**2, rel=1e-5)
    torn = shifted.clone()
    torn[0, 3, 3] += 12.0
    assert float(concentration_loss(torn)) > 0.005
    assert float(concentration_loss(0.5 * shifted)) == 0  # nor does it cost to shrink
    small = cell_grid(torch.zeros(1, 5, 12))[None]
    assert float(concentration_loss(small)) == 0


def test_a_reference_patch_is_found_in_its_own_frame(training):
    features = torch.randn(1, 14, 14, 64, generator=torch.Generator().manual_seed(2))
    found = training.find(features[:, 3:9, 5:11].contiguous() * 16, features)
    torch.testing.assert_close(found.centre, torch.tensor([[7.5, 5.5]]), atol=0.05, rtol=0)
    torch.testing.assert_close(found.scale, torch.ones(1, 2), atol=0.02, rtol=0)


def test_losses_reach_the_encoder_in_both_stages(training):
    frames = (255 * torch.rand(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1))).byte()
    for step in (5, 15):
        losses = training(frames, [1, 2], step)
        assert set(losses) == set(TINY.weights)
        training.zero_grad()
        sum(TINY.weights[name] * loss for name, loss in losses.items()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in training.model.parameters())
    (colours,) = training.frozen
    assert not list(training.named_parameters())[0][0].startswith("_") and all(
        p.grad is None for p in colours.parameters()
    )
    assert not any("autoencoder" in name or "colours" in name for name in training.state_dict())


def test_views_are_patches_and_then_a_whole_frame():
    frames = torch.rand(2, 2, 3, 96, 96)
    first, second = views(frames, Random([3, 4]), 48, localising=False)
    assert first.shape == second.shape == (2, 3, 48, 48)
    first, second = views(frames, Random([3, 4]), 48, localising=True)
    assert first.shape == (2, 3, 48, 48) and second.shape == (2, 3, 96, 96)


def test_the_schedule():
    assert (UVC.epoch(0), UVC.epoch(99_999), UVC.epoch(100_000), UVC.first_localising) == (0, 9, 10, 10)
    assert UVC.decay(0) == UVC.decay(100_000) == 1
    assert UVC.decay(90_000) == pytest.approx((1 - 9 / 30) ** 0.9)
    assert UVC.decay(299_999) == pytest.approx((1 - 19 / 30) ** 0.9)
    assert UVC.weights == {"colour": 1.0, "colour_cycle": 0.1, "concentration": 0.3, "cycle": 0.1}


def test_pairs_that_cannot_be_matched_do_not_count_after_a_while(training):
    frames = (255 * torch.rand(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1))).byte()
    frames[0, 0] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    frames[0, 1] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]
    early, late = (float(training(frames, [1, 2], step)["colour"]) for step in (0, 5))
    alone = float(training(frames[1:], [2], 5)["colour"])
    assert early > late and late <= alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "200"}, "crop, a patch, must not be larger than the frame of 192 pixels, got 200"),
        ({"crop": "50"}, "crop must be a multiple of 8"),
        ({"box": "round"}, "box must be 'estimated' or 'fixed'"),
        ({"temperature": "0"}, "temperature must be positive"),
        ({"localise_from": "2"}, "localise_from must be a share"),
        ({"steps": "0"}, "steps must be positive"),
        ({"radius": "3"}, "a recipe has no field 'radius'"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe("uvc-small", changes)


def test_colours_of_another_resolution_are_refused(training):
    with pytest.raises(ValueError, match="works at stride 4, but the model's features are at stride 8"):
        UvcTraining(training.model, TINY, ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8])))
    with pytest.raises(ValueError, match="needs a colour auto-encoder"):
        UvcTraining(training.model, replace(TINY), None)


def test_colours_come_back_from_a_folder(tmp_path):
    model = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 16]))
    model.save_pretrained(tmp_path / "colours")
    again, colours = load_colours(tmp_path / "colours"), torch.rand(1, 3, 32, 40) * 2 - 1
    assert again.config.stride == 4 and again.encode(colours).shape == (1, 8, 10, 16)
    torch.testing.assert_close(again(colours), model(colours))
    with pytest.raises(OSError, match="is no colour auto-encoder"):
        load_colours(tmp_path)


def test_a_and_b_weigh_ten_times_as_much_as_lightness():
    true, found = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    found[0, 0], found[1, 2] = 0.3, 0.3
    assert colour_loss(found, true).tolist() == pytest.approx([0.1, 1.0])
