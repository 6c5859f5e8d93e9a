"""Levels of the feature pyramid."""

import pytest
import torch
import torch.nn.functional as F
from feature_fields import unit_features

from fgvc_hf.matching.pyramid import FeaturePyramid, downsample, downsample_patches, mean_blocks


@pytest.mark.parametrize("h, w", [(8, 10), (9, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_next_level_is_the_mean_around_every_second_cell(h, w, dtype):
    features = unit_features(h, w, dtype=dtype)
    before, coarse = features.clone(), downsample(features)
    assert coarse.shape == (-(-h // 2), -(-w // 2), 16) and coarse.dtype == dtype
    assert torch.equal(features, before)
    for row, y in enumerate(range(0, h, 2)):
        for column, x in enumerate(range(0, w, 2)):
            around = features[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].float().mean(dim=(0, 1))
            torch.testing.assert_close(coarse[row, column].float(), F.normalize(around, dim=0), atol=5e-3, rtol=0)


@pytest.mark.parametrize("radius, side", [(0, 1), (1, 1), (2, 3), (3, 3), (4, 5)])
def test_patches_of_the_next_level_share_out_all_cells(radius, side):
    patches = unit_features(2, (2 * radius + 1) ** 2)
    weights = torch.rand(2, patches.shape[1], generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    coarse, shares = downsample_patches(patches, weights)
    assert coarse.shape == (2, side**2, 16)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(coarse.norm(dim=-1), torch.ones(2, side**2))
    one = torch.zeros_like(weights)
    one[:, len(one[0]) // 2] = 1  # the middle cell counts for the middle alone
    coarse, shares = downsample_patches(patches, one)
    assert shares[0].tolist() == [float(i == side**2 // 2) for i in range(side**2)]
    torch.testing.assert_close(coarse[:, side**2 // 2], patches[:, len(one[0]) // 2])


def test_a_cell_between_two_of_the_next_level_is_shared_by_both():
    """One a row above the middle and two columns to the right; and the corner of a patch that is wider than the next one."""
    patches, weights = unit_features(1, 25), torch.zeros(1, 25)
    weights[0, 5 + 4] = 1
    coarse, shares = downsample_patches(patches, weights)
    assert shares.view(3, 3).tolist() == [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    torch.testing.assert_close(coarse[0, [2, 5]], patches[0, [9, 9]])
    corner = torch.zeros(1, 49)
    corner[0, 0] = 1
    assert downsample_patches(unit_features(1, 49), corner)[1].tolist() == [[1] + 8 * [0]]


def test_blocks_are_unit_means_and_leave_the_features_as_they_are():
    features = unit_features(13, 10)
    before = features.clone()
    blocks = FeaturePyramid(features).blocks
    pooled = F.avg_pool2d(features.permute(2, 0, 1), 4, 2).permute(1, 2, 0)
    torch.testing.assert_close(blocks, F.normalize(pooled, dim=-1))
    assert torch.equal(features, before) and mean_blocks(features[:3]) is None
