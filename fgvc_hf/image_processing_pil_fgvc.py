"""Image processor of FGVC: resize, convert to CIE Lab, normalise."""

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from .tracking.frames import decoded, host_array, rgb_of


CHANNELS = (1, 3, 4)  # what transformers takes for an axis of channels
MOST_PIXELS = 1 << 26  # of an input; the settings of a file may say any size
MOST_DIVISOR = 256  # sides become as long at least; strides of encoders are 32 or less
RESIZE_POLICIES = ("stretch", "short_side", "none")
# Linear sRGB to CIE XYZ, D65 white point (IEC 61966-2-1); rows X, Y, Z, which sum to the white point
RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


class FgvcImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    resize_policy (`str`, *optional*, defaults to `"stretch"`):
        `"stretch"` resizes to `size` and ignores the aspect ratio; `"short_side"` keeps it and resizes the shorter side to
        `size["shortest_edge"]`; `"none"` keeps the size. All round both sides to multiples of `size_divisor`.
    size_divisor (`int`, *optional*, defaults to 8):
        Height and width are rounded to the nearest multiple of it. 8 suits every output stride of the encoder up to 8.
    do_convert_lab (`bool`, *optional*, defaults to `True`):
        Whether to convert sRGB to CIE Lab. Needs `do_rescale`, because the conversion takes values in [0, 1].
    lightness_only (`bool`, *optional*, defaults to `False`):
        Whether to replace a and b by L, for encoders trained on lightness only. Needs `do_convert_lab`.
    """

    resize_policy: str
    size_divisor: int
    do_convert_lab: bool
    lightness_only: bool


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """
    Convert sRGB to CIE 1976 L*a*b* (D65), on any device, differentiably.

    Args:
        rgb (`torch.Tensor` of shape `(..., 3, H, W)`): R, G, B in [0, 1].

    Returns:
        `torch.Tensor` of the same shape: L in [0, 100], a and b in about [-128, 128].
    """
    # Each power gets an argument inside its own range: torch.where multiplies the gradient of the branch not taken by 0, and a power of 0
    # has an infinite one
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    white_relative = RGB_TO_XYZ / RGB_TO_XYZ.sum(axis=1, keepdims=True)
    matrix = torch.tensor(white_relative, dtype=rgb.dtype, device=rgb.device)
    xyz = torch.einsum("ij,...jhw->...ihw", matrix, linear)
    epsilon, kappa = (6 / 29) ** 3, (29 / 6) ** 2 / 3
    x, y, z = torch.where(xyz > epsilon, xyz.clamp_min(epsilon) ** (1 / 3), xyz * kappa + 4 / 29).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def convert_colours(
    rgb: torch.Tensor, do_convert_lab: bool, lightness_only: bool, do_normalize: bool, mean, std
) -> torch.Tensor:
    """Convert RGB `(..., 3, H, W)` in [0, 1] to the model's input, on any device, with settings of [`FgvcImageProcessorPil`]."""
    values = rgb_to_lab(rgb) if do_convert_lab else rgb
    if lightness_only:
        values = values[..., [0, 0, 0], :, :]
    if not do_normalize:
        return values
    mean, std = (values.new_tensor(of).view(-1, 1, 1) for of in (mean, std))
    return (values - mean) / std


