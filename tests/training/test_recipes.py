"""Fields of all recipes: their types and ranges are checked before anything is read or trained."""

from dataclasses import replace

import numpy as np
import pytest

from fgvc_hf.training.experiment import RECIPES, real_domain


@pytest.mark.parametrize("name", ["joint", "uvc", "timecycle", "colours"])
@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("steps", [2.5, 3.0, True, "3", None, np.int64(3)], "steps must be a whole number such as 3, got "),
        ("steps", [0, -1], "steps must be positive, got "),
        ("batch_size", [2.0, "4", [4]], "batch_size must be a whole number such as 3, got "),
        ("learning_rate", ["1e-3", True, None], "learning_rate must be a number such as 0.5, got "),
        ("learning_rate", [float("nan"), float("inf")], "learning_rate must be finite, got "),
        ("gap", [[1, 5], (1,), (1, 2, 3), (1.0, 5), "1,5"], "gap must be two whole numbers such as 1,5, got "),
        ("gap", [(5, 1), (0, 3), (-4, -2)], "gap must be two numbers, the smaller first, of at least 1, got "),
        (
            "area",
            [(0.5, 0.2), (0, 1), (0.5, 1.1)],
            "area must be two numbers, .* of at least 1e-06 and at most 1, got ",
        ),
        ("area", [(True, True), (0.5,), 0.5], "area must be two numbers such as 0.6,1, got "),
        ("aspect", [(2.0, 1.5), (0, 1), (-2.0, -1.0)], "aspect must be two numbers, the smaller first, of at least "),
        ("aspect", [(1.0, float("nan"))], "aspect must be finite, got "),
        ("seed", [-1, 2**32], "seed must be from 0 to 4294967295, got "),
        ("seed", [1.0, False], "seed must be a whole number such as 3, got "),
    ],
)
def test_fields_of_other_types_and_ranges_are_refused(name, field, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message):
            replace(RECIPES[name], **{field: value})


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("joint", "both_ways", 1, "both_ways must be true or false, got 1"),
        ("joint", "label", None, "label must be text, got None"),
        ("joint", "radius", 2.5, "radius must be a whole number"),
        ("joint", "adversarial_step", True, "adversarial_step must be a whole number"),
        ("teacher", "textures", -1, "textures must not be negative, got -1"),
        ("uvc", "crop", 256.0, "crop must be a whole number"),
        ("uvc", "cycle", -0.1, "cycle must not be negative, got -0.1"),
        ("timecycle", "skip", -1, "skip must not be negative, got -1"),
        ("timecycle", "offsets", [0, 1, 2, 3, 4, 5], "offsets must be whole numbers such as"),
        ("timecycle", "offsets", (0, 1, 2, 3, 4, 5.5), "offsets must be whole numbers such as"),
        ("colours", "stride", 4.0, "stride must be a whole number"),
    ],
)
def test_fields_of_one_recipe(name, field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES[name], **{field: value})


def test_a_whole_number_is_a_number_and_ends_of_ranges_are_in_them():
    changes = {"learning_rate": 1, "gap": (1, 1), "area": (1, 1), "aspect": (2, 2), "seed": 2**32 - 1}
    for recipe in RECIPES.values():
        assert vars(replace(recipe, **changes)) == vars(recipe) | changes
    assert replace(RECIPES["teacher"], textures=0).textures == 0


def test_a_recipe_that_renders_nothing_needs_no_textures(videos):
    assert real_domain(replace(RECIPES["teacher-small"], textures=0), videos)[1] is None
    assert real_domain(replace(RECIPES["joint-small"], textures=2), videos)[1].shape == (2, 3, 288, 512)
