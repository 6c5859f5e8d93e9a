"""The repository of a model on the Hub: weights, processor, a card with measured numbers and, if wanted, the code.

[`write_repository`] writes the folder, [`upload_repository`] uploads one in a single commit, and [`FgvcModel.push_to_hub`] does both. The
numbers of a card come from the files that `fgvc-hf evaluate` writes, and only from those that were measured on the same weights.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files


CODE = Path(__file__).parent
AUTO_MAP = {  # what AutoConfig and its siblings find a class by, in code that a repository carries
    "AutoConfig": "configuration_fgvc.FgvcConfig",
    "AutoModel": "modeling_fgvc.FgvcModel",
    "AutoImageProcessor": "image_processing_pil_fgvc.FgvcImageProcessorPil",
    "AutoProcessor": "processing_fgvc.FgvcProcessor",
}
PIPELINES = {
    "point-tracking": "pipelines.PointTrackingPipeline",
    "mask-propagation": "pipelines.MaskPropagationPipeline",
}
TASKS = {  # by benchmark; one that is not here stands for itself, as task and as data set
    "tapvid": "point-tracking",
    "badja": "point-tracking",
    "jhmdb": "point-tracking",
    "davis": "video-object-segmentation",
    "vip": "video-part-segmentation",
}
DATASETS = {"davis": "DAVIS-2017", "badja": "BADJA", "jhmdb": "JHMDB", "vip": "VIP"}
TAP_VID = {"davis": "TAP-Vid-DAVIS", "kinetics": "TAP-Vid-Kinetics"}  # by split; any other is of the shortened clips
SHORTENED = "TAP-Vid-DAVIS-32"
SHORT = " TAP-Vid-DAVIS-32 is the first 32 frames of each video: shorter clips are easier, and published numbers do not compare."
RESULTS, USE = "Evaluation", "Use"  # sections of a card that are written here
PACKAGE_USAGE = """With the package fgvc_hf:

```python
from fgvc_hf import load

model, processor = load("{repo_id}")
tracks = model.track("clip.mp4", [(0, 20, 30)], processor=processor)
```"""
CODE_USAGE = """

Without it, by the code in this repository (transformers 5.20 or newer; PyAV for video files):

