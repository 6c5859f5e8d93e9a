"""Gradients of the updates of a run, and their comparison."""

import torch


def gradients(training):
    """A list that will hold the gradients of each update, before they are clipped. Adam itself does not see their scale."""
    found = []
    training._check_gradients = lambda: found.append(
        {name: p.grad.clone() for name, p in training.bare.named_parameters() if p.grad is not None}
    )
    return found


def assert_same_gradients(one, two):
    """They differ by rounding alone, relative to the largest of each parameter."""
    assert one.keys() == two.keys() and sum(gradient.abs().max() > 0 for gradient in one.values()) > 5
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, atol=2e-3 * float(gradient.abs().max()), rtol=0)
