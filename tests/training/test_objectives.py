import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.training.objectives import (
    MapDiscriminator,
    adversarial_loss,
    cell_grid,
    dirac_loss,
    distillation_loss,
    forward_backward_check,
    gaussian_loss,
    reconstruction_loss,
    sample_cells,
    soft_label_loss,
    target_positions,
    unit_length,
)


H, W, C, R = 16, 24, 64, 5


def shifted_pair(dx: int, dy: int):
    """Distinct features of a frame, and of the frame after it moved by whole cells."""
    generator = torch.Generator().manual_seed(1)
    world = torch.randn(1, H + 2 * R, W + 2 * R, C, generator=generator)
    first = world[:, R : R + H, R : R + W]
    return first.contiguous(), world[:, R - dy : R - dy + H, R - dx : R - dx + W].contiguous()


def test_targets_outside_the_window_or_frame_are_not_learnt():
    flow = torch.zeros(1, H, W, 2)
    flow[0, 0, 0] = torch.tensor([2 * R + 0.5, 0.0])
    flow[0, 1, 0] = torch.tensor([-1.0, 0.0])
    flow[0, 2, 2] = torch.tensor([3.0, 4.0])
    visible = torch.ones(1, H, W, dtype=torch.bool)
    visible[0, 3, 3] = False
    positions, valid = target_positions(flow, visible, stride=2, radius=R)
    assert positions[0, 2, 2].tolist() == [3.5, 4.0]
    last = torch.zeros(1, 3, 5, 2)
    last[0, 0, 0] = torch.tensor([4 * 2.0, 2 * 2.0])  # exactly the last cell, and the end of the window
    last[0, 2, 4] = torch.tensor([0.1, 0.0])
    last[0, 0, 4] = torch.tensor([0.0, 4.1])
    assert target_positions(last, torch.ones(1, 3, 5, dtype=torch.bool), 2, 4)[1][0].tolist() == [
        [True] * 4 + [False],
        [True] * 5,
        [True] * 4 + [False],
    ]
    assert not target_positions(last, torch.ones(1, 3, 5, dtype=torch.bool), 2, 3)[1][0, 0, 0]
    assert [bool(valid[0, y, x]) for y, x in ((0, 0), (1, 0), (2, 2), (3, 3), (5, 5))] == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_the_right_match_has_the_smallest_loss():
    first, second = shifted_pair(2, -1)
    visible = torch.ones(1, H, W, dtype=torch.bool)
    losses = {}
    for dx, dy in ((2, -1), (1, -1), (0, 0)):
        positions, valid = target_positions(torch.tensor([dx, dy]).expand(1, H, W, 2) * 2.0, visible, 2, R)
        arguments = (first, second, positions, valid, R, 0.07)
        losses[dx, dy] = [dirac_loss(*arguments).item(), gaussian_loss(*arguments, 0.5).item()]
    assert losses[2, -1][0] < 0.01 and losses[2, -1][1] < losses[1, -1][1] < losses[0, 0][1] + 1
    assert losses[1, -1][0] > 5


@pytest.mark.parametrize("teacher_norm", ["channel", "height"])
def test_a_student_that_equals_its_teacher_has_the_entropy_of_the_label(teacher_norm):
    first, second = shifted_pair(2, -1)
    visible = torch.ones(1, H, W, dtype=torch.bool)
    positions, valid = target_positions(torch.tensor([2.0, -1.0]).expand(1, H, W, 2) * 2, visible, 2, R)
    loss = soft_label_loss(first, second, second, positions, valid, R, 0.07, teacher_norm)
    other = soft_label_loss(first.flip(1), second, second, positions, valid, R, 0.07, teacher_norm)
    assert loss.item() < 0.2 < 5 < other.item()


def test_reconstruction_of_a_shifted_frame_is_exact_inside():
    torch.manual_seed(1)
    first, second = shifted_pair(1, 0)
    colours = torch.rand(1, 1, 2 * H, 2 * W)
    moved = torch.roll(colours, 2, dims=3)
    scale = 20  # sharp
    found = reconstruction_loss(second * scale, first * scale, moved, colours, R)
    edge = reconstruction_loss(second * scale, first * scale, moved.roll(2, dims=3), colours, R)
    assert found.item() < 0.35 < 3 < edge.item()
    masked = reconstruction_loss(second * scale, first * scale, moved, colours, R, occlusion_test=True)
    assert masked.item() < 1e-3  # the column that comes in at the border has no match that leads back
    assert reconstruction_loss(second, first, moved, colours, R, "official").shape == (1,)


