"""Described points: what points look like, to look for them in videos; in memory, and in a file.

A file is safetensors: a template and a patch of the image for each point. Its metadata name the checkpoint and the working resolution, for
features of another checkpoint, or of another size, are not comparable.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..image_processing_pil_fgvc import RESIZE_POLICIES
from ..tracking.prompts import MOST_WHOLE, PointLooks, masks_of_ids, numbers_of, whole_number
from .files import atomic_write, local_path
from .tensor_files import write_tensors


FORMAT = "fgvc-queries-1"
RESIZING = (
    "resize_policy",
    "size",
    "size_divisor",
)  # settings of the image processor by which features have their scale
LLOYD_STEPS = 10  # of the points in a mask; more move them by less than a pixel
MOST_PIXELS = 4096  # of a mask that its points are spread by


@dataclass(eq=False)
class PointQueries:
    """
    What points look like, made by [`Tracker.describe`]: N looks, of as many points or of fewer.

    Args:
        ids (`list[int]`): Id of the point of each look. One that comes several times is one point with several looks.
        templates (`torch.Tensor` of shape `(N, P, C)`, float16 or bfloat16): Patches of features.
        images (`torch.Tensor` of shape `(N, S, S)`, float16): Patches of the image.
        points (`numpy.ndarray` of shape `(N, 2)`, float64): Where they were described, in pixels of their image.
        checkpoint (`str`): Hash of the weights of the encoder.
        resizing (`dict`): Settings of the image processor that features have their scale by.
        mask_ids (`list[int]`, *optional*): Mask that each point is of, 0 if it was given as a point.
    """

    ids: list[int]
    templates: torch.Tensor
    images: torch.Tensor
    points: np.ndarray
    checkpoint: str
    resizing: dict[str, Any]
    mask_ids: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.mask_ids = self.mask_ids or [0] * len(self.ids)
        if problem := self._problem():
            raise ValueError(f"queries must hold looks of points, but {problem}.")

    @classmethod
    def of(
        cls,
        ids: list[Any],
        looks: PointLooks,
        points: np.ndarray,
        checkpoint: str,
        resizing: dict[str, Any],
        mask_ids: list[int],
    ) -> Self:
        """Of a look of each point, in half the bits where that is float32."""
        templates = looks.templates.cpu()
        templates = templates.half() if templates.dtype == torch.float32 else templates
        ids = [whole_number("ids", obj_id) for obj_id in ids]
        return cls(ids, templates, looks.images.cpu().half(), points, checkpoint, resizing, mask_ids)

    def __len__(self) -> int:
        return len(self.ids)

    def looks(self) -> dict[int, PointLooks]:
        """The looks of each point by its id, in the order in which ids come first."""
        rows: dict[int, list[int]] = {}
        for row, obj_id in enumerate(self.ids):
            rows.setdefault(obj_id, []).append(row)
        return {obj_id: PointLooks(self.templates[of], self.images[of]) for obj_id, of in rows.items()}

    def joined(self, other: "PointQueries") -> "PointQueries":
        """These looks and others. A point of both is one point with several looks.

        Raises:
            `ValueError`: the others are of another checkpoint or working resolution, or have patches of another size.
        """
        if not isinstance(other, PointQueries):
            raise ValueError(f"queries must be what describe returns, got {type(other).__name__}.")
        self.check(other.checkpoint, other.resizing, "the other queries were described")
        self.check_patches(other.templates.shape[1:], other.images.shape[1:], "the other queries have")
        return PointQueries(
            self.ids + other.ids,
            torch.cat([self.templates, other.templates.to(self.templates.dtype)]),
            torch.cat([self.images, other.images]),
            np.concatenate([self.points, other.points]),
            self.checkpoint,
            self.resizing,
            self.mask_ids + other.mask_ids,
        )

    def check(self, checkpoint: str, resizing: Mapping[str, Any], what: str = "this tracker works") -> None:
        """Check that they can be compared with features of a checkpoint at a working resolution.

        Raises:
            `ValueError`: they cannot.
        """
        if self.checkpoint != checkpoint:
            raise ValueError("queries are of another checkpoint; describe the points again with this one.")
        if self.resizing != resizing:
            own, others = (_in_words(of) for of in (self.resizing, resizing))
            raise ValueError(f"queries were described at {own}, but {what} at {others}; use one preset for both.")

    def check_patches(self, template: Sequence[int], image: Sequence[int], whose: str) -> None:
        """Check that they have templates (P, C) and patches of the image (S, S).

        Raises:
            `ValueError`: they have others.
        """
        for shape, wanted in ((self.templates.shape[1:], template), (self.images.shape[1:], image)):
            if tuple(shape) != tuple(wanted):
                got, others = ("x".join(map(str, of)) for of in (shape, wanted))
                raise ValueError(
                    f"queries have templates of another size, {got}, but {whose} {others}; describe the points again with this tracker."
                )

    def save(self, path: str | Path) -> None:
        """Write them to a file, `.safetensors`.

        Raises:
            `ValueError`: it has another suffix.
            `OSError`: the file cannot be written; none is left then.
        """
        path = check_query_name(path)
        metadata = {"format": FORMAT, "ids": self.ids, "points": self.points.tolist(), "mask_ids": self.mask_ids}
        metadata |= {"checkpoint": self.checkpoint, "resizing": self.resizing}
        tensors = {name: getattr(self, name).contiguous().cpu() for name in ("templates", "images")}
        with atomic_write(path) as temporary:
            write_tensors(temporary, tensors, {"queries": json.dumps(metadata)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read them from a file.

        Raises:
            `OSError`: there is no such file.
            `ValueError`: it holds no queries, or is damaged.
        """
        path = local_path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file of queries.")
        try:
            with safe_open(path, "pt") as file:
                metadata = json.loads((file.metadata() or {})["queries"])
                tensors = {name: file.get_tensor(name) for name in ("templates", "images")}
            if metadata.pop("format") != FORMAT:
                raise ValueError
            points = np.array(metadata.pop("points"), dtype=np.float64)
            queries = cls(points=points, **tensors, **metadata)
        except (
            SafetensorError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            RuntimeError,
            RecursionError,
            OSError,
        ):
            raise ValueError(f"{path}: holds no described points, or is damaged.") from None
        return queries

    def _problem(self) -> str | None:
        """What is wrong with the fields, if anything is."""
        number, tensors = len(self.ids), {"templates": self.templates, "images": self.images}
        shapes = {len(of) for of in (self.points, self.mask_ids, *tensors.values())}
        if shapes != {number} or not number:
            return f"there are {number} ids and {', '.join(map(str, sorted(shapes)))} of other fields"
        for name, of in tensors.items():
            if (
                of.ndim != 3
                or not of.dtype.is_floating_point
                or of.element_size() != 2
                or not bool(of.isfinite().all())
            ):
                return f"{name} are no finite numbers of 16 bits in three axes"
        if self.templates.shape[1] % 2 != 1 or self.images.shape[1] != self.images.shape[2]:
            return "patches are no squares"
        if self.points.shape != (number, 2) or not np.isfinite(self.points).all():
            return "points are no finite (x, y)"
        if (
            not all(type(i) is int and abs(i) <= MOST_WHOLE for i in (*self.ids, *self.mask_ids))
            or min(self.mask_ids) < 0
        ):
            return "ids are no whole numbers of at most 2^53"
        settings = self.resizing if isinstance(self.resizing, dict) else {}
        sides = settings.get("size")
        if not (isinstance(self.checkpoint, str) and set(settings) == set(RESIZING) and isinstance(sides, dict)):
            return "the checkpoint or the working resolution is missing"
        sizes = settings["size_divisor"], *sides.values()
        known = settings["resize_policy"] in RESIZE_POLICIES and sides and all(isinstance(name, str) for name in sides)
        if not known or not all(type(of) is int and 0 < of <= MOST_WHOLE for of in sizes):
            return "the working resolution is none"
        return None


