"""Numbers in text: ids, frames and coordinates, by one exact rule for every format."""

import re
from decimal import Decimal
from pathlib import PurePosixPath

from ..tracking.prompts import MOST_WHOLE
from .text_files import cut


NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?", re.ASCII)
IMAGE = re.compile(r"(?:.*\D)?(\d+)(?:\.[A-Za-z]\w*)?", re.ASCII | re.DOTALL)  # a name that ends in a number
QUERY = re.compile(r"(\.[A-Za-z]\w*)[?#].*", re.ASCII | re.DOTALL)  # of the address of an image, after its suffix
ROBOFLOW = re.compile(
    r"(?:[._][A-Za-z]{3,4})?\.rf\.[0-9A-Za-z]+(?=\.|$)", re.ASCII
)  # `_jpg.rf.` and a hash, before the suffix
HASH = re.compile(
    r"(?:.*[^0-9A-Za-z])?(?=[0-9a-f]*[0-9][a-f])[0-9a-f]{8,}(?:\.[A-Za-z]\w*)?", re.DOTALL
)  # no frame number


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
    """
    The frame number that the name of an image ends in, or that is all of it; `None` if it is neither. What follows the suffix in an address
    (`img7.jpg?size=200`) and the hash that Roboflow appends are not of the name; one that ends in another hash has no frame number.
    """
    whole = whole_in(name)
    if whole is not None or NUMBER.fullmatch(name.strip()):  # no number but a whole one
        return whole
    image = ROBOFLOW.sub("", PurePosixPath(image_path(name)).name)
    matched = None if HASH.fullmatch(image) else IMAGE.fullmatch(image)
    return whole_in(matched[1]) if matched else None


def image_path(name: str) -> str:
    """The path of an image, with slashes, of its path in any system or its address."""
    return QUERY.sub(r"\1", name.replace("\\", "/"))


__all__ = ["frame_in", "image_path", "number_in", "whole_in"]
