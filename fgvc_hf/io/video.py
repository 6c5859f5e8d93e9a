"""Video input and output: lazy frame sources, and an H.264 writer.

A frame is a (H, W, 3) uint8 RGB array. [`open_video`] turns a path, array, list or iterator into a frame source: an object
with `num_frames` (`None` for an iterator), `height`, `width`, `fps` (average, or `None`), `name`, the method
`frames(start, stop, reverse)`, which yields frames, and `time(index)`, the time of a frame in seconds. Frames are decoded on
demand; files and folders are never held in memory.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .files import atomic_write


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")  # of the writer; the reader takes every format of FFmpeg
DEFAULT_FPS = 24.0  # for sources without frame times
REVERSE_CHUNK = 32  # frames decoded and held at a time when a file is read in reverse
TICKS = 90_000  # time base of written files in ticks per second, a multiple of the common frame rates


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError("reading or writing video files needs PyAV: pip install av") from None
    return av


def open_video(source) -> Any:
    """
    Open a video of any kind as a frame source.

    Args:
        source: A path to a video file or to a folder of images (in natural name order), an array `(T, H, W, 3)` or
            `(T, H, W)` of uint8, a list of frames or PIL images, an iterator of those (read once, forward only), or a
            frame source, which is returned as it is.

    Raises:
        `OSError`: the path does not exist, is not a video, has no frames, or is damaged.
        `ValueError`: `source` is of another kind, or its frames are not uint8 of one size.
    """
    if hasattr(source, "frames") and hasattr(source, "num_frames"):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return ImageFolder(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such video file or folder of frames.")
        return VideoFile(path)
    if isinstance(source, Iterator):
        return FrameIterator(source)
    if isinstance(source, list | tuple):
        return FrameArray([_as_frame(frame) for frame in source])
    array = np.asarray(source)
    if array.ndim not in (3, 4):
        raise ValueError(f"video must be a path, frames (T, H, W, 3) or an iterator, got {type(source).__name__}.")
    return FrameArray([_as_frame(frame) for frame in array])


def _as_frame(frame) -> np.ndarray:
    """A PIL image or an array (H, W, 3), (H, W, 1) or (H, W) as (H, W, 3) uint8."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    array = np.asarray(frame)
    if array.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, 0 to 255, got {array.dtype}.")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"frames must have the shape (H, W, 3), or (H, W) for grey, got {np.shape(frame)}.")
    return np.broadcast_to(array, (*array.shape[:2], 3))


def _check_range(name: str, num_frames: int, start: int, stop: int | None) -> int:
    """The end of a range of frames; a `ValueError` if the range is not within the video."""
    stop = num_frames if stop is None else stop
    if not 0 <= start <= stop <= num_frames:
        raise ValueError(f"{name}: frames {start} to {stop - 1} are not all in the clip, which has {num_frames}.")
    return stop


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
        chosen = self._frames[start : _check_range(self.name, self.num_frames, start, stop)]
        yield from reversed(chosen) if reverse else chosen

    def time(self, index: int) -> float:
        """Seconds from the first frame, at the default rate of 24 frames per second."""
        return index / DEFAULT_FPS


class FrameIterator:
    """Frames of an iterator: read once, forward only, in unknown number."""

    name, fps, num_frames = "video", None, None

    def __init__(self, frames: Iterator):
        images = map(_as_frame, frames)
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


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, upright by its EXIF orientation; an `OSError` if it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: cannot be read as an image ({error}).") from None


