"""Averages of checkpoints."""

import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.training.averaging import average_weights, estimate_batch_norm


def model(seed, **changes):
    torch.manual_seed(seed)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], **changes))


def test_the_mean_of_weights():
    first, second = model(0), model(1)
    a, b = (other.encoder.state_dict()["conv1.weight"].clone() for other in (first, second))
    mean = average_weights([first, second], [1, 3]).encoder.state_dict()["conv1.weight"]
    torch.testing.assert_close(mean, 0.25 * a + 0.75 * b)


def test_a_share_of_all_is_the_model_itself():
    first, second = model(0), model(1)
    before = {name: value.clone() for name, value in second.state_dict().items() if value.is_floating_point()}
    after = average_weights([first, second], [0, 2]).state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_statistics_are_the_mean_over_batches():
    student = model(0).eval()
    batches = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(3)]
    estimate_batch_norm(student, batches)
    responses = [student.encoder.conv1(batch) for batch in batches]
    layer = student.encoder.bn1
    torch.testing.assert_close(layer.running_mean, torch.stack([r.mean((0, 2, 3)) for r in responses]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([r.var((0, 2, 3)) for r in responses]).mean(0))
    assert layer.momentum == 0.1 and not layer.training


def test_statistics_of_before_do_not_count():
    """Neither those that training collected, nor how many batches they are of."""
    batches = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fresh, trained = model(0), model(0)
    trained.train()(torch.randn(2, 3, 32, 32) + 5)
    for student in (fresh, trained):
        estimate_batch_norm(student.eval(), batches)
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value)


@pytest.mark.parametrize(
    ("models", "shares", "message"),
    [
        (lambda: [model(0)], [1, 2], "one share per model"),
        (lambda: [model(0), model(1)], [1, -1], "must not be negative"),
        (lambda: [model(0), model(1)], [0, 0], "must not be negative nor all 0"),
        (lambda: [model(0), model(1)], [1, float("nan")], "shares must be finite"),
        (lambda: [model(0), model(1)], [1, float("inf")], "shares must be finite"),
        (lambda: [model(0), FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 8], depths=[1, 1, 1]))], [1, 1], "no versions"),
    ],
)
def test_what_cannot_be_averaged(models, shares, message):
    with pytest.raises(ValueError, match=message):
        average_weights(models(), shares)


def test_no_frames():
    with pytest.raises(ValueError, match="no frames"):
        estimate_batch_norm(model(0), [])
