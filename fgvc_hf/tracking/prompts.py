"""What is followed through a video: prompts."""

import math
import sys
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch

from .frames import decoded, host_array


MAX_MASKS = 255  # objects with a mask in one session: they fit into 8-bit images
MOST_MASK_ID = 2**31 - 1  # maps of ids are int32
MOST_WHOLE = 2**53  # of ids and frame numbers: tables of float64, and JSON of other tools, hold them exactly
MAX_POINTS = 100_000  # points of one call or file: a file of a few bytes may claim any number


@dataclass(frozen=True, eq=False)
class PointLooks:
    """
    What a point looks like in K other places: on other labelled frames, or in other images.

    Args:
        templates (`torch.Tensor` of shape `(K, P, C)`): Patches of features around it.
        images (`torch.Tensor` of shape `(K, S, S)`): Patches of the images, as of [`image_patches`].
    """

    templates: torch.Tensor
    images: torch.Tensor


@dataclass
class PointTarget:
    """A prompt: point (x, y) in pixels of the original video, on a frame; or one that is known by its looks alone, of which (x, y) are NaN."""

    frame_idx: int
    point: tuple[float, float] = (math.nan, math.nan)
    looks: PointLooks | None = None

    @property
    def sought(self) -> bool:
        """Whether it has no position, and is looked for."""
        return math.isnan(self.point[0])


@dataclass
class MaskTarget:
    """A prompt: mask (H, W), bool, at the size of the original video, on a frame."""

    frame_idx: int
    mask: np.ndarray


@dataclass
class BoxTarget:
    """A prompt: corners (4, 2) of a box one after the other, (x, y) in pixels of the original video, on a frame."""

    frame_idx: int
    corners: np.ndarray
    turns: bool  # given by its corners, not by its sides: it may turn


def whole_number(name: str, number: Any) -> int:
    """A frame number or an id as an `int`, exactly; a `ValueError` if it is none, or beyond those that float64 holds exactly."""
    try:
        plain = number.item() if getattr(number, "ndim", None) == 0 else number  # of an array or a tensor
        if isinstance(plain, str | bytes | bool) or plain != int(plain):
            raise ValueError
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be a whole number, got {_shown(number)}.") from None
    if abs(whole := int(plain)) > MOST_WHOLE:
        digits = Decimal(whole).adjusted() + 1  # Python refuses to write those of thousands
        raise ValueError(f"{name} must be a whole number of at most 2^53, got one of {digits} digits.")
    return whole


def positive_number(name: str, number: Any, unit: str) -> float:
    """A finite number above 0 as a `float`; a `ValueError` if it is none."""
    plain = number.item() if isinstance(number, np.floating) else number  # float32 has no number of Python's range
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, Real) or not 0 < plain <= sys.float_info.max:
        raise ValueError(f"{name} must be a positive number of {unit}, got {_shown(number)}.")
    return float(number)


def check_probability(name: str, number: Any) -> None:
    """A `ValueError` if a number is given that is no probability."""
    if number is None:
        return
    if isinstance(number, bool | np.bool_) or not isinstance(number, Real) or not 0 <= number <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {_shown(number)}.")


def _shown(value: Any) -> str:
    """A value on a line."""
    try:
        return " ".join(repr(value).split())
    except ValueError:  # Python refuses to write thousands of digits
        return "one of thousands of digits"


def numbers_of(values: Any) -> np.ndarray | None:
    """
    Positions that a user gives, as float64 in memory of their own.

    Args:
        values: An array, a tensor on any device or nested sequences of real numbers.

    Returns:
        `numpy.ndarray`; `None` of anything else, such as text, truths, dates, complex numbers, or what is masked in part.
    """
    array = host_array(values)
    if array is not None and array.dtype.kind == "O":
        known = all(isinstance(one, Real) and not isinstance(one, bool | np.bool_) for one in array.flat)
        array = array.astype(np.float64) if known and np.all(np.abs(array) <= sys.float_info.max) else None
    return None if array is None or array.dtype.kind not in "iuf" else np.array(array, dtype=np.float64)


