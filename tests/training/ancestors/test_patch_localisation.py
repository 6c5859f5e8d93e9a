"""What UVC and TimeCycle share, on maps whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.training.ancestors.patch_localisation import (
    Place,
    carry,
    crop,
    crop_image,
    keep_inside,
    localise,
    products,
    transported,
)
from fgvc_hf.training.objectives import cell_grid


def place(x, y, scale=1.0, degrees=0.0):
    return Place(torch.tensor([[x, y]]), torch.full((1, 2), scale), torch.tensor([math.radians(degrees)]))


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (1.3, 0.0), (0.8, 30.0), (1.0, -75.0)])
def test_the_crop_is_the_analytic_one(scale, degrees):
    """Of a map whose channels are its coordinates: they come back turned, scaled and shifted."""
    grid = cell_grid(torch.zeros(1, 20, 24))
    found = crop(grid[None], place(11.5, 9.0, scale, degrees), (5, 6))[0]
    for i in range(5):
        for j in range(6):
            x, y = scale * (j - 2.5), scale * (i - 2)
            angle = math.radians(degrees)
            expected = [
                11.5 + math.cos(angle) * x - math.sin(angle) * y,
                9 + math.sin(angle) * x + math.cos(angle) * y,
            ]
            assert found[i, j].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_image_of_a_patch_is_the_image_at_its_cells():
    """A cell is centred on the first of its pixels, so a patch on whole cells is a plain cut-out."""
    image = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    found = crop_image(image, place(4.5, 3.0), (3, 4), stride=8)
    torch.testing.assert_close(found, image[:, :, 16:40, 24:56], atol=1e-5, rtol=0)
    assert crop_image(image, place(-20.0, 3.0), (3, 4), stride=8).abs().max() == 0


def zoomed_pair(scale, centre=(13.0, 11.0), size=8, frame=28):
    """A patch of features that are smooth in a random way, and a frame that holds it at another place and scale."""
    generator = torch.Generator().manual_seed(3)
    frequency, phase = (
        0.9 * torch.randn(256, 2, generator=generator),
        2 * math.pi * torch.rand(256, generator=generator),
    )
    patch_at = Place.at(torch.zeros(1, 2)).positions((size, size))
    frame_at = (cell_grid(torch.zeros(1, frame, frame)) - torch.tensor(centre))[None] / scale
    return [(at @ frequency.T + phase).cos() for at in (patch_at, frame_at)]


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_a_patch_is_localised_within_a_cell_and_a_tenth_of_its_scale(scale):
    patch, frame = zoomed_pair(scale)
    affinity = products(F.normalize(patch, dim=-1), F.normalize(frame, dim=-1), 50.0)
    found = localise(transported(affinity, cell_grid(frame), (8, 8)))
    assert (found.centre - torch.tensor([13.0, 11.0])).abs().max() < 0.5
    assert found.scale[0].tolist() == pytest.approx([scale, scale], rel=0.1)
    fixed = localise(transported(affinity, cell_grid(frame), (8, 8)), scales=False)
    assert fixed.scale.tolist() == [[1.0, 1.0]] and torch.equal(fixed.centre, found.centre)


@pytest.mark.parametrize("degrees", [-40.0, 0.0, 25.0])
def test_the_rotation_of_a_patch_is_found(degrees):
    true = place(9.0, 8.0, 1.0, degrees)
    found = localise(true.positions((6, 7)), turns=True)
    assert math.degrees(found.angle) == pytest.approx(degrees, abs=1e-3)
    torch.testing.assert_close(found.centre, true.centre)


def test_no_gradient_goes_through_the_scale():
    positions = place(9.0, 8.0, 1.2).positions((6, 6)).requires_grad_()
    found = localise(positions)
    assert not found.scale.requires_grad
    found.centre.sum().backward()
    assert positions.grad.abs().min() > 0


def test_boxes_stay_in_the_frame():
    kept = keep_inside(place(1.0, 30.0, 2.0), (6, 6), (24, 20))
    positions = kept.positions((6, 6))
    assert positions.min() >= -1e-5 and (positions.amax((1, 2)) <= torch.tensor([19.0, 23.0]) + 1e-5).all()
    assert kept.scale.tolist() == [[2.0, 2.0]]  # moved, and not shrunk
    assert keep_inside(place(5.0, 5.0, 9.0), (6, 6), (24, 20)).scale[0].tolist() == pytest.approx([19 / 5, 23 / 5])


def test_values_are_carried_by_weights():
    values = torch.arange(12.0).view(1, 2, 3, 2)
    weights = torch.zeros(1, 1, 6)
    weights[0, 0, [1, 4]] = 0.5
    assert carry(weights, values).tolist() == [[[5.0, 6.0]]]


def test_corners_are_the_outer_edges_of_a_patch_that_is_no_square():
    """Two rows of six cells: half a cell beyond the centres of its cells, clockwise on the image; and turned by a quarter."""
    upright = Place(torch.tensor([[10.0, 7.0]]), torch.tensor([[1.0, 2.0]]), torch.zeros(1))
    assert upright.corners((2, 6))[0].tolist() == [[7, 5], [13, 5], [13, 9], [7, 9]]
    turned = Place(upright.centre, upright.scale, torch.tensor([math.pi / 2]))
    expected = torch.tensor([[12.0, 4], [12, 10], [8, 10], [8, 4]])
    torch.testing.assert_close(turned.corners((2, 6))[0], expected, atol=1e-5, rtol=0)


def test_affinities_and_averages_are_in_float32_under_autocast_too():
    """The sum of 1 and 2^-10 is 1 in bfloat16."""
    one, other = torch.tensor([1.0, 2.0**-10]).view(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        affinity = products(one, other, 2.0)
        carried = carry(torch.tensor([1.0, 2.0**-10]).view(1, 1, 2), torch.ones(1, 1, 2, 1))
    assert affinity.dtype == carried.dtype == torch.float32
    assert affinity.flatten().tolist() == [2 + 2.0**-9] and carried.flatten().tolist() == [1 + 2.0**-10]
