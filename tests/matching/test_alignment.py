"""Points placed by patches of earlier images: which of them vote, and which points stay."""

import numpy as np
import pytest
import torch

from fgvc_hf.matching.alignment import align_points, carry_points, image_patches
from fgvc_hf.matching.patch_flow import pyramid


RADIUS = 5
POINTS = torch.tensor([[30.5, 25.5], [41.2, 33.7], [22.0, 40.9]], dtype=torch.float64)


@pytest.fixture(params=["torch", "numba"], autouse=True)
def kernels(request, monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", request.param)


def picture(dx=0.0, dy=0.0):
    y, x = torch.meshgrid(torch.arange(64.0) - dy, torch.arange(80.0) - dx, indexing="ij")
    return torch.sin(x / 2.1) * torch.cos(y / 2.7) + 0.6 * torch.sin((x + 2 * y) / 4.4)


def placed(image, sources, known=None, least=0.8, reach=3.0):
    patches = torch.stack([image_patches(source, POINTS, RADIUS) for source in sources])
    known = torch.ones(len(sources), len(POINTS), dtype=torch.bool) if known is None else torch.tensor(known)
    return align_points(image, POINTS, patches, known, least, reach)


def test_points_are_where_their_patches_are_found():
    found = placed(picture(0.4, -0.7), [picture()])
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, POINTS + torch.tensor([0.4, -0.7]), atol=0.03)


def test_patches_that_fit_equally_well_give_their_mean():
    found = placed(picture(), [picture(0.5, 0.0), picture(0.0, -0.3)])
    np.testing.assert_allclose(found, POINTS + torch.tensor([-0.25, 0.15]), atol=0.03)


def test_patches_that_are_not_known_and_such_as_do_not_fit_have_no_vote():
    noise = torch.randn(64, 80, generator=torch.Generator().manual_seed(0))
    sources = [picture(0.5, 0.0), picture(), noise]
    known = [[True, False, True], [False, True, True], [True, True, False]]
    found = placed(picture(), sources, known)
    np.testing.assert_allclose(found - POINTS, [[-0.5, 0], [0, 0], [-0.25, 0]], atol=0.03)


@pytest.mark.parametrize("case", ["nothing known", "noise", "beyond reach", "flat"])
def test_points_of_which_nothing_is_found_stay_exactly(case):
    noise = torch.randn(64, 80, generator=torch.Generator().manual_seed(0))
    arguments = {
        "nothing known": {"image": picture(0.5), "known": [[False] * 3]},
        "noise": {"image": noise},
        "beyond reach": {"image": picture(1.5, 1.0), "reach": 0.5},
        "flat": {"image": torch.full((64, 80), 200.7)},
    }[case]
    assert torch.equal(placed(sources=[picture()], **arguments), POINTS)


def test_brightness_has_no_unit():
    """Images from 0 to 1, to 255, or normalised."""
    found = [
        placed(scale * picture(0.4, 0.3) + shift, [scale * picture() + shift])
        for scale, shift in [(1, 0), (0.02, 0.5), (60, 128)]
    ]
    np.testing.assert_allclose(found[1], found[0], atol=5e-3)
    np.testing.assert_allclose(found[2], found[0], atol=5e-3)


def world(dx=0.0, dy=0.0):
    """An image with texture of all sizes, whose content has moved."""
    y, x = torch.meshgrid(torch.arange(96.0) - dy, torch.arange(128.0) - dx, indexing="ij")
    return sum(
        size * torch.sin(x / size + phase) * torch.cos(y / (0.8 * size) - phase + x / (3 * size))
        for size, phase in ((2.3, 0.0), (4.1, 1.0), (9.0, 2.0))
    )


PLACES = torch.tensor([[60.5, 45.5], [52.0, 60.25], [75.0, 33.0]], dtype=torch.float64)


def carried(first, second, points=PLACES, least=0.8, tolerance=2.0):
    return carry_points(pyramid(first, 3), pyramid(second, 3), points, RADIUS, least, tolerance)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3), (5.0, 4.0), (-11.0, 6.5)])
def test_points_are_carried_by_the_motion_of_the_image(shift):
    """Farther than a patch reaches on the finest level."""
    there, good = carried(world(), world(*shift))
    assert good.all() and there.dtype == torch.float64
    np.testing.assert_allclose(there, PLACES + torch.tensor(shift), atol=0.05)


def test_points_on_images_of_any_size_are_carried():
    first, second = world()[:77, :101], world(3.0, -2.0)[:77, :101]
    there, good = carried(first, second)
    assert good.all()
    np.testing.assert_allclose(there, PLACES + torch.tensor([3.0, -2.0]), atol=0.05)


def test_a_point_that_is_covered_or_without_texture_is_not_carried():
    covered = world(0.5, 0.5)
    covered[35:56, 50:71] = torch.randn(21, 21, generator=torch.Generator().manual_seed(0)) * 5
    places = torch.tensor([[60.5, 45.5], [101.0, 21.5], [22.0, 74.5]], dtype=torch.float64)
    assert carried(world(), covered, places)[1].tolist() == [False, True, True]
    flat = torch.full((96, 128), 200.7)
    for images in ((flat, flat), (flat, world()), (world(), flat)):
        assert not carried(*images)[1].any()


def test_a_point_that_does_not_come_back_is_not_carried():
    assert not carried(world(), world(0.4, 0.3), tolerance=-1.0)[1].any()


def test_each_point_is_carried_by_itself():
    together = carried(world(), world(4.0, 1.0))
    for row in range(len(PLACES)):
        alone = carried(world(), world(4.0, 1.0), PLACES[row : row + 1])
        assert torch.equal(alone[0][0], together[0][row]) and torch.equal(alone[1][0], together[1][row])
