"""What a frame is: (H, W, 3), uint8, RGB. Every public entry that takes a frame takes it through [`as_frame`].

| given | becomes |
|---|---|
| array or tensor `(H, W, 3)`, uint8 | itself |
| array or tensor `(H, W)` or `(H, W, 1)`, uint8 | grey: three equal channels |
| PIL image of 8 bits or fewer, of any mode | RGB, as Pillow converts it: palettes are looked up, alpha and ICC profiles ignored |
| PIL image of 16 bits, grey | its values / 257, rounded: 65535 is white |
| PIL image of mode F | 255 times its values, which must lie in [0, 1] |

Nothing else is guessed: values in [0, 1], integers of other widths and channels first are refused with the line that converts them.
"""

from typing import Any

import numpy as np
from PIL import Image


LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in the grey level (ITU-R BT.601)
FLOATS = ("torch.float16", "torch.float32", "torch.float64")  # that NumPy has too
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # grey, 16 bits without a sign


def as_frame(frame: Any, name: str = "frame") -> np.ndarray:
    """
    A frame as `(H, W, 3)`, uint8, by the rule above. An array shares its memory and may be read-only.

    Args:
        frame (`numpy.ndarray`, `torch.Tensor` or `PIL.Image.Image`): The frame.
        name (`str`, defaults to `"frame"`): What the message calls it.

    Raises:
        `ValueError`: it is anything else.
    """
    if isinstance(frame, Image.Image):
        return rgb_of(frame, name)
    array = host_array(frame)
    if array is None or array.dtype.kind in "OUSVMm":
        raise ValueError(
            f"{name} must be a uint8 array (H, W, 3) or a PIL image, got {type(frame).__name__}{_of_objects(array)}."
        )
    shape = array.shape
    if array.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8, 0 to 255, got {array.dtype}: {_to_uint8(array)}.")
    if 0 in shape:
        raise ValueError(f"{name} must have pixels, got an empty array of shape {shape}.")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim == 3 and array.shape[2] in (1, 3):
        return np.broadcast_to(array, (*array.shape[:2], 3))
    raise ValueError(f"{name} must have the shape (H, W, 3), or (H, W) for grey, got {shape}{_to_channels(shape)}.")


def host_array(values: Any) -> np.ndarray | None:
    """An array of an array, a tensor on any device or nested sequences; `None` if it is none of these, or masked in part."""
    if np.ma.is_masked(values):
        return None
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            known = not values.dtype.is_floating_point or str(values.dtype) in FLOATS
            values = values if known else values.float()
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError):
        # Rows of unequal length, an object that refuses, a tensor without values
        if not (isinstance(values, list | tuple) and _holds_tensors(values)):
            return None
    return host_array([host_array(value) for value in values])


def _holds_tensors(values: Any) -> bool:
    """Whether nested sequences hold a tensor. NumPy takes none that is on a GPU, needs a gradient, or is of a type of torch alone."""
    if isinstance(values, list | tuple):
        return any(map(_holds_tensors, values))
    return hasattr(values, "detach")


def decoded(values: Any, name: str) -> Any:
    """What is given; of a PIL image, once its file has been read.

    Raises:
        `ValueError`: the file is damaged.
    """
    if isinstance(values, Image.Image):
        try:
            values.load()
        except Exception as error:  # decoders raise anything on damaged files
            raise ValueError(f"{name} is an image that cannot be decoded ({' '.join(str(error).split())}).") from None
    return values


def rgb_of(image: Image.Image, name: str) -> np.ndarray:
    """A PIL image as `(H, W, 3)`, uint8, by the rule above.

    Raises:
        `ValueError`: it has values that no rule covers, or cannot be decoded.
    """
    if 0 in image.size:
        raise ValueError(f"{name} must have pixels, got an empty image.")
    decoded(image, name)
    if image.mode in WIDE_MODES or (image.mode == "I" and image.format == "PPM"):  # Pillow scales PPM to 16 bits
        return _grey((np.asarray(image).astype(np.float64) / 257).round())
    if image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} is an image of floats, which must lie in [0, 1]: scale it, or convert it to 8 bits."
            )
        return _grey((255 * values.astype(np.float64)).round())
    if image.mode.startswith("I"):
        raise ValueError(
            f"{name} is an image of 32-bit integers, whose white is not known: convert it to 8 or 16 bits."
        )
    try:
        if image.mode in ("RGBa", "La"):  # premultiplied
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.convert("RGBA")  # Pillow warns of the direct way to RGB
        return np.asarray(image.convert("RGB"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} is an image of mode {image.mode}, which cannot become RGB ({error}).") from None


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def _of_objects(array: np.ndarray | None) -> str:
    return f" of {array.dtype}" if array is not None and array.ndim else ""


def _to_uint8(array: np.ndarray) -> str:
    """How values of another type become uint8."""
    if array.dtype.kind == "f":
        return "values in [0, 1] become uint8 by (255 * frame).round().astype(np.uint8)"
    if array.dtype == np.uint16:
        return "16-bit values become uint8 by (frame / 257).round().astype(np.uint8)"
    if array.dtype == bool:
        return "it becomes uint8 by 255 * frame.astype(np.uint8)"
    return "values from 0 to 255 become uint8 by frame.astype(np.uint8)"


def _to_channels(shape: tuple[int, ...]) -> str:
    """How an array of another shape becomes (H, W, 3)."""
    if len(shape) == 3 and shape[2] == 4:
        return ": drop the alpha channel by frame[..., :3]"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return ": channels come last, move them by np.moveaxis(frame, 0, -1)"
    return ": give one frame at a time" if len(shape) > 3 else ""


__all__ = ["LUMA", "as_frame"]
