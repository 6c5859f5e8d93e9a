"""`fgvc-hf info`: versions, device, and the bundled checkpoints."""

import argparse
import importlib.metadata
import platform

from .. import __version__
from ..io.checkpoints import bundled_checkpoints, default_checkpoint, fast_dtype


PACKAGES = ("torch", "transformers", "huggingface-hub", "safetensors", "numpy", "pillow", "av")


def add_info(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser("info", help="versions, device, bundled checkpoints")
    command.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> None:
    """Print them."""
    import torch

    from ..kernels.dispatch import backend_for

    print(f"fgvc-hf {__version__}, Python {platform.python_version()}")
    for name in PACKAGES:
        print(f"  {name} {importlib.metadata.version(name)}")
    if torch.cuda.is_available():
        device, description = torch.device("cuda"), torch.cuda.get_device_name()
    else:
        device, description = torch.device("cpu"), f"{torch.get_num_threads()} threads"
    print(f"device: {device} ({description}), {str(fast_dtype(device)).removeprefix('torch.')} by default")
    print(f"kernels: {backend_for(torch.empty(0, dtype=fast_dtype(device), device=device))}")
    print("bundled checkpoints:")
    for name, path in bundled_checkpoints().items():
        print(f"  {name}{' (default)' if path == default_checkpoint() else ''}  {path}")


__all__ = ["add_info"]
