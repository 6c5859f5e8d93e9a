"""Names of rows: equal work has equal names, on every machine."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(value: Any) -> str:
    """32 hexadecimal digits of a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def clip_id(place: tuple, options: Mapping[str, Any]) -> str:
    """The id of a row.

    Args:
        place (`tuple`): Source, row and start frame of the clip.
        options (mapping): What its tracks depend on: points, model, revision and preset among them.
    """
    return digest([list(place), dict(options)])


__all__ = ["clip_id", "digest"]
