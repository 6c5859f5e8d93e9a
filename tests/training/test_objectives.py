import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.training.objectives import (
    MapDiscriminator,
    adversarial_loss,
    cell_grid,
    dirac_loss,
    forward_backward_check,
    gaussian_loss,
    reconstruction_loss,
    sample_cells,
    soft_label_loss,
    target_positions,
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


def test_unknown_forms():
    first, second = shifted_pair(0, 0)
    colours = torch.rand(1, 1, 2 * H, 2 * W)
    with pytest.raises(ValueError, match="form must be 'aligned' or 'official'"):
        reconstruction_loss(first, second, colours, colours, R, "other")
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
