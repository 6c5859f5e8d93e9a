"""Points placed by patches of earlier images: which of them vote, and which points stay."""

import numpy as np
import pytest
import torch

from fgvc_hf.matching import alignment as module
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


# ---- which alignments count, by what kernels say of them ---------------------------------------------------------------


class Kernels:
    """Kernels that find every patch a shift from where it is looked for, with these growths and similarities, on images of one height."""

    def __init__(self, shifts, growths, similarities, height):
        self.said = tuple(torch.tensor(of, dtype=torch.float32) for of in (shifts, growths, similarities))
        self.height = height

    def sample(self, image, points, radius):
        return points

    def align(self, image, patches, weights, start, iterations):
        shifts, growths, similarities = self.said
        if len(image) != self.height:
            return start, torch.ones_like(growths), torch.ones_like(similarities)
        return start + shifts, growths, similarities


SHIFTS = [(2, 1), (2, 1), (2, 1), (2, 1), (2, 1), (6, 8), (6, 8.01)]  # twice the radius of 5 is 10 pixels of a level
GROWTHS = [1, 1, 0.39, 2.51, 0.41, 2.49, 1]
SIMILARITIES = [0.8, 0.79, 1, 1, 1, 1, 1]
COUNTS = [True, False, False, False, True, True, False]


@pytest.mark.parametrize(("level", "height"), [(0, 32), (1, 16), (2, 8)])
def test_what_is_not_found_on_a_level_stays_and_is_looked_for_on_the_next(monkeypatch, level, height):
    """By its similarity, the growth of its area, and how far it went. What counts at last is the finest level."""
    monkeypatch.setattr(module, "alignment_for", lambda image: Kernels(SHIFTS, GROWTHS, SIMILARITIES, height))
    levels, points = [torch.zeros(side, side) for side in (32, 16, 8)], torch.arange(14.0).view(7, 2)
    places, found = module._descend(levels, levels, points, 5, 0.8)
    counts = torch.tensor(COUNTS)
    torch.testing.assert_close(places, points + 2**level * torch.tensor(SHIFTS) * counts[:, None])
    assert found.tolist() == (COUNTS if level == 0 else [True] * 7)


def test_patches_vote_by_their_similarity_their_growth_and_how_far_they_went(monkeypatch):
    monkeypatch.setattr(module, "alignment_for", lambda image: Kernels(SHIFTS, GROWTHS, SIMILARITIES, 32))
    points = torch.arange(14.0).view(7, 2).double()
    patches, known = torch.zeros(1, 7, 13, 13), torch.ones(1, 7, dtype=torch.bool)
    found = align_points(torch.zeros(32, 32), points, patches, known, 0.8, 10.0)
    torch.testing.assert_close(found, points + torch.tensor(SHIFTS).double() * torch.tensor(COUNTS)[:, None])


@pytest.mark.parametrize("lost", [torch.inf, torch.nan])
def test_a_patch_that_got_lost_takes_nothing_from_one_that_is_found(monkeypatch, lost):
    """A warp without an inverse leads to places that are no numbers."""
    shifts, growths, similarities = [(lost, lost), (2, 1)], [lost, 1], [lost, 1]
    monkeypatch.setattr(module, "alignment_for", lambda image: Kernels(shifts, growths, similarities, 32))
    points, known = torch.tensor([[8.0, 9.0]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    found = align_points(torch.zeros(32, 32), points, torch.zeros(2, 1, 13, 13), known, 0.8, 10.0)
    assert found.tolist() == [[10.0, 10.0]]


def test_a_patch_that_fits_better_has_more_of_a_say(monkeypatch):
    """By the sixteenth power of its correlation: 0.9 counts 0.1853 of 1."""
    monkeypatch.setattr(module, "alignment_for", lambda image: Kernels([(2, 1), (-1, 0)], [1, 1], [0.9, 1], 32))
    points, known = torch.tensor([[8.0, 9.0]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    found = align_points(torch.zeros(32, 32), points, torch.zeros(2, 1, 13, 13), known, 0.8, 10.0)
    share = 0.18530201888518
    expected = [8 + (2 * share - 1) / (share + 1), 9 + share / (share + 1)]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)
