import pytest
import torch

from fgvc_hf.coordinates_fgvc import feature_size
from fgvc_hf.propagation_fgvc import LABEL_CUTOFF, draw_points, label_reach, propagate_labels, read_points


def random_points(number: int, height: int, width: int, margin: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(number, 2, generator=generator, dtype=torch.float64)
    return margin + unit * (torch.tensor([width, height]) - 2 * margin)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_aligned_readout_returns_the_point_and_legacy_is_shifted(stride):
    height, width = 256, 320
    size, points = feature_size(height, width, stride), random_points(100, height, width, 20)
    labels = draw_points(points, size, stride, sigma=6.0)
    aligned = read_points(labels, size, (height, width), stride, 6.0, "aligned")[0] - points
    legacy = read_points(labels, size, (height, width), stride, 6.0, "legacy")[0] - points
    shift = (stride - 1) / 2
    assert aligned.mean(dim=0).abs().max() < 0.1 * stride
    assert aligned.norm(dim=1).mean() < {2: 0.25, 4: 0.7, 8: 2.4}[stride]
    assert legacy.mean(dim=0) == pytest.approx([shift, shift], abs=0.15 * stride)


def test_readout_at_the_borders_stays_inside():
    points = torch.tensor([[0.0, 0.0], [64.0, 48.0], [64.0, 0.0]], dtype=torch.float64)
    for readout in ("aligned", "legacy"):
        found, _ = read_points(draw_points(points, (24, 32), 2, 6.0), (24, 32), (48, 64), 2, 6.0, readout)
        assert (found >= 0).all() and (found[:, 0] <= 64).all() and (found[:, 1] <= 48).all()
        assert (found - points).norm(dim=1).max() < 2.5


def test_labels_have_bounded_support():
    labels = draw_points(torch.tensor([[40.5, 20.5]]), (40, 40), 2, 6.0)
    assert labels.max() == 1
    assert (labels[labels > 0] >= LABEL_CUTOFF).all()
    assert (labels == 0).any()


def test_cells_out_of_reach_get_no_label():
    h, w, reach = 30, 40, 4
    labels = torch.zeros(2, h * w, 3)
    labels[0, 5 * w + 7, 0] = labels[1, 20 * w + 30, 2] = 1
    active = label_reach((labels > 0).any(dim=-1), (h, w), reach)
    assert active.sum() == 2 * (2 * reach + 1) ** 2
    scores = torch.rand(h * w, 10)
    y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
    near_y = (y[:, None] + torch.randint(-reach, reach + 1, (h * w, 10))).clamp(0, h - 1)
    near_x = (x[:, None] + torch.randint(-reach, reach + 1, (h * w, 10))).clamp(0, w - 1)
    indices = torch.randint(0, 2, (h * w, 10)) * h * w + near_y * w + near_x  # any keys of the neighbourhood
    everywhere = propagate_labels(scores, indices, labels, 0.07, torch.ones(h * w, dtype=torch.bool))
    assert torch.equal(everywhere, propagate_labels(scores, indices, labels, 0.07, active.flatten()))


def test_peak_is_the_confidence():
    labels = torch.zeros(12 * 12, 2)
    labels[50, 0] = 0.3
    points, peak = read_points(labels, (12, 12), (24, 24), 2, 6.0, "aligned")
    assert peak.tolist() == pytest.approx([0.3, 0])
    assert torch.isfinite(points).all()
