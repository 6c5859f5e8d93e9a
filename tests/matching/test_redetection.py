"""Points that are looked for in the whole frame."""

import pytest
import torch
import torch.nn.functional as F
from feature_fields import shifted, smooth_field, unit_features

from fgvc_hf.matching.patches import patch_weights, sample_patches
from fgvc_hf.matching.pyramid import FeaturePyramid
from fgvc_hf.matching.redetection import best_blocks, redetect
from fgvc_hf.matching.template_search import Match
from fgvc_hf.tracking.template_constants import TemplateConstants


CONSTANTS = TemplateConstants()


@pytest.mark.parametrize(
    ("anchor", "mean", "carried", "taken"),
    [
        (0.3, 0.9, False, True),
        (0.3, 0.99999, False, False),  # the mean template knows the place better
        (0.3, 0.99999, True, True),  # the images carried it off with what covers it, which the mean template knows
        (0.83, 0.5, False, True),
        (0.9, 0.5, True, False),  # the images carried it on: not better by enough
        (0.9, 0.5, False, True),
        (0.96, 0.5, False, False),  # not better by enough
    ],
)
def test_a_point_is_taken_from_afar_if_its_templates_agree(anchor, mean, carried, taken):
    """The first patch is found at its place 30 cells away, at which the mean template has a similarity of 0.97 or so."""
    world, other = shifted(smooth_field(90, 120), 0, 0, 60, 80), shifted(smooth_field(90, 120, seed=4), 0, 0, 60, 80)
    place = torch.tensor([[56.0, 40.0]])
    first = sample_patches(world, place, 3)
    known = torch.nn.functional.normalize(first + 0.2 * sample_patches(other, place, 3), dim=-1)
    match = Match(torch.tensor([[12.0, 10.0]]), torch.tensor([[anchor, mean, 0.1]]))
    names = "recall_radius", "recall_gain", "carried_gain", "anchor_radius", "rival_distance", "least_share"
    numbers = {name: getattr(CONSTANTS, name) for name in names}
    recall = 0.95 if anchor < 0.95 else 0.97
    weights = patch_weights(3)[None]
    found, recalled = redetect(
        FeaturePyramid(world), first, known, weights, match, torch.tensor([carried]), recall, **numbers
    )
    assert recalled.tolist() == [taken]
    expected = place if taken else match.cells
    torch.testing.assert_close(found.cells, expected, atol=0.2, rtol=0)


def test_the_best_block_is_named_by_its_centre():
    """Blocks of 4x4 cells at every second cell."""
    features = torch.zeros(20, 24, 2)
    features[..., 0] = 1
    features[8:12, 4:8] = torch.tensor([0.0, 1.0])
    patch = torch.tensor([0.0, 1.0]).expand(40, 9, 2)  # more than are multiplied at once
    assert best_blocks(FeaturePyramid(features).blocks, patch, 1).tolist() == [[5.5, 9.5]] * 40


def test_the_best_block_by_its_definition():
    """The mean of 4x4 cells that is most similar to the mean of the patch by its weights."""
    features, patches = unit_features(13, 18), unit_features(5, 49, seed=1)
    found = best_blocks(FeaturePyramid(features).blocks, patches, 3)
    weights = patch_weights(3)
    for patch, place in zip(patches, found.tolist(), strict=True):
        query = (weights[:, None] * patch).sum(0)
        means = {
            (x + 1.5, y + 1.5): F.normalize(features[y : y + 4, x : x + 4].mean((0, 1)), dim=0)
            for y in range(0, 9, 2)
            for x in range(0, 15, 2)
        }
        assert tuple(place) == max(means, key=lambda at: float(means[at] @ query))


@pytest.mark.parametrize("changed", [0.02, 0.25])
def test_a_point_is_taken_from_afar_at_exactly_the_score_that_it_must_reach(changed):
    features = unit_features(40, 60)
    patch = sample_patches(features, torch.tensor([[50.0, 30.0]]), 3)
    patch = F.normalize(patch + changed * unit_features(1, 49, seed=2), dim=-1)
    weights = patch_weights(3)[None]

    def recalled(anchor, recall_similarity, gain, mean=-1.0):
        match = Match(torch.tensor([[9.0, 9.0]]), torch.tensor([[anchor, mean, 0.1]]))
        found, taken = redetect(
            FeaturePyramid(features), patch, patch, weights, match, torch.tensor([False]), recall_similarity,
            recall_radius=5, recall_gain=gain, carried_gain=1.0, anchor_radius=2, rival_distance=3, least_share=0.25
        )  # fmt: skip
        expected = torch.tensor([[50.0, 30.0]]) if taken else match.cells
        torch.testing.assert_close(found.cells, expected, atol=0.1, rtol=0)
        return found, bool(taken)

    found, taken = recalled(0.1, 0.5, 0.0)
    score, mean = float(found.anchor[0]), float(found.mean[0])
    assert taken and (0.99 < score < 1 if changed < 0.1 else 0.5 < score < 0.98)  # above 1, nothing is looked for
    above = float(torch.nextafter(found.anchor[0], torch.tensor(2.0)))
    assert recalled(0.1, score, 0.0)[1] and not recalled(0.1, above, 0.0)[1]
    assert recalled(0.1, 0.5, 0.0, mean)[1] and not recalled(0.1, 0.5, 0.0, above)[1]
    assert not recalled(0.5, 0.5, 0.0)[1]  # it is not looked for from that similarity on
    assert not recalled(0.1, 1.01, 0.0)[1] and not recalled(0.1, 0.5, 0.95)[1]


def test_in_a_frame_without_a_whole_block_nothing_is_looked_for():
    features = unit_features(3, 20)
    match = Match(torch.tensor([[9.0, 1.0]]), torch.tensor([[0.1, 0.1, 0.1]]))
    patch = sample_patches(features, torch.tensor([[15.0, 1.0]]), 3)
    found, recalled = redetect(
        FeaturePyramid(features), patch, patch, patch_weights(3)[None], match, torch.tensor([False]), 0.5, 5, 0.0, 0.0, 2, 3, 0.25
    )  # fmt: skip
    assert found is match and recalled.tolist() == [False]
