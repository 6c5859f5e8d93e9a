"""Measured numbers for a model card, read from the files that `fgvc-hf evaluate` writes.

A file is accepted only if it was measured on the same weights as the model's: it holds their fingerprint.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult

from ..io.json_files import read_json, understanding
from ..metrics.end_point_error import IN_PIXELS


TASKS = {  # by benchmark; any other benchmark is its own task and data set
    "tapvid": "point-tracking",
    "badja": "point-tracking",
    "jhmdb": "point-tracking",
    "davis": "video-object-segmentation",
    "vip": "video-part-segmentation",
    "flow": "optical-flow",
}
DATASETS = {"davis": "DAVIS-2017", "badja": "BADJA", "jhmdb": "JHMDB", "vip": "VIP"}
TAP_VID = {"davis": "TAP-Vid-DAVIS", "kinetics": "TAP-Vid-Kinetics"}  # by split; other splits are of SHORT_CLIPS
RESULT = "a result of fgvc-hf evaluate"
SHORT_CLIPS = "TAP-Vid-DAVIS-32"  # the first 32 frames of each video


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights, rounded to bfloat16 so that float32 and bfloat16 copies have the same fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.cpu().to(torch.bfloat16).contiguous().view(torch.int16)
        digest.update(name.encode() + bits.numpy().tobytes())
    return digest.hexdigest()


def measured_results(paths: Iterable[str | Path], model) -> list[EvalResult]:
    """
    Read result files of `fgvc-hf evaluate`: every average of every metric, in per cent or in pixels.

    Args:
        paths: Files that `fgvc-hf evaluate` has written.
        model ([`FgvcModel`]): The model that they must have been measured on.

    Returns:
        list of `EvalResult`: Entries for the header of a model card.

    Raises:
        `OSError`: A file cannot be read.
        `ValueError`: A file is no result, was measured on a baseline or on other weights, or does not name its data set.
    """
    entries = []
    for path in paths:
        with understanding(path, RESULT):
            entries += _eval_results(_read_result(path), path, model)
    return entries


def _read_result(path: str | Path) -> dict:
    result = read_json(path, RESULT)
    if not (result["metrics"] and result["videos"] and result["settings"]["benchmark"]):
        raise ValueError("it names no videos or no benchmark")
    return result


def _eval_results(result: Mapping[str, Any], source: str | Path, model) -> list[EvalResult]:
    settings = result["settings"]
    benchmark, split = settings["benchmark"], settings.get("split")
    if "baseline" in settings:
        raise ValueError(f"{source}: measures the baseline {settings['baseline']}, not this model.")
    if settings.get("weights") != weights_fingerprint(model):
        raise ValueError(f"{source}: was measured on other weights than those of this model.")
    if benchmark == "tapvid" and split is None:
        raise ValueError(f"{source}: does not say what it was measured on; run fgvc-hf evaluate tapvid with --split.")
    named = settings.get("dataset") or DATASETS.get(benchmark, benchmark)  # a result of flow names its own
    dataset = TAP_VID.get(split, SHORT_CLIPS) if benchmark == "tapvid" else named
    unit = "pair" if benchmark == "flow" else "video"
    videos = f"{len(result['videos'])} {unit}" + "s" * (len(result["videos"]) > 1)
    chosen = {key: settings[key] for key in ("preset", "dtype", "query_mode") if settings.get(key)}
    saved = json.loads(model.config.to_json_string(use_diff=False))
    changed = {name: value for name, value in settings.get("config", {}).items() if value != saved.get(name, value)}
    return [
        EvalResult(
            task_type=TASKS.get(benchmark, benchmark),
            dataset_type=dataset.lower(),
            dataset_name=f"{dataset}{f' {split}' if split else ''} ({videos})",
            dataset_config=videos,  # tells results on parts of a split apart
            dataset_split=split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value if metric in IN_PIXELS else 100 * value, 2),
            metric_args={"average": average, **chosen, **changed},
        )
        for average, metrics in result["metrics"].items()
        for metric, value in metrics.items()
        if not metric.startswith("iou_") and value == value  # NaN: no sample was counted
    ]


__all__ = ["measured_results", "weights_fingerprint"]