def masks_of_ids(masks: Any) -> tuple[list[int], np.ndarray]:
    """
    Objects of a map of ids.

    Args:
        masks (array, tensor or PIL image of shape `(H, W)`, integer or bool): Object ids, 0 for the background.

    Returns:
        Ids in ascending order, and the mask of each, `(N, H, W)`, bool.

    Raises:
        `ValueError`: it has another shape or type, a negative id, an id beyond int32, or no object.
    """
    ids = host_array(decoded(masks, "masks"))
    if ids is None or ids.ndim != 2 or ids.dtype.kind not in "iub":
        unequal = "values that are masked" if np.ma.is_masked(masks) else "rows or masks of unequal size"
        problem = unequal if ids is None else f"{ids.dtype} of {ids.shape}"
        raise ValueError(f"masks must hold integer object ids (H, W), got {problem}{_to_ids(ids)}.")
    present = [int(i) for i in np.unique(ids)]
    if present and not (present[0] >= 0 and present[-1] <= MOST_MASK_ID):
        raise ValueError(f"masks must hold ids from 0 to {MOST_MASK_ID}, got {present[0]} to {present[-1]}.")
    present = [i for i in present if i]
    if not present:
        raise ValueError("masks hold no object: all ids are 0.")
    if len(present) > MAX_MASKS:  # before there is a mask for each
        raise ValueError(f"masks hold {len(present)} objects, a session holds at most {MAX_MASKS}.")
    return present, np.stack([ids == i for i in present])


def _to_ids(array: np.ndarray | None) -> str:
    """How masks of another form become a map of ids."""
    if array is not None and array.ndim == 3 and array.shape[0] > 1:
        return ": one mask per object is given by its processor's add_inputs_to_inference_session"
    if array is not None and array.ndim == 2 and array.dtype.kind == "f":
        return ": ids become integers by masks.astype(np.int32)"
    return ""


def binary_masks(masks: Any, number: int) -> np.ndarray:
    """
    Masks of a number of objects.

    Args:
        masks (array, tensor or list of shape `(number, H, W)`, or `(H, W)` for one): 0 and 1, of any type.

    Returns:
        `numpy.ndarray` of shape `(number, H, W)`, bool.

    Raises:
        `ValueError`: it has another shape, or other values.
    """
    wanted = f"input_masks must hold a mask (H, W) of 0 and 1 for each of {number} obj_ids"
    if isinstance(masks, list | tuple):
        masks = [np.asarray(host_array(decoded(mask, "input_masks"))) for mask in masks]
        if len({mask.shape for mask in masks}) > 1:
            raise ValueError(f"{wanted}, got masks of unequal size.")
    array = host_array(decoded(masks, "input_masks"))
    if array is None or array.dtype.kind not in "biuf":
        raise ValueError(f"{wanted}, got {type(masks).__name__}.")
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or len(array) != number or not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{wanted}, got {array.dtype} of {array.shape}.")
    return array.astype(bool)


Target = PointTarget | MaskTarget | BoxTarget


def check_position(obj_id: int, point: tuple[float, float]) -> None:
    """A `ValueError` if the position of a point is not finite."""
    if not (math.isfinite(point[0]) and math.isfinite(point[1])):
        raise ValueError(f"input_points must be finite, got {tuple(map(float, point))} for target {obj_id}.")


def check_fits(obj_id: int, target: Target, size: tuple[int, int]) -> None:
    """A `ValueError` if a prompt does not fit frames of a size (height, width)."""
    height, width = size
    if isinstance(target, MaskTarget):
        if target.mask.shape != size:
            shape = "x".join(map(str, target.mask.shape))
            raise ValueError(
                f"input_masks must be {height}x{width} like the video, but that of target {obj_id} is {shape}."
            )
        return
    if isinstance(target, BoxTarget):
        middle = target.corners.mean(axis=0)
        if not (0 <= middle[0] <= width and 0 <= middle[1] <= height):
            raise ValueError(
                f"input_boxes must have their middle inside the frame, {height}x{width}, but that of target {obj_id} is "
                f"({middle[0]:g}, {middle[1]:g})."
            )
        return
    x, y = target.point
    if not target.sought and not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(
            f"input_points must lie inside the frame, x in 0..{width} and y in 0..{height}, "
            f"got ({x:g}, {y:g}) for target {obj_id}."
        )


__all__ = ["BoxTarget", "MaskTarget", "PointLooks", "PointTarget", "Target"]