def test_returning_matches():
    first, second = shifted_pair(3, 2)
    back = forward_backward_check(first, second, R)
    inside = torch.zeros(1, H, W, dtype=torch.bool)
    inside[:, : H - 2, : W - 3] = True
    assert back[inside].all()
    assert back[~inside].float().mean() < 0.3


def test_sampling_at_cells_is_exact():
    features = torch.randn(2, H, W, 3)
    grid = cell_grid(features).expand(2, H, W, 2)
    torch.testing.assert_close(sample_cells(features, grid), features, atol=1e-5, rtol=1e-5)
    half = sample_cells(features, grid + torch.tensor([0.5, 0.0]))[:, :, :-1]
    torch.testing.assert_close(half, (features[:, :, :-1] + features[:, :, 1:]) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("maps", ["probability", "correlation"])
def test_the_features_work_against_the_discriminator(maps):
    torch.manual_seed(0)
    first, second = (f.requires_grad_() for f in shifted_pair(1, 1))
    discriminator = MapDiscriminator(R)
    loss = adversarial_loss(discriminator, first, second, True, R, maps)
    towards, *_ = torch.autograd.grad(loss, [first], retain_graph=True)
    weight = torch.autograd.grad(loss, discriminator.layers[0].weight)[0]
    step = 0.1 / towards.norm()
    assert adversarial_loss(discriminator, first - step * towards, second, True, R, maps) > loss  # reversed
    with torch.no_grad():
        discriminator.layers[0].weight -= 1e-3 / weight.norm() * weight
    assert adversarial_loss(discriminator, first, second, True, R, maps) < loss  # not reversed


def test_every_fourth_map_stands_for_all():
    torch.manual_seed(0)
    first, second = shifted_pair(0, 0)
    discriminator = MapDiscriminator(R)
    whole, part = (adversarial_loss(discriminator, first, second, False, R, step=step) for step in (1, 4))
    torch.testing.assert_close(whole, part, rtol=0.05, atol=0)


def window_softmax(query, key, radius, scale):
    """Probabilities (h, w, (2r+1)^2) over each query's window by Eq. 1, in loops; 0 outside the frame."""
    h, w, _ = query.shape
    side = 2 * radius + 1
    scores = torch.full((h, w, side, side), -torch.inf)
    for y in range(h):
        for x in range(w):
            for v in range(max(y - radius, 0), min(y + radius + 1, h)):
                for u in range(max(x - radius, 0), min(x + radius + 1, w)):
                    scores[y, x, v - y + radius, u - x + radius] = scale * (query[y, x] @ key[v, u])
    return scores.flatten(2).softmax(-1)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("maps", ["probability", "correlation"])
def test_the_adversarial_loss_by_value(maps, is_real, step):
    """Eqs. 9 and 10 at every `step`-th cell of a frame that is no multiple of it."""
    torch.manual_seed(0)
    query, key, discriminator = torch.randn(2, 9, 18, 6), torch.randn(2, 9, 18, 6), MapDiscriminator(2)
    losses = []
    for q, k in zip(query, key, strict=True):
        if maps == "probability":
            windows = 25 * window_softmax(q, k, 2, 6**-0.5)
        else:
            padded = F.pad(k, (0, 0, 2, 2, 2, 2))
            windows = torch.stack(
                [(q * padded[v : v + 9, u : u + 18]).sum(-1) for v in range(5) for u in range(5)], -1
            )
        logits = discriminator(windows[::step, ::step].flatten(0, 1))
        losses.append(F.softplus(-logits if is_real else logits))
    arguments = (maps, step) if step > 1 else (maps,)
    found = adversarial_loss(discriminator, query, key, is_real, 2, *arguments)
    torch.testing.assert_close(found, torch.cat(losses).mean())


def test_maps_are_probabilities_unless_said_otherwise():
    torch.manual_seed(0)
    pair, discriminator = torch.randn(2, 1, 5, 6, 6), MapDiscriminator(2)
    assert adversarial_loss(discriminator, *pair, True, 2) == adversarial_loss(
        discriminator, *pair, True, 2, "probability", 1
    )


def test_losses_on_labels_by_value():
    """Eqs. 1 to 5: cross-entropies of the softmax over cosines / temperature, averaged over the cells that count."""
    torch.manual_seed(0)
    query, key, teacher = torch.randn(3, 1, 5, 6, 8)
    positions = cell_grid(query)[None] + 2 * torch.rand(1, 5, 6, 2) - 1
    positions = positions.clamp_min(0).minimum(torch.tensor([5.0, 4.0]))
    valid = torch.rand(1, 5, 6) > 0.3
    own = window_softmax(F.normalize(query, dim=-1)[0], F.normalize(key, dim=-1)[0], 2, 1 / 0.3)
    ends = cell_grid(query)[:, :, None] + torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).flip(-1)
    gaussian = (-(ends - positions[0, :, :, None]).square().sum(-1) / (2 * 0.7**2)).exp() * (own > 0)

    def entropy(labels):
        return -(torch.where(labels > 0, labels * own.log(), 0.0).sum(-1) * valid[0]).sum()[None] / valid.sum()

    arguments = query, key, positions, valid, 2, 0.3
    dirac = (ends == positions[0].round()[:, :, None]).all(-1).float()
    torch.testing.assert_close(dirac_loss(*arguments), entropy(dirac))
    torch.testing.assert_close(gaussian_loss(*arguments, 0.7), entropy(gaussian / gaussian.sum(-1, keepdim=True)))
    for norm, axis in (("channel", 2), ("height", 0)):
        warped = sample_cells(teacher, positions)[0]
        soft = window_softmax(F.normalize(warped, dim=axis), F.normalize(teacher[0], dim=axis), 2, 1 / 0.3)
        found = soft_label_loss(query, key, teacher, positions, valid, 2, 0.3, norm)
        torch.testing.assert_close(found, entropy(soft))
    valid[:] = True
    taught = window_softmax(F.normalize(teacher, dim=-1)[0], F.normalize(key, dim=-1)[0], 2, 1 / 0.3)
    torch.testing.assert_close(distillation_loss(query, key, 5 * teacher, key, 2, 0.3), entropy(taught))


