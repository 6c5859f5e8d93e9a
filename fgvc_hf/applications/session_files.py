"""Sessions on disk: save a session, and continue it later with the same result.

A session is one safetensors file: the state of the trackers as tensors; as metadata the prompts, the settings of the image processor and a
hash of the model, whose features the state consists of; and a checksum of all of that. A file that was damaged or edited is refused, and so
is one of an earlier format, for these have no checksum.
"""

import hashlib
import json
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..configuration_fgvc import FgvcConfig
from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..io.files import atomic_write, local_path
from ..io.json_files import understanding
from ..io.tensor_files import write_tensors
from ..io.video import open_video
from ..modeling_fgvc import FgvcModel
from ..tracker import LiveTracker, Tracker
from ..tracking.box_tracker import BoxTracker
from ..tracking.label_tracker import LabelMapTracker
from ..tracking.prompts import BoxTarget, MaskTarget, PointLooks, PointTarget, whole_number
from ..tracking.session import FgvcInferenceSession
from ..tracking.template_tracker import TemplateTracker


FORMAT = "fgvc-session-10"
LOOKS = "templates", "images"  # of a point
LAST_IMAGE = "last_image"  # of the session: new targets start on it
TRACKERS = {"labels": LabelMapTracker, "templates": TemplateTracker, "boxes": BoxTracker}


