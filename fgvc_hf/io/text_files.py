"""Text files that people hand in: read in bounded memory, whatever their byte order mark and line ends."""

import csv
import io
import re
from decimal import Decimal
from pathlib import Path, PurePosixPath

from ..tracking.prompts import MOST_WHOLE


NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?", re.ASCII)
IMAGE = re.compile(r"(?:.*\D)?(\d+)(?:\.[A-Za-z]\w*)?", re.ASCII | re.DOTALL)  # a name that ends in a number
MAX_TEXT = 64 * 2**20  # bytes


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with a byte order mark or without one.

    Raises:
        `ValueError`: it is of another encoding, or larger than 64 MiB.
        `OSError`: it cannot be read.
    """
    kind = path.suffix[1:].upper()
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path}: is larger than {MAX_TEXT >> 20} MiB, the limit for text.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a {kind} text file in UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{path}: is not a {kind} text file in UTF-8.")
    return text


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of its line.

    Raises:
        `ValueError`: as of [`read_text`], or it is no CSV file.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        return [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except csv.Error:
        raise ValueError(f"{path}: is not a CSV text file.") from None


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


def cut(text: str) -> str:
    """Text that a message can hold, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["cut", "frame_in", "number_in", "read_rows", "read_text", "whole_in"]
