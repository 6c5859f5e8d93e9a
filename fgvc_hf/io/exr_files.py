"""OpenEXR: flow and STMaps, as compositing programs such as Nuke take them.

Flow is in the channels `forward.u` and `forward.v`, and `backward.u` and `backward.v` for the flow back: displacements in pixels, v upwards. An STMap
is in R and G: for every pixel, the place in another picture that it shows, x / width and y / height from the bottom left corner. Pixel i has its
centre at i + 0.5, so that the map of a picture onto itself is (i + 0.5) / width. Rows are stored from the top, as in every EXR.

Flow is in half floats, which tell displacements up to 32 pixels apart to 1/64 pixel, and none beyond 65504 pixels. An STMap is in 32-bit floats: half floats near 1 are 1/2048
apart, which is a pixel of a picture 2000 pixels wide.
"""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_write, local_path
from .flow_colours import as_flow
from .json_files import reason_of
from .optional_libraries import load_library


HALF_MAX = float(np.finfo(np.float16).max)


def load_openexr() -> Any:
    """OpenEXR.

    Raises:
        `ImportError`: it is not installed.
    """
    return load_library("OpenEXR", "an EXR file", "exr")


def check_exr_name(path: str | os.PathLike) -> Path:
    """The path, checked to end in .exr (else a `ValueError`), and that there is something to write it with (else an `ImportError`)."""
    path = local_path(path, "written")
    if path.suffix.lower() != ".exr":
        raise ValueError(f"{path}: the name must end in .exr.")
    load_openexr()
    return path


def write_exr(path: str | os.PathLike, channels: dict[str, np.ndarray]) -> None:
    """Write channels `(H, W)`, float16 or float32, by name; an `OSError` if the file cannot be written."""
    openexr = load_openexr()
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    arrays = {name: np.ascontiguousarray(values) for name, values in channels.items()}
    try:
        openexr.File(header, arrays).write(os.fspath(path))
    except RuntimeError as error:
        reason = (
            reason_of(error).rpartition('". ')[2].rstrip(".")
        )  # behind the path, which is that of a temporary file
        raise OSError(errno.EIO, reason, os.fspath(path)) from None


def read_exr(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """
    Read the channels of a file by name.

    Returns:
        `dict` of `numpy.ndarray` of shape `(H, W)`.

    Raises:
        `OSError`: there is no such file.
        `ValueError`: it is no EXR, or a damaged one.
    """
    path = local_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    openexr = load_openexr()
    try:
        with openexr.File(os.fspath(path), separate_channels=True) as file:
            return {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, TypeError, MemoryError):
        raise ValueError(f"{path}: is not an EXR file, or a damaged one.") from None


def flow_channels(flow: np.ndarray, backward: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Channels of a flow field `(H, W, 2)`, and of that back.

    Raises:
        `ValueError`: a displacement is too long for half floats.
    """
    fields = {"forward": flow} if backward is None else {"forward": flow, "backward": backward}
    for name, field in fields.items():
        if (too_long := np.abs(field) > HALF_MAX).any():
            raise ValueError(
                f"{name} flow in EXR is in half floats, up to {HALF_MAX:.0f} pixels, but one displacement is {field[too_long][0]:g}."
            )
    signs = {"u": 1, "v": -1}  # v is upwards
    return {
        f"{name}.{axis}": (sign * field[..., i]).astype(np.float16)
        for name, field in fields.items()
        for i, (axis, sign) in enumerate(signs.items())
    }


def read_exr_flow(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Read flow that [`save_flow`] wrote.

    Returns:
        `tuple`: displacements (x, y) in pixels, `(H, W, 2)`, float32, y downwards; and those back, or `None`.

    Raises:
        `OSError`, `ValueError`: as of [`read_exr`], or the file has no flow.
    """
    channels = read_exr(path)

    def field(name: str) -> np.ndarray | None:
        if f"{name}.u" not in channels or f"{name}.v" not in channels:
            return None
        return np.stack([channels[f"{name}.u"], -channels[f"{name}.v"]], axis=-1).astype(np.float32)

    forward = field("forward")
    if forward is None:
        raise ValueError(f"{path}: has no flow in the channels forward.u and forward.v.")
    return forward, field("backward")


def stmap_of(flow: np.ndarray) -> np.ndarray:
    """
    The STMap of a flow field: put through it, the picture that the flow leads to is warped onto the one that it comes from.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`): Displacements (x, y) in pixels, y downwards.

    Returns:
        `numpy.ndarray` of shape `(H, W, 2)`, float32: (s, t) of each pixel, t upwards.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    s, t = (x + flow[..., 0]) / width, 1 - (y + flow[..., 1]) / height
    return np.stack([s, t], axis=-1).astype(np.float32)


def flow_of(stmap: np.ndarray) -> np.ndarray:
    """The flow field of an STMap `(H, W, 2)`: the inverse of [`stmap_of`]."""
    height, width = stmap.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    s, t = np.moveaxis(stmap.astype(np.float64), -1, 0)
    return np.stack([s * width - x, (1 - t) * height - y], axis=-1).astype(np.float32)


def save_stmap(flow: np.ndarray, path: str | os.PathLike) -> None:
    """
    Write the STMap of a flow field, as of [`stmap_of`]. The inverse map is that of the flow back.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`): Displacements (x, y) in pixels.
        path: A .exr file.

    Raises:
        `ValueError`: the name has another suffix.
        `OSError`: the file cannot be written; none is left behind.
        `ImportError`: OpenEXR is not installed (`pip install "fgvc-hf[exr]"`).
    """
    path = check_exr_name(path)
    stmap = stmap_of(as_flow(flow))
    with atomic_write(path) as temporary:
        write_exr(temporary, {"R": stmap[..., 0], "G": stmap[..., 1], "B": np.zeros_like(stmap[..., 0])})


def read_stmap(path: str | os.PathLike) -> np.ndarray:
    """
    Read an STMap.

    Returns:
        `numpy.ndarray` of shape `(H, W, 2)`, float32: (s, t), as of [`stmap_of`].

    Raises:
        `OSError`, `ValueError`: as of [`read_exr`], or the file has no channels R and G.
    """
    channels = read_exr(path)
    if "R" not in channels or "G" not in channels:
        raise ValueError(f"{path}: is no STMap, which has the channels R and G.")
    return np.stack([channels["R"], channels["G"]], axis=-1).astype(np.float32)


__all__ = ["check_exr_name", "flow_of", "read_exr_flow", "read_stmap", "save_stmap", "stmap_of"]