def save_session(session: FgvcInferenceSession | LiveTracker, model: FgvcModel | Tracker, path: str | Path) -> None:
    """Write a session to a file, `.safetensors`.

    Args:
        session ([`FgvcInferenceSession`] or [`LiveTracker`]): Between two frames. Its video is not part of the file.
        model ([`FgvcModel`] or [`Tracker`]): The model that it has been stepped by.

    Raises:
        `OSError`: the file cannot be written; none is left then.
        `ValueError`: the session has been stepped by another model, or was interrupted in the middle of a step.
    """
    session, model = _session_of(session), _model_of(model)
    session.check_whole()
    if session.config is not None:
        session.bind(model)
    tensors: dict[str, torch.Tensor] = {}
    parts = {name: getattr(session, name) for name in TRACKERS}
    values = {name: _take_apart(name, part, tensors) for name, part in parts.items() if part is not None}
    if session.last_image is not None:
        tensors[LAST_IMAGE] = session.last_image
    prompts = []
    for number, ((obj_id, frame_idx), prompt) in enumerate(session.prompts.items()):
        point = prompt.point if isinstance(prompt, PointTarget) else None
        box = [prompt.corners.tolist(), prompt.turns] if isinstance(prompt, BoxTarget) else None
        prompts.append([obj_id, frame_idx, point, box])
        if isinstance(prompt, MaskTarget):
            tensors[f"prompt{number}"] = torch.from_numpy(prompt.mask)
        if isinstance(prompt, PointTarget) and prompt.looks is not None:
            tensors |= {f"prompt{number}.{name}": getattr(prompt.looks, name) for name in LOOKS}
    metadata = {
        "format": FORMAT,
        "model": fingerprint(model, session.config or model.config),
        "image_processor": session.image_processor.to_dict(),
        "original_size": session.original_size,
        "memory_options": [
            session.memory_dtype and str(session.memory_dtype).removeprefix("torch."),
            session.memory_device and str(session.memory_device),
            session.max_memory_bytes,
        ],
        "last_frame_idx": session.last_frame_idx,
        "prompts": prompts,
        "started": sorted(session.started),
        "trackers": values,
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        text = json.dumps(metadata)
        write_tensors(temporary, tensors, {"session": text, "checksum": _checksum(text, tensors)})


def load_session(path: str | Path, model: FgvcModel | Tracker, video: Any = None) -> FgvcInferenceSession:
    """Read a session from a file, to go on with [`FgvcModel.step`].

    Args:
        model ([`FgvcModel`] or [`Tracker`]): The model that the session was saved with.
        video (*optional*): The video that it is of, as [`open_video`] takes it.

    Raises:
        `OSError`: there is no such file.
        `ValueError`: it is no session, is damaged or was edited, has another format, or is of another model or of a video of another size.
    """
    path, model = local_path(path), _model_of(model)
    own, contents = fingerprint(model, model.config), f"a saved session of the format {FORMAT!r}"
    with understanding(path, contents):
        metadata, tensors = _read(path, str(model.device))
        if metadata["model"] != own:
            raise ValueError(f"{path}: is a session of another checkpoint; load the one that it was saved with.")
        size = size_of(metadata["original_size"]) if metadata["original_size"] else None
    source = None if video is None else open_video(video)  # whose errors are not of the file
    if source is not None and size and size != (source.height, source.width):
        raise ValueError(f"video is of size {(source.height, source.width)}, but the session of {size}.")
    with understanding(path, contents):
        return _restore(metadata, tensors, model, source, size)


def _restore(
    metadata: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    model: FgvcModel,
    video: Any,
    size: tuple[int, int] | None,
) -> FgvcInferenceSession:
    """The session that was saved, with a frame source or nothing as its video."""
    processor = FgvcImageProcessorPil(**metadata["image_processor"])
    processor.try_out()
    dtype, device, limit = metadata["memory_options"]
    limit = None if limit is None else whole_number("max_memory_bytes", limit)
    dtype = dtype and getattr(torch, dtype)
    session = FgvcInferenceSession(processor, video, dtype, device, limit)
    session.original_size = size or session.original_size
    for number, (obj_id, frame_idx, point, box) in enumerate(metadata["prompts"]):
        obj_id, frame_idx = whole_number("obj_id", obj_id), whole_number("frame_idx", frame_idx)
        if point is not None:
            names = [f"prompt{number}.{name}" for name in LOOKS]
            known = PointLooks(*(tensors[name] for name in names)) if names[0] in tensors else None
            x, y = point
            session.prompts[obj_id, frame_idx] = PointTarget(frame_idx, (float(x), float(y)), known)
        elif box is not None:
            session.prompts[obj_id, frame_idx] = BoxTarget(
                frame_idx, np.array(box[0], float).reshape(4, 2), truth("turns", box[1])
            )
        else:
            session.prompts[obj_id, frame_idx] = MaskTarget(frame_idx, tensors[f"prompt{number}"].cpu().numpy())
    session.started = {(whole_number("started", i), whole_number("started", t)) for i, t in metadata["started"]}
    last = metadata["last_frame_idx"]
    session.last_frame_idx = None if last is None else whole_number("last_frame_idx", last)
    session.last_image = tensors.get(LAST_IMAGE)
    if metadata["trackers"]:
        config = session.bind(model)
        for name, values in metadata["trackers"].items():
            setattr(session, name, _put_together(TRACKERS[name], name, values, tensors, config))
        if session.boxes is not None and len(session.boxes.turns) != len(session.boxes.ids):
            raise ValueError("turns must be as many as boxes")
        if device is not None and session.labels is not None:  # the memory device of the session
            session.labels.memory.ring = session.labels.memory.ring.to(device)
            for group in session.labels.groups:
                group.anchor = group.anchor.to(device)
    stepped = {getattr(session, name) is None for name in (*TRACKERS, "last_frame_idx", LAST_IMAGE)}
    if len(stepped) > 1:
        raise ValueError("trackers, last_frame_idx and last_image must all be there, or none")
    return session


def truth(name: str, value: Any) -> bool:
    """A bool as it is; a `ValueError` for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def size_of(value: Any) -> tuple[int, int]:
    """The size of a video; a `ValueError` for anything but a height and a width."""
    height, width = (whole_number("original_size", side) for side in value)
    if min(height, width) < 1:
        raise ValueError("original_size must be positive")
    return height, width


CHECKED = {int: whole_number, bool: truth}  # values of a tracker that are no tensors


def _session_of(session: FgvcInferenceSession | LiveTracker) -> FgvcInferenceSession:
    return session.session if isinstance(session, LiveTracker) else session


def _model_of(model: FgvcModel | Tracker) -> FgvcModel:
    return model.model if isinstance(model, Tracker) else model


def _read(path: Path, device: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and tensors of a session's file, once its checksum has been compared."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with safe_open(path, "pt") as file:
            stored = file.metadata() or {}
            text, checksum = stored["session"], stored.get("checksum")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise ValueError(f"{path}: is no saved session, or is damaged.") from None
    if checksum is None:
        raise ValueError(f"{path}: has no checksum, which sessions of the format {FORMAT!r} have; save it anew.")
    if checksum != _checksum(text, tensors):
        raise ValueError(f"{path}: is damaged or was edited, its checksum does not fit its content.")
    metadata = json.loads(text)
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path}: is a session of format {str(metadata['format'])[:40]!r}, not {FORMAT!r}.")
    return metadata, {name: tensor.to(device) for name, tensor in tensors.items()}


def _checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """Hash of the metadata and of all tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def fingerprint(model: FgvcModel, config: FgvcConfig) -> str:
    """Hash of a model's weights and of how it follows targets."""
    digest = hashlib.sha256()
    settings = {name: getattr(config, name) for name in type(config).__annotations__}
    digest.update(json.dumps([settings, str(model.dtype)], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(
                "model must have its weights in memory to save or load a session, but they are offloaded."
            )
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _take_apart(name: str, part: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The values of a nested dataclass as JSON. Tensors go to `tensors` by their path; configurations are left out."""
    if isinstance(part, torch.Tensor):
        tensors[name] = part
        return None
    if isinstance(part, list) and part and is_dataclass(part[0]):
        return [_take_apart(f"{name}.{i}", item, tensors) for i, item in enumerate(part)]
    if not is_dataclass(part):
        return part
    kept = [field.name for field in fields(part) if field.name != "config"]
    return {field: _take_apart(f"{name}.{field}", getattr(part, field), tensors) for field in kept}


def _put_together(kind: Any, name: str, value: Any, tensors: dict[str, torch.Tensor], config: FgvcConfig) -> Any:
    """The inverse of [`_take_apart`], for a value of the type `kind`."""
    if name in tensors:
        return tensors[name]
    if typing.get_origin(kind) is list and not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {type(value).__name__}")
    if typing.get_origin(kind) is list and is_dataclass(typing.get_args(kind)[0]):
        inner = typing.get_args(kind)[0]
        return [_put_together(inner, f"{name}.{i}", item, tensors, config) for i, item in enumerate(value)]
    if kind in CHECKED:
        return CHECKED[kind](name, value)
    if typing.get_origin(kind) is list:
        return [CHECKED[typing.get_args(kind)[0]](name, item) for item in value]
    if not is_dataclass(kind):  # a tensor that is not there
        if value is not None or not isinstance(None, kind):
            raise ValueError(f"{name} is missing")
        return None
    kinds, given = typing.get_type_hints(kind), {}
    for field in fields(kind):
        if field.name == "config":
            given["config"] = config
        else:
            inner = kinds[field.name], f"{name}.{field.name}", value[field.name]
            given[field.name] = _put_together(*inner, tensors, config)
    return kind(**given)


__all__ = ["load_session", "save_session"]
