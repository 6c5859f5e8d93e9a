"""JSON files that may come from anywhere: they are read in bounded memory and depth, and what is wrong with them is one sentence."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .text_files import one_line, read_text


def reason_of(error: BaseException) -> str:
    """What an error of another library says, in one line that a message can quote."""
    text = one_line(error).strip("'\"")
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__


@contextmanager
def understanding(path: str | os.PathLike, contents: str) -> Generator[None]:
    """
    A context in which the content of a file is used: whatever goes wrong is taken for a fault of the file.

    Args:
        path: The file.
        contents (`str`): What it must be, for the message.

    Raises:
        `ValueError`: anything but an error of the system went wrong. A sentence that begins with the path stays as it is.
    """
    try:
        yield
    except OSError:
        raise
    except (
        Exception
    ) as error:  # values of other types and depths raise anything: KeyError, TypeError, RecursionError, ...
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: must be {contents}, or is damaged ({reason_of(error)}).") from None


def read_json(path: str | os.PathLike, contents: str) -> Any:
    """
    The value in a JSON file.

    Raises:
        `OSError`: there is no such file, or it cannot be read.
        `ValueError`: it is no JSON in UTF-8, is nested too deeply, or is larger than 64 MiB.
    """
    path = Path(path)
    with understanding(path, contents):
        try:
            return json.loads(read_text(path))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except OSError as error:
            raise OSError(f"{path}: cannot be read ({error.strerror}).") from None


__all__ = ["read_json", "reason_of", "understanding"]