def test_a_single_cell_that_passes_the_check_counts_fully():
    query, own, others = torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert reconstruction_loss(query, query, own, others, 1, occlusion_test=True).tolist() == [19.5]


def test_returning_matches_by_value():
    """Eq. 7: the best match of the best match, in the window of each, at most 1.5 cells away."""
    torch.manual_seed(0)
    query = F.normalize(torch.randn(1, 9, 12, 4), dim=-1)
    key = F.normalize(query.roll(1, 2) + 0.5 * torch.randn(1, 9, 12, 4), dim=-1)
    grid = cell_grid(query)
    offsets = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).flip(-1)
    there = (grid + offsets[window_softmax(query[0], key[0], 2, 1.0).argmax(-1)]).long()
    back = (grid + offsets[window_softmax(key[0], query[0], 2, 1.0).argmax(-1)])[there[..., 1], there[..., 0]]
    away = (back - grid).norm(dim=-1)
    assert {0, 1, 2, 4} <= set(away.square().round().int().flatten().tolist())
    assert torch.equal(forward_backward_check(query * 3, key, 2)[0], away <= 1.5)
    assert torch.equal(forward_backward_check(query, key, 2, 1.0)[0], away <= 1)


def test_samples_outside_the_map_are_zero_and_maps_may_be_one_cell_wide():
    features = torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    places = torch.tensor([[0.0, 2.5], [0.0, 3.5], [0.0, -0.25], [0.0, 9.0]]).view(1, 4, 1, 2)
    torch.testing.assert_close(sample_cells(features, places).flatten(), torch.tensor([3.5, 2.0, 0.75, 0.0]))
    two = sample_cells(features.view(1, 2, 2, 1), torch.tensor([[0.25, 0.0], [1.0, 0.5]]).view(1, 1, 2, 2))
    torch.testing.assert_close(two.flatten(), torch.tensor([1.25, 3.0]))


def test_lengths_are_one_and_zeros_stay_zeros_without_a_gradient():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5e-3, 0.0]], requires_grad=True)
    found = unit_length(features)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))
    found.sum().backward()
    torch.testing.assert_close(features.grad, torch.tensor([[0.032, -0.024], [0.0, 0.0], [0.0, 200.0]]))
    assert unit_length(features.bfloat16()).dtype == torch.bfloat16


def test_the_discriminator_is_linear_layers_of_halved_width():
    torch.manual_seed(0)
    discriminator, maps = MapDiscriminator(24), torch.rand(3, 2401)
    first, second, last = discriminator.layers[::2]
    assert [tuple(layer.weight.shape) for layer in (first, second, last)] == [(1200, 2401), (600, 1200), (1, 600)]
    hidden = (maps @ first.weight.T + first.bias).clamp_min(0)
    hidden = (hidden @ second.weight.T + second.bias).clamp_min(0)
    torch.testing.assert_close(discriminator(maps), (hidden @ last.weight.T + last.bias)[:, 0])


