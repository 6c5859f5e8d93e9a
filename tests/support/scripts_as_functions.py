"""Scripts as functions of their arguments, in this process: that spares the seconds in which a process loads its libraries."""

import contextlib
import importlib.util
import io
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch


ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    """`scripts/NAME.py` as a module, anew."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def script_main(name: str) -> Callable[..., int]:
    """`main` of `scripts/NAME.py`, which returns the exit status."""
    script = load_script(name)
    return lambda *arguments: script.main([str(argument) for argument in arguments])


def run_here(file: str, *arguments, **constants) -> subprocess.CompletedProcess[str]:
    """
    What [`training_runs.run`] returns, but the script runs in this process, on its command line.

    Args:
        constants: Other values for constants of the script.
    """
    command = [str(ROOT / "scripts" / file), *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with this_process_stays_as_it_is(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        sys.argv = command
        try:
            script = load_script(Path(file).stem)
            assert all(hasattr(script, constant) for constant in constants)
            script.__dict__.update(constants)
            if hasattr(script, "keep_freed_memory"):
                script.keep_freed_memory = lambda: False
            script.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                errors.write(f"{end.code}\n")
        except Exception:
            status = 1
            traceback.print_exc()
    return subprocess.CompletedProcess(command, status, output.getvalue(), errors.getvalue())


def settings() -> dict:
    """What a script could leave changed, and must not."""
    handled = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {
        "signals": [signal.getsignal(number) for number in handled],
        "folder": os.getcwd(),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }


def forget_accelerators() -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@contextlib.contextmanager
def this_process_stays_as_it_is() -> Generator[None]:
    """A context like a process of its own, offline: what may change is as before in the end, and what may not is looked at."""
    before, randomness = settings(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    forget_accelerators()
    with (
        mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}),
        mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        mock.patch.object(sys, "argv", list(sys.argv)),
        mock.patch.object(sys, "path", [str(ROOT / "scripts"), *sys.path]),
    ):
        try:
            yield
        finally:
            forget_accelerators()
            for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), randomness):
                restore(state)
    assert settings() == before
