"""Writing of tensors in safetensors files, with the errors of every other file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .json_files import reason_of


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """
    Write tensors by their names, and text.

    Raises:
        `OSError`: the file cannot be written, for instance on a full disk; safetensors has an error of its own for that.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(f"{path}: cannot be written ({reason_of(error)}).") from None
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from None


__all__ = ["write_tensors"]
