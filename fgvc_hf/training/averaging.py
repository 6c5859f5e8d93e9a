"""Weighted averages of checkpoints, and statistics of batch normalisation for the frames that a tracker sees."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ..modeling_fgvc import FgvcModel


def average_weights(models: Sequence[FgvcModel], shares: Sequence[float]) -> FgvcModel:
    """The first model with the weighted mean of all models' weights and buffers.

    The mean of a checkpoint and of one fine-tuned from it is often more accurate than either (Wortsman et al., Robust fine-tuning of zero-shot
    models, CVPR 2022).

    Args:
        models (list of [`FgvcModel`]): Of one architecture, fine-tuned one from another.
        shares (list of `float`): Weight of each; scaled to sum to 1.

    Raises:
        `ValueError`: there is not one share per model, a share is negative or not finite or all are 0, or the models have different weights.
    """
    if len(models) != len(shares) or not models:
        raise ValueError(f"an average needs one share per model, got {len(models)} models and {len(shares)} shares.")
    if min(shares) < 0 or not 0 < sum(shares) < math.inf:  # NaN is neither
        raise ValueError(f"shares must be finite, and must not be negative nor all 0, got {list(shares)}.")
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(
            "the checkpoints have weights of different names or shapes: they are no versions of one model."
        )
    mean = dict(states[0])  # batch counters stay the first model's
    for name, value in states[0].items():
        if value.is_floating_point():
            parts = [state[name].double() * share / sum(shares) for state, share in zip(states, shares, strict=True)]
            mean[name] = torch.stack(parts).sum(0).to(value.dtype)
    models[0].load_state_dict(mean)
    return models[0]


@torch.no_grad()
def estimate_batch_norm(model: FgvcModel, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of batch normalisation to their mean over `batches`, in place.

    Training collects statistics of frames with a dropped colour channel, which a tracker never sees; and averaged weights need statistics of
    their own (Izmailov et al., Averaging weights leads to wider optima, UAI 2018).

    Args:
        model ([`FgvcModel`]): Changed in place.
        batches (iterable of `torch.Tensor` of shape `(B, 3, H, W)`): Frames as the image processor gives them.

    Raises:
        `ValueError`: there is no batch.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    training = model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    count = 0
    for pixel_values in batches:
        model(pixel_values)
        count += 1
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
    if layers and not count:
        raise ValueError("batch normalisation cannot be estimated from no frames.")
