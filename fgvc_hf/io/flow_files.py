"""Optical flow files: Middlebury .flo, .npz, OpenEXR, and .png pictures in flow colours; KITTI's .png and Spring's .flo5 are read only."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .array_files import MAX_BYTES, write_npz
from .containers import load_av
from .drawing import draw_flow
from .exr_files import check_exr_name, flow_channels, write_exr
from .files import atomic_write, local_path
from .flow_colours import as_flow, largest_flow
from .image_files import load_picture


FORMATS = (".flo", ".npz", ".png", ".exr")
FLO_TAG = b"PIEH"  # first bytes of a Middlebury flow file: 202021.25 as a little-endian float


def check_flow_format(path: str | Path) -> Path:
    """The path, checked to end in .flo, .npz, .png or .exr (else a `ValueError`), and that OpenEXR is there if it is needed."""
    path = local_path(path, "written")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the name must end in .flo, .npz, .png or .exr.")
    return check_exr_name(path) if path.suffix.lower() == ".exr" else path


def save_flow(flow: np.ndarray, occluded: np.ndarray, path: str | Path, backward: np.ndarray | None = None) -> None:
    """Write a flow field: `.flo` as Middlebury, `.npz` with the arrays `flow` and `occluded`, `.png` in the colours of [`draw_flow`], `.exr` in half
    floats with the channels `forward.u` and `forward.v`, v upwards.

    The `.png` is for programs too: every pixel has the colour of its flow and nothing is drawn over it. The length of full saturation, in
    pixels, is in its text field `largest`.

    Args:
        flow (`numpy.ndarray` of shape `(H, W, 2)`, float32): (x, y) displacements in pixels.
        occluded (`numpy.ndarray` of shape `(H, W)`, bool): Pixels without a match; stored in `.npz` only.
        path: Where to write; its suffix decides the format.
        backward (`numpy.ndarray` of shape `(H, W, 2)`, float32, *optional*): The flow from the second frame to the first, for the channels
            `backward.u` and `backward.v` of `.exr`; other formats have no place for it.

    Raises:
        `ValueError`: the name has another suffix, or flow has another shape.
        `OSError`: the file cannot be written; none is left behind.
        `ImportError`: `.exr` is wanted and OpenEXR is not installed (`pip install "fgvc-hf[exr]"`).
    """
    suffix, flow = check_flow_format(path).suffix.lower(), as_flow(flow)
    backward = None if backward is None else as_flow(backward, "backward")
    with atomic_write(path) as temporary:
        if suffix == ".npz":
            write_npz(temporary, flow=flow, occluded=occluded)
        elif suffix == ".exr":
            write_exr(temporary, flow_channels(flow, backward))
        elif suffix == ".png":
            text = PngInfo()
            text.add_text("largest", f"{largest_flow(flow):.6g}")
            Image.fromarray(draw_flow(flow)).save(temporary, format="PNG", pnginfo=text)
        else:
            size = np.array(flow.shape[1::-1], "<i4")
            temporary.write_bytes(FLO_TAG + size.tobytes() + flow.astype("<f4").tobytes())


def read_flo(path: str | Path) -> np.ndarray:
    """Read a Middlebury file.

    Returns:
        `numpy.ndarray` of shape `(H, W, 2)`, float32: (x, y) displacements in pixels.

    Raises:
        `OSError`: there is no such file.
        `ValueError`: the file has another format or is damaged.
    """
    path = local_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    content = path.read_bytes()
    width, height = np.frombuffer(content[4:12], "<i4") if len(content) >= 12 else (0, 0)
    if content[:4] != FLO_TAG or width < 1 or height < 1 or len(content) != 12 + 8 * int(width) * int(height):
        raise ValueError(f"{path}: is no flow file, or a damaged one.")
    return np.frombuffer(content[12:], "<f4").reshape(height, width, 2).astype(np.float32)


def read_kitti_flow(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of KITTI: a PNG of 16 bits whose red and green hold 2^15 + 64 times the flow, and whose blue is 0 where it is not known.

    Returns:
        `tuple`: displacements (x, y) in pixels of shape `(H, W, 2)`, float32, and where they are known, `(H, W)`, bool.

    Raises:
        `ValueError`: the file has another format or is damaged.
        `OSError`: it is missing or no whole picture.
    """
    path = local_path(path)
    load_picture(path)  # finds any damage; but Pillow gives 8 of the 16 bits
    av = load_av()
    try:
        with av.open(io.BytesIO(path.read_bytes()), format="png_pipe") as container:
            picture = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration):
        raise ValueError(f"{path}: is no flow file of KITTI, or a damaged one.") from None
    if picture.format.name != "rgb48be":
        raise ValueError(f"{path}: is no flow file of KITTI, which is a PNG of three channels of 16 bits.")
    values = picture.to_ndarray()  # (H, W, 3), uint16
    return (values[..., :2].astype(np.float32) - 2**15) / 64, values[..., 2] > 0


def load_h5py() -> Any:
    """h5py.

    Raises:
        `ImportError`: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("flow of Spring (.flo5) is HDF5, which needs h5py: pip install h5py") from None
    return h5py


def read_flo5(path: str | Path) -> np.ndarray:
    """Read a file of Spring: HDF5 with the array `flow`.

    Returns:
        `numpy.ndarray` of shape `(H, W, 2)`, float32: (x, y) displacements, NaN where not known. Those of Spring are in pixels of frames of
        half the size.

    Raises:
        `OSError`: there is no such file.
        `ValueError`: the file has another format or is damaged.
        `ImportError`: h5py is not installed.
    """
    h5py, path = load_h5py(), local_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with h5py.File(path, "r") as file:
            held = file["flow"]  # an array, or a group, which has no shape
            shape, kind = getattr(held, "shape", None), held.dtype.kind
            if not shape or len(shape) != 3 or shape[2] != 2 or not held.size or kind not in "fiu":
                raise ValueError(
                    f"{path}: holds flow of {shape} of {held.dtype}, but numbers (H, W, 2) were expected."
                )
            if held.size > MAX_BYTES // 4:
                raise ValueError(f"{path}: its flow takes more than {MAX_BYTES >> 30} GiB, the limit.")
            return np.asarray(held, np.float32)
    except (OSError, KeyError, AttributeError, TypeError, RuntimeError):
        raise ValueError(f"{path}: is no flow file of Spring, or a damaged one.") from None