def test_unknown_forms():
    first, second = shifted_pair(0, 0)
    colours = torch.rand(1, 1, 2 * H, 2 * W)
    with pytest.raises(ValueError, match="form must be 'aligned' or 'official'"):
        reconstruction_loss(first, second, colours, colours, R, "other")
    with pytest.raises(ValueError, match=r"step must be one of \(1, 2, 4, 8\), got 3"):
        adversarial_loss(MapDiscriminator(R), first, second, True, R, step=3)
    with pytest.raises(ValueError, match="maps must be"):
        adversarial_loss(MapDiscriminator(R), first, second, True, R, "other")
    positions, valid = torch.zeros(1, H, W, 2), torch.ones(1, H, W, dtype=torch.bool)
    with pytest.raises(ValueError, match="teacher_norm must be"):
        soft_label_loss(first, second, F.relu(second), positions, valid, R, 0.07, "rows")


def copied(query, key, values, radius, zeros):
    """Colours (h, w, V) copied from the cells in the window of each query, by the softmax over products / sqrt(C), in loops.

    With `zeros`, cells outside the frame have score 0 and colour 0; else they are left out.
    """
    h, w, channels = query.shape
    result = torch.zeros(h, w, values.shape[-1])
    for y in range(h):
        for x in range(w):
            scores, colours = [], []
            for v in range(y - radius, y + radius + 1):
                for u in range(x - radius, x + radius + 1):
                    inside = 0 <= v < h and 0 <= u < w
                    if inside or zeros:
                        scores.append(float(query[y, x] @ key[v, u]) / channels**0.5 if inside else 0.0)
                        colours.append(values[v, u] if inside else torch.zeros_like(values[0, 0]))
            result[y, x] = torch.softmax(torch.tensor(scores), 0) @ torch.stack(colours)
    return result


def smooth_l1(difference):
    size = (20 * difference).abs()
    return torch.where(size < 1, size**2 / 2, size - 0.5).mean(-1)


@pytest.mark.parametrize("form", ["aligned", "official"])
def test_reconstruction_by_value(form):
    """Eqs. 6 and 8, and with the check of Eq. 7 the mean over the cells that pass it."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 5, 6, 8)
    key[:, :3] = query[:, :3].roll(1, 2)  # of what is seen on both frames
    own, others = torch.rand(2, 1, 2, 10, 12)
    copy = copied(query[0], key[0], others[0, :, ::2, ::2].movedim(0, -1), 2, form == "official")
    visible = forward_backward_check(query, key, 2)[0].float()
    assert 0.2 < visible.mean() < 0.9
    if form == "official":
        copy = F.interpolate(copy.movedim(-1, 0)[None], scale_factor=2, mode="bilinear")[0].movedim(0, -1)
        losses, visible = (
            smooth_l1(copy - own[0].movedim(0, -1)),
            visible.repeat_interleave(2, 0).repeat_interleave(2, 1),
        )
    else:
        losses = smooth_l1(copy - own[0, :, ::2, ::2].movedim(0, -1))
    found = reconstruction_loss(query, key, own, others, 2, form)
    torch.testing.assert_close(found, losses.mean()[None], rtol=1e-4, atol=1e-5)
    masked = reconstruction_loss(query, key, own, others, 2, form, occlusion_test=True)
    torch.testing.assert_close(masked, (losses * visible).sum()[None] / visible.sum(), rtol=1e-4, atol=1e-5)


def test_the_default_device_has_no_say():
    """Tensors on the meta device have no values."""
    first, second = shifted_pair(2, -1)
    colours, visible, flow = (
        torch.rand(1, 1, 2 * H, 2 * W),
        torch.ones(1, H, W, dtype=torch.bool),
        torch.ones(1, H, W, 2),
    )
    discriminator = MapDiscriminator(R)

    def losses():
        positions, valid = target_positions(flow, visible, 2, R)
        labelled = first, second, positions, valid, R, 0.07
        return [
            dirac_loss(*labelled),
            gaussian_loss(*labelled, 0.5),
            soft_label_loss(first, second, second, *labelled[2:]),
            distillation_loss(first, second, second, first, R, 0.07),
            reconstruction_loss(first, second, colours, colours, R, occlusion_test=True),
            adversarial_loss(discriminator, first, second, True, R),
        ]

    expected = losses()
    with torch.device("meta"):
        found = losses()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
