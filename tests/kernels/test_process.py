import os
import platform
import subprocess
import sys

import pytest


FAULTS = """
import resource, sys
import numpy as np
from fgvc_hf.kernels.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(100 * 2**20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = faults(), faults()
print(first, second)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")
def test_pages_of_large_blocks_are_used_again():
    found = {}
    for option in ("keep", "default"):
        result = subprocess.run([sys.executable, "-c", FAULTS, option], capture_output=True, text=True, check=True)
        found[option] = [int(word) for word in result.stdout.split()]
    assert found["default"][1] > found["default"][0] / 2  # every block is of new pages
    assert found["keep"][1] < found["keep"][0] / 10


@pytest.mark.slow
def test_threads_rest_soon_if_it_is_said_before_torch_is_loaded():
    code = "import os, sys; from fgvc_hf.kernels.process import rest_soon; print(rest_soon(), os.environ['GOMP_SPINCOUNT'])"
    code += "; import torch; print(rest_soon())"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for mine, expected in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**environment, **mine}
        )
        assert done.stdout.split() == ["True", expected, "False"], done.stderr
