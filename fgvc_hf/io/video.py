"""Video input and output: lazy frame sources, and an H.264 writer.

A frame is a (H, W, 3) uint8 RGB array. [`open_video`] turns a path, array, list or iterator into a frame source: an object
with `num_frames` (`None` for an iterator), `height`, `width`, `fps` (average, or `None`), `name`, for files of video `pixel_aspect`, the method
`frames(start, stop, reverse)`, which yields frames, and `time(index)`, the time of a frame in seconds. Frames are decoded on
demand; files and folders are never held in memory.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from numbers import Integral, Rational, Real
from pathlib import Path
from typing import Any

import numpy as np

from ..tracking.frames import as_frame, host_array
from .containers import load_av, open_media
from .files import atomic_write, local_path
from .image_files import IMAGE_SUFFIXES, ImageFolder, ImagePages, check_range
from .video_files import DEFAULT_FPS, VideoFile


VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")  # of the writer; the reader takes every format of FFmpeg
END_AND_START = b"\xff\xd9\xff\xd8"  # of two JPEG images
RATES = 0.001, 1000  # of written files, in frames per second
TICKS = 90_000  # time base of written files in ticks per second, a multiple of the common frame rates


COLOURS = (  # least height in rows -> (matrix of PyAV, code of matrix, primaries and transfer in ITU-T H.273)
    (720, "ITU709", 1),
    (0, "ITU601", 6),
)


def open_video(source, allow_truncated: bool = False) -> Any:
    """
    Open a video of any kind as a frame source.

    Args:
        source: A path to a video file, to a folder of images (in natural name order) or to an image file, whose pages are the frames;
            an array or tensor of uint8, `(T, H, W, 3)`, or `(T, H, W)` for grey; a list of frames as of [`as_frame`], an iterator of
            those (read once, forward only), or a frame source, which is returned as it is.
        allow_truncated (`bool`, defaults to `False`): Read a video file that was cut off up to its last whole frame, with a warning that
            names it. Such a file is refused otherwise.

    Returns:
        A frame source, as of this module. Videos are upright; of a file with non-square pixels, `pixel_aspect` is not 1.

    Raises:
        `OSError`: the path does not exist, is not a video, has no frames, or is damaged.
        `ValueError`: `source` is of another kind, or its frames are not uint8 of one size.
    """
    if hasattr(source, "frames") and hasattr(source, "num_frames"):
        return source
    if isinstance(source, str | os.PathLike):
        path = local_path(source)
        if path.is_dir():
            return ImageFolder(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such video file or folder of frames.")
        return VideoFile(path, allow_truncated) if _holds_video(path) else ImagePages(path)
    if isinstance(source, Iterator):
        return FrameIterator(source)
    if isinstance(source, list | tuple):
        return FrameArray([as_frame(frame, f"frame {t} of the video") for t, frame in enumerate(source)])
    array = host_array(source)
    if array is None or array.ndim not in (3, 4):
        raise ValueError(f"video must be a path, frames (T, H, W, 3) or an iterator, got {type(source).__name__}.")
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        raise ValueError(
            f"video must be frames (T, H, W, 3), got one frame of shape {array.shape}: [frame] is a video of it."
        )
    return FrameArray([as_frame(frame, f"frame {t} of the video") for t, frame in enumerate(array)])


MOTION_JPEG = (".mjpeg", ".mjpg")  # of which one picture may be left


def _holds_video(path: Path) -> bool:
    """Whether a file holds video by its content, or else pictures; an `OSError` if neither."""
    try:
        with open_media(path) as container:
            kind = container.format.name
        if kind in ("jpeg_pipe", "mjpeg") and path.suffix.lower() in IMAGE_SUFFIXES:
            return False  # the second start in a picture is that of a preview, or of what makes it brighter
        if kind == "jpeg_pipe" and path.suffix.lower() not in MOTION_JPEG:
            content = path.read_bytes()  # of motion JPEG
            return END_AND_START in content or not content.rstrip(b"\0\r\n").endswith(END_AND_START[:2])
        return kind == "jpeg_pipe" or not kind.endswith("_pipe")
    except OSError:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return False  # Pillow knows why
        raise


class FrameArray:
    """Frames in memory."""

    name, fps = "video", None

    def __init__(self, frames: list[np.ndarray]):
        if not frames:
            raise ValueError("video holds no frames.")
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError("all frames of a video must have one size.")
        self._frames, self.num_frames = frames, len(frames)
        self.height, self.width = frames[0].shape[:2]

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        chosen = self._frames[start : check_range(self.name, self.num_frames, start, stop)]
        yield from reversed(chosen) if reverse else chosen

    def time(self, index: int) -> float:
        """Seconds from the first frame, at the default rate of 24 frames per second."""
        return index / DEFAULT_FPS


class FrameIterator:
    """Frames of an iterator: read once, forward only, in unknown number."""

    name, fps, num_frames = "video", None, None

    def __init__(self, frames: Iterator):
        images = (as_frame(frame, f"frame {t} of the video") for t, frame in enumerate(frames))
        first = next(images, None)
        if first is None:
            raise ValueError("video holds no frames.")
        self.height, self.width = first.shape[:2]
        self._rest: Iterator[np.ndarray] | None = itertools.chain([first], images)

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        if reverse:
            raise ValueError("video is an iterator, which can be read forward only.")
        if self._rest is None:
            raise ValueError("video is an iterator, and has been read already.")
        rest, self._rest = self._rest, None
        for frame in itertools.islice(rest, start, stop):
            if frame.shape[:2] != (self.height, self.width):
                raise ValueError("all frames of a video must have one size.")
            yield frame

    time = FrameArray.time


def check_video_name(path: str | Path) -> Path:
    """The path, checked to be local and to have a suffix of [`VideoWriter`]; a `ValueError` otherwise."""
    path = local_path(path, "written")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: the name must end in {', '.join(VIDEO_SUFFIXES)}.")
    return path


def _fraction(value: Fraction | float) -> Fraction:
    return Fraction(value if isinstance(value, Rational) else float(value))


def writing_rate(video) -> float:
    """The frame rate that a source is written at, if it has one that can be written, or else the default."""
    return video.fps if video.fps and RATES[0] <= video.fps <= RATES[1] else DEFAULT_FPS


class VideoWriter:
    """
    A context manager that writes an H.264 file in yuv420p, which all players support. On an error no file is left behind.

    Colours are converted and tagged as BT.709 from 720 rows on, and as BT.601 (SMPTE 170M) below, in limited range.

    Args:
        path: A name that ends in .mp4, .mov or .mkv.
        fps (`float`): Frames per second, 0.001 to 1000, for frames that are written without a time.
        height, width (`int`): Size of the frames. Odd sizes are padded by a repeated row or column, as yuv420p needs even ones.
        pixel_aspect (`Fraction` or `float`, defaults to 1): Width of a pixel as shown / its height; that of a video that was read is its
            `pixel_aspect`.

    Raises:
        `ValueError`: another suffix, a size below 1, a rate out of range, a frame of another size,
            times that do not increase, or no frame written.
        `OSError`: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, height: int, width: int, pixel_aspect: Fraction | float = 1):
        self._path = check_video_name(path)
        if not all(isinstance(side, Integral) and side > 0 for side in (height, width)):
            raise ValueError(f"height and width must be positive whole numbers, got {height} and {width}.")
        if not isinstance(fps, Real) or not RATES[0] <= fps <= RATES[1]:
            raise ValueError(f"fps must be a number of frames per second, {RATES[0]} to {RATES[1]}, got {fps}.")
        if not isinstance(pixel_aspect, Real) or not 0.01 <= pixel_aspect <= 100:
            raise ValueError(f"pixel_aspect must be a number, 0.01 to 100, got {pixel_aspect}.")
        self._rate = _fraction(fps).limit_denominator(1001)
        self._aspect = _fraction(pixel_aspect).limit_denominator(10_000)
        self._size = int(height), int(width)
        self._matrix, self._code = next((name, code) for rows, name, code in COLOURS if height >= rows)
        self._written, self._last = 0, -1

    def __enter__(self) -> "VideoWriter":
        av = load_av()
        self._reformatter = av.video.reformatter.VideoReformatter()
        options = {} if self._path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self._path))
            self._container = stack.enter_context(av.open(f"file:{temporary}", "w", options=options))
            self._stream = self._container.add_stream("libx264", self._rate, options={"crf": "18", "preset": "fast"})
            self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
            self._stream.pix_fmt = "yuv420p"
            context = self._stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = self._code
            context.color_range = av.video.reformatter.ColorRange.MPEG
            context.sample_aspect_ratio = self._aspect
            self._stream.time_base = context.time_base = Fraction(1, TICKS)
            self._stack = stack.pop_all()
        return self

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame (H, W, 3) uint8, shown at `time` seconds, or at frame number / fps if not given."""
        frame = as_frame(frame)
        if frame.shape[:2] != self._size:
            raise ValueError(f"frame must be of the size {self._size} (height, width), got {frame.shape[:2]}.")
        if time is not None and not 0 <= time < float("inf"):
            raise ValueError(f"{self._path}: frame times must not be negative and must increase, got {time} seconds.")
        pts = round((self._written / self._rate if time is None else time) * TICKS)
        if pts <= self._last:
            raise ValueError(f"{self._path}: frame times must not be negative and must increase, got {time} seconds.")
        height, width = self._size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = load_av().VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        picture = self._reformatter.reformat(
            picture, format="yuv420p", dst_colorspace=self._matrix, dst_color_range="MPEG", threads=1
        )
        picture.time_base, picture.pts, self._last = Fraction(1, TICKS), pts, pts
        self._encode(picture)
        self._written += 1

    def _encode(self, picture) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except load_av().FFmpegError as error:
            raise OSError(f"{self._path}: cannot be written ({error.strerror}).") from None

    def __exit__(self, *error) -> bool | None:
        if error[0] is None:
            self._stack.callback(self._finish)  # runs before the file is closed
            return self._stack.__exit__(*error)
        with suppress(Exception):  # what was raised goes on as it is: it may be of what the frames are read from
            self._stack.__exit__(*error)
        return None

    def _finish(self) -> None:
        if not self._written:
            raise ValueError(f"{self._path}: no frame was written.")
        self._encode(None)
