"""Mask files: images whose stored values are object ids, as in DAVIS.

| stored | ids |
|---|---|
| palette of 1 to 8 bits, with or without transparency | the indices |
| grey of 1, 2, 4, 8, 16 or 32 bits | the levels as they are stored, not as a viewer shows them |
| RGB | the indices of its colours in DAVIS' palette, or in that of [`write_mask`] |
| with an alpha channel | the same; pixels that are wholly transparent are background |

Formats that may lose values, such as JPEG and WebP, are refused by their content, whatever the name says.
"""

import os
from functools import cache

import numpy as np
from PIL import Image

from .drawing import point_colours
from .files import atomic_write, local_path
from .image_files import load_picture, open_picture


LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
LOSSY = ("jpeg", "tiff_jpeg", "old-jpeg", "webp", "jp2", "lerc")  # compressions of TIFF
SPREAD = {"L;2": 85, "L;4": 17}  # raw modes of Pillow: factor by which it spreads their values to 8 bits
MAX_ID = 65_535  # what a file can hold


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """
    Read object ids from an image by the rule above.

    Returns:
        `numpy.ndarray` of shape `(H, W)`, uint8, or int32 where ids may be larger: object ids, 0 for the background.

    Raises:
        `OSError`: the file is missing, or is not an image.
        `ValueError`: its format may lose values, or it holds colours that stand for no ids.
    """
    try:
        image = load_picture(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such mask.") from None
    if image.format not in LOSSLESS or image.info.get("compression") in LOSSY:
        raise ValueError(f"{path}: ids do not survive the compression of {image.format}, a mask must be a PNG file.")
    raw = _raw_mode(path)
    if raw.endswith("I") and image.mode != "1":
        raise ValueError(f"{path}: is a grey image whose 0 is white, so its ids are not known; save it as PNG.")
    if ";16" in raw and not image.mode.startswith("I"):
        raise ValueError(
            f"{path}: has 16 bits in each of several channels, which Pillow cuts to 8; save it as grey PNG."
        )
    try:
        return _ids(image, SPREAD.get(raw, 1))
    except ValueError as error:
        raise ValueError(f"{path}: must be a palette or grey image whose values are object ids, {error}.") from None


def _raw_mode(path) -> str:
    """How Pillow unpacks the file, such as "L;4"."""
    with open_picture(path) as image:
        tile = getattr(image, "tile", ())
        arguments = tile[0][3] if tile else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _ids(image: Image.Image, spread: int) -> np.ndarray:
    """The ids that an image stores; a `ValueError`, the end of a sentence, where it stores none."""
    if image.mode in ("LA", "PA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
        if ((alpha > 0) & (alpha < 255)).any():
            raise ValueError("but its alpha channel is transparent in part")
        if image.mode == "RGBA":  # what colour a wholly transparent pixel has says nothing
            colours = np.where(alpha[..., None] > 0, np.asarray(image)[..., :3], 0)
            return _ids_of_colours(colours) if colours.any() else np.zeros_like(alpha)
        ids = _ids(image.getchannel(0), spread)
        return np.where(alpha > 0, ids, 0).astype(ids.dtype)
    values = np.asarray(image)
    if image.mode in ("P", "L"):
        return values // spread
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "RGB":
        return _ids_of_colours(values)
    if image.mode.startswith("I"):
        if values.size and not (values.min() >= 0 and values.max() <= MAX_ID):
            raise ValueError(f"0 to {MAX_ID}, but it holds {values.min()} to {values.max()}")
        return values.astype(np.int32)
    raise ValueError(f"but it is of mode {image.mode}")


def _ids_of_colours(colours: np.ndarray) -> np.ndarray:
    """Ids (H, W), uint8, of colours (H, W, 3)."""
    if (colours == colours[..., :1]).all():  # 128 may be id 128, or id 7 in the colour of DAVIS
        raise ValueError("but it is grey stored as RGB; save it with one channel")
    codes = colours.astype(np.int32) @ np.array([65_536, 256, 1], np.int32)
    present, where = np.unique(codes, return_inverse=True)
    for palette in (davis_palette(), own_palette()):
        index = {int(code): i for i, code in enumerate(palette.astype(np.int32) @ [65_536, 256, 1])}
        if all(int(code) in index for code in present):
            return np.array([index[int(code)] for code in present], np.uint8)[where].reshape(codes.shape)
    raise ValueError(f"but it holds {len(present)} colours, which are not all in the palette of DAVIS")


@cache
def davis_palette() -> np.ndarray:
    """The colours (256, 3), uint8, of ids in DAVIS and Pascal VOC: the bits of an id, spread over R, G and B from the highest on."""
    ids = np.arange(256)[:, None]
    channels = np.arange(3)
    return sum(((ids >> (3 * bit + channels)) & 1) << (7 - bit) for bit in range(8)).astype(np.uint8)


@cache
def own_palette() -> np.ndarray:
    """The colours (256, 3), uint8, of [`point_colours`], with black for the background."""
    return np.concatenate([np.zeros((1, 3), np.uint8), point_colours(range(1, 256))])


def write_mask(path: str | os.PathLike, ids: np.ndarray) -> None:
    """
    Write object ids as PNG: up to 255 as a palette image in the colours of [`point_colours`], else as a grey image of 16 bits.

    Args:
        ids (`numpy.ndarray` of shape `(H, W)`, integer): Object ids, 0 to 65535.

    Raises:
        `ValueError`: an id is outside that range, or the name does not end in .png.
        `OSError`: the file cannot be written; none is left behind.
    """
    path = local_path(path, "written")
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the name of a mask must end in .png.")
    image = mask_image(ids, path)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def mask_image(ids: np.ndarray, name: str | os.PathLike) -> Image.Image:
    """The image of [`write_mask`]; the message of its `ValueError` begins with `name`."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iub" or not ids.size:
        raise ValueError(f"ids must be integers of shape (H, W), got {ids.dtype} of {ids.shape}.")
    if ids.min() < 0 or ids.max() > MAX_ID:
        raise ValueError(f"{name}: a mask file holds ids from 0 to {MAX_ID}, got {ids.min()} to {ids.max()}.")
    if ids.max() > 255:
        return Image.fromarray(ids.astype(np.uint16))
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(own_palette().tobytes())
    return image


__all__ = ["read_mask"]
