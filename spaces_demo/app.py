"""The Space: the demo of fgvc_hf, on all interfaces, and on ZeroGPU where there is one."""

import contextlib


with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  # ZeroGPU asks to be imported before torch

from fgvc_hf.demo.app import launch


if __name__ == "__main__":
    launch(port=7860, host="0.0.0.0")