def check_query_name(path: str | Path) -> Path:
    """The path, checked to end in .safetensors.

    Raises:
        `ValueError`: it has another suffix.
    """
    path = local_path(path, "written")
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: the name must end in .safetensors.")
    return path


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of the weights of a model, rounded to bfloat16: the same in float32 and in bfloat16.

    Raises:
        `ValueError`: weights are not in memory.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError("model must have its weights in memory to describe points, but they are offloaded.")
        if tensor.is_floating_point():  # counters of batches have no effect
            digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(weights: torch.Tensor) -> bytes:
    return weights.detach().to("cpu", torch.bfloat16).flatten().view(torch.uint8).numpy().tobytes()


def resizing_of(image_processor) -> dict[str, Any]:
    """The settings of an image processor that features have their scale by."""
    settings = image_processor.to_dict()
    sides = {name: side for name, side in dict(settings["size"]).items() if side}
    return {"resize_policy": settings["resize_policy"], "size": sides, "size_divisor": settings["size_divisor"]}


def _in_words(resizing: Mapping[str, Any]) -> str:
    if resizing["resize_policy"] == "none":
        return "the size of the frames"
    return " x ".join(f"{side} ({name.replace('_', ' ')})" for name, side in resizing["size"].items())


def points_in_masks(masks: Any, number: int, size: tuple[int, ...]) -> tuple[list[int], np.ndarray]:
    """A number of points in each mask of object ids (H, W) at a size: the id of the mask of each, and (x, y), float64.

    Raises:
        `ValueError`: masks are of another size or hold no object, or the number is below 1.
    """
    number = whole_number("points_per_mask", number)
    if number < 1:
        raise ValueError(f"points_per_mask must be 1 or more, got {number}.")
    ids, separate = masks_of_ids(masks)
    if separate.shape[1:] != tuple(size):
        raise ValueError(
            f"masks must be {size[0]}x{size[1]} like the image, got {'x'.join(map(str, separate.shape[1:]))}."
        )
    points = [points_in_mask(mask, number) for mask in separate]
    return [obj_id for obj_id, of in zip(ids, points, strict=True) for _ in of], np.concatenate(points)


