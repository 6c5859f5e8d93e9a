"""The columns that all rows have, whatever was followed, and checks of rows of anybody."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    import datasets


FIRST = """| column | type | content |
|---|---|---|
| `id` | string | 32 hexadecimal digits: hash of source, row, start frame, options and revision |
| `source` | string | name of the clip in its source |
| `num_frames`, `width`, `height` | int32 | T frames of W x H pixels |
| `fps` | float32 | frames per second; null where the source does not say |
"""
LAST = """
| `model`, `revision`, `preset` | string | what tracked it |
| `error` | string | why there is nothing, as `kind: sentence`; null otherwise |
"""
ALWAYS = ("id", "source", "model", "revision", "preset", "error")  # where there is an error too


def row_features(**found: Any) -> "datasets.Features":
    """The schema of rows with columns of what was found, for `datasets`."""
    import datasets

    text, number = datasets.Value("string"), datasets.Value("int32")
    return datasets.Features(
        {"id": text, "source": text, "num_frames": number, "width": number, "height": number}
        | {"fps": datasets.Value("float32"), **found}
        | dict.fromkeys(("model", "revision", "preset", "error"), text)
    )


def column_table(documentation: str | None) -> str:
    """The columns and their bounds, as Markdown: those of a module's documentation, its second part, between those of all rows."""
    _, _, text = (documentation or "").partition("\n\n")
    columns, _, bounds = text.strip().partition("\n\n")
    return f"{FIRST}{columns}{LAST}\n{bounds}"


def whole(value: Any) -> int:
    """A whole number of 1 or more in int32; pandas has those of a column with nulls as floats."""
    if (
        isinstance(value, bool | np.bool_)
        or not isinstance(value, Real)
        or not 1 <= value < 2**31
        or value != int(value)
    ):
        raise ValueError
    return int(value)


def check_row(row: Any, held: str, others: Sequence[str]) -> None:
    """A `ValueError` if something is not a row with a column of what it holds, `"tracks"` or `"masks"`, and with others, whatever is in them."""
    if not (isinstance(row, Mapping) or hasattr(row, "keys")):
        raise ValueError(f"a row of {held} must be a mapping of columns, got {type(row).__name__}.")
    names = [str(name) for name in row.keys()]
    for wanted in (held, *others):
        if wanted not in names:
            raise ValueError(f"a row of {held} must have a column {wanted}, it has {', '.join(names) or 'none'}.")
        if wanted == held and (isinstance(row[held], Real | str) or not hasattr(row[held], "__getitem__")):
            reason = error if isinstance(error := row.get("error"), str) else f"its {held} are missing"
            raise ValueError(f"row {row.get('id')} ({row.get('source')}) holds no {held}: {reason.rstrip('.')}.")


__all__ = ["ALWAYS", "check_row", "column_table", "row_features", "whole"]
