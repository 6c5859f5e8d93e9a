"""Parts of dense flow: matching of features, patches of images, affine continuation, the forward-backward check."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.matching.affine_flow import EdgeAwareSums, affine_flow
from fgvc_hf.matching.feature_flow import feature_flow, refined
from fgvc_hf.matching.flow_fields import cells_of, consistent, filled, median, neighbours, resized
from fgvc_hf.matching.patch_flow import patch_flow, pyramid


def smooth(channels, h, w, seed=0, radius=2):
    """Noise that is smooth over a few cells."""
    noise = torch.randn(1, channels, h, w, generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        noise = F.avg_pool2d(noise, 2 * radius + 1, 1, radius, count_include_pad=False)
    return noise[0]


def features(h, w, seed=0):
    return F.normalize(smooth(32, h, w, seed).movedim(0, -1), dim=-1)


@pytest.mark.parametrize("shift", [(0, 0), (-3, 2), (17, -11), (-30, 6)])
def test_features_are_matched_whatever_the_motion(shift):
    world, (dx, dy) = features(100, 120), shift
    first, second = world[20:68, 34:88], world[20 - dy : 68 - dy, 34 - dx : 88 - dx]
    forward, backward = feature_flow(first, second)
    expected = torch.tensor(shift).float()
    for flow, truth in ((forward, expected), (backward, -expected)):
        stays = ((cells_of(flow) + truth >= 3) & (cells_of(flow) + truth < torch.tensor([51, 45]))).all(dim=-1)
        right = (flow - truth).norm(dim=-1) < 0.5
        assert stays.any() and right[stays].float().mean() > 0.85  # 0.86 to 1 by seed and processor


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (5, 2), (9, 4)])
def test_frames_of_a_few_cells_have_flow(size):
    first, second = features(*size), features(*size, seed=1)
    for flow in feature_flow(first, second):
        assert flow.shape == (*size, 2) and torch.isfinite(flow).all()
    image = smooth(1, *size)[0]
    assert torch.isfinite(patch_flow(image, image, torch.zeros(*size, 2))).all()


def shifted(image, flow):
    """The image whose pixel p + flow shows what pixel p of this one shows, for a constant flow."""
    h, w = image.shape
    places = cells_of(torch.zeros(h, w, 2)) - torch.tensor(flow)
    grid = 2 * places / torch.tensor([w - 1, h - 1]) - 1
    return F.grid_sample(image[None, None], grid[None], "bicubic", "reflection", align_corners=True)[0, 0]


@pytest.mark.parametrize("flow", [(0.3, -0.45), (2.6, 1.2), (-7.5, 5.0)])
@pytest.mark.parametrize("light", [0.0, 15.0])
def test_patches_find_a_tenth_of_a_pixel_in_any_light(flow, light):
    image = 400 * smooth(1, 90, 110, radius=1)[0] + 1200 * smooth(1, 90, 110, seed=1, radius=6)[0]
    found = patch_flow(image, shifted(image, flow) + light, torch.zeros(90, 110, 2))
    error = (found - torch.tensor(flow)).norm(dim=-1)[16:-16, 16:-16]
    assert error.mean() < 0.1


def test_the_better_hypothesis_is_taken_where_motion_is_too_large_for_the_images():
    image = 400 * smooth(1, 64, 80, radius=1)[0]
    second = torch.roll(image, (-23, 31), (0, 1))
    right = torch.tensor([31.0, -23.0]).expand(64, 80, 2)
    inside = (slice(30, 60), slice(4, 44))
    wrong = patch_flow(image, second, torch.zeros(64, 80, 2))
    found = patch_flow(image, second, right + torch.tensor([1.5, -1.0]))
    assert (found - right).norm(dim=-1)[inside].mean() < 0.2 < (wrong - right).norm(dim=-1)[inside].mean()


def test_affine_motion_is_continued_from_a_part_of_it():
    x, y = cells_of(torch.zeros(160, 200, 2)).unbind(-1)
    truth = torch.stack([0.1 * x - 0.05 * y + 3, 0.02 * x + 0.08 * y - 1], dim=-1)
    known = (x < 150) & (y > 30)
    wrong = torch.where(known[..., None], truth, 100.0)
    wrong[50, 4] = -50.0  # an outlier
    found = affine_flow(wrong, known, EdgeAwareSums(torch.zeros(3, 160, 200), reach=100, edges=50), rounds=6, scale=1)
    assert (found - truth).norm(dim=-1).max() < 0.5


def test_motion_is_not_continued_across_an_edge():
    x, _ = cells_of(torch.zeros(30, 60, 2)).unbind(-1)
    left, image = x < 30, torch.zeros(3, 30, 60)
    image[:, left] = 1
    truth = torch.where(left[..., None], torch.tensor([4.0, 0.0]), torch.tensor([-2.0, 1.0]))
    known = (x < 10) | (x > 36)  # a band beside the edge is unknown, and nearer to the other side
    found = affine_flow(truth * known[..., None], known, EdgeAwareSums(image, reach=10, edges=50), rounds=3, scale=1)
    assert (found - truth).norm(dim=-1).max() < 0.1


def test_nothing_known_is_no_motion_and_no_nan():
    found = affine_flow(
        torch.ones(6, 7, 2), torch.zeros(6, 7, dtype=torch.bool), EdgeAwareSums(torch.zeros(3, 6, 7), 10, 50), 3, 1
    )
    assert torch.isfinite(found).all()
    assert torch.equal(filled(torch.ones(6, 7, 2), torch.zeros(6, 7, dtype=torch.bool)), torch.ones(6, 7, 2))


def test_flow_and_backward_flow_that_cancel_out_are_consistent():
    flow = torch.tensor([2.0, -1.0]).expand(8, 9, 2)
    assert consistent(flow, -flow, 0.1).all()
    off = flow.clone()
    off[4, 4] += 3
    wrong = ~consistent(off, -flow, 0.5)
    assert wrong[4, 4] and wrong.sum() == 1


def test_filling_median_neighbours_and_resizing():
    flow = torch.zeros(5, 5, 2)
    flow[2, 2] = 9
    known = torch.ones(5, 5, dtype=torch.bool)
    known[2, 2] = False
    assert not filled(flow, known).any() and not median(flow, 1).any()
    assert neighbours(flow, 2).shape == (5, 5, 5, 2) and neighbours(flow, 2)[1:, 2, 2].sum() == 0
    assert neighbours(flow, 2)[1, 4, 2, 0] == 9 and neighbours(flow, 2)[2, 0, 2, 0] == 9
    larger = resized(torch.ones(4, 6, 2), (8, 18))
    assert larger.shape == (8, 18, 2)
    torch.testing.assert_close(larger, torch.tensor([3.0, 2.0]).expand_as(larger))


def test_levels_of_odd_images():
    levels = pyramid(torch.full((7, 5), 3.0), 3)
    assert [tuple(level.shape) for level in levels] == [(7, 5), (4, 3), (2, 2)] and all(
        (level == 3).all() for level in levels
    )


def test_a_motion_reaches_the_cells_around_by_steps_of_two_cells_and_of_one():
    world, motion = features(60, 60), torch.tensor([5, -7])
    first, second = world[16:40, 16:40], world[16 + 7 : 40 + 7, 16 - 5 : 40 - 5]
    flow = torch.zeros(24, 24, 2, dtype=torch.long)
    flow[12, 12] = motion
    found = (refined(first, second, flow, 0) - motion).abs().amax(dim=-1) < 0.5
    steps = [[(0, 0), (step, 0), (-step, 0), (0, step), (0, -step)] for step in (2, 1)]
    expected = {(12 + dy + v, 12 + dx + u) for dx, dy in steps[0] for u, v in steps[1]}
    assert set(map(tuple, found[5:20, 5:20].nonzero().add(5).tolist())) == expected
