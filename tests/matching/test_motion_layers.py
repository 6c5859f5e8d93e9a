"""Layers of motion, and what they say of pixels whose flow is not known."""

import math

import pytest
import torch

from fgvc_hf.matching.affine_flow import EdgeAwareSums
from fgvc_hf.matching.flow_fields import cells_of
from fgvc_hf.matching.motion_layers import flow_of_nearest_layer, motion_layers


H, W = 40, 50
X, Y = cells_of(torch.zeros(H, W, 2)).unbind(-1)
TURNING = torch.stack([0.1 * X - 0.05 * Y + 3, 0.02 * X + 0.08 * Y - 1], dim=-1)
LEAVING = torch.stack([0.0 * X - 9, 0.1 * Y + 5], dim=-1)
NOTHING = torch.zeros(3, H, W)  # an image without edges


def silent(motion):
    """The other frame speaks against nothing."""
    return torch.zeros_like(motion[..., 0])


def nearest(flow, known, fitted=None, image=NOTHING, against=silent, reach=10.0, edges=50.0):
    fitted = torch.full_like(flow, math.nan) if fitted is None else fitted
    return flow_of_nearest_layer(flow, known, fitted, EdgeAwareSums(image, reach, edges), against)


def test_layers_are_the_motions_of_most_pixels_the_largest_first():
    body, known = (X > 30) & (Y < 20), torch.ones(H, W, dtype=torch.bool)
    known[:, 10] = False
    flow = torch.where(body[..., None], LEAVING, TURNING)
    flow[2, 3:9] = 40.0  # too few to be a layer
    layers = motion_layers(flow, known)
    odd = (flow == 40).all(dim=-1)
    assert layers.motions.shape == (2, H, W, 2) and layers.motions.dtype == torch.float32
    torch.testing.assert_close(layers.motions[0], TURNING, atol=0.05, rtol=0)
    torch.testing.assert_close(layers.motions[1], LEAVING, atol=0.05, rtol=0)
    assert torch.equal(layers.members, torch.stack([known & ~body & ~odd, known & body]))
    assert torch.equal(layers.rest, odd)


@pytest.mark.parametrize(("pixels", "layers"), [(20, 1), (19, 0)])
def test_a_layer_has_a_hundredth_of_the_frame(pixels, layers):
    known = torch.zeros(H, W, dtype=torch.bool)
    known.view(-1)[100 : 100 + pixels] = True
    found = motion_layers(TURNING, known)
    assert found.motions.shape == (layers, H, W, 2) and found.members.shape == (layers, H, W)
    assert found.members.dtype == torch.bool
    assert torch.equal(found.rest, torch.zeros_like(known) if layers else known)


def test_there_are_at_most_twelve_layers():
    """Of sixteen blocks that move each in its own way, the others belong to none."""
    moves = 200 * torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0))
    flow = moves[(Y // 10).long(), (X * 4 / W).long()]
    layers = motion_layers(flow, torch.ones(H, W, dtype=torch.bool))
    assert len(layers.motions) == len(layers.members) == 12 and layers.rest.any()
    assert (layers.members.sum(dim=0) + layers.rest == 1).all()


def test_motions_of_large_frames_are_fitted_to_some_pixels_and_hold_for_all():
    x, y = cells_of(torch.zeros(300, 400, 2)).unbind(-1)
    truth = torch.stack([0.02 * x - 0.01 * y, 0.03 * y + 4], dim=-1)
    layers = motion_layers(truth, torch.ones(300, 400, dtype=torch.bool))
    torch.testing.assert_close(layers.motions, truth[None], atol=0.01, rtol=0)
    assert layers.members.all()


def test_affine_motion_is_continued_from_a_part_of_it():
    known = (X < 20) & (Y > 5)
    flow = torch.where(known[..., None], TURNING, 100.0)
    flow[30, 4] = -50.0  # an outlier
    found = nearest(flow, known)
    assert torch.isnan(found[known]).all()  # what is known is as it was fitted
    assert (found - TURNING).norm(dim=-1)[~known].max() < 0.5


def test_unknown_pixels_belong_to_the_layer_on_their_side_of_an_edge():
    """The known part of the left side is farther away than that of the right side."""
    left, image = X < 30, NOTHING.clone()
    image[:, left] = 1
    truth = torch.where(left[..., None], TURNING, LEAVING)
    known = (X < 10) | (X > 34)
    found = nearest(truth * known[..., None], known, image=image)
    assert (found - truth).norm(dim=-1)[~known].max() < 0.5
    without_edges = nearest(truth * known[..., None], known)
    assert (without_edges - LEAVING).norm(dim=-1)[:, 26:30].max() < 0.5


def test_a_layer_that_the_other_frame_speaks_against_counts_as_five_reaches_farther():
    """Between layers whose known pixels begin in columns 10 and 40, doubt of the nearer one moves the border between them by 2.5 reaches."""
    known, reach = (X <= 10) | (X >= 40), 4.0
    truth = torch.where((X < 25)[..., None], TURNING, LEAVING)

    def against(motion):
        return torch.full((H, W), float((motion[20, 0] - TURNING[20, 0]).norm() < 1))

    plain = nearest(truth, known, reach=reach)
    doubted = nearest(truth, known, reach=reach, against=against)
    border = lambda found: int(((found - TURNING).norm(dim=-1) < 1)[20, 11:40].sum())  # noqa: E731
    assert border(plain) - border(doubted) == pytest.approx(2.5 * reach, abs=1)


def test_what_is_left_of_a_layer_is_continued_from_its_nearest_member():
    """A surface that is not quite plane: its edge moves by 1.5 pixels more than its affine motion, and so does what lies beyond."""
    known = X < 30
    bent = TURNING + torch.stack([torch.where(X > 26, 1.5, 0.0), 0 * X], dim=-1)
    found = nearest(torch.where(known[..., None], bent, 0.0), known, reach=2.0)
    gained = (found - TURNING)[:, 30:34, 0]
    assert gained.mean() > 0.8


def test_pixels_nearest_to_known_flow_of_no_layer_take_the_fitted_flow():
    known = (X < 20) | ((X >= 40) & (X < 42) & (Y >= 10) & (Y < 18))
    flow = torch.where((X < 20)[..., None], TURNING, LEAVING)
    fitted = torch.full((H, W, 2), 7.0)
    found = nearest(flow, known, fitted=fitted, reach=3.0)
    assert torch.equal(found[12:16, 42:46], fitted[12:16, 42:46]) and torch.equal(found[known], fitted[known])
    assert (found - TURNING).norm(dim=-1)[:, 20:28].max() < 0.5


def test_without_known_flow_the_fitted_flow_is_taken():
    fitted = torch.randn(H, W, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(fitted, torch.zeros(H, W, dtype=torch.bool), fitted=fitted), fitted)
