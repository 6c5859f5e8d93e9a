"""The coarse-to-fine search for templates."""

import math
from dataclasses import astuple

import pytest
import torch
from feature_fields import shifted, smooth_field, unit_features

from fgvc_hf.matching.patches import SearchWindow, patch_weights, sample_patches, window_scores
from fgvc_hf.matching.pyramid import downsample, downsample_patches
from fgvc_hf.matching.template_search import Candidates, MotionPrior, refine, search_coarse, verify, vertex
from fgvc_hf.tracking.template_constants import TemplateConstants


CONSTANTS = TemplateConstants()
CLOSE, FINE, SHARE = CONSTANTS.close_margin, CONSTANTS.fine_radius, CONSTANTS.least_share


def free(cells):
    """A prior by which motion costs nothing."""
    return MotionPrior(cells, torch.zeros(len(cells)))


def coarse_candidates(features, templates, weights, search, prior):
    rival = CONSTANTS.coarse_rival_distance
    return search_coarse(downsample(features), templates, weights, search, prior, rival, SHARE)


def refined(window, anchor_scores, prior, margin):
    return refine(window, anchor_scores, prior, margin, CONSTANTS.anchor_radius, CONSTANTS.rival_distance, SHARE)


def same(a, b):
    return all(map(torch.equal, astuple(a), astuple(b)))


@pytest.fixture(scope="module")
def moved():
    """Two points (2, 2) on a frame, their templates and weights, and the next frame, where all moved by (7, -5) cells."""
    field = smooth_field(90, 90)
    before, after = shifted(field, 0, 0, 40, 50), shifted(field, 7, -5, 40, 50)
    cells = torch.tensor([[20.0, 18.0], [31.0, 25.0]])
    return cells, sample_patches(before, cells, 3), patch_weights(3).expand(2, -1), after


def test_a_point_that_moved_by_many_cells_is_found(moved):
    cells, patches, weights, after = moved
    prior = free(cells)
    candidates = coarse_candidates(after, patches, weights, 10, prior)
    best, second = candidates.cells
    assert (best - cells - torch.tensor([7, -5])).abs().max() <= 1 and (candidates.margin > CLOSE).all()
    assert ((second - best).abs().amax(dim=1) > 4).all()
    window, margin = verify(after, candidates, patches, weights, prior, FINE, CLOSE, SHARE)
    assert torch.equal(margin, candidates.margin) and torch.equal(window.corner, best - FINE)
    match = refined(window, window.scores, prior, margin)
    torch.testing.assert_close(match.cells, cells + torch.tensor([7.0, -5.0]), atol=0.1, rtol=0)


def test_the_better_of_two_close_candidates_is_taken(moved):
    """Whichever comes first, and to the same bits."""
    cells, patches, weights, after = moved
    prior = free(cells)
    by_far = coarse_candidates(after, patches, weights, 10, prior)
    window, _ = verify(after, by_far, patches, weights, prior, FINE, CLOSE, SHARE)
    close, swapped = (Candidates(of, torch.zeros(2)) for of in (by_far.cells, by_far.cells.flip(0)))
    compared, margin = verify(after, close, patches, weights, prior, FINE, CLOSE, SHARE)
    turned, same_margin = verify(after, swapped, patches, weights, prior, FINE, CLOSE, SHARE)
    assert same(window, compared) and same(window, turned)
    assert torch.equal(margin, same_margin) and (margin > 0.05).all()


def test_a_place_that_looks_the_same_lowers_the_margin_of_its_point(moved):
    cells, patches, weights, after = moved
    prior = free(cells)
    alone = coarse_candidates(after, patches, weights, 10, prior)
    twice = after.clone()
    twice[9:18, 11:20] = after[9:18, 23:32]  # of the first point
    candidates = coarse_candidates(twice, patches, weights, 10, prior)
    _, margin = verify(twice, candidates, patches, weights, prior, FINE, CLOSE, SHARE)
    assert candidates.margin[0] < CLOSE and margin[0] < 0.02
    assert margin[1] == candidates.margin[1] == alone.margin[1]


