"""The suite under another default type of torch: what the package computes must not depend on it, whatever the tests make by it."""

import os
import sys
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fgvc_hf.encoder import loading


TESTS = str(Path(__file__).parents[1])
BETWEEN = (
    str(Path(torch.__file__).parent),
    loading.__file__,
)  # who is between a call of a test and the tensor that it makes
FLOAT32 = torch.float32
DTYPE = getattr(torch, os.environ.get("FGVC_TEST_DTYPE", "float32"))
THREADS = torch.get_num_threads()


class Float32InTests(TorchFunctionMode):
    """Tensors and models that tests make themselves are float32 as ever: the other default type holds for the calls of the package alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if torch.get_default_dtype() != DTYPE or not _is_of_a_test():
            return function(*args, **(kwargs or {}))
        torch.set_default_dtype(FLOAT32)
        try:
            return function(*args, **(kwargs or {}))
        finally:
            torch.set_default_dtype(DTYPE)


def _is_of_a_test() -> bool:
    """Whether the innermost frame outside torch is one of a file of the tests, or of the constructor of a model that a test makes."""
    frame = _caller(sys._getframe(2))
    if frame is None or frame.f_code.co_filename.startswith(TESTS):
        return frame is not None
    above, made = frame, None
    while above is not None:
        if above.f_code.co_name == "__init__" and isinstance(above.f_locals.get("self"), torch.nn.Module):
            made = above  # the model, of which the modules are parts
        above = above.f_back
    maker = _caller(made and made.f_back)
    return maker is not None and maker.f_code.co_filename.startswith(TESTS)


def _caller(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame = frame.f_back
    return frame


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Each test begins with this default type and these threads, whatever the one before has left.

    Sums of torch depend on the number of threads, and numba's parallel functions, which napari calls, set that of the thread that calls them.
    """
    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)
    if DTYPE == FLOAT32:
        return (yield)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    try:
        with Float32InTests():
            return (yield)
    finally:
        torch.set_default_dtype(before)
