"""The tiled windows of training against maps formed by shifting, and against autograd through them."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.training import window_losses
from fgvc_hf.training.window_losses import window_argmax, window_average, window_cross_entropy, window_maps
from fgvc_hf.training.window_targets import DiracTarget, GaussianTarget, SoftTarget


B, H, W, C, R, SCALE = 2, 19, 37, 16, 5, 0.3
SIZE = 2 * R + 1
OFFSETS = torch.cartesian_prod(torch.arange(-R, R + 1), torch.arange(-R, R + 1)).flip(-1)  # (dx, dy), dy-major
CELLS = torch.stack(torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy"), dim=-1)


def shifted(values):
    """(B, H, W, SIZE^2, C): what lies at each offset, 0 outside the map."""
    padded = F.pad(values, (0, 0, R, R, R, R))
    windows = [padded[:, dy : dy + H, dx : dx + W] for dy in range(SIZE) for dx in range(SIZE)]
    return torch.stack(windows, dim=3)


def shifted_scores(query, key, outside="excluded"):
    scores = (query[..., None, :] * shifted(key)).sum(-1) * SCALE
    on_map = shifted(torch.ones(B, H, W, 1))[..., 0] > 0
    return scores if outside == "zero" else scores.masked_fill(~on_map, -torch.inf)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, W, C, generator=generator).requires_grad_() for _ in range(2)]


def gradients(loss, features):
    return torch.autograd.grad(loss, features)


@pytest.mark.parametrize("outside", ["excluded", "zero"])
def test_average_and_its_gradients(features, outside):
    query, key = features
    values, weights = torch.randn(B, H, W, 3), torch.randn(B, H, W, 3)
    found = window_average(query, key, values, R, SCALE, outside)
    expected = (shifted_scores(query, key, outside).softmax(-1)[..., None] * shifted(values)).sum(-2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        gradients((found * weights).sum(), features), gradients((expected * weights).sum(), features)
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dirac", "gaussian", "soft"])
def test_cross_entropy_and_its_gradients(features, kind):
    query, key = features
    positions = CELLS + torch.rand(B, H, W, 2) * 6 - 3
    valid = ((positions >= 0) & (positions <= torch.tensor([W - 1, H - 1]))).all(-1)
    on_map = shifted_scores(query, key) > -torch.inf
    ends = (CELLS[:, :, None] + OFFSETS).float()  # (H, W, SIZE^2, 2)
    if kind == "dirac":
        target = DiracTarget(positions)
        labels = (ends == positions.round()[..., None, :]).all(-1).float()
    elif kind == "gaussian":
        target = GaussianTarget(positions, 1.5)
        labels = (-((ends - positions[..., None, :]) ** 2).sum(-1) / (2 * 1.5**2)).exp() * on_map
        labels = labels / labels.sum(-1, keepdim=True)
    else:
        warped, teacher = torch.randn(B, H, W, C), torch.randn(B, H, W, C)
        target = SoftTarget(warped, teacher, SCALE)
        labels = shifted_scores(warped, teacher).softmax(-1)
    found = window_cross_entropy(query, key, valid, target, R, SCALE)
    losses = -(labels * shifted_scores(query, key).log_softmax(-1).clamp_min(-1e4)).sum(-1)
    expected = (losses * valid).flatten(1).sum(1) / valid.flatten(1).sum(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.tensor([2.0, -0.5])
    for one, other in zip(gradients(found @ weights, features), gradients(expected @ weights, features)):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_no_valid_query_is_a_loss_of_zero(features):
    valid = torch.zeros(B, H, W, dtype=torch.bool)
    loss = window_cross_entropy(*features, valid, DiracTarget(CELLS.expand(B, H, W, 2).float()), R, SCALE)
    assert loss.tolist() == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients(loss.sum(), features))


def test_argmax(features):
    expected = CELLS + OFFSETS[shifted_scores(*features).argmax(-1)]
    torch.testing.assert_close(window_argmax(*features, R), expected.float())


@pytest.mark.parametrize("probabilities", [True, False])
def test_maps_and_their_gradients(features, probabilities):
    expected = shifted_scores(*features, "excluded" if probabilities else "zero")
    expected = expected.softmax(-1) if probabilities else expected
    rows = [maps() for maps in window_maps(*features, R, SCALE, probabilities, 1)]
    found = torch.cat([windows[on_map] for windows, on_map in rows])
    assert found.shape == (B * H * W, SIZE**2)
    # The order is that of the tiles: compare what does not depend on it
    torch.testing.assert_close(found.sum(0), expected.flatten(0, 2).sum(0), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close((found**2).sum(), (expected**2).sum(), atol=1e-3, rtol=1e-4)
    for one, other in zip(gradients((found**2).sum(), features), gradients((expected**2).sum(), features)):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_triton_gets_what_torch_would_compute_with(features, monkeypatch):
    """Its kernels run on a GPU, and in the slow tests in Triton's interpreter."""
    (query, key), calls = features, []
    names = "fused_window_average", "fused_window_cross_entropy"
    kernels = {name: lambda *arguments, name=name: calls.append((name, arguments)) for name in names}
    label = lambda kind, scale, **tensors: (kind, scale, tensors)  # noqa: E731
    monkeypatch.setitem(sys.modules, "fgvc_hf.kernels.window_losses_triton", SimpleNamespace(**kernels, Label=label))
    monkeypatch.setattr(window_losses, "_by_triton", lambda features, backend: True)
    values, valid = torch.zeros(B, H, W, 3), torch.ones(B, H, W, dtype=torch.bool)
    for outside, zeros in (("excluded", False), ("zero", True)):
        window_average(query, key, values, R, SCALE, outside)
        name, (*tensors, radius, scale, as_zero, tile) = calls.pop()
        assert name == names[0] and (radius, scale, as_zero, tile) == (R, SCALE, zeros, (8, 16))
        assert all(given is own for given, own in zip(tensors, (query, key, values), strict=True))
    positions, warped, teacher = CELLS + 0.7 * torch.ones(B, 1, 1, 2), torch.zeros(1), torch.ones(1)
    for target, kind, factor, given in (
        (DiracTarget(positions), "dirac", 1.0, {"positions": CELLS.expand(B, -1, -1, -1) + 1.0}),
        (GaussianTarget(positions, 1.5), "gaussian", 1 / 4.5, {"positions": positions}),
        (SoftTarget(warped, teacher, 0.6), "soft", 0.6, {"warped": warped, "teacher": teacher}),
    ):
        window_cross_entropy(query, key, valid, target, R, SCALE)
        name, (one, other, which, (found, scale, tensors), *rest) = calls.pop()
        assert name == names[1] and one is query and other is key and which is valid and rest == [R, SCALE, (8, 16)]
        assert found == kind and scale == pytest.approx(factor)
        torch.testing.assert_close(tensors, given)
    with pytest.raises(ValueError, match="know dirac, gaussian and soft targets, got function"):
        window_cross_entropy(query, key, valid, lambda tiling, row: None, R, SCALE)


