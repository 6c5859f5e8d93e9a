"""Sessions on disk: put a video aside, and go on with it later, with the same result.

A session is one safetensors file: the memory as tensors, and as metadata its prompts, its numbers, how frames are processed, and a
hash of the model that made it, for features of another model mean nothing to it.
"""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..image_processing_pil_fgvc import FgvcImageProcessorPil
from ..io.files import atomic_write
from ..io.video import open_video
from ..modeling_fgvc import FgvcModel
from ..tracking.box_tracker import TrackedBox
from ..tracking.memory import FrameMemory, TargetGroup
from ..tracking.prompts import BoxTarget, MaskTarget, PointTarget
from ..tracking.session import FgvcInferenceSession
from ..tracking.template_tracker import PointTemplates


FORMAT = "fgvc-session-4"


def save_session(session: FgvcInferenceSession, model: FgvcModel, path: str | Path) -> None:
    """Write a session to a file, `.safetensors`.

    Args:
        session ([`FgvcInferenceSession`]): Between two frames. Its video is not part of the file.
        model ([`FgvcModel`]): The model that it has been stepped by.

    Raises:
        `OSError`: the file cannot be written; none is left then.
    """
    tensors: dict[str, torch.Tensor] = {}
    parts: dict[str, Any] = {"memory": session.memory, "templates": session.templates}
    parts |= {f"group{i}": group for i, group in enumerate(session.groups)}
    parts |= {f"box{obj_id}": box for obj_id, box in session.boxes.items()}
    values = {name: _take_apart(name, part, tensors) for name, part in parts.items() if part is not None}
    prompts = []
    for number, ((obj_id, frame_idx), prompt) in enumerate(session.prompts.items()):
        point = prompt.point if isinstance(prompt, PointTarget) else None
        box = [prompt.corners.tolist(), prompt.turns] if isinstance(prompt, BoxTarget) else None
        prompts.append([obj_id, frame_idx, point, box])
        if isinstance(prompt, MaskTarget):
            tensors[f"prompt{number}"] = torch.from_numpy(prompt.mask)
    metadata = {
        "format": FORMAT,
        "model": fingerprint(model),
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
        "parts": values,
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"session": json.dumps(metadata)})


def load_session(path: str | Path, model: FgvcModel, video: Any = None) -> FgvcInferenceSession:
    """Read a session from a file, to go on with [`FgvcModel.step`].

    Args:
        model ([`FgvcModel`]): The model that the session was saved with.
        video (*optional*): The video that it is of, as [`open_video`] takes it.

    Raises:
        `OSError`: there is no such file.
        `ValueError`: it is no session, or one of another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with safe_open(path, "pt", device=str(model.device)) as file:
            metadata = json.loads((file.metadata() or {})["session"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError):
        raise ValueError(f"{path}: is no saved session.") from None
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path}: is a session of format {metadata['format']!r}, not {FORMAT!r}.")
    if metadata["model"] != fingerprint(model):
        raise ValueError(f"{path}: is a session of another checkpoint; load the one that it was saved with.")
    processor = FgvcImageProcessorPil(**metadata["image_processor"])
    dtype, device, limit = metadata["memory_options"]
    dtype = dtype and getattr(torch, dtype)
    session = FgvcInferenceSession(processor, None if video is None else open_video(video), dtype, device, limit)
    session.device = model.device
    size = metadata["original_size"] and tuple(metadata["original_size"])
    if session.original_size not in (None, size) and size:
        raise ValueError(f"video is of size {session.original_size}, but the session of {size}.")
    session.original_size = size or session.original_size
    for number, (obj_id, frame_idx, point, box) in enumerate(metadata["prompts"]):
        if point is not None:
            session.prompts[obj_id, frame_idx] = PointTarget(frame_idx, tuple(point))
        elif box is not None:
            session.prompts[obj_id, frame_idx] = BoxTarget(frame_idx, np.array(box[0]), box[1])
        else:
            session.prompts[obj_id, frame_idx] = MaskTarget(frame_idx, tensors[f"prompt{number}"].cpu().numpy())
    session.started = {(obj_id, frame_idx) for obj_id, frame_idx in metadata["started"]}
    session.last_frame_idx, session.cell_origin = metadata["last_frame_idx"], model.config.cell_origin
    for name, values in metadata["parts"].items():
        if name == "memory":
            session.memory = _put_together(FrameMemory, name, values, tensors)
            session.memory.ring = session.memory.ring.to(device or model.device)
        elif name == "templates":
            session.templates = _put_together(PointTemplates, name, values, tensors)
        elif name.startswith("box"):
            session.boxes[int(name.removeprefix("box"))] = _put_together(TrackedBox, name, values, tensors)
        else:
            group = _put_together(TargetGroup, name, values, tensors)
            group.anchor = group.anchor.to(device or model.device)
            session.groups.append(group)
    return session


def fingerprint(model: FgvcModel) -> str:
    """Hash of a model's weights and of how it follows points."""
    digest = hashlib.sha256()
    settings = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    digest.update(json.dumps([settings, str(model.dtype)], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _take_apart(name: str, part: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The fields of a dataclass, and of those in it: tensors go to `tensors`, the others are returned."""
    values = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, torch.Tensor):
            tensors[f"{name}.{field.name}"] = value
        elif is_dataclass(value):
            values[field.name] = _take_apart(f"{name}.{field.name}", value, tensors)
        else:
            values[field.name] = value
    return values


def _put_together(kind: Any, name: str, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of [`_take_apart`]."""
    given = {}
    for field in fields(kind):
        key = f"{name}.{field.name}"
        given[field.name] = tensors[key] if key in tensors else values[field.name]
        if field.name == "templates":
            given[field.name] = _put_together(PointTemplates, key, values[field.name], tensors)
    return kind(**given)
