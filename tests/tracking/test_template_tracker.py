"""Points followed by their templates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, default_checkpoint
from fgvc_hf.kernels.patches_numba import CompiledPatches
from fgvc_hf.matching import patches as patches_fgvc
from fgvc_hf.matching.patches import (
    CLOSE_MARGIN,
    FINE_REACH,
    TorchPatches,
    better_window,
    halve,
    halve_patches,
    locate,
    patch_offsets,
    patch_weights,
    sample_patches,
    search_cells,
    search_halved,
    similarity_inside,
    window_scores,
)
from fgvc_hf.tracking import template_tracker as templates_fgvc
from fgvc_hf.tracking.template_tracker import PointTemplates, mean_blocks, visibility


def unit_features(h, w, channels=16, seed=0, dtype=torch.float32):
    noise = torch.randn(h, w, channels, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1).to(dtype)


def smooth_field(h, w, channels=32, seed=0):
    """Features that vary smoothly, so that positions between cells mean something."""
    coarse = torch.randn(1, channels, h // 3, w // 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (h, w), mode="bicubic", align_corners=False)


def shifted(field, dx, dy, h, w, top=20, left=20):
    """The (h, w) features of a field whose content has moved by (dx, dy) cells, fractions included."""
    y = torch.arange(h, dtype=torch.float32) + top - dy
    x = torch.arange(w, dtype=torch.float32) + left - dx
    height, width = field.shape[-2:]
    grid = torch.stack(torch.meshgrid(2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1, indexing="xy"), dim=-1)
    sampled = F.grid_sample(field, grid[None], mode="bicubic", align_corners=True)
    return F.normalize(sampled[0].permute(1, 2, 0), dim=-1)


@pytest.fixture(params=[TorchPatches, CompiledPatches])
def implementation(request, monkeypatch):
    for module in (patches_fgvc, templates_fgvc):
        monkeypatch.setattr(module, "patches_for", lambda features: request.param)


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_equal_the_definition(radius, dtype, implementation):
    h, w = 17, 23
    features = unit_features(h, w, dtype=dtype)
    config = FgvcConfig(search_radius=0.2, template_radius=radius)
    centres = torch.tensor([[0.0, 0.0], [11.4, 8.2], [22.0, 16.0]])
    templates = sample_patches(features, centres + 0.3, radius)
    search = search_cells(h, w, config)
    offsets = patch_offsets(radius)
    weights = torch.rand(3, len(offsets), generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    scores, share, corner = window_scores(features, centres, templates, weights, search)
    assert scores.shape == (3, 2 * search + 1, 2 * search + 1)
    for n in range(3):
        for row in range(2 * search + 1):
            for column in range(2 * search + 1):
                x, y = (corner[n] + torch.tensor([column, row])).tolist()
                expected, part, inside = 0.0, 0.0, 0 <= x < w and 0 <= y < h
                for p, (dx, dy) in enumerate(offsets.tolist()):
                    if 0 <= x + dx < w and 0 <= y + dy < h:
                        part += float(weights[n, p])
                        expected += float(weights[n, p] * (templates[n, p].float() @ features[y + dy, x + dx].float()))
                tolerance = 1e-5 if dtype == torch.float32 else 0.01
                assert float(scores[n, row, column]) == pytest.approx(expected, abs=tolerance)
                assert float(share[n, row, column]) == pytest.approx(part * inside, abs=1e-6)


def test_a_patch_at_the_border_is_compared_by_what_lies_in_the_frame():
    features = unit_features(12, 14)
    cells = torch.tensor([[0.0, 6.0], [13.0, 11.0], [6.0, 5.0]])
    weights = patch_weights(2).expand(3, -1)
    scores, share, corner = window_scores(features, cells, sample_patches(features, cells, 2), weights, 1)
    similarity = similarity_inside(scores, share)
    torch.testing.assert_close(similarity[:, 1, 1], torch.ones(3))  # themselves, though half of the first is missing
    assert (share > 0).flatten(1).sum(1).tolist() == [6, 4, 9] and corner.tolist() == [[-1, 5], [12, 10], [5, 4]]


def test_a_patch_on_whole_cells_is_a_cut_and_weights_sum_to_one():
    features = unit_features(9, 12)
    patch = sample_patches(features, torch.tensor([[5.0, 4.0]]), 1)
    torch.testing.assert_close(patch[0], features[3:6, 4:7].reshape(9, -1))
    halfway = sample_patches(features, torch.tensor([[5.5, 4.0]]), 0)
    torch.testing.assert_close(halfway[0, 0], (features[4, 5] + features[4, 6]) / 2)
    assert float(patch_weights(2).sum()) == pytest.approx(1)


@pytest.mark.parametrize("velocity", [(0.5, -0.25), (1.3, 0.8), (2.5, -2.0), (0.0, 0.0)])
def test_motion_by_fractions_of_cells(velocity, implementation):
    h = w = 48
    config = FgvcConfig(point_matching="templates")
    field = smooth_field(120, 120)
    points = torch.tensor([(x, y) for x in (40.5, 50.5) for y in (41.5, 56.0)], dtype=torch.float64)
    state = None
    for t in range(6):
        features = shifted(field, velocity[0] * t, velocity[1] * t, h, w)
        if state is None:
            state = PointTemplates.empty(features, config)
            state.add([0, 1, 2, 3], points, features, config)
        else:
            state.follow(features, (2 * h, 2 * w), config)
            truth = points + 2 * t * torch.tensor(velocity, dtype=torch.float64)
            error = (state.points - truth).norm(dim=-1) / 2
            assert float(error.mean()) < 0.25, (t, error)


def test_the_window_moves_with_the_point():
    """Far beyond what one window reaches from where the point started."""
    h, w = 24, 120
    config = FgvcConfig(point_matching="templates")
    field = smooth_field(80, 180)
    state = None
    for t in range(20):
        features = shifted(field, 4.0 * t, 0.0, h, w)
        if state is None:
            state = PointTemplates.empty(features, config)
            state.add([0], torch.tensor([[20.5, 24.5]], dtype=torch.float64), features, config)
        else:
            state.follow(features, (2 * h, 2 * w), config)
    assert search_cells(h, w, config) < 4 * 19
    np.testing.assert_allclose(state.points[0], (20.5 + 2 * 4 * 19, 24.5), atol=0.5)


def test_a_similarity_is_compared_with_what_is_usual_for_the_point():
    """The same frame says more about a point that always looked as it did first than about one that changes all the time."""
    h = w = 40
    config = FgvcConfig(point_matching="templates", recall_similarity=2.0)
    world, noise = (shifted(smooth_field(100, 100, seed=seed), 0, 0, h, w) for seed in (0, 5))
    doubtful = F.normalize(world + 0.9 * noise, dim=-1)
    confidence = []
    for before in (world, doubtful):
        state = PointTemplates.empty(world, config)
        state.add([0], torch.tensor([[40.5, 40.5]], dtype=torch.float64), world, config)
        for features in (before, before, before, doubtful):
            for ring in (state.recent, state.trusted):
                ring.zero_()  # the first patch is the only template of both
            state.follow(features, (2 * h, 2 * w), config)
        confidence.append(float(state.confidence[0]))
    assert 1 - confidence[0] > 10 * (1 - confidence[1])


def test_what_covers_a_point_is_not_learnt_and_lowers_the_confidence(implementation):
    h = w = 40
    config = FgvcConfig(point_matching="templates")
    world, cover = shifted(smooth_field(100, 100), 0, 0, h, w), shifted(smooth_field(100, 100, seed=9), 0, 0, h, w)
    state = PointTemplates.empty(world, config)
    state.add([0], torch.tensor([[40.5, 40.5]], dtype=torch.float64), world, config)
    confidence = []
    for t in range(1, 9):
        features = world.clone()
        if 3 <= t < 7:
            features[8:33, 8:33] = cover[8:33, 8:33]
        state.follow(features, (2 * h, 2 * w), config)
        confidence.append(float(state.confidence[0]))
        assert bool(state.trusted[(state.count - 1) % 16, 0]) == (not 3 <= t < 7)
    assert min(confidence[:2] + confidence[6:]) > max(confidence[2:6]) + 0.3
    np.testing.assert_allclose(state.points[0], (40.5, 40.5), atol=0.2)


@pytest.mark.parametrize("temperature", [templates_fgvc.CELL_TEMPERATURE, 1e9])
def test_a_thin_thing_is_followed_by_its_own_cells(temperature, monkeypatch, implementation):
    """A line of one cell that wanders over a ground at rest: most cells of the patch say that nothing moves."""
    monkeypatch.setattr(templates_fgvc, "CELL_TEMPERATURE", temperature)
    h, w = 48, 60
    config = FgvcConfig(point_matching="templates")
    ground, line = shifted(smooth_field(110, 120), 0, 0, h, w), shifted(smooth_field(110, 120, seed=9), 0, 0, h, w)

    def frame(t):
        features, x = ground.clone(), 20 + t // 2
        features[:, x] = line[:, 20]
        return features

    state = PointTemplates.empty(ground, config)
    state.add([0], torch.tensor([[40.5, 40.5]], dtype=torch.float64), frame(0), config)
    for t in range(1, 33):
        state.follow(frame(t), (2 * h, 2 * w), config)
    assert (abs(float(state.cells[0, 0]) - 36) < 1) == (temperature < 1)


@pytest.mark.parametrize("recall", [0.84, 1.1])
def test_a_point_that_comes_back_elsewhere_is_found_again(recall, implementation):
    """Covered for three frames, and then far beyond its window."""
    h, w = 60, 90
    config = FgvcConfig(point_matching="templates", recall_similarity=recall, search_radius=0.1)
    world, cover = shifted(smooth_field(120, 150), 0, 0, h, w), shifted(smooth_field(120, 150, seed=9), 0, 0, h, w)
    body = world[10:31, 10:31].clone()
    state = PointTemplates.empty(world, config)
    state.add(
        [0], torch.tensor([[40.5, 40.5]], dtype=torch.float64), world, config
    )  # cell (20, 20), the middle of the body
    for t in range(8):
        features = cover.clone()
        if t >= 4:
            features[25:46, 60:81] = body  # 50 cells to the right, and 15 down
        state.follow(features, (2 * h, 2 * w), config)
        assert float(state.confidence[0]) < 0.3 or t >= 4
        if t < 4:
            np.testing.assert_allclose(state.cells[0], (20, 20))  # waits
    found = np.abs(state.points[0].numpy() - (140.5, 70.5)).max() < 1
    assert found == (recall < 1) and bool(state.confidence[0] > 0.5) == found


def test_others_do_not_change_what_is_found_again():
    h, w = 40, 60
    config = FgvcConfig(point_matching="templates", recall_similarity=0.5)
    first, frames = unit_features(h, w), [unit_features(h, w, seed=seed) for seed in range(1, 4)]
    points = torch.rand(21, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 80
    states = []
    for rows in (range(21), [17]):
        state = PointTemplates.empty(first, config)
        state.add(list(rows), points[list(rows)], first, config)
        for features in frames:
            state.follow(features, (2 * h, 2 * w), config)
        states.append(state.points[list(rows).index(17)])
    assert torch.equal(*states)


def test_blocks_are_unit_means_and_leave_the_features_as_they_are():
    features = unit_features(13, 10)
    before = features.clone()
    blocks = mean_blocks(features)
    pooled = F.avg_pool2d(features.permute(2, 0, 1), 4, 2).permute(1, 2, 0)
    torch.testing.assert_close(blocks, F.normalize(pooled, dim=-1))
    assert torch.equal(features, before) and mean_blocks(features[:3]) is None


def test_points_stay_in_the_frame():
    config = FgvcConfig(point_matching="templates", search_radius=0.5)
    features = unit_features(10, 14)
    state = PointTemplates.empty(features, config)
    state.add([0, 1], torch.tensor([[0.0, 0.0], [28.0, 20.0]], dtype=torch.float64), features, config)
    for seed in range(1, 5):
        state.follow(unit_features(10, 14, seed=seed), (20, 28), config)
        assert (state.points >= 0).all() and (state.points <= torch.tensor([28, 20])).all()
        assert ((state.confidence >= 0) & (state.confidence <= 1)).all()


def test_memory_does_not_grow():
    config = FgvcConfig(point_matching="templates")
    features = unit_features(12, 12)
    state = PointTemplates.empty(features, config)
    state.add([0, 1, 2], torch.tensor([[5.0, 5.0]] * 3, dtype=torch.float64), features, config)
    sizes = set()
    for seed in range(20):
        state.follow(unit_features(12, 12, seed=seed), (24, 24), config)
        sizes.add(state.recent.numel() + state.anchor.numel())
    assert len(sizes) == 1


@pytest.mark.parametrize("h, w", [(8, 10), (9, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_resolution_is_the_mean_around_every_second_cell(h, w, dtype):
    features = unit_features(h, w, dtype=dtype)
    before, halved = features.clone(), halve(features)
    assert halved.shape == (-(-h // 2), -(-w // 2), 16) and halved.dtype == dtype
    assert torch.equal(features, before)
    for row, y in enumerate(range(0, h, 2)):
        for column, x in enumerate(range(0, w, 2)):
            around = features[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].float().mean(dim=(0, 1))
            torch.testing.assert_close(halved[row, column].float(), F.normalize(around, dim=0), atol=5e-3, rtol=0)


@pytest.mark.parametrize("radius, side", [(0, 1), (1, 1), (2, 3), (3, 3), (4, 5)])
def test_half_patches_share_out_all_cells(radius, side):
    patches = unit_features(2, (2 * radius + 1) ** 2)
    weights = torch.rand(2, patches.shape[1], generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    halves, shares = halve_patches(patches, weights)
    assert halves.shape == (2, side**2, 16)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(halves.norm(dim=-1), torch.ones(2, side**2))
    one = torch.zeros_like(weights)
    one[:, len(one[0]) // 2] = 1  # the middle cell counts for the middle alone
    halves, shares = halve_patches(patches, one)
    assert shares[0].tolist() == [float(i == side**2 // 2) for i in range(side**2)]
    torch.testing.assert_close(halves[:, side**2 // 2], patches[:, len(one[0]) // 2])


def test_the_better_of_two_places_at_half_resolution_is_taken():
    """Though the point moved by many cells; and a place that looks the same lowers the margin."""
    field = smooth_field(90, 90)
    before, after = shifted(field, 0, 0, 40, 50), shifted(field, 7, -5, 40, 50)
    cells = torch.tensor([[20.0, 18.0], [31.0, 25.0]])
    patches, weights = sample_patches(before, cells, 3), patch_weights(3).expand(2, -1)
    where = cells, torch.zeros(2), 0.0
    places, margin = search_halved(halve(after), patches, weights, 10, *where)
    assert (places[0] - cells - torch.tensor([7, -5])).abs().max() <= 1 and (margin > CLOSE_MARGIN).all()
    assert ((places[1] - places[0]).abs().amax(dim=1) > 4).all()
    window, by_far = better_window(after, places, margin, patches, weights, *where)
    assert torch.equal(by_far, margin) and torch.equal(window[-1], places[0] - FINE_REACH)
    close = torch.zeros(2)
    compared, margin = better_window(after, places, close, patches, weights, *where)
    swapped, same = better_window(after, places.flip(0), close, patches, weights, *where)
    assert all(map(torch.equal, window, compared)) and all(map(torch.equal, window, swapped))
    assert torch.equal(margin, same) and (margin > 0.05).all()
    found, _ = locate(*window[:1], *window, *where, margin)
    torch.testing.assert_close(found, cells + torch.tensor([7.0, -5.0]), atol=0.1, rtol=0)

    twice = after.clone()
    twice[9:18, 11:20] = after[9:18, 23:32]  # of the first point
    places, near = search_halved(halve(twice), patches, weights, 10, *where)
    _, less = better_window(twice, places, near, patches, weights, *where)
    assert near[0] < CLOSE_MARGIN and less[0] < 0.02 and near[1] == less[1] == by_far[1]


def test_a_place_without_another_in_its_window_is_better_by_most():
    features = shifted(smooth_field(90, 90), 0, 0, 40, 50)
    cells = torch.tensor([[20.0, 18.0]])
    patches, weights = sample_patches(features, cells, 3), patch_weights(3)[None]
    where = cells, torch.zeros(1), 0.0
    _, margin = search_halved(halve(features), patches, weights, 2, *where)
    assert margin.tolist() == [1.0]


def locate_in(scores, lost, prior):
    """[`locate`] in given scores (N, D, D), which the first patches agree with."""
    n, d, _ = scores.shape
    corner, middle = torch.zeros(n, 2, dtype=torch.long), torch.full((n, 2), float(d // 2))
    return locate(scores, scores, torch.ones(n, d, d), corner, middle, lost, prior, torch.ones(n))


def test_a_lone_place_has_the_largest_margin():
    scores = torch.zeros(2, 15, 15)
    scores[:, 7, 7] = 0.9
    scores[1, 1, 2] = 0.8  # a rival
    cells, evidence = locate_in(scores, torch.zeros(2), 0.0)
    torch.testing.assert_close(cells, torch.full((2, 2), 7.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(evidence[:, :2], torch.full((2, 2), 0.9))
    torch.testing.assert_close(evidence[:, 2], torch.tensor([0.9, 0.1]))


def test_a_point_unseen_for_long_may_be_farther():
    scores = torch.zeros(2, 31, 31)
    scores[:, 15, 15], scores[:, 15, 28] = 0.5, 0.65
    cells, _ = locate_in(scores, torch.tensor([0.0, 20.0]), 1e-3)
    assert cells[:, 0].round().tolist() == [15, 28]


@pytest.mark.parametrize(("first", "expected"), [((8, 8), (7, 7)), ((5, 6), (5, 6)), ((10, 7), (7, 7))])
def test_the_first_patch_decides_within_two_cells(first, expected):
    """And not beyond, where its say would be a search of its own."""
    scores, firsts = torch.zeros(2, 1, 15, 15)
    scores[0, 7, 7], firsts[0, first[1], first[0]] = 0.5, (0.4 if first == (8, 8) else 0.9)
    window = torch.ones(1, 15, 15), torch.zeros(1, 2, dtype=torch.long)
    cells, evidence = locate(
        firsts, scores, *window, torch.full((1, 2), 7.0), torch.zeros(1), 0.0, torch.full((1,), 0.3)
    )
    assert cells.round().tolist() == [list(map(float, expected))]
    assert float(evidence[0, 2]) == pytest.approx(0.3)  # of what is known of the rest of the frame
    assert float(evidence[0, 0]) == pytest.approx(float(firsts[0, expected[1], expected[0]]))
    assert float(evidence[0, 1]) == pytest.approx(float(scores[0, expected[1], expected[0]]))


def test_visibility_is_a_logistic_model():
    weights = [1.0, 2.0, 3.0, -1.0]
    found = visibility(torch.tensor([[0.5, 0.25, 0.1]]), weights)
    assert float(found) == pytest.approx(1 / (1 + np.exp(-(0.5 + 0.5 + 0.3 - 1))))


def test_evidence_is_weighed_by_default_as_the_bundled_checkpoint_does():
    default, bundled = FgvcConfig(), FgvcConfig.from_pretrained(default_checkpoint())
    assert default.visibility_weights == bundled.visibility_weights and default.error_weights == bundled.error_weights