```python
from transformers import pipeline

tracker = pipeline("point-tracking", model="{repo_id}", trust_remote_code=True)
tracks = tracker("clip.mp4", points=[(0, 20, 30)])
```"""


# ---- the folder ---------------------------------------------------------------------------------------------------


def write_repository(
    model,
    folder: str | Path,
    repo_id: str,
    processor=None,
    card: str = "",
    results: Iterable[str | Path] = (),
    with_code: bool = False,
) -> None:
    """
    Write everything that belongs into a model's repository.

    Args:
        model ([`FgvcModel`]): The model.
        folder: Folder to write to; it is made if there is none.
        repo_id (`str`): `user/name`, for the card.
        processor ([`FgvcProcessor`], *optional*): The one saved beside the model if not given.
        card (`str`): README in Markdown with a YAML header that states the licence, such as [`model_card`] makes.
        results (paths): Files that `fgvc-hf evaluate` has written; their numbers go into the card.
        with_code (`bool`, defaults to `False`): Whether the repository carries the code, so that it can be loaded with
            `trust_remote_code=True` where the package is not installed.

    Raises:
        `ValueError`: the card states no licence, or a result is of other weights or cannot be understood.
        `OSError`: a result cannot be read, the folder cannot be written, or code is missing.
    """
    folder = Path(folder)
    text = card_with_results(card, repo_id.rpartition("/")[2], measured_results(results, model))
    usage = PACKAGE_USAGE + CODE_USAGE if with_code else PACKAGE_USAGE
    text = _with_section(text, USE, usage.format(repo_id=repo_id))
    model.save_pretrained(folder)
    (processor or model._own_processor()).save_pretrained(folder)
    (folder / "README.md").write_text(text, encoding="utf-8")
    if with_code:
        add_code(folder)


def add_code(folder: Path) -> None:
    """Put the code into the repository in `folder`, and say in its configuration where each class is."""
    for file in code_files():
        shutil.copyfile(file, folder / file.name)
    pipelines = {task: {"impl": name, "pt": ["AutoModel"], "type": "multimodal"} for task, name in PIPELINES.items()}
    _update_json(folder / "config.json", {"auto_map": AUTO_MAP, "custom_pipelines": pipelines})
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    image_processor = processor["image_processor"] | {"auto_map": AUTO_MAP}
    _update_json(folder / "processor_config.json", {"auto_map": AUTO_MAP, "image_processor": image_processor})


def code_files() -> list[Path]:
    """The files of the classes that a repository names, and all that these import from beside them.

    Raises:
        `OSError`: some are not here, as where this code was itself loaded from a repository.
    """
    roots = {CODE / f"{name.partition('.')[0]}.py" for name in (*AUTO_MAP.values(), *PIPELINES.values())}
    missing = sorted(root.name for root in roots if not root.is_file())
    if missing:
        raise FileNotFoundError(
            f"with_code needs the package fgvc_hf installed: {missing[0]} is not beside the model's."
        )
    return sorted(roots | {Path(file) for root in roots for file in get_relative_import_files(root)})


def _update_json(path: Path, values: Mapping[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | dict(values)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# ---- the card -----------------------------------------------------------------------------------------------------


def model_card(name: str, license: str, data: str, summary: str = "", body: str = "") -> str:
    """
    A model card in Markdown.

    Args:
        name (`str`): Title.
        license (`str`): Identifier of the licence as the Hub has them, such as `apache-2.0`.
        data (`str`): What the model was trained on, and under which terms.
        summary (`str`): What it is, in a sentence or two.
        body (`str`): The rest of the card.
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
    A card with measured numbers, in its header and as a table, in place of older ones of the same kind.

    Args:
        text (`str`): README in Markdown with a YAML header that states the licence.
        name (`str`): Of the model.
        results (list of `EvalResult`): As [`measured_results`] reads them.

    Raises:
        `ValueError`: the card has no YAML header, or that states no licence.
    """
    if not re.match(r"---\s*\n.*?\n---", text, flags=re.DOTALL):
        raise ValueError("card must begin with a YAML header between two lines ---, as model_card makes it.")
    try:
        card = ModelCard(text)
    except yaml.YAMLError as error:
        raise ValueError(f"card has a header that is no valid YAML ({error}).") from None
    data = cast(ModelCardData, card.data)
    if not data.license:
        raise ValueError("card must state a license in its YAML header.")
    known = [old for old in data.eval_results or [] if not any(new.is_equal_except_value(old) for new in results)]
    if known or results:
        data.eval_results, data.model_name = known + results, name
        card.text = _with_section(card.text, RESULTS, results_table(data.eval_results))
    return str(card)


def _with_section(text: str, title: str, body: str) -> str:
    """Markdown in which a section of the second level has a new body; at the end if there was none."""
    without = re.sub(rf"^## {title}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    return f"{without.rstrip()}\n\n## {title}\n\n{body}\n"


# ---- measured numbers ---------------------------------------------------------------------------------------------


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Hash of a model's weights in bfloat16, so that it is the same whatever precision they were loaded in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.cpu().to(torch.bfloat16).contiguous().view(torch.int16)
        digest.update(name.encode() + bits.numpy().tobytes())
    return digest.hexdigest()


def _read_result(path: str | Path) -> dict:
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        if not (result["metrics"] and result["videos"] and result["settings"]["benchmark"]):
            raise KeyError
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: is no result of fgvc-hf evaluate.") from None
    return result


def measured_results(paths: Iterable[str | Path], model) -> list[EvalResult]:
    """
    What results of `fgvc-hf evaluate` say, for the header of a card: every average of every metric, in per cent.

    Args:
        paths: Files that `fgvc-hf evaluate` has written.
        model ([`FgvcModel`]): The model that they must be of.

    Raises:
        `OSError`: one cannot be read.
        `ValueError`: one is no such file, is of a baseline or of other weights, or does not say on what it was measured.
    """
    return [measured for path in paths for measured in _eval_results(_read_result(path), path, model)]


def _eval_results(result: Mapping[str, Any], source: str | Path, model) -> list[EvalResult]:
    settings = result["settings"]
    benchmark, split = settings["benchmark"], settings.get("split")
    if "baseline" in settings:
        raise ValueError(f"{source}: measures the baseline {settings['baseline']}, not this model.")
    if settings.get("weights") != weights_fingerprint(model):
        raise ValueError(f"{source}: was measured on other weights than those of this model.")
    if benchmark == "tapvid" and split is None:
        raise ValueError(f"{source}: does not say what it was measured on; run fgvc-hf evaluate tapvid with --split.")
    dataset = TAP_VID.get(split, SHORTENED) if benchmark == "tapvid" else DATASETS.get(benchmark, benchmark)
    videos = f"{len(result['videos'])} video" + "s" * (len(result["videos"]) > 1)
    chosen = {key: settings[key] for key in ("preset", "dtype", "query_mode") if settings.get(key)}
    saved = json.loads(model.config.to_json_string(use_diff=False))
    changed = {name: value for name, value in settings.get("config", {}).items() if value != saved.get(name, value)}
    return [
        EvalResult(
            task_type=TASKS.get(benchmark, benchmark),
            dataset_type=dataset.lower(),
            dataset_name=f"{dataset}{f' {split}' if split else ''} ({videos})",
            dataset_config=videos,  # what keeps results on parts of a split apart
            dataset_split=split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(100 * value, 2),
            metric_args={"average": average, **chosen, **changed},
        )
        for average, metrics in result["metrics"].items()
        for metric, value in metrics.items()
        if not metric.startswith("iou_") and value == value  # NaN: nothing was counted
    ]


def results_table(results: Iterable[EvalResult]) -> str:
    """A table in Markdown for each data set: a row for each average and setting, a column for each metric."""
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
    note = SHORT if any(dataset.startswith(SHORTENED) for dataset in rows) else ""
    return f"In per cent, by `fgvc-hf evaluate`.{note}\n\n" + "\n\n".join(tables)


# ---- the upload ---------------------------------------------------------------------------------------------------


def check_upload(repo_id: str, token: str | bool | None = None) -> None:
    """What can be known before any work: whether a repository may be called so, and whether there is a token.

    Raises:
        `ValueError`: the name is not accepted.
        `OSError`: there is no token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        accepted = "name or user/name, of letters, digits, '-', '_' and '.', at most 96 of them"
        raise ValueError(f"repo_id must be {accepted}, got {repo_id!r}.") from None
    if not (token if isinstance(token, str) else get_token()):
        raise OSError("there is no token for the Hub: run hf auth login, or set HF_TOKEN.")


