"""What the JIT kernels share: threads, layouts, compilation."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from fgvc_hf.kernels import numba_runtime
from fgvc_hf.kernels.topk_numba import NumbaTopk


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("of_torch", [True, False])
def test_work_is_done_once_in_parallel(threads, of_torch, monkeypatch):
    if not of_torch:
        monkeypatch.setattr(numba_runtime, "openmp_threads", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done = np.zeros(13, int)

    def work(first, last):
        done[first:last] += 1

    numba_runtime.in_parallel(work, len(done))
    assert (done == 1).all()

    def fail(first, last):
        if last == len(done):
            raise ArithmeticError("what went wrong")

    with pytest.raises(ArithmeticError, match="what went wrong"):
        numba_runtime.in_parallel(fail, len(done))
    numba_runtime.in_parallel(work, 0)  # and it goes on


INTERRUPTED = """
import signal, torch
from fgvc_hf.kernels.numba_runtime import in_parallel

class Interrupt(BaseException): pass

def interrupt(*_):
    global raised
    raised += 1
    raise Interrupt

torch.set_num_threads(2)
raised = seen = 0
signal.signal(signal.SIGALRM, interrupt)
while raised < 300:
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        for _ in range(500):  # longer than the timer
            in_parallel(lambda first, last: None, 8)
    except Interrupt:
        seen += 1
print(raised - seen, "lost")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_no_signal_is_lost_in_a_callback():
    """A signal may come just before the first instruction of a callback, where Python prints the exception of its handler and goes on."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0 lost\n", done.stderr[-2000:]


def test_the_number_of_threads_changes_nothing(monkeypatch):
    products = torch.randn(3, 8, 16, 2, 18, 26, generator=torch.Generator().manual_seed(0))
    expected = NumbaTopk.select(products, (5,) * 11, 4)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=threads: number)
        assert all(map(torch.equal, NumbaTopk.select(products, (5,) * 11, 4), expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_layout_does_not_change_a_bit(dtype):
    queries, keys = (
        torch.randn(2, 1, 6, 33, generator=torch.Generator().manual_seed(0)).to(dtype).expand(-1, 5, -1, -1)
    )
    places = torch.randint(6, (1, 6, 4), generator=torch.Generator().manual_seed(1)).expand(5, -1, -1)
    assert not queries.is_contiguous() and not places.is_contiguous()
    own = (of.contiguous() for of in (queries, keys, places))
    assert torch.equal(NumbaTopk.score(queries, keys, places), NumbaTopk.score(*own))


def test_arrays_are_contiguous_and_share_memory_where_they_can():
    values = torch.arange(12.0).view(3, 4)
    assert numba_runtime.array_of(values).ctypes.data == values.data_ptr()
    for strided in (values.T, values[:, :2], values[:1].expand(3, -1)):
        array = numba_runtime.array_of(strided)
        assert array.flags["C_CONTIGUOUS"] and np.array_equal(array, strided.numpy())
        assert numba_runtime.bits_of(strided)[0].flags["C_CONTIGUOUS"]


def test_kernels_are_compiled_without_a_folder_for_them(monkeypatch):
    def no_folder(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba_runtime, "njit", no_folder)
    assert numba_runtime.jit(lambda a: a + 1)(2) == 3


PROGRAM = Path(__file__).parents[1] / "support" / "kernel_results.py"


def kernel_results(cache: Path, *order: str) -> dict:
    """What a new process computes that keeps machine code in a folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, PROGRAM, *order], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_results_do_not_depend_on_what_was_compiled_before(tmp_path):
    """Compiled in this process, read from disk, or some of each; in any order."""
    compiled = kernel_results(tmp_path)
    assert {kernel: calls for kernel, calls in compiled["calls"].items() if calls != []} == {}
    kept = sorted(tmp_path.rglob("*.nbi"))
    assert len(kept) == len(compiled["calls"])  # a kernel was read from disk, or one is not looked at
    assert kernel_results(tmp_path, "backwards")["results"] == compiled["results"]
    for path in kept[::2]:
        path.unlink()
    assert kernel_results(tmp_path)["results"] == compiled["results"]
    assert kernel_results(tmp_path / "other", "backwards")["results"] == compiled["results"]
