"""Both back ends of alignment give the same: places known to a hundredth of a pixel, at the borders, and without texture."""

import numpy as np
import pytest
import torch

from fgvc_hf.kernels.alignment_numba import NumbaAlignment
from fgvc_hf.kernels.alignment_torch import TorchAlignment
from fgvc_hf.kernels.dispatch import alignment_for
from fgvc_hf.matching.patches import patch_weights


BACKENDS = pytest.mark.parametrize("kernels", [TorchAlignment, NumbaAlignment])
RADIUS = 5
WEIGHTS = patch_weights(RADIUS)
POINTS = torch.tensor([[30.5, 25.5], [41.2, 33.7], [22.0, 40.9], [50.3, 20.1]])


def picture(height=64, width=80, linear=((1.0, 0.0), (0.0, 1.0)), shift=(0.0, 0.0), centre=(0.0, 0.0)):
    """A smooth image: the value at p is that of another one at centre + inverse(linear) (p - centre - shift)."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    centre, shift = (torch.tensor(of, dtype=torch.float64) for of in (centre, shift))
    u, v = ((places - centre - shift) @ torch.linalg.inv(torch.tensor(linear, dtype=torch.float64)).T + centre).unbind(
        -1
    )
    return (torch.sin(u / 2.1) * torch.cos(v / 2.7) + 0.6 * torch.sin((u + 2 * v) / 4.4)).float()


def test_the_back_end_is_chosen_by_the_switch(monkeypatch):
    assert alignment_for(picture()) is NumbaAlignment
    monkeypatch.setenv("FGVC_KERNELS", "torch")
    assert alignment_for(picture()) is TorchAlignment


@BACKENDS
def test_patches_are_read_bilinearly_and_constant_beyond_the_border(kernels):
    image = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    found = kernels.sample(image, torch.tensor([[2.5, 3.5], [2.75, 3.5], [-20.0, 4.5], [6.5, 100.0]]), 0)
    assert found.shape == (4, 3, 3)
    np.testing.assert_allclose(found[0], image[2:5, 1:4], rtol=1e-6)
    np.testing.assert_allclose(found[1], torch.lerp(image[2:5, 1:4], image[2:5, 2:5], 0.25), atol=1e-6)
    np.testing.assert_allclose(found[2], image[3:6, :1].expand(3, 3), rtol=1e-6)
    np.testing.assert_allclose(found[3], image[-1:, [5, 6, 6]].expand(3, 3), rtol=1e-6)


@BACKENDS
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.45), (-1.6, 1.2), (2.0, 1.5)])
def test_a_shift_is_found_to_a_hundredth_of_a_pixel(kernels, shift):
    patches = kernels.sample(picture(), POINTS, RADIUS)
    found, growth, similarity = kernels.align(picture(shift=shift), patches, WEIGHTS, POINTS, 20)
    np.testing.assert_allclose(found, POINTS + torch.tensor(shift), atol=0.02)
    np.testing.assert_allclose(growth, 1, atol=0.03)
    assert similarity.min() > 0.999


@BACKENDS
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.5, 3.0), (2.0, -1.0)])
def test_a_patch_that_turns_and_grows_under_other_light_is_found(kernels, gain, offset):
    linear, shift, centre = ((1.08, 0.06), (-0.1, 0.95)), (0.7, -0.4), (41.2, 33.7)
    image = gain * picture(linear=linear, shift=shift, centre=centre) + offset
    patches = kernels.sample(picture(), POINTS[1:2], RADIUS)
    found, growth, similarity = kernels.align(image, patches, WEIGHTS, POINTS[1:2], 20)
    np.testing.assert_allclose(found[0], torch.tensor(centre) + torch.tensor(shift), atol=0.03)
    assert float(growth) == pytest.approx(1.08 * 0.95 + 0.06 * 0.1, abs=0.03) and float(similarity) > 0.998


@BACKENDS
def test_a_patch_without_texture_stays_and_is_like_nothing(kernels):
    flat = torch.full((64, 80), 200.7)
    for first, second in ((flat, picture()), (picture(), flat), (flat, flat)):
        found, growth, similarity = kernels.align(second, kernels.sample(first, POINTS, RADIUS), WEIGHTS, POINTS, 10)
        assert torch.isfinite(found).all() and torch.isfinite(growth).all()
        assert similarity.abs().max() < 0.3  # what remains are errors of rounding


@BACKENDS
def test_contrast_that_is_inverted_is_like_its_opposite(kernels):
    patches = kernels.sample(picture(), POINTS, RADIUS)
    _, _, similarity = kernels.align(-picture(), patches, WEIGHTS, POINTS, 0)
    np.testing.assert_allclose(similarity, -1, atol=1e-3)


@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
def test_both_back_ends_agree(iterations):
    """On places from which the search converges, and after single steps from all."""
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([80.0, 64.0])
    image = picture(shift=(0.8, -0.6)) + 0.02 * torch.randn(64, 80, generator=torch.Generator().manual_seed(1))
    results = []
    for kernels in (TorchAlignment, NumbaAlignment):
        patches = kernels.sample(picture(), points, RADIUS)
        results.append((patches, *kernels.align(image, patches, WEIGHTS, points, iterations)))
    for of_torch, of_numba in zip(*results, strict=True):
        np.testing.assert_allclose(of_torch, of_numba, atol=5e-3)


@BACKENDS
def test_every_patch_is_aligned_by_itself(kernels):
    patches, image = kernels.sample(picture(), POINTS, RADIUS), picture(shift=(0.5, 0.5))
    together = kernels.align(image, patches, WEIGHTS, POINTS, 10)
    for row in range(len(POINTS)):
        alone = kernels.align(image, patches[row : row + 1], WEIGHTS, POINTS[row : row + 1], 10)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[row : row + 1], b)


@BACKENDS
def test_no_patches_give_nothing(kernels):
    none = torch.zeros(0, 2)
    patches = kernels.sample(picture(), none, RADIUS)
    assert [tuple(of.shape) for of in kernels.align(picture(), patches, WEIGHTS, none, 3)] == [(0, 2), (0,), (0,)]


@BACKENDS
@pytest.mark.parametrize("place", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9])
def test_no_place_leads_outside_the_image(kernels, place):
    """The rows beside those that are nowhere are as without them."""
    points = torch.tensor([[place, 20.0], [41.2, 33.7], [20.0, place]])
    patches = kernels.sample(picture(), points, RADIUS)
    assert torch.equal(patches[1], kernels.sample(picture(), points[1:2], RADIUS)[0])
    found = kernels.align(picture(shift=(0.5, 0.5)), kernels.sample(picture(), POINTS[:3], RADIUS), WEIGHTS, points, 3)
    alone = kernels.align(
        picture(shift=(0.5, 0.5)),
        patches[1:2] * 0 + kernels.sample(picture(), POINTS[1:2], RADIUS),
        WEIGHTS,
        points[1:2],
        3,
    )
    for together, single in zip(found, alone, strict=True):
        assert torch.equal(together[1], single[0])


@BACKENDS
def test_a_step_is_three_pixels_long_at_most(kernels):
    """Towards a place that is farther, in the direction of the whole step."""
    places = torch.stack(torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="xy"), dim=-1) + 0.5
    start, away = torch.tensor([[48.0, 48.0]]), torch.tensor([6.0, -4.5])
    hills = [
        (-(places - start - shift).square().sum(-1) / 2 / 20**2).exp()
        for shift in (torch.tensor([9.0, 5.0]), away + torch.tensor([9.0, 5.0]))
    ]
    patches = kernels.sample(hills[0], start, RADIUS)
    found, _, _ = kernels.align(hills[1], patches, WEIGHTS, start, 1)
    assert float((found - start).norm()) == pytest.approx(3, abs=0.3)
    assert float(((found - start) @ away) / (found - start).norm() / away.norm()) > 0.9


@BACKENDS
def test_a_patch_that_has_come_to_rest_stays(kernels):
    """A step of less than a twentieth of a pixel is the last."""
    patches, image = kernels.sample(picture(), POINTS, RADIUS), picture(shift=(0.8, -0.6))
    results = [kernels.align(image, patches, WEIGHTS, POINTS, iterations)[0] for iterations in range(12)]
    for row in range(len(POINTS)):
        steps = [float((b[row] - a[row]).norm()) for a, b in zip(results, results[1:])]
        small = next(i for i, step in enumerate(steps) if step < 0.049)
        assert steps[small] > 0 and not any(steps[small + 1 :])
