"""FgvcConfig: what every field takes, what is refused and how, and files of other versions and other tools."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from fgvc_hf.configuration_fgvc import EVIDENCE_WEIGHTS, FIELDS, Choice, FgvcConfig, ListOf, Number
from fgvc_hf.io.checkpoints import bundled_checkpoints


SECTIONS = {"Encoder": "encoder", "Label propagation": "window_radius", "Template tracking": "point_matching"}
NUMBERS = sorted(name for name, accepted in FIELDS.items() if isinstance(accepted, Number))
HEAD = {"fine_size": 8, "hidden_sizes": [8, 8, 16], "num_attention_heads": 2}


def documented() -> dict[str, tuple[str, str]]:
    """Field -> what its documentation says in brackets, and the rest of it."""
    text = FgvcConfig.__doc__.split("Args:")[1].split("Raises:")[0]
    entries = re.findall(r"^ {8}(\w+) \((.*?)\):(.*?)(?=^ {8}\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: (brackets, description) for name, brackets, description in entries}


def test_the_documentation_has_every_field_in_its_section_and_in_order():
    names = re.findall(r"^ {8}(?:> (.+)|(\w+) \()", FgvcConfig.__doc__.split("Raises:")[0], re.MULTILINE)
    expected = []
    for name in FIELDS:
        expected += [(title, "") for title, first in SECTIONS.items() if first == name] + [("", name)]
    assert names == expected


def header(name: str) -> str:
    """What the documentation of a field must say in brackets, without marks: type, range and default."""
    accepted, default = FIELDS[name], getattr(FgvcConfig(), name)
    ends = f", defaults to {json.dumps(default) if isinstance(default, str) else default}"
    if isinstance(accepted, Choice):
        return "str, *optional*" if default is None else type(default).__name__ + ends
    if isinstance(accepted, Number):
        return re.sub("an integer|a finite number", accepted.type.__name__, str(accepted)) + ends
    entries = f"{' or '.join(map(str, accepted.lengths))} entries"
    entries += re.sub("an integer|a finite number", "", str(accepted.item))
    return f"list[{accepted.item.type.__name__}], {entries}" + (ends if len(default) < EVIDENCE_WEIGHTS else "")


@pytest.mark.parametrize("name", FIELDS)
def test_the_documentation_states_the_type_the_range_and_the_default(name):
    brackets, description = documented()[name]
    assert brackets.replace("`", "") == header(name)
    choices = FIELDS[name].values if isinstance(FIELDS[name], Choice) else ()
    assert all(value in description for value in choices if isinstance(value, str))


def test_every_field_has_accepted_values_and_a_default_among_them():
    assert list(FIELDS) == [name for name in FgvcConfig.__annotations__ if name != "model_type"]
    for name, accepted in FIELDS.items():
        assert getattr(FgvcConfig(), name) in accepted


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, [1], 1 + 2j, np.float32("nan")])
def test_a_number_is_a_finite_number(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got .*\.$"):
        FgvcConfig(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_strid": 2}, r"no field 'output_strid'; did you mean output_stride? Its fields are encoder, "),
        ({"output_stride": 3}, "output_stride must be one of (2, 4, 8), got 3."),
        ({"output_stride": 2, "stem_pooling": "max"}, "output_stride must be one of (4, 8, 16), got 2."),
        ({"output_stride": "2"}, "output_stride must be an integer of 1 or more, got '2'."),
        ({"num_channels": 0}, "num_channels must be an integer of 1 or more, got 0."),
        ({"window_radius": 24.0}, "window_radius must be an integer of 1 or more, got 24.0."),
        ({"kept_frame": -1}, "kept_frame must be an integer of 0 or more, got -1."),
        ({"template_radius": -1}, "template_radius must be an integer from 0 to 32, got -1."),
        ({"num_context_frames": 0}, "num_context_frames must be an integer of 1 or more, got 0."),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0."),
        ({"temperature": -1}, "temperature must be a finite number above 0, got -1."),
        ({"label_sigma": math.inf}, "label_sigma must be a finite number above 0, got inf."),
        ({"search_radius": 0}, "search_radius must be a finite number above 0, got 0."),
        ({"motion_prior": -0.1}, "motion_prior must be a finite number of 0 or more, got -0.1."),
        ({"batch_norm_eps": -1e-5}, "batch_norm_eps must be a finite number of 0 or more, got -1e-05."),
        ({"template_trust": -1.1}, "template_trust must be a finite number of -1 or more, got -1.1."),
        ({"visibility_threshold": 7}, "visibility_threshold must be a finite number from 0 to 1, got 7."),
        ({"hidden_threshold": -0.1}, "hidden_threshold must be a finite number from 0 to 1, got -0.1."),
        ({"projection_kernel": 2}, "projection_kernel must be one of 1, 3, got 2."),
        ({"projection_kernel": True}, "projection_kernel must be one of 1, 3, got True."),
        ({"repeat_first": 1}, "repeat_first must be one of False, True, got 1."),
        ({"padding_mode": "same"}, "padding_mode must be one of 'zeros', 'reflect', got 'same'."),
        ({"readout": None}, "readout must be one of 'aligned', 'legacy', got None."),
        (
            {"propagation_window": "circle"},
            "propagation_window must be one of 'disc', 'square', 'none', got 'circle'.",
        ),
        (
            {"hidden_sizes": [8, 16]},
            "hidden_sizes must be a list of 3 or 4 entries, each an integer of 1 or more, got [8, 16].",
        ),
        (
            {"hidden_sizes": [8, 16, True]},
            "hidden_sizes must be a list of 3 or 4 entries, each an integer of 1 or more",
        ),
        (
            {"depths": [2, 2, 0]},
            "depths must be a list of 3 or 4 entries, each an integer of 1 or more, got [2, 2, 0].",
        ),
        ({"depths": "222"}, "depths must be a list of 3 or 4 entries, each an integer of 1 or more, got '222'."),
        (
            {"depths": [2, 2, 2, 2]},
            "hidden_sizes and depths must have an entry per layer each, got [64, 128, 256] and",
        ),
        (
            {"visibility_weights": [1.0] * 9},
            "visibility_weights must be a list of 10 entries, each a finite number, got",
        ),
        ({"error_weights": [math.nan] * 10}, "error_weights must be a list of 10 entries, each a finite number, got"),
        ({"propagation_window": "none"}, "propagation_window 'none' needs the propagation_family 'per_reference' or"),
        (
            {"object_boxes": True},
            "object_boxes needs the propagation_family 'per_reference' or 'windowed', got 'joint'.",
        ),
        (HEAD | {"projection_size": 8}, "a coarse-to-fine model needs projection_size 0, got 8."),
        (HEAD | {"encoder": "external"}, "a coarse-to-fine model needs encoder 'resnet', got 'external'."),
        (
            HEAD | {"hidden_sizes": [8] * 4, "depths": [2] * 4},
            "a coarse-to-fine model has three layers, got hidden_sizes",
        ),
        (
            HEAD | {"output_stride": 8},
            "output_stride must be one of (2,), got 8: a coarse-to-fine model (fine_size above 0) has no other.",
        ),
        (HEAD | {"num_attention_heads": 3}, "num_attention_heads must split 16 channels into multiples of 4, got 3."),
    ],
)
def test_one_sentence_names_the_field_the_value_and_what_is_accepted(settings, message):
    with pytest.raises(ValueError) as error:
        FgvcConfig(**settings)
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [[0] * 10**5, "x" * 10**5, {"key": "x" * 10**5}], ids=["list", "text", "dict"])
def test_a_message_stays_short_whatever_was_given(name, value):
    """As a damaged file of a checkpoint may hold."""
    with pytest.raises(ValueError) as error:
        FgvcConfig(**{name: value})
    assert name in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("temperature", 1, 1.0),
        ("temperature", np.float32(0.5), 0.5),
        ("window_radius", np.int64(7), 7),
        ("hidden_sizes", (8, np.int32(16), 32), [8, 16, 32]),
        ("visibility_weights", tuple(range(10)), [float(n) for n in range(10)]),
        ("recall_similarity", 2.0, 2.0),
        ("template_radius", 0, 0),
        ("hidden_threshold", 0, 0.0),
        ("visibility_threshold", 1, 1.0),
        ("cell_origin", -3.5, -3.5),
    ],
)
def test_numbers_are_kept_as_json_stores_them(name, given, kept):
    for value in (
        getattr(FgvcConfig(**{name: given}), name),
        json.loads(FgvcConfig(**{name: given}).to_json_string())[name],
    ):
        assert value == kept and type(value) is type(kept)


def test_an_assignment_is_checked_and_a_refused_one_changes_nothing():
    config = FgvcConfig()
    for name, value in {
        "temperature": math.nan,
        "label_sigma": math.inf,
        "visibility_threshold": 7,
        "readout": "best",
    }.items():
        with pytest.raises(ValueError, match=f"^{name} must be"):
            setattr(config, name, value)
    assert config == FgvcConfig()
    config.temperature = 1
    assert type(config.temperature) is float


def test_what_does_not_fit_together_is_not_saved(tmp_path):
    config = FgvcConfig()
    config.depths = [2, 2, 2, 2]
    with pytest.raises(ValueError, match="an entry per layer"):
        config.save_pretrained(tmp_path)
    config.hidden_sizes = [8, 8, 8, 8]
    config.save_pretrained(tmp_path)
    assert FgvcConfig.from_pretrained(tmp_path).stage_strides == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("auto", [FgvcConfig, AutoConfig])
def test_keywords_over_a_file_are_checked(tmp_path, auto):
    FgvcConfig().save_pretrained(tmp_path)
    assert auto.from_pretrained(tmp_path, temperature=1, propagation_family="windowed", object_boxes=True).object_boxes
    for keywords, message in (
        ({"temperature": math.nan}, "temperature must be"),
        ({"object_boxes": True}, "object_boxes needs"),
        ({"output_stride": 16}, "output_stride must be one of"),
        ({"temprature": 1.0}, "no field 'temprature'"),
        ({"hidden_size": 3}, "no field 'hidden_size'"),
        ({"fine_size": 8}, "fine_size is part of the weights"),
    ):
        with pytest.raises(ValueError, match=message):
            auto.from_pretrained(tmp_path, **keywords)


@pytest.mark.parametrize("name", ["fine_size", "num_attention_layers", "attention_window", "upsampling"])
def test_a_file_with_nan_for_a_field_of_the_head(tmp_path, name):
    (tmp_path / "config.json").write_text(f'{{"model_type": "fgvc", "{name}": NaN}}')
    with pytest.raises(ValueError, match=f"{name} must be .*, got nan"):
        FgvcConfig.from_pretrained(tmp_path)


def test_a_coarse_to_fine_model_pools(tmp_path):
    FgvcConfig(**HEAD).save_pretrained(tmp_path)
    assert FgvcConfig.from_pretrained(tmp_path).stem_pooling == "avg"
    with pytest.raises(ValueError, match="a coarse-to-fine model needs stem_pooling 'avg' or 'max', got None"):
        FgvcConfig.from_pretrained(tmp_path, stem_pooling=None)


def test_keywords_that_are_not_of_a_config_go_back_to_the_caller(tmp_path):
    FgvcConfig().save_pretrained(tmp_path)
    config, rest = FgvcConfig.from_pretrained(
        tmp_path, readout="legacy", output_loading_info=True, return_unused_kwargs=True
    )
    assert config.readout == "legacy" and rest == {"output_loading_info": True}
    with pytest.raises(ValueError, match="no field 'stage_strides'"):
        FgvcConfig.from_pretrained(tmp_path, stage_strides=(1,), return_unused_kwargs=True)


def test_a_file_with_fields_of_other_tools_loads_with_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("fgvc_hf.configuration_fgvc.logger.warning", said.append)
    FgvcConfig(readout="legacy").save_pretrained(tmp_path / "first")
    file = tmp_path / "first" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_cache": False, "hidden_size": 3}))
    for loaded in (FgvcConfig.from_pretrained(tmp_path / "first"), AutoConfig.from_pretrained(tmp_path / "first")):
        assert loaded.readout == "legacy" and loaded.use_cache is False and loaded.hidden_size == 256
    assert said == ["FgvcConfig has no field use_cache, hidden_size: set in the file, but without effect."] * 2
    loaded.save_pretrained(tmp_path / "again")  # what others wrote is still there for them
    assert json.loads((tmp_path / "again" / "config.json").read_text())["use_cache"] is False
    with pytest.raises(ValueError, match="no field 'use_cache'"):
        FgvcConfig(use_cache=False)


def test_values_in_a_file_are_checked(tmp_path):
    FgvcConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"visibility_threshold": 7}))
    with pytest.raises(ValueError, match="visibility_threshold must be a finite number from 0 to 1, got 7"):
        AutoConfig.from_pretrained(tmp_path)


def test_the_bundled_checkpoints_load_as_they_are_written():
    for folder in bundled_checkpoints().values():
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            written = json.load(file)
        loaded = json.loads(FgvcConfig.from_pretrained(folder).to_json_string())
        assert {name: loaded[name] for name in FIELDS if name in written} == {
            name: value for name, value in written.items() if name in FIELDS
        }


def test_a_file_of_the_first_version_loads(tmp_path):
    first = {
        "architectures": ["FgvcModel"],
        "model_type": "fgvc",
        "torch_dtype": "float32",
        "transformers_version": "4.57.0",
        "hidden_sizes": [64, 128, 256],
        "depths": [2, 2, 2],
        "output_stride": 2,
        "temperature": 0.07,
        "num_context_frames": 5,
        "use_bfloat16": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(first))
    config = FgvcConfig.from_pretrained(tmp_path)
    assert config.to_dict()["dtype"] == "float32" and config.motion_prior == FgvcConfig().motion_prior


def strategy(accepted) -> st.SearchStrategy:
    """Values that a field takes; those of numbers also as JSON or a user may write them."""
    if isinstance(accepted, Choice):
        return st.sampled_from(accepted.values)
    if isinstance(accepted, ListOf):
        return st.lists(strategy(accepted.item), min_size=accepted.lengths[0], max_size=accepted.lengths[0])
    if accepted.type is int:
        return st.integers(int(accepted.low), int(min(accepted.high, 1000)))
    low, high = (bound if math.isfinite(bound) else None for bound in (accepted.low, accepted.high))
    return st.floats(low, high, allow_nan=False, allow_infinity=False, exclude_min=accepted.open_low)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional={name: strategy(accepted) for name, accepted in FIELDS.items()}))
def test_random_fields_give_the_same_config_when_loaded_or_one_sentence(tmp_path_factory, chosen):
    try:
        config = FgvcConfig(**chosen)
    except ValueError as error:  # fields that do not fit together; each of them is accepted by itself
        assert re.search("needs|must be one of|must have|must split", str(error)) and "\n" not in str(error)
        return
    folder = tmp_path_factory.mktemp("config")
    config.save_pretrained(folder)
    loaded = FgvcConfig.from_pretrained(folder)
    assert {name: getattr(loaded, name) for name in FIELDS} == {name: getattr(config, name) for name in FIELDS}
    assert loaded.to_diff_dict() == config.to_diff_dict() | {"transformers_version": loaded.transformers_version}
    assert FgvcConfig(**{name: getattr(config, name) for name in FIELDS}).to_json_string() == config.to_json_string()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FIELDS)), ANYTHING)
def test_any_value_is_taken_as_json_gives_it_back_or_refused_with_one_sentence(name, value):
    config = FgvcConfig()
    try:
        setattr(config, name, value)
    except ValueError as error:
        assert str(error).startswith(f"{name} must be {FIELDS[name]}, got ") and getattr(config, name) in FIELDS[name]
        return
    kept = getattr(config, name)
    assert kept in FIELDS[name] and kept == value and json.loads(json.dumps(kept)) == kept