def points_in_mask(mask: np.ndarray, number: int) -> np.ndarray:
    """
    Points spread over a mask: each is a pixel of it, near the middle of the pixels that are nearest to it (Lloyd's algorithm).

    Args:
        mask (`numpy.ndarray` of shape `(H, W)`, bool): With one pixel or more.
        number (`int`): How many; as many as there are pixels at most.

    Returns:
        `numpy.ndarray` of shape `(number, 2)`, float64: (x, y), centres of pixels.
    """
    pixels = np.argwhere(mask)[:, ::-1] + 0.5  # (M, 2)
    pixels = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), MOST_PIXELS)).round().astype(int)]
    points = pixels[np.linspace(0, len(pixels) - 1, 2 * min(number, len(pixels)) + 1).round().astype(int)[1::2]]
    for _ in range(LLOYD_STEPS):
        nearest = np.square(pixels[:, None] - points).sum(axis=-1).argmin(axis=1)  # (M,)
        middles = np.stack(
            [pixels[nearest == i].mean(axis=0) if (nearest == i).any() else p for i, p in enumerate(points)]
        )
        points = pixels[np.square(pixels[:, None] - middles).sum(axis=-1).argmin(axis=0)]
    return points


def point_list(points: Any) -> tuple[list[Any], np.ndarray]:
    """Ids and positions (N, 2), float64, of points given as an array (N, 2), or as a dict from id to (x, y).

    Raises:
        `ValueError`: they are given as anything else.
    """
    ids: Sequence = list(points) if isinstance(points, Mapping) else []
    wanted = "points must be an array (N, 2) of (x, y), or a dict from id to (x, y)"
    where = numbers_of(list(points.values()) if isinstance(points, Mapping) else points)
    if where is None:
        raise ValueError(f"{wanted}.")
    if where.ndim != 2 or where.shape[1] != 2 or not len(where):
        raise ValueError(f"{wanted}, got shape {where.shape}.")
    return list(ids) or list(range(len(where))), where


__all__ = ["PointQueries"]