def test_a_place_without_another_in_its_window_has_the_largest_margin():
    features = shifted(smooth_field(90, 90), 0, 0, 40, 50)
    cells = torch.tensor([[20.0, 18.0]])
    patches, weights = sample_patches(features, cells, 3), patch_weights(3)[None]
    assert coarse_candidates(features, patches, weights, 2, free(cells)).margin.tolist() == [1.0]


def refined_in(scores, cost):
    """[`refine`] in given scores (N, D, D), which the first patches agree with, at a cost (N,) of motion from the middle."""
    n, d, _ = scores.shape
    window = SearchWindow(scores, torch.ones(n, d, d), torch.zeros(n, 2, dtype=torch.long))
    return refined(window, scores, MotionPrior(torch.full((n, 2), float(d // 2)), cost), torch.ones(n))


def test_a_rival_lowers_the_margin():
    scores = torch.zeros(2, 15, 15)
    scores[:, 7, 7] = 0.9
    scores[1, 1, 2] = 0.8  # a rival
    match = refined_in(scores, torch.zeros(2))
    torch.testing.assert_close(match.cells, torch.full((2, 2), 7.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(match.anchor, torch.full((2,), 0.9))
    torch.testing.assert_close(match.evidence, torch.tensor([[0.9, 0.9, 0.9], [0.9, 0.9, 0.1]]))


def test_a_point_whose_motion_costs_less_may_be_farther():
    scores = torch.zeros(2, 31, 31)
    scores[:, 15, 15], scores[:, 15, 28] = 0.5, 0.65
    match = refined_in(scores, torch.tensor([1e-3, 1e-3 / 3]))
    assert match.cells[:, 0].round().tolist() == [15, 28]


@pytest.mark.parametrize(("first", "expected"), [((8, 8), (7, 7)), ((5, 6), (5, 6)), ((10, 7), (7, 7))])
def test_the_first_patch_decides_within_two_cells(first, expected):
    """And not beyond, where its say would be a search of its own."""
    scores, firsts = torch.zeros(2, 1, 15, 15)
    scores[0, 7, 7], firsts[0, first[1], first[0]] = 0.5, (0.4 if first == (8, 8) else 0.9)
    window = SearchWindow(scores, torch.ones(1, 15, 15), torch.zeros(1, 2, dtype=torch.long))
    match = refined(window, firsts, free(torch.full((1, 2), 7.0)), torch.full((1,), 0.3))
    assert match.cells.round().tolist() == [list(map(float, expected))]
    anchor, mean, margin = match.evidence[0].tolist()
    assert margin == pytest.approx(0.3)  # of what is known of the rest of the frame
    assert anchor == pytest.approx(float(firsts[0, expected[1], expected[0]]))
    assert mean == pytest.approx(float(scores[0, expected[1], expected[0]]))


def test_the_prior_costs_the_square_of_a_shift_at_both_scales():
    """A shift of 4 cells is one of 2 coarse cells, and costs the same."""
    prior = MotionPrior(torch.tensor([[6.0, 4.0]]), torch.tensor([0.01]))
    window = SearchWindow(torch.full((1, 9, 9), 0.5), torch.ones(1, 9, 9), torch.tensor([[2, 0]]))
    scores = prior.scores(window, 0.25)[0]
    assert scores[4, 4] == 0.5  # the place (6, 4) itself
    assert float(scores[4, 8]) == pytest.approx(0.5 - 0.01 * 4**2)
    assert float(scores[1, 2]) == pytest.approx(0.5 - 0.01 * (3**2 + 2**2))
    coarse = prior.coarse()
    assert coarse.last.tolist() == [[3, 2]] and float(coarse.cost[0]) == pytest.approx(0.04)
    window = SearchWindow(torch.full((1, 5, 5), 0.5), torch.ones(1, 5, 5), torch.tensor([[1, 0]]))
    assert float(coarse.scores(window, 0.25)[0, 2, 4]) == pytest.approx(0.5 - 0.01 * 4**2)
    share = torch.ones(1, 5, 5)
    share[0, 0, 0] = 0
    assert coarse.scores(SearchWindow(window.scores, share, window.corner), 0.25)[0, 0, 0] == -torch.inf


def test_the_top_of_a_parabola():
    before, middle, after = torch.tensor(
        [
            [0.4, 0.9, 0.6],
            [0.9, 0.9, 0.1],
            [0.2, 0.2, 0.2],
            [0.9, 0.1, 0.9],
            [-math.inf, 0.9, 0.1],
            [0.1, 0.9, -math.inf],
            [0.0, 0.5, 0.5],
        ]
    ).T
    expected = [-0.2 / (2 * -0.8), -0.5, 0.0, 0.0, 0.0, 0.0, 0.5]
    assert vertex(before, middle, after).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_match_in_a_window_by_its_definition(seed):
    """The best cell less the cost of motion, moved to the best mean of both scores at most two cells away, and two parabolas."""
    generator = torch.Generator().manual_seed(seed)
    scores, firsts = 0.5 * torch.rand(2, 6, 7, 7, generator=generator) + 0.3
    share = torch.rand(6, 7, 7, generator=generator).clamp(0.1, 1)
    share[:, 0] = 0  # beyond the frame
    corner = torch.randint(0, 30, (6, 2), generator=generator)
    last, cost = corner + 6 * torch.rand(6, 2, generator=generator), 0.01 * torch.rand(6, generator=generator)
    known = torch.rand(6, generator=generator)
    found = refine(SearchWindow(scores, share, corner), firsts, MotionPrior(last, cost), known, 2, 3, 0.25)
    cells = [(y, x) for y in range(7) for x in range(7)]
    for n in range(6):
        inside = {(y, x): max(float(share[n, y, x]), 0.25) for y, x in cells}
        own = {}
        for y, x in cells:
            moved = (corner[n] + torch.tensor([x, y]) - last[n]).square().sum()
            own[y, x] = float(scores[n, y, x] / inside[y, x] - cost[n] * moved) if share[n, y, x] > 0 else -math.inf
        row, column = max(own, key=own.get)
        rival = max((own[y, x] for y, x in cells if max(abs(y - row), abs(x - column)) > 3), default=-math.inf)
        both = {(y, x): (own[y, x] + float(firsts[n, y, x]) / inside[y, x]) / 2 for y, x in cells}
        near = {at: both[at] for at in cells if max(abs(at[0] - row), abs(at[1] - column)) <= 2}
        y, x = max(near, key=near.get)

        def top(before, middle, after):
            bend = before - 2 * middle + after
            return min(max((before - after) / (2 * bend), -0.5), 0.5) if -math.inf < bend < 0 else 0.0

        at = lambda y, x, both=both: both.get((y, x), -math.inf)  # noqa: E731
        fraction = top(at(y, x - 1), at(y, x), at(y, x + 1)), top(at(y - 1, x), at(y, x), at(y + 1, x))
        expected = [int(corner[n, 0]) + x + fraction[0], int(corner[n, 1]) + y + fraction[1]]
        assert found.cells[n].tolist() == pytest.approx(expected, abs=1e-3)
        evidence = [float(firsts[n, y, x]), float(scores[n, y, x]), min(own[row, column] - rival, float(known[n]))]
        assert found.evidence[n].tolist() == pytest.approx(evidence, abs=1e-5)


@pytest.mark.parametrize("search", [6, 7])
def test_candidates_are_the_best_place_and_the_best_farther_than_the_rival_distance(search):
    features, cells = unit_features(36, 44), torch.tensor([[12.0, 14.0], [25.0, 20.0]])
    patches, weights = unit_features(2, 49, seed=1), patch_weights(3).expand(2, -1)
    prior, coarse = MotionPrior(cells, torch.tensor([0.001, 0.0])), downsample(features)
    found = search_coarse(coarse, patches, weights, search, prior, 2, 0.25)
    small, shares = downsample_patches(patches, weights)
    radius = (search + 1) // 2
    window = window_scores(coarse, cells / 2, small, shares, radius)
    for n in range(2):
        scores = {}
        for i in range(2 * radius + 1):
            for j in range(2 * radius + 1):
                cell = window.corner[n] + torch.tensor([j, i])
                moved = float((2 * cell - cells[n]).square().sum())
                scores[tuple(cell.tolist())] = float(window.similarity(0.25)[n, i, j]) - float(prior.cost[n]) * moved
        best = max(scores, key=scores.get)
        far = {at: of for at, of in scores.items() if max(abs(at[0] - best[0]), abs(at[1] - best[1])) > 2}
        second = max(far, key=far.get)
        assert found.cells[:, n].tolist() == [[2 * best[0], 2 * best[1]], [2 * second[0], 2 * second[1]]]
        assert float(found.margin[n]) == pytest.approx(scores[best] - scores[second], abs=1e-5)


def test_the_better_candidate_is_that_with_the_better_place_around_it():
    """Only where the first leads by at most the margin at which both are compared."""
    features, cells = unit_features(36, 44), torch.tensor([[12.0, 14.0], [25.0, 20.0], [20.0, 11.0]])
    templates = sample_patches(features, torch.tensor([[30.0, 9.0], [25.0, 20.0], [8.0, 30.0]]), 3)
    weights, prior = patch_weights(3).expand(3, -1), MotionPrior(cells, torch.full((3,), 1e-5))
    places = torch.tensor([[[12.0, 14.0], [25.0, 20.0], [20.0, 11.0]], [[29.0, 10.0], [8.0, 8.0], [8.0, 30.0]]])
    margin = torch.tensor([0.1, 0.05, 0.1001])
    window, found = verify(features, Candidates(places, margin), templates, weights, prior, 2, 0.1, 0.25)
    chosen = torch.stack([places[1, 0], places[0, 1], places[0, 2]])  # the third is not compared
    assert torch.equal(window.corner, (chosen - 2).long())
    expected = window_scores(features, chosen, templates, weights, 2)
    torch.testing.assert_close(window.scores, expected.scores)
    tops = [prior.scores(window_scores(features, at, templates, weights, 2), 0.25).flatten(1).amax(1) for at in places]
    torch.testing.assert_close(found, torch.cat([(tops[0] - tops[1]).abs()[:2].clamp_max(1), margin[2:]]))


def test_the_lead_over_a_candidate_beside_the_frame_is_one():
    """If all candidates are compared, the second may be a place that the frame does not reach."""
    features, cells = unit_features(12, 14), torch.tensor([[6.0, 5.0]])
    patch, weights, prior = sample_patches(features, cells, 3), patch_weights(3)[None], free(cells)
    candidates = Candidates(torch.tensor([[[6.0, 5.0]], [[40.0, 40.0]]]), torch.ones(1))
    window, margin = verify(features, candidates, patch, weights, prior, 3, 1.0, SHARE)
    assert margin.tolist() == [1.0] and window.corner.tolist() == [[3, 2]]


def test_a_window_beside_the_frame_has_no_lead():
    """No place in it can be taken, so that none leads over another."""
    features, cells = unit_features(12, 14), torch.tensor([[-40.0, 5.0]])
    patch, weights, prior = sample_patches(features, cells, 3), patch_weights(3)[None], free(cells)
    candidates = coarse_candidates(features, patch, weights, 6, prior)
    window, margin = verify(features, candidates, patch, weights, prior, FINE, CLOSE, SHARE)
    match = refined(window, window_scores(features, window.corner + FINE, patch, weights, FINE).scores, prior, margin)
    assert match.evidence.tolist() == [[0.0, 0.0, 0.0]] and match.cells.isfinite().all()
