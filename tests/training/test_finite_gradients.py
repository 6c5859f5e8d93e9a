"""Gradients where a formula has none: black pixels, cells outside the frame, zero features and constant frames, in every loss."""

import math

import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.augmentation import rgb_to_pixel_values
from fgvc_hf.data.synthetic_pairs import SyntheticPairs
from fgvc_hf.image_processing_pil_fgvc import rgb_to_lab
from fgvc_hf.training.ancestors.colour_autoencoder import ColourAutoEncoder, ColourAutoEncoderConfig
from fgvc_hf.training.ancestors.patch_localisation import Place, crop, crop_image, localise
from fgvc_hf.training.ancestors.time_cycle import TimeCycleRecipe, TimeCycleTraining
from fgvc_hf.training.ancestors.uvc import UvcRecipe, UvcTraining
from fgvc_hf.training.joint import JointTraining
from fgvc_hf.training.objectives import (
    dirac_loss,
    distillation_loss,
    gaussian_loss,
    reconstruction_loss,
    sample_cells,
    soft_label_loss,
    unit_length,
)
from fgvc_hf.training.recipes import Recipe


LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}


def lab_by_definition(r: float, g: float, b: float) -> list[float]:
    """CIE 1976 L*a*b* of one sRGB colour, in Python's own numbers."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (r, g, b)]
    rows = (0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)
    xyz = [sum(w * v for w, v in zip(row, linear, strict=True)) / sum(row) for row in rows]
    x, y, z = (v ** (1 / 3) if v > (6 / 29) ** 3 else v * (29 / 6) ** 2 / 3 + 4 / 29 for v in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_lab_keeps_its_values_in_both_branches():
    levels = [0.0, 0.001, 0.02, 0.04045, 0.0405, 0.1, 0.5, 1.0]
    colours = torch.cartesian_prod(*[torch.tensor(levels, dtype=torch.float64)] * 3)
    found = rgb_to_lab(colours.T[:, :, None])[..., 0].T
    expected = torch.tensor([lab_by_definition(*colour) for colour in colours.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_the_gradient_of_lab_is_that_of_finite_differences_on_both_sides_of_its_thresholds():
    colours = torch.tensor([0.0, 0.01, 0.04, 0.05, 0.3, 1.0], dtype=torch.float64)
    rgb = torch.cartesian_prod(colours, colours, colours).T[:, :, None].clone().requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, (rgb,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("value", [-0.3, 0.0, 0.04045, 1.0, 1.4])
def test_the_gradient_of_lab_is_finite_everywhere(value):
    rgb = torch.full((1, 3, 4, 4), value, requires_grad=True)
    rgb_to_pixel_values(rgb).square().sum().backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().sum() > 0


@pytest.mark.parametrize("x", [-30.0, -0.5, 3.0])
def test_an_image_patch_outside_the_frame_moves_by_finite_gradients(x):
    """The patch is black where it is outside; its colours depend on its place through Lab."""
    centre = torch.tensor([[x, 3.0]], requires_grad=True)
    patch = crop_image(torch.rand(1, 3, 64, 64), Place.at(centre), (4, 4), stride=8)
    rgb_to_pixel_values(patch).square().sum().backward()
    assert centre.grad.isfinite().all()


def test_zero_features_have_unit_length_zero_and_no_gradient():
    features = torch.randn(2, 3, 4, 8)
    features[0, 1, 2] = 0
    features.requires_grad_()
    unit = unit_length(features)
    assert torch.equal(unit, torch.nn.functional.normalize(features, dim=-1))
    unit.pow(3).sum().backward()
    assert features.grad[0, 1, 2].tolist() == [0] * 8 and features.grad.isfinite().all()
    cosine = (unit_length(torch.zeros(1, 8, requires_grad=True)) * torch.ones(8)).sum()
    assert math.isfinite(cosine.item()) and torch.autograd.grad(cosine, cosine)[0].isfinite()


def test_features_of_a_patch_outside_the_frame_have_no_gradient():
    features, centre = torch.randn(1, 6, 6, 8, requires_grad=True), torch.tensor([[-20.0, 2.0]], requires_grad=True)
    unit_length(crop(features, Place.at(centre), (3, 3))).sum().backward()
    assert (features.grad == 0).all() and (centre.grad == 0).all()


def test_a_map_one_cell_wide_is_sampled():
    features = torch.randn(1, 1, 5, 4)
    positions = torch.tensor([[2.0, 0.0], [1.5, 0.0]])[None, None]
    expected = torch.stack([features[0, 0, 2], (features[0, 0, 1] + features[0, 0, 2]) / 2])
    torch.testing.assert_close(sample_cells(features, positions)[0, 0], expected)


def test_cells_found_at_one_place_have_no_rotation_and_a_finite_gradient():
    positions = torch.full((1, 4, 4, 2), 3.0, requires_grad=True)
    found = localise(positions, turns=True)
    assert found.angle.tolist() == [0.0]
    (found.centre.sum() + found.angle.sum()).backward()
    assert positions.grad.isfinite().all()


def test_the_rotation_at_the_origin_of_atan2_has_a_finite_gradient():
    """Two cells whose moment is exactly the negative of the constant that keeps atan2 from its origin."""
    positions = torch.tensor([[[[1e-6, 0.0], [-1e-6, 0.0]]]], requires_grad=True)
    found = localise(positions, turns=True, scales=False)
    assert found.angle.tolist() == [0.0]
    found.angle.sum().backward()
    assert positions.grad.isfinite().all()


def losses(query, key, cells, valid, colours):
    r = 3
    yield dirac_loss(query, key, cells, valid, r, 0.07)
    yield gaussian_loss(query, key, cells, valid, r, 0.07, 0.7)
    yield soft_label_loss(query, key, key.detach(), cells, valid, r, 0.07)
    yield soft_label_loss(query, key, key.detach(), cells, valid, r, 0.07, "height")
    yield distillation_loss(query, key, query.detach(), key.detach(), r, 0.07)
    yield reconstruction_loss(query, key, colours, colours, r)
    yield reconstruction_loss(query, key, colours, colours, r, "official")
    yield reconstruction_loss(query, key, colours, colours, r, occlusion_test=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_every_loss_of_constant_features_is_finite(value, dtype):
    query = torch.full((1, 10, 12, 8), value, dtype=dtype, requires_grad=True)
    key = query.detach().clone().requires_grad_()
    cells = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="xy"), dim=-1)[None]
    for valid in (torch.ones(1, 10, 12, dtype=torch.bool), torch.zeros(1, 10, 12, dtype=torch.bool)):
        for loss in losses(query, key, cells, valid, torch.zeros(1, 1, 20, 24)):
            gradients = torch.autograd.grad(loss.sum(), (query, key))
            assert loss.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)


def model(**fields):
    torch.manual_seed(0)
    made = FgvcModel(FgvcConfig(**{"hidden_sizes": [8, 8, 16], "depths": [1, 1, 1], "output_stride": 8} | fields))
    with torch.no_grad():
        for parameter in made.parameters():  # residual branches start at zero, and let no gradient through
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def frames(level: float, number: int) -> torch.Tensor:
    return torch.full((2, number, 3, 64, 64), round(255 * level), dtype=torch.uint8)


def assert_finite(losses, module):
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [parameter.grad for parameter in module.model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("step", [0, 5, 15])
def test_uvc_on_constant_frames(level, step):
    """Step 5 matches patches, step 15 localises them in the whole frame."""
    recipe = UvcRecipe(steps=30, batch_size=2, frame=64, crop=32, learning_rate=1e-3)
    module = UvcTraining(model(), recipe, ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16])))
    assert_finite(module(frames(LEVELS[level], 2), [1, 2], step), module)


@pytest.mark.parametrize("box", ["estimated", "fixed"])
def test_uvc_localises_in_frames_with_black_borders(box):
    """A letterboxed clip: half of every patch is black."""
    images = (255 * torch.rand(2, 2, 3, 64, 64)).byte()
    images[..., :24, :] = images[..., 40:, :] = 0
    recipe = UvcRecipe(steps=30, batch_size=2, frame=64, crop=32, learning_rate=1e-3, box=box)
    module = UvcTraining(model(), recipe, ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16])))
    assert_finite(module(images, [1, 2], 15), module)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("localiser", ["coordinates", "network"])
def test_time_cycle_on_constant_frames(level, localiser):
    recipe = TimeCycleRecipe(
        steps=4,
        batch_size=2,
        frame=64,
        patch=56 if localiser == "network" else 32,
        learning_rate=1e-3,
        localiser=localiser,
    )
    module = TimeCycleTraining(model(), recipe)
    assert_finite(module(frames(LEVELS[level], 6), [1, 2], 0), module)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("label", ["soft", "gaussian", "dirac"])
def test_the_joint_training_on_constant_frames(level, label):
    recipe = Recipe(steps=4, batch_size=2, crop=64, radius=3, label=label, textures=1)
    module = JointTraining(model(output_stride=2), recipe, model(output_stride=2) if label == "soft" else None)
    real, flow = frames(LEVELS[level], 2), torch.zeros(2, 2, 32, 32, 2)
    pairs = SyntheticPairs(real.float() / 255, flow, torch.ones(2, 2, 32, 32, dtype=torch.bool))
    assert_finite(module(real, pairs, [1, 2]), module)
