"""Model cards: a README in Markdown with a YAML header, a section of measured numbers and one on usage."""

import re
from collections.abc import Iterable
from typing import cast

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..io.json_files import reason_of
from ..metrics.end_point_error import IN_PIXELS
from .measured_results import SHORT_CLIPS


RESULTS, USE = (
    "Evaluation",
    "Use",
)  # titles of the sections that are written here; a card's other sections stay as they are
SHORT_CLIPS_NOTE = f" {SHORT_CLIPS} is the first 32 frames of each video: shorter clips are easier, and published numbers do not compare."
PIXELS_NOTE = f" {', '.join(IN_PIXELS)} are in pixels."
PACKAGE_USAGE = """With the package fgvc_hf:

```python
from fgvc_hf import Tracker

tracker = Tracker.from_pretrained("{repo_id}")
tracks = tracker.track("clip.mp4", [(0, 20, 30)])  # (t, x, y)
```"""
CODE_USAGE = """

Without it, by the code in this repository (transformers 5.23 or newer; PyAV for video files):

```python
from transformers import pipeline

tracker = pipeline("point-tracking", model="{repo_id}", trust_remote_code=True)
tracks = tracker("clip.mp4", points=[(0, 20, 30)])
```

or with a session:

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
session = processor.init_video_session("clip.mp4")
processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=[1], input_points=[(20, 30)])
tracks = processor.post_process_point_tracking(list(model.propagate_in_video_iterator(session)), session)
```"""


def model_card(name: str, license: str, data: str, summary: str = "", body: str = "") -> str:
    """
    A model card in Markdown.

    Args:
        name (`str`): Title.
        license (`str`): Identifier of the licence on the Hub, such as `apache-2.0`.
        data (`str`): What the model was trained on, and under which terms.
        summary (`str`): What it is, in a sentence or two.
        body (`str`): The rest of the card.

    Returns:
        `str`: README with a YAML header.
    """
    header = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["point-tracking", "video-correspondence"],
    )
    parts = [f"# {name}", summary, f"* **Data**: {data}", body]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part).rstrip() + "\n"


def card_with_results(text: str, name: str, results: list[EvalResult]) -> str:
    """
    Add measured numbers to a card, in its header and as a table. A number replaces an older one with the same settings.

    Args:
        text (`str`): README in Markdown with a YAML header that states the licence.
        name (`str`): Name of the model.
        results (list of `EvalResult`): As [`measured_results`] reads them.

    Raises:
        `ValueError`: The card has no YAML header, or its header states no licence.
    """
    if not re.match(r"---\s*\n.*?\n---", text, flags=re.DOTALL):
        raise ValueError("card must begin with a YAML header between two lines ---, as model_card makes it.")
    try:
        card = ModelCard(text)
    except yaml.YAMLError as error:
        raise ValueError(f"card has a header that is no valid YAML ({reason_of(error)}).") from None
    data = cast(ModelCardData, card.data)
    if not data.license:
        raise ValueError("card must state a license in its YAML header.")
    known = [old for old in data.eval_results or [] if not any(new.is_equal_except_value(old) for new in results)]
    if known or results:
        data.eval_results, data.model_name = known + results, name
        card.text = _with_section(card.text, RESULTS, results_table(data.eval_results))
    return str(card)


def card_with_usage(text: str, repo_id: str, with_code: bool) -> str:
    """Add the section on usage to a card: by the package and, where the repository carries the code, without it."""
    usage = PACKAGE_USAGE + CODE_USAGE if with_code else PACKAGE_USAGE
    return _with_section(text, USE, usage.format(repo_id=repo_id))


def _with_section(text: str, title: str, body: str) -> str:
    """Replace the body of a second-level section, or append the section."""
    without = re.sub(rf"^## {title}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    return f"{without.rstrip()}\n\n## {title}\n\n{body}\n"


def results_table(results: Iterable[EvalResult]) -> str:
    """A Markdown table for each data set: a row for each average and setting, a column for each metric."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        arguments = ", ".join(f"{name} {value}" for name, value in (result.metric_args or {}).items())
        row = rows.setdefault(result.dataset_name, {}).setdefault(arguments, {})
        row[result.metric_name or result.metric_type] = result.metric_value
    tables = []
    for dataset, settings in rows.items():
        metrics = list(dict.fromkeys(metric for row in settings.values() for metric in row))
        lines = [f"| {dataset} | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
        lines += [
            f"| {name} | {' | '.join(str(row.get(metric, '')) for metric in metrics)} |"
            for name, row in settings.items()
        ]
        tables.append("\n".join(lines))
    named = {metric for settings in rows.values() for row in settings.values() for metric in row}
    note = PIXELS_NOTE if named & set(IN_PIXELS) else ""
    note += SHORT_CLIPS_NOTE if any(dataset.startswith(SHORT_CLIPS) for dataset in rows) else ""
    return f"In per cent, by `fgvc-hf evaluate`.{note}\n\n" + "\n\n".join(tables)


__all__ = ["card_with_results", "card_with_usage", "model_card"]
