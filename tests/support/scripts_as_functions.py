"""Scripts as functions of their arguments, in this process."""

import importlib.util
from collections.abc import Callable
from pathlib import Path


ROOT = Path(__file__).parents[2]


def script_main(name: str) -> Callable[..., int]:
    """`main` of `scripts/NAME.py`, which returns the exit status."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return lambda *arguments: script.main([str(argument) for argument in arguments])