class ImageFolder:
    """A folder of images as a video, in natural order of the names: frame2 before frame10."""

    def __init__(self, path: Path):
        self.name, self.fps = str(path), None
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise FileNotFoundError(f"{path}: holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        self._files = sorted(images, key=lambda file: re.sub(r"\d+", lambda m: m[0].zfill(20), file.name))
        self.num_frames = len(self._files)
        self.height, self.width = read_image(self._files[0]).shape[:2]

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        stop = _check_range(self.name, self.num_frames, start, stop)
        files = self._files[start:stop]
        for file in reversed(files) if reverse else files:
            frame = read_image(file)
            if frame.shape[:2] != (self.height, self.width):
                height, width = frame.shape[:2]
                raise OSError(f"{file}: is {height}x{width}, but those before are {self.height}x{self.width}.")
            yield frame

    time = FrameArray.time


class VideoFile:
    """A video file, rotated as its metadata says.

    Opening reads the presentation times (PTS) of all frames and decodes the first frame. Frame numbers are therefore exact
    for variable frame rates too.
    """

    def __init__(self, path: Path):
        self.path, self.name, self._shape = path, str(path), ()
        try:
            with self._open() as container:
                self._read_index(container)
        except _av().FFmpegError as error:
            raise OSError(f"{path}: is no video that can be read, or is damaged ({error.strerror}).") from None
        self._shape = next(self._decode(0, 1)).shape
        self.height, self.width = self._shape[:2]

    def _open(self):
        return _av().open(f"file:{self.path}")  # without "file:", FFmpeg takes "a:b.mp4" for a URL of protocol "a"

    def _read_index(self, container) -> None:
        if not container.streams.video:
            raise OSError(f"{self.path}: has no video stream.")
        stream = container.streams.video[0]
        keep = attrgetter(
            "pts", "dts", "duration", "is_discard", "is_corrupt"
        )  # packets themselves hold the compressed file
        packets = [keep(packet) for packet in container.demux(stream) if packet.size]
        if not packets:
            raise OSError(f"{self.path}: has no frames.")
        pts, dts, durations, discarded, corrupt = zip(*packets, strict=True)
        times = dts if None in pts else pts
        short, seconds = self._falls_short(container, stream, times, durations)
        if short or corrupt[-1]:  # a truncated file would play up to there without an error
            expected = max(stream.frames, round(seconds * (stream.average_rate or 0)), len(packets))
            readable = f"only {len(packets) - corrupt[-1]} of {expected} frames are there"
            raise OSError(f"{self.path}: is damaged, {readable}.")
        shown = [time for time, discard in zip(pts, discarded, strict=True) if not discard]
        self.num_frames, self._time_base = len(shown), stream.time_base
        self.fps = float(stream.average_rate) if stream.average_rate else None
        # Some containers (AVI) have no presentation times: frames are then counted while decoding
        self._pts = None if None in shown else sorted(shown)
        self._number = {time: i for i, time in enumerate(self._pts or ())}

    @staticmethod
    def _falls_short(container, stream, times, durations) -> tuple[bool, float]:
        """Whether the file is shorter than its header says, and the duration in the header in seconds."""
        if "mov" in container.format.name and stream.duration:
            # MP4 headers count frames, including those trimmed by an edit list; so the duration must fall short as well
            held, half = sum(filter(None, durations)), 0.5 * stream.duration / max(stream.frames, 1)
            short = len(times) < stream.frames and held < stream.duration - half
            return short, float(stream.duration * stream.time_base)
        if not container.duration or len(container.streams) > 1 or len(times) < 2 or None in times:
            return False, 0.0
        # Other headers have a duration only; the last frame may have none, and is taken to last 1.5 of the longest at most
        order, seconds = sorted(times), container.duration / 1_000_000
        longest = max(after - before for before, after in itertools.pairwise(order))
        return (order[-1] + 1.5 * longest) * float(stream.time_base) < seconds, seconds

    def time(self, index: int) -> float:
        """Seconds from the first frame, as stored in the file."""
        if self._pts is None:
            return index / (self.fps or DEFAULT_FPS)
        return float((self._pts[index] - self._pts[0]) * self._time_base)

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        """Yield frames start..stop-1, or stop-1..start in reverse, for which chunks are decoded forward and held.

        Raises:
            `OSError`: the file is damaged in this range, or frames change in size.
            `ValueError`: the range is not within the video.
        """
        stop = _check_range(self.name, self.num_frames, start, stop)
        if not reverse:
            yield from self._decode(start, stop)
            return
        for end in range(stop, start, -REVERSE_CHUNK):
            yield from reversed(list(self._decode(max(start, end - REVERSE_CHUNK), end)))

    def _decode(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Decode from the key frame before `start`. A frame that the decoder skips is an error, not a shorter video."""
        position = start
        try:
            for number, frame in self._numbered(start):
                if number > position or position == stop:
                    break
                if number == position:
                    yield self._upright(number, frame)
                    position += 1
        except _av().FFmpegError as error:
            stops = f"decoding stops at frame {position} of {self.num_frames} ({error.strerror})"
            raise OSError(f"{self.path}: is damaged, {stops}.") from None
        if position < stop:
            raise OSError(f"{self.path}: is damaged, frame {position} of {self.num_frames} cannot be decoded.")

    def _upright(self, number: int, frame) -> np.ndarray:
        turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        if turned.shape != (self._shape or turned.shape):
            size, before = (f"{shape[0]}x{shape[1]}" for shape in (turned.shape, self._shape))
            raise OSError(f"{self.path}: frame {number} is {size}, but those before are {before}.")
        return np.ascontiguousarray(turned)  # torch has no negative strides

    def _numbered(self, start: int) -> Iterator[tuple[int, Any]]:
        """Yield (number, decoded frame) from a frame at or before `start` on."""
        # Some containers seek past the target: aim earlier and earlier, at last at the first frame
        for back in (0, REVERSE_CHUNK, 8 * REVERSE_CHUNK, start):
            target = max(start - back, 0)
            with self._open() as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                if self._pts is None:
                    yield from enumerate(container.decode(stream))
                    return
                decoded = ((self._number[f.pts], f) for f in container.decode(stream) if f.pts in self._number)
                if target:
                    container.seek(self._pts[target], stream=stream)
                    # Frames before the next key frame may refer to frames that were not decoded
                    decoded = itertools.dropwhile(lambda pair: not pair[1].key_frame, decoded)
                first = next(decoded, None)
                if not target or (first and first[0] <= start):
                    yield from itertools.chain([first] if first else [], decoded)
                    return


def check_video_name(path: str | Path) -> Path:
    """The path, checked to have a suffix of [`VideoWriter`]; a `ValueError` otherwise."""
    path = Path(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: the name must end in {', '.join(VIDEO_SUFFIXES)}.")
    return path


class VideoWriter:
    """
    A context manager that writes an H.264 file in yuv420p, which all players support. On an error no file is left behind.

    Args:
        path: A name that ends in .mp4, .mov or .mkv.
        fps (`float`): Frames per second, for frames that are written without a time.
        height, width (`int`): Size of the frames. Odd sizes are padded by a repeated row or column, as yuv420p needs even ones.

    Raises:
        `ValueError`: another suffix, a size below 1, a rate that is not positive, a frame of another size,
            times that do not increase, or no frame written.
        `OSError`: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, height: int, width: int):
        self._path = check_video_name(path)
        if height < 1 or width < 1 or not 0 < fps < float("inf"):
            raise ValueError(f"height, width and fps must be positive, got {height}, {width} and {fps}.")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._size = height, width
        self._written, self._last = 0, -1

    def __enter__(self) -> "VideoWriter":
        options = {} if self._path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self._path))
            self._container = stack.enter_context(_av().open(f"file:{temporary}", "w", options=options))
            self._stream = self._container.add_stream("libx264", self._rate, options={"crf": "18", "preset": "fast"})
            self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
            self._stack = stack.pop_all()
        return self

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame (H, W, 3) uint8, shown at `time` seconds, or at frame number / fps if not given."""
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame must be uint8 of shape {(*self._size, 3)}, got {frame.dtype} of {frame.shape}.")
        pts = round((self._written / self._rate if time is None else time) * TICKS)
        if pts <= self._last:
            raise ValueError(f"{self._path}: frame times must not be negative and must increase, got {time} seconds.")
        height, width = self._size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = _av().VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        picture.time_base, picture.pts, self._last = Fraction(1, TICKS), pts, pts
        self._container.mux(self._stream.encode(picture))
        self._written += 1

    def __exit__(self, *error) -> bool | None:
        if error[0] is None:
            self._stack.callback(self._finish)  # runs before the file is closed
        return self._stack.__exit__(*error)

    def _finish(self) -> None:
        if not self._written:
            raise ValueError(f"{self._path}: no frame was written.")
        self._container.mux(self._stream.encode())
