"""Names that come from files, such as those of a data set's sequences: names of files and folders, and never paths."""

import unicodedata
from collections.abc import Iterable


LONGEST = 200  # bytes, of the 255 that file systems allow, so that a suffix fits
FORBIDDEN = '/\\:*?"<>|'
RESERVED = ("con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10)))


def check_name(name: object, source: object) -> str:
    """The name, checked to be one that a file or folder can have on every system.

    Args:
        name: The name.
        source: What it was read from, for the message.

    Raises:
        `OSError`: it is no text, is empty or too long, has a separator or another character of paths, or is hidden or reserved.
    """
    if isinstance(name, str) and name and name == name.strip() and not name.startswith(".") and not name.endswith("."):
        plain = name.isprintable() and not set(name) & set(FORBIDDEN)
        encoded = len(name.encode(errors="replace"))
        if plain and encoded <= LONGEST and name.partition(".")[0].lower() not in RESERVED:
            return name
    shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:80]}..."
    raise OSError(f"{source}: {shown} is not a name; a sequence must be named as one file or folder can be.")


def check_names(names: Iterable[object], source: object) -> list[str]:
    """The names, checked one by one and to differ in more than case and the encoding of accents, so that none takes the place of another.

    Raises:
        `OSError`: as of [`check_name`], or a name is there twice.
    """
    checked, seen = [check_name(name, source) for name in names], set()
    for name in checked:
        if folded(name) in seen:
            raise OSError(f"{source}: the name {name!r} is there twice.")
        seen.add(folded(name))
    return checked


def folded(name: str) -> str:
    """What two names have in common that are one file on systems which ignore case, or how an accent is encoded."""
    return unicodedata.normalize("NFC", name).casefold()


__all__ = ["check_name", "check_names", "folded"]
