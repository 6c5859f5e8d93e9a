"""Points that are looked for in the whole frame."""

import pytest
import torch
import torch.nn.functional as F
from feature_fields import unit_features

from fgvc_hf.matching import redetection
from fgvc_hf.matching.patches import patch_weights, sample_patches
from fgvc_hf.matching.pyramid import FeaturePyramid
from fgvc_hf.matching.redetection import best_blocks, redetect
from fgvc_hf.matching.template_search import Match


NUMBERS = {"recall_similarity": 0.5, "recall_below": 0.9, "recall_share": 0.5}
WINDOWS = {"recall_radius": 5, "anchor_radius": 2, "rival_distance": 3, "least_share": 0.25}


def recalled_from(anchor, seen, mean=0.5, **numbers):
    """The match, at cell (9, 9), of a point that is 41 cells away with a first patch changed by so much; and whether it is found there."""
    features = unit_features(40, 60)
    patch = sample_patches(features, torch.tensor([[50.0, 30.0]]), 3)
    patch = F.normalize(patch + seen * unit_features(1, 49, seed=2), dim=-1)
    match = Match(torch.tensor([[9.0, 9.0]]), torch.tensor([[anchor, mean, 0.1]]))
    found, taken = redetect(
        FeaturePyramid(features), patch, patch, patch_weights(3)[None], match, **NUMBERS | WINDOWS | numbers
    )
    expected = torch.tensor([[50.0, 30.0]]) if taken else match.cells
    torch.testing.assert_close(found.cells, expected, atol=0.1, rtol=0)
    return found, bool(taken)


@pytest.mark.parametrize("seen", [0.02, 0.25])
def test_a_point_is_taken_from_afar_at_exactly_the_score_that_it_must_reach(seen):
    found, taken = recalled_from(0.1, seen)
    score = float(found.anchor[0])
    assert taken and (0.99 < score < 1 if seen < 0.1 else 0.9 < score < 0.98)
    above = float(torch.nextafter(found.anchor[0], torch.tensor(2.0)))
    assert recalled_from(0.1, seen, recall_similarity=score)[1]
    assert not recalled_from(0.1, seen, recall_similarity=above)[1]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("mean", [0.1, 0.999])  # which knows what carried the point off
def test_a_place_afar_is_taken_if_its_distance_is_the_share_of_the_nearby_one(share, mean):
    distance = 1 - float(recalled_from(0.1, 0.25)[0].anchor[0])
    for further, taken in ((1.01, True), (0.99, False)):
        anchor = 1 - further * distance / share
        assert recalled_from(anchor, 0.25, mean, recall_share=share, recall_below=1.0)[1] is taken


@pytest.mark.parametrize("computed", ["those that need it", "all"])
def test_a_point_is_looked_for_below_a_score(computed, monkeypatch):
    """Whether or not the others are computed along, as they are on an accelerator."""
    if computed == "all":
        monkeypatch.setattr(redetection, "rows_to_compute", lambda wanted: torch.arange(len(wanted)))
    above = float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)))
    assert not recalled_from(0.5, 0.02, recall_below=0.5)[1] and recalled_from(0.5, 0.02, recall_below=above)[1]
    assert not recalled_from(0.1, 0.02, recall_similarity=1.01)[1]


def looked_for(anchor, mean):
    """The match of a point far away from cell (50, 30), and whether it is found there."""
    match = Match(torch.tensor([[9.0, 9.0]]), torch.tensor([[0.1, 0.9, 0.1]]))
    numbers = NUMBERS | WINDOWS | {"recall_similarity": 0.9}
    return redetect(FeaturePyramid(unit_features(40, 60)), anchor, mean, patch_weights(3)[None], match, **numbers)


def test_the_first_patch_says_which_place_is_taken_and_the_mean_template_is_evidence_of_it():
    """The mean template knows the first patch, and still better what is elsewhere."""
    there, elsewhere = sample_patches(unit_features(40, 60), torch.tensor([[50.0, 30.0], [12.0, 28.0]]), 3).split(1)
    mean = F.normalize(0.8 * there + elsewhere, dim=-1)
    found, recalled = looked_for(there, mean)
    assert recalled.tolist() == [True]
    torch.testing.assert_close(found.cells, torch.tensor([[50.0, 30.0]]), atol=0.2, rtol=0)
    similarity = float((patch_weights(3) * (there * mean).sum(dim=-1)[0]).sum())
    assert found.evidence[0, :2].tolist() == pytest.approx([1, similarity], abs=1e-4) and similarity < 0.8
    assert 0.2 < float(found.evidence[0, 2]) < similarity


def test_a_place_that_the_first_patch_resembles_too_little_is_not_taken_whatever_is_beside_it():
    """The mean template leads three cells away from where the first patch is."""
    there, beside = sample_patches(unit_features(40, 60), torch.tensor([[50.0, 30.0], [53.0, 30.0]]), 3).split(1)
    assert looked_for(there, beside)[1].tolist() == [False] and looked_for(there, there)[1].tolist() == [True]


def test_points_are_found_each_by_itself():
    """One that is found, one that is near enough where it is, one that is nowhere."""
    features = unit_features(40, 60)
    cells = torch.tensor([[50.0, 30.0], [20.0, 25.0], [30.0, 12.0]])
    patches = sample_patches(features, cells, 3)
    patches[2] = unit_features(1, 49, seed=3)[0]
    match = Match(torch.full((3, 2), 9.0), torch.tensor([[0.6, 0.5, 0.1], [0.95, 0.5, 0.1], [0.2, 0.5, 0.1]]))
    weights = patch_weights(3).expand(3, -1)
    found, recalled = redetect(FeaturePyramid(features), patches, patches, weights, match, **NUMBERS | WINDOWS)
    assert recalled.tolist() == [True, False, False]
    torch.testing.assert_close(found.cells, torch.tensor([[50.0, 30.0], [9.0, 9.0], [9.0, 9.0]]), atol=0.1, rtol=0)
    torch.testing.assert_close(found.evidence[1:], match.evidence[1:])


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


def test_in_a_frame_without_a_whole_block_nothing_is_looked_for():
    features = unit_features(3, 20)
    match = Match(torch.tensor([[9.0, 1.0]]), torch.tensor([[0.1, 0.1, 0.1]]))
    patch = sample_patches(features, torch.tensor([[15.0, 1.0]]), 3)
    found, recalled = redetect(
        FeaturePyramid(features), patch, patch, patch_weights(3)[None], match, **NUMBERS | WINDOWS
    )
    assert found is match and recalled.tolist() == [False]
