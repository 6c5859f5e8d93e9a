"""HDF5 files that people hand in: what they claim to hold is bounded before it is read."""

from pathlib import Path

from .array_files import MAX_BYTES
from .optional_libraries import load_library


def check_hdf5(path: Path, purpose: str, kind: str) -> None:
    """
    Check that a file is HDF5, and that its arrays fit into memory: a few bytes can claim any number of empty pages.

    Args:
        path (`Path`): The file.
        purpose (`str`): What is being done, for the message of a missing library: "reading files of SLEAP".
        kind (`str`): What the file should be, for messages: "a file of SLEAP".

    Raises:
        `ValueError`: it is not, or they do not.
        `ImportError`: h5py is not installed.
    """
    h5py = load_library("h5py", purpose, "formats")
    claimed = 0

    def add(_, held) -> None:
        nonlocal claimed
        claimed += held.nbytes if isinstance(held, h5py.Dataset) else 0

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: is not {kind}, or a damaged one.") from None
    if claimed > MAX_BYTES:
        raise ValueError(f"{path}: its arrays take more than {MAX_BYTES >> 30} GiB, the limit for labels.")


__all__ = ["check_hdf5"]
