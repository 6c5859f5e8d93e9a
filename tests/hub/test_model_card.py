"""Cards, and the measured numbers in them."""

import json

import pytest
from hub_server import REPO
from huggingface_hub import ModelCard

from fgvc_hf import FgvcModel
from fgvc_hf.hub.measured_results import measured_results
from fgvc_hf.hub.model_card import card_with_results


def test_the_card_says_what_was_measured(repository, result):
    card, content = ModelCard.load(repository / "README.md"), json.loads(result.read_text())
    assert (card.data.license, card.data.library_name, card.data.model_name) == ("mit", "transformers", "tiny")
    stated = {(m.metric_args["average"], m.metric_name): m.metric_value for m in card.data.eval_results}
    assert stated == {
        (average, name): round(100 * value, 2)
        for average, metrics in content["metrics"].items()
        for name, value in metrics.items()
    }
    first = card.data.eval_results[0]
    assert (first.dataset_name, first.dataset_split) == ("TAP-Vid-DAVIS-32 dev (1 video)", "dev")
    assert (first.metric_args["dtype"], first.metric_args["temperature"]) == ("bfloat16", 0.5)  # as it was set
    assert f"| {stated['tapvid', 'delta_avg']} |" in card.text
    assert "None: random weights." in card.text and card.text.index("## Limits") < card.text.index("## Use")
    assert f'model="{REPO}", trust_remote_code=True' in card.text


def test_numbers_replace_older_ones_with_the_same_settings(repository, result, checkpoint):
    text = (repository / "README.md").read_text(encoding="utf-8")
    results = measured_results([result], FgvcModel.from_pretrained(checkpoint))
    assert ModelCard(card_with_results(text, "tiny", results)).text.count("## Evaluation") == 1
    assert len(ModelCard(card_with_results(text, "tiny", results)).data.eval_results) == len(results)
    results[0].metric_value = 12.34
    renewed = ModelCard(card_with_results(text, "tiny", results))
    assert len(renewed.data.eval_results) == len(results) and "| 12.34 |" in renewed.text
    results[0].metric_args = results[0].metric_args | {"preset": "fast"}
    assert len(ModelCard(card_with_results(text, "tiny", results)).data.eval_results) == len(results) + 1


@pytest.mark.parametrize(
    ("benchmark", "split", "task", "name"),
    [
        ("davis", "dev", "video-object-segmentation", "DAVIS-2017 dev (1 video)"),
        ("badja", None, "point-tracking", "BADJA (1 video)"),
        ("tapvid", "davis", "point-tracking", "TAP-Vid-DAVIS davis (1 video)"),
        ("flow", "clean", "optical-flow", "MPI-Sintel clean (1 pair)"),
        ("newer", None, "newer", "newer (1 video)"),
    ],
)
def test_every_benchmark_has_its_name(checkpoint, result, tmp_path, benchmark, split, task, name):
    content = json.loads(result.read_text()) | {
        "metrics": {"mean": {"score": 0.51234, "iou_3": 0.1, "lost": float("nan")}}
    }
    content["settings"] |= {"benchmark": benchmark, "split": split}
    if benchmark == "flow":  # whose results name their data set
        content["settings"]["dataset"] = "MPI-Sintel"
    (tmp_path / "r.json").write_text(json.dumps(content))
    (measured,) = measured_results([tmp_path / "r.json"], FgvcModel.from_pretrained(checkpoint))
    assert (measured.task_type, measured.dataset_name) == (task, name)
    assert (measured.metric_name, measured.metric_value) == ("score", 51.23)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"weights": "0" * 64}}, "was measured on other weights"),
        ({"settings": {"baseline": "dis"}}, "measures the baseline dis, not this model"),
        ({"settings": {"split": None}}, "does not say what it was measured on"),
        ({"metrics": None}, "must be a result of fgvc-hf evaluate"),
    ],
)
def test_numbers_of_something_else_are_refused(tiny_model, result, tmp_path, change, message):
    content = json.loads(result.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        measured_results([tmp_path / "r.json"], tiny_model)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# No header", "must begin with a YAML header"),
        ("---\ntags: [a]\n---\n# No licence", "must state a license"),
        ("---\nlicense: [mit\n---\n", "no valid YAML"),
    ],
)
def test_incomplete_cards_are_refused(card, message):
    with pytest.raises(ValueError, match=message):
        card_with_results(card, "tiny", [])