def upload_repository(
    folder: str | Path,
    repo_id: str,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> str:
    """
    Upload a folder in one commit, into a repository that is made if there is none.

    Args:
        folder: As [`write_repository`] writes it.
        repo_id (`str`): `user/name`, or a name in one's own account.
        token, private, revision, create_pr, commit_message, commit_description: As of transformers' `push_to_hub`.

    Returns:
        `str`: URL of the commit, or of the pull request.

    Raises:
        `ValueError`, `OSError`: as of [`check_upload`], or the Hub cannot be reached or refuses.
    """
    check_upload(repo_id, token)
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
        )
    except (HTTPError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OSError(f"{repo_id}: cannot be uploaded ({reason.strip().rstrip('.')}).") from None
    return commit.pr_url or commit.commit_url


def push_to_hub(
    self,
    repo_id: str,
    processor=None,
    card: str = "",
    results: Iterable[str | Path] = (),
    with_code: bool = False,
    **upload,
) -> str:
    """
    Upload the model with its processor and a card that carries its numbers.

    Args:
        repo_id (`str`): `user/name`, or a name in one's own account.
        processor, card, results, with_code: As of [`write_repository`].
        upload: `token`, `private`, `revision`, `create_pr`, `commit_message` and `commit_description`, as of [`upload_repository`].

    Returns:
        `str`: URL of the commit, or of the pull request.

    Raises:
        `ValueError`, `OSError`: as of [`write_repository`] and [`upload_repository`]. Nothing is uploaded then.
    """
    check_upload(repo_id, upload.get("token"))
    with tempfile.TemporaryDirectory() as folder:
        write_repository(self, folder, repo_id, processor, card, results, with_code)
        return upload_repository(folder, repo_id, **upload)


__all__ = [
    "card_with_results",
    "measured_results",
    "model_card",
    "push_to_hub",
    "upload_repository",
    "write_repository",
]
