"""Training starts with the same weights, whatever default type of torch other code in the process has set."""

import pytest
import torch

from fgvc_hf.training.experiment import make_module, parse_recipe


def first_weights(name: str, default: torch.dtype) -> dict[str, torch.Tensor]:
    recipe, before = parse_recipe(name, {}), torch.get_default_dtype()
    torch.manual_seed(3)
    torch.set_default_dtype(default)
    try:
        module = make_module(recipe, teacher="fgvc-joint" if getattr(recipe, "needs_teacher", False) else None)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    return module.state_dict()


@pytest.mark.parametrize("name", ["teacher-small", "joint-small", "distill-small", "timecycle-small", "colours-small"])
def test_they_are_float32_and_the_same(name):
    expected = first_weights(name, torch.float32)
    for default in (torch.float64, torch.bfloat16):
        found = first_weights(name, default)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
