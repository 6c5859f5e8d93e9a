"""Arrays in NPZ files. They are read in memory that the file itself bounds: what a header claims is compared with what is there."""

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from .files import local_path
from .json_files import reason_of


MAX_BYTES = 2**31  # of the arrays of one file, unpacked
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(
    path: str | os.PathLike, names: tuple[str, ...], contents: str, optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """
    Read arrays of numbers, bools or text.

    Args:
        path: An NPZ file.
        names, optional (`tuple[str, ...]`): Arrays that must be there, and those that are read if they are.
        contents (`str`): What the file must be, for the message.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is no NPZ file, is damaged, lacks an array, holds pickled objects, or claims more than it holds or 2 GiB.
    """
    path = local_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            wanted = [name for name in (*names, *optional) if name in names or f"{name}.npy" in there]
            if sum(archive.getinfo(f"{name}.npy").file_size for name in wanted) > MAX_BYTES:
                raise ValueError(f"its arrays take more than {MAX_BYTES} bytes")
            return {name: _read_array(archive, f"{name}.npy") for name in wanted}
    except (
        Exception
    ) as error:  # NumPy and zipfile raise anything on a damaged file: KeyError, SyntaxError, TokenError, ...
        raise ValueError(f"{path}: must be {contents} ({reason_of(error)}).") from None


def write_npz(path: str | os.PathLike, **arrays: Any) -> None:
    """
    Write arrays of numbers, bools or text, compressed.

    NumPy's own function appends .npz to a name that ends in .NPZ, and pickles objects: its argument against that came with NumPy 2.2, and
    is an array of the file before.

    Raises:
        `ValueError`: an array holds Python objects.
        `OSError`: the file cannot be written.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects; numbers, bools and text can be written.")
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return read_npy(file, archive.getinfo(name).file_size, name)


def read_npy(file: IO[bytes], held: int, name: str) -> np.ndarray:
    """
    An array of NPY, which takes no more memory than its file has bytes.

    Args:
        file: A file that can be read, and sought from its start.
        held (`int`): Its bytes.
        name (`str`): What messages call it.

    Raises:
        `ValueError`: it claims another shape than it holds, or holds pickled objects. NumPy raises others, of any type.
    """
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"{name} has an unknown version {version}")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled objects, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held - file.tell():
        raise ValueError(f"{name} claims the shape {shape}, which is not what it holds")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


__all__ = ["read_npy", "read_npz", "write_npz"]