def test_bfloat16_is_close(features):
    query, key = ((F.normalize(f, dim=-1) * 3).detach() for f in features)
    values = torch.randn(B, H, W, 2)
    half = window_average(query.bfloat16(), key.bfloat16(), values, R, SCALE)
    torch.testing.assert_close(half, window_average(query, key, values, R, SCALE), atol=2e-2, rtol=0)


def test_cross_entropy_of_the_rows_below_those_without_a_valid_query(features):
    """The first rows of tiles are left out, and the others counted."""
    query, key = features
    positions = CELLS.expand(B, H, W, 2).float()
    valid = (torch.arange(H) >= H - 2)[:, None].expand(B, H, W)
    labels = (OFFSETS == 0).all(-1).float()
    found = window_cross_entropy(query, key, valid, DiracTarget(positions), R, SCALE)
    losses = -(labels * shifted_scores(query, key).log_softmax(-1).clamp_min(-1e4)).sum(-1)
    torch.testing.assert_close(found, losses[:, H - 2 :].flatten(1).mean(1), atol=1e-5, rtol=1e-5)
    assert (found > 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(features, dtype):
    """Products are in the precision of the features, and averages in float32; by autocast, a colour of 1 + 2^-10 would be 1."""
    query, key = (values.detach().to(dtype).requires_grad_() for values in features)
    values, valid = torch.full((B, H, W, 1), 1 + 2**-10), torch.ones(B, H, W, dtype=torch.bool)
    target = GaussianTarget(CELLS.expand(B, H, W, 2), 1.5)
    expected = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            average = window_average(query, key, values, R, SCALE)
            losses = average.sin().sum(), window_cross_entropy(query, key, valid, target, R, SCALE).sum()
            found = [average, *losses, *(part for loss in losses for part in gradients(loss, [query, key]))]
        torch.testing.assert_close(average, values, atol=1e-5, rtol=0)
        expected = expected or found
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("sigma", [0.7, 0.1, 0.05, 0.01, 1e-6])
def test_a_narrow_gaussian_is_still_a_distribution(features, sigma):
    """Halfway between four cells each has a quarter of the label of a sigma however small, and nearer to one of them that one has all."""
    between = (CELLS + 0.5).clamp_max(torch.tensor([W - 1, H - 1])).expand(B, H, W, 2)
    valid = torch.ones(B, H, W, dtype=torch.bool)
    valid[:, -1], valid[:, :, -1] = False, False
    query, key = features
    log_probabilities = shifted_scores(query, key).log_softmax(-1)
    near = ((OFFSETS - 0.5).abs() == 0.5).all(-1)
    assert near.sum() == 4
    weights = (-(OFFSETS - 0.5).square().sum(-1) / (2 * sigma**2) + 0.25 / sigma**2).exp().expand(B, H, W, -1)
    weights = weights * shifted(torch.ones(B, H, W, 1))[..., 0]
    torch.testing.assert_close(weights[0, 5, 5, near], torch.ones(4))
    expected = -(weights * log_probabilities.clamp_min(-1e4)).sum(-1) / weights.sum(-1)
    found = window_cross_entropy(query, key, valid, GaussianTarget(between, sigma), R, SCALE)
    torch.testing.assert_close(found, (expected * valid).sum((1, 2)) / valid.sum((1, 2)))
    if sigma <= 0.1:
        narrow = GaussianTarget(CELLS + torch.tensor([0.3, -0.2]).expand(B, H, W, 2), sigma)
        one_cell = DiracTarget(CELLS.expand(B, H, W, 2).float())
        found, expected = (window_cross_entropy(query, key, valid, target, R, SCALE) for target in (narrow, one_cell))
        torch.testing.assert_close(found, expected)
