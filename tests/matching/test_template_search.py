"""The coarse-to-fine search for templates."""

from dataclasses import astuple

import pytest
import torch
from feature_fields import shifted, smooth_field

from fgvc_hf.matching.patches import SearchWindow, patch_weights, sample_patches
from fgvc_hf.matching.pyramid import downsample
from fgvc_hf.matching.template_search import Candidates, MotionPrior, refine, search_coarse, verify
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
