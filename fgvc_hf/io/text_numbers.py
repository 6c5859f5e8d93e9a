"""Numbers in text: ids, frames and coordinates, by one exact rule for every format."""

import re
from decimal import Decimal
from pathlib import PurePosixPath

from ..tracking.prompts import MOST_WHOLE
from .text_files import cut


NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?", re.ASCII)
IMAGE = re.compile(r"(?:.*\D)?(\d+)(?:\.[A-Za-z]\w*)?", re.ASCII | re.DOTALL)  # a name that ends in a number


def whole_in(text: str) -> int | None:
    """
    The whole number that a text is, exactly: `7`, and `7.0` or `7e0` of tools that write all numbers alike. `None` for `7.5`, and for anything
    else that is no whole number or beyond those of [`whole_number`]. Whoever reads frame numbers or ids of text files does it by this.
    """
    matched = NUMBER.fullmatch(text.strip())
    number = Decimal(matched[0]) if matched else None
    if number is None or abs(number) > MOST_WHOLE or number != number.to_integral_value():
        return None
    return int(number)


def number_in(text: str) -> float:
    """The number that a text is: as of `float`, without the underscores and the digits of other scripts that Python knows.

    Raises:
        `ValueError`: it is none.
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"{cut(text)!r} is not a number.")
    return float(text)


def frame_in(name: str) -> int | None:
    """The frame number that the name of an image ends in, or that is all of it; `None` if it is neither."""
    whole = whole_in(name)
    if whole is not None or NUMBER.fullmatch(name.strip()):  # no number but a whole one
        return whole
    matched = IMAGE.fullmatch(PurePosixPath(name.replace("\\", "/")).name)
    return whole_in(matched[1]) if matched else None


__all__ = ["frame_in", "number_in", "whole_in"]