class FgvcImageProcessorPil(PilBackend):
    r"""
    Converts RGB frames to the model's input: resize, convert to CIE Lab, normalise to about [-1, 1].

    The defaults are those of the paper's released evaluation: 256x256 regardless of the aspect ratio, Lab normalised
    with mean (50, 0, 0) and standard deviation (50, 127, 127).

    Raises:
        `ValueError`: an unknown `resize_policy`, a `size` without the sides that it needs, or Lab without rescaling.
    """

    valid_kwargs = FgvcImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    size = {"height": 256, "width": 256}
    default_to_square = False
    resize_policy = "stretch"
    size_divisor = 8
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_convert_rgb = True
    do_convert_lab = True
    lightness_only = False
    do_normalize = True
    image_mean = [50.0, 0.0, 0.0]
    image_std = [50.0, 127.0, 127.0]

    def __init__(self, **kwargs: Unpack[FgvcImageProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(self, images: ImageInput, **kwargs: Unpack[FgvcImageProcessorKwargs]) -> BatchFeature:
        """
        Process one image or a list of images.

        Args:
            images: PIL images, or arrays or tensors of shape (H, W, 3) or (3, H, W), values 0 to 255; in general, `rescale_factor` maps
                them to [0, 1], so that floats in [0, 1] need `rescale_factor=1.0`. Pillow's images of 16 bits and of floats become 8 bits by
                the rule of [`as_frame`]; transparency is composited onto white, as transformers does.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`. If not given, an array whose last axis has 3
                entries is `(H, W, 3)`; another is told from its shape, and refused where both the first and the last axis have 1, 3 or 4.
            device (`str` or `torch.device`, *optional*): Where colours are converted and tensors returned; the CPU if not given.

        Returns:
            `BatchFeature` with `pixel_values` of shape `(num_images, 3, H, W)`, float32.

        Raises:
            `ValueError`: values or channels are not as above, an image is empty, there is none, or the device is not available.
        """
        _check_kind(images)
        return super().preprocess(images, **kwargs)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> np.ndarray:
        """One image as (3, H, W), after a check that neither its layout nor its range has to be guessed."""
        if isinstance(image, Image.Image):
            if decoded(image, "images").mode.startswith(("I", "F")):
                image, input_data_format = rgb_of(image, "images"), "channels_last"
        else:
            array = host_array(image)
            if array is None or array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or not array.size:
                raise ValueError(
                    f"images must be PIL images or arrays of numbers, (H, W, 3) or (3, H, W), got {_described(image)}."
                )
            if input_data_format is None and array.ndim == 3:
                input_data_format = _layout(array.shape)
            _check_values(array, **kwargs)
            image = array
        return super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **kwargs
        )

    def try_out(self) -> None:
        """Process a small frame, with settings that may come from anywhere; a `ValueError` if they do not lead to finite numbers."""
        try:
            values = self(np.zeros((16, 16, 3), np.uint8), return_tensors="np").pixel_values
        except Exception as error:  # settings of other types raise anything
            if isinstance(error, ValueError) and str(error).endswith("."):
                raise
            raise ValueError(
                f"the settings of the image processor cannot be used ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
            ) from None
        if not np.isfinite(values).all():
            raise ValueError("the settings of the image processor do not lead to finite numbers.")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the model's input for a frame of the given size."""
        if not self.do_resize:
            return height, width
        return _resized(height, width, self.resize_policy, SizeDict(**dict(self.size)), self.size_divisor)

    def _preprocess(  # ty: ignore[incompatible-method-override]
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        resize_policy: str,
        size_divisor: int,
        do_rescale: bool,
        rescale_factor: float,
        do_convert_lab: bool,
        lightness_only: bool,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        return_tensors: str | TensorType | None,
        device: str | torch.device | None = None,
        **kwargs,
    ) -> BatchFeature:
        if do_convert_lab and not do_rescale:
            raise ValueError("do_convert_lab needs do_rescale: Lab is computed from values in [0, 1].")
        if lightness_only and not do_convert_lab:
            raise ValueError("lightness_only needs do_convert_lab: lightness is the L of Lab.")
        _check_device(device)
        processed = []
        for image in images:  # (3, H, W)
            if do_convert_lab and image.shape[0] != 3:
                raise ValueError(f"images must have three channels, R, G and B, got {image.shape[0]}.")
            if do_resize:
                target = _resized(*image.shape[-2:], resize_policy, size, size_divisor)
                if target != image.shape[-2:] and _holds_levels(image, rescale_factor if do_rescale else None):
                    image = self.resize(image, SizeDict(height=target[0], width=target[1]), resample=resample)
                elif target != image.shape[-2:]:
                    most = 1 / rescale_factor if do_rescale and rescale_factor > 0 else None
                    image = _resize_floats(image, target, resample, most)
            held = (
                np.uint8 if image.dtype == np.uint8 else np.float32
            )  # torch knows no other order of bytes, and no long doubles
            values = torch.from_numpy(np.array(image, held, order="C")).to(device).float()
            if do_rescale:
                values = values * rescale_factor
            values = convert_colours(values, do_convert_lab, lightness_only, do_normalize, image_mean, image_std)
            processed.append(values if return_tensors == "pt" else values.cpu().numpy())
        return BatchFeature(data={"pixel_values": processed}, tensor_type=return_tensors)


def _check_device(device: str | torch.device | None) -> None:
    """A `ValueError` for a device that is not there, for which torch has other errors."""
    if device is not None:
        try:
            torch.empty(0, dtype=torch.uint8, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(f"device {device} is not available here; cpu always is.") from error


def _check_kind(images) -> None:
    """A `ValueError` for what holds something else than images; transformers has a `TypeError` for it."""
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("images is empty: pass a frame or a list of frames.")
        for image in images:
            if getattr(image, "ndim", 3) != 2:  # grey
                _check_kind(image)
    elif not isinstance(images, Image.Image | str) and getattr(images, "ndim", 0) not in (3, 4):
        raise ValueError(f"images must be PIL images or arrays, (H, W, 3) or (3, H, W), got {_described(images)}.")


def _holds_levels(image: np.ndarray, rescale_factor: float | None) -> bool:
    """Whether the values of an image are levels of 8 bits, which resizing may round to: not if they are of [0, 1], or of 16 bits."""
    if rescale_factor is not None and rescale_factor > 1 / 254:
        return False
    if image.dtype == np.uint8:
        return True
    low, high = image.min(), image.max()
    shares = rescale_factor is None and image.dtype.kind == "f" and high <= 1
    return low >= 0 and high <= 255 and not shares and bool((image == np.round(image)).all())


def _resize_floats(
    image: np.ndarray, size: tuple[int, int], resample: PILImageResampling | None, most: float | None
) -> np.ndarray:
    """An image `(C, H, W)`, with values from 0 to `most` if that is given, resized to (height, width) as Pillow does it for 8 bits, without rounding."""
    filter_ = resample if isinstance(resample, int) else PILImageResampling.BILINEAR
    channels = [Image.fromarray(np.ascontiguousarray(channel, np.float32)) for channel in image]
    resized = np.stack([np.asarray(channel.resize(size[::-1], filter_)) for channel in channels])
    return resized if most is None else resized.clip(0, most)  # which sharp filters exceed at edges


def _layout(shape: tuple[int, ...]) -> str | None:
    """The layout of an image; `None` for one that transformers tells without a guess."""
    if shape[2] == 3:
        return "channels_last"
    if shape[0] in CHANNELS and shape[2] in CHANNELS:
        raise ValueError(f"input_data_format must be given: channels of {shape} may be first or last.")
    return None


def _described(image) -> str:
    shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
    return f"{getattr(image, 'dtype', type(image).__name__)}{shape}"


def _check_values(
    image: np.ndarray, do_rescale: bool = False, rescale_factor: float = 1, do_resize: bool = False, **_
) -> None:
    """A `ValueError` if `rescale_factor` does not map the values to [0, 1], or would make them black."""
    if not do_rescale or (image.dtype == np.uint8 and 255 * rescale_factor < 1.001):
        return
    low, high = image.min(), image.max()
    if not (low >= 0 and high * rescale_factor < 1.001):
        raise ValueError(
            f"images must have values that rescale_factor, {rescale_factor:.3g}, maps to [0, 1], got {low} to {high}."
        )
    if image.dtype.kind == "f" and rescale_factor < 0.5:
        if 0 < high <= 1:
            raise ValueError(
                f"images are floats from {low} to {high}: pass rescale_factor=1.0 for values in [0, 1], or uint8."
            )
        if do_resize and (image != np.round(image)).any():
            raise ValueError("images must be whole numbers from 0 to 255 where they are resized: round them.")


def _resized(height: int, width: int, policy: str, size: SizeDict, divisor: int) -> tuple[int, int]:
    """Target (height, width) of a frame, rounded to multiples of the divisor."""
    if policy == "stretch":
        if not (size.height and size.width):
            raise ValueError(f"resize_policy 'stretch' needs size with 'height' and 'width', got {dict(size)!r:.100}.")
        target = (size.height, size.width)
    elif policy == "short_side":
        if not size.shortest_edge:
            raise ValueError(f"resize_policy 'short_side' needs size with 'shortest_edge', got {dict(size)!r:.100}.")
        scale = size.shortest_edge / min(height, width)
        target = (height * scale, width * scale)
    elif policy == "none":
        target = (height, width)
    else:
        raise ValueError(f"resize_policy must be one of {RESIZE_POLICIES}, got {policy!r:.100}.")
    if not 1 <= divisor <= MOST_DIVISOR or min(target) <= 0:
        raise ValueError(
            f"size must be positive, and size_divisor from 1 to {MOST_DIVISOR}, got {dict(size)!r:.100} and {divisor!r:.100}."
        )
    rounded = [max(divisor, int(side / divisor + 0.5) * divisor) for side in target]
    if rounded[0] * rounded[1] > MOST_PIXELS:
        raise ValueError(
            f"size must lead to {MOST_PIXELS} pixels or fewer, got {dict(size)!r:.100} and {divisor!r:.100}."
        )
    return rounded[0], rounded[1]


__all__ = ["FgvcImageProcessorPil", "rgb_to_lab"]
