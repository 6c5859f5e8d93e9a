"""Text files that people hand in: read in bounded memory, whatever their byte order mark and line ends."""

import csv
import io
import unicodedata
from pathlib import Path


MAX_TEXT = 64 * 2**20  # bytes
BROKEN = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # Unicode's categories of control characters, surrogates, and ends of lines and paragraphs
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of what follows


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


def cut(text: str) -> str:
    """Text that a message can hold, on one line."""
    text = one_line(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: object) -> str:
    """Text as it is but for what a line cannot show: line breaks, control characters and marks of direction, escaped as Python writes them."""
    return "".join(one.encode("unicode_escape").decode() if is_hidden(one) else one for one in str(text))


def is_hidden(character: str) -> bool:
    """Whether a character changes the line that it is in, instead of being part of it."""
    return unicodedata.category(character) in BROKEN or character in TURNING


def one_line(text: object) -> str:
    """Text of several lines as one, without control characters. Spaces within a line stay, for names may have them."""
    return printable(" ".join(line.strip() for line in str(text).splitlines() if line.strip()))


__all__ = ["cut", "one_line", "printable", "read_rows", "read_text"]
