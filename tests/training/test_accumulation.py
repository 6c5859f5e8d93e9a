"""Batches that are accumulated over parts."""

from dataclasses import replace

import pytest
import torch
from test_loop import SHARED, log, make, tiny, weights
from training_gradients import assert_same_gradients, gradients


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_equal_the_whole_batch(tmp_path, parts):
    whole, apart = make(tmp_path / "one", recipe := replace(SHARED, steps=3)), make(tmp_path / "two", recipe, parts)
    one, two = gradients(whole), gradients(apart)
    whole.run()
    apart.run()
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        assert_same_gradients(first, second)
    before, after, found = tiny().state_dict(), weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in after:
        torch.testing.assert_close(after[name], found[name], atol=1e-5, rtol=0)
    assert max((after[name] - before[name]).abs().max() for name in after) > 6e-5  # three steps of the rate
    for first, second in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert {name: second[name] for name in recipe_losses(first)} == pytest.approx(recipe_losses(first), rel=1e-3)


def recipe_losses(entry):
    """The losses of a line of the log."""
    return {name: entry[name] for name in ("label", "reconstruction", "adversarial")}
