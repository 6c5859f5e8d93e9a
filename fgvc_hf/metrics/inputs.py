"""What metrics are given: arrays, tensors on any device, or nested lists. What could be counted wrongly without a word is refused."""

from typing import Any

import numpy as np


def numbers(name: str, values: Any) -> np.ndarray:
    """An array of real numbers.

    Raises:
        `ValueError`: it holds anything else, or rows of unequal length.
    """
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be an array of numbers, but its rows are of unequal length.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers, got {array.dtype}.")
    return array


def flags(name: str, values: Any) -> np.ndarray:
    """An array of bools; whole numbers are true where they are not 0.

    Raises:
        `ValueError`: as of [`numbers`], or a number is not whole, such as a probability or NaN.
    """
    array = numbers(name, values)
    if array.dtype.kind == "f" and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be true or false, but it holds other numbers than 0 and 1.")
    return array.astype(bool, copy=False)


def whole_numbers(name: str, values: Any) -> np.ndarray:
    """An array of integers that are not negative, such as ids, classes or frame numbers.

    Raises:
        `ValueError`: as of [`numbers`], or a number is negative or not whole.
    """
    array = numbers(name, values)
    if array.dtype.kind == "f":
        if not (array == np.trunc(array)).all() or (np.abs(array) >= 2**53).any():
            raise ValueError(f"{name} must hold whole numbers.")
        array = array.astype(np.int64)
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ValueError(f"{name} must hold numbers from 0 on, got {array.min()}.")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


__all__ = ["flags", "numbers", "whole_numbers"]
