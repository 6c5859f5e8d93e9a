"""Libraries that only some features need."""

import importlib
from typing import Any


def load_library(module: str, purpose: str, extra: str) -> Any:
    """
    Import a library when it is first needed.

    Args:
        module (`str`): The module to import.
        purpose (`str`): What needs it, for the message: "writing EXR".
        extra (`str`): The extra of this package that installs it.

    Raises:
        `ImportError`: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f'{purpose} needs {module}: pip install "fgvc-hf[{extra}]"') from None


__all__ = ["load_library"]
