"""Image files: one picture, and a folder or a file of several as a video.

A picture is turned upright by its EXIF orientation and becomes RGB by the rule of [`as_frame`]. Pillow's own limit of pixels,
`PIL.Image.MAX_IMAGE_PIXELS` (89 million), holds.
"""

import os
import re
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..tracking.frames import as_frame
from .files import local_path
from .frame_starts import webp_frames
from .json_files import reason_of
from .truncation import damage


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
PAGED = ("TIFF", "GIF", "WEBP", "PNG")  # formats whose further images are pages or frames, not previews of the first


@contextmanager
def open_picture(path: str | os.PathLike) -> Generator[Image.Image]:
    """
    A context in which an image file is open. Whatever goes wrong in it is taken for damage of the file.

    Raises:
        `OSError`: the file is missing, is no image, is damaged, or has more pixels than Pillow's limit.
    """
    path = local_path(path)
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "No such file"
        raise FileNotFoundError(f"{path}: cannot be read as an image ({problem}).")
    try:
        with Image.open(path) as image:
            _check_pixels(image)
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise OSError(
            f"{path}: cannot be read as an image, it has more than {Image.MAX_IMAGE_PIXELS} pixels, the limit."
        ) from None
    except UnidentifiedImageError:
        raise OSError(f"{path}: cannot be read as an image, it is no image of a known format.") from None
    except Exception as error:  # decoders raise anything on damaged files: SyntaxError, struct.error, IndexError, ...
        raise OSError(f"{path}: cannot be read as an image ({reason_of(error)}).") from None


def load_picture(path: str | os.PathLike, page: int | None = None) -> Image.Image:
    """
    The image in a file, decoded, and turned upright by its EXIF orientation.

    Args:
        path: A file of any format of Pillow.
        page (`int`, *optional*): Which of its pages; it must have just one if not given.

    Raises:
        `OSError`: as of [`open_picture`], or it has several pages.
    """
    with open_picture(path) as image:
        pages = page_count(image)
        if page is not None:
            image.seek(page)
            _check_pixels(image)
        image.load()
        kind, image = image.format, ImageOps.exif_transpose(image)
        image.format = kind  # a copy forgets it
    if page is None and pages > 1:
        raise OSError(f"{path}: holds {pages} pages, a picture has one; a file of several can be read as a video.")
    return image


def _check_pixels(image: Image.Image) -> None:
    """Refuse what Pillow warns of. Filters that make errors of warnings hold for all threads, and are not ours to set."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def page_count(image: Image.Image) -> int:
    """The images in a file that are pages or frames of their own."""
    return getattr(image, "n_frames", 1) if image.format in PAGED else 1


def read_image(path: str | os.PathLike, page: int | None = None) -> np.ndarray:
    """
    Read a picture.

    Args:
        path, page: As of [`load_picture`].

    Returns:
        `numpy.ndarray` of shape `(H, W, 3)`, uint8: RGB, upright by its EXIF orientation.

    Raises:
        `OSError`: it cannot be read, or has values that cannot become 8 bits by the rule of [`as_frame`].
    """
    image = load_picture(path, page)
    try:
        return as_frame(image, str(path))
    except ValueError as error:
        raise OSError(str(error)) from None


def check_range(name: str, num_frames: int, start: int, stop: int | None) -> int:
    """The end of a range of frames; a `ValueError` if the range is not within the video."""
    stop = num_frames if stop is None else stop
    if not 0 <= start <= stop <= num_frames:
        raise ValueError(f"{name}: frames {start} to {stop - 1} are not all in the clip, which has {num_frames}.")
    return stop


def natural_order(name: str) -> tuple[str, str]:
    """Sorts frame2 before frame10, and capitals as their small letters."""
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name.casefold()), name


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order of their names, without hidden files and sub-folders.

    Raises:
        `OSError`: there are none, or two whose names differ in the suffix alone: one frame in two formats, or a frame and its mask.
    """
    names = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    files = [file for file in names if not file.name.startswith(".") and not file.is_dir()]
    if not files:
        raise FileNotFoundError(
            f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); hidden files and sub-folders are not looked at."
        )
    files.sort(key=lambda file: natural_order(file.name))
    first: dict[str, Path] = {}
    for file in files:
        if (other := first.setdefault(file.stem, file)) is not file:
            raise OSError(
                f"{folder}: holds {other.name} and {file.name}; give a folder that holds one picture of each frame, and no masks."
            )
    return files


class ImageSequence:
    """Pictures as a video, without frame times."""

    fps = None

    def __init__(self, name: str, pictures: list[tuple[Path, int | None]]):
        self.name, self._pictures, self.num_frames = name, pictures, len(pictures)
        self.height, self.width = read_image(*pictures[0]).shape[:2]

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        """Yield frames start..stop-1, or stop-1..start in reverse.

        Raises:
            `OSError`: a picture cannot be read, or is of another size than the first.
            `ValueError`: the range is not within the video.
        """
        chosen = self._pictures[start : check_range(self.name, self.num_frames, start, stop)]
        for path, page in reversed(chosen) if reverse else chosen:
            frame = read_image(path, page)
            if frame.shape[:2] != (self.height, self.width):
                height, width = frame.shape[:2]
                place = path if page is None else f"{path}, page {page}"
                raise OSError(f"{place}: is {height}x{width}, but those before are {self.height}x{self.width}.")
            yield frame

    def time(self, index: int) -> float:
        """Seconds from the first frame, at the default rate of 24 frames per second."""
        return index / 24.0


class ImageFolder(ImageSequence):
    """A folder of images as a video, in natural order of the names. Hidden files, sub-folders and other files are ignored; a link that leads nowhere
    is a picture that cannot be read, for without it the frames after it would be others."""

    def __init__(self, path: Path):
        super().__init__(str(path), [(file, None) for file in picture_files(path)])


class ImagePages(ImageSequence):
    """The pages of an image file as a video; a picture is one of one frame."""

    def __init__(self, path: Path):
        with open_picture(path) as image:
            pages, kind = page_count(image), image.format
        super().__init__(str(path), [(path, page) for page in range(pages)])
        if kind == "WEBP" and (webp_frames(path.read_bytes()) > pages or (pages > 1 and damage(path, {"webp_pipe"}))):
            warnings.warn(f"{path}: pages are missing or damaged, and frames may be missing.", stacklevel=3)


__all__ = ["read_image"]
