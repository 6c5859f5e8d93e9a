"""Video in and out: lazy frame sources, and a writer of H.264 files.

A frame is a (H, W, 3) uint8 RGB array. [`open_video`] turns whatever a user has into a frame source: an object with
`num_frames` (`None` if it cannot be known), `height`, `width`, `fps` (average, or `None`) and `name`, with
`frames(start, stop, reverse)` that yields frames, and with `time(index)` in seconds. Nothing is decoded before it is asked
for, and no source but an array that was one already holds more than a few frames.
"""

import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")  # what the writer offers; the reader takes all that FFmpeg takes
DEFAULT_FPS = 24.0  # frame times of sources that have none of their own
REVERSE_CHUNK = 32  # frames held while a file is read backwards
TICKS = 90_000  # per second: the time base of written files, exact for all usual frame rates


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ImportError("reading or writing video files needs PyAV: pip install av") from None
    return av


def open_video(source) -> Any:
    """
    Make a frame source.

    Args:
        source: A path to a video file or to a folder of images (in natural name order), an array `(T, H, W, 3)` or
            `(T, H, W)` of uint8, a list of frames or PIL images, an iterator over those (read once, forward only), or a
            frame source.

    Raises:
        `OSError`: the path is missing, is no video, holds no frames, or is damaged.
        `ValueError`: anything else that is no source of frames.
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
        raise ValueError(
            f"video must be a path, an array (T, H, W, 3), a list or an iterator, got {type(source).__name__}."
        )
    return FrameArray([_as_frame(frame) for frame in array])


def _as_frame(frame) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image or of an array (H, W, 3) or (H, W)."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    array = np.asarray(frame)
    if array.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, 0 to 255, got {array.dtype}.")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"frames must have the shape (H, W, 3), or (H, W) for grey, got {np.shape(frame)}.")
    return np.broadcast_to(array, (*array.shape[:2], 3))


def _check_range(name: str, num_frames: int, start: int, stop: int | None) -> int:
    """The end of a range of frames; an error where it is not within the clip."""
    stop = num_frames if stop is None else stop
    if not 0 <= start <= stop <= num_frames:
        raise ValueError(f"{name}: frames {start} to {stop - 1} are not all in the clip, which has {num_frames}.")
    return stop


class FrameArray:
    """Frames that are in memory."""

    name = "video"
    fps = None

    def __init__(self, frames: list[np.ndarray]):
        if not frames:
            raise ValueError("video holds no frames.")
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError("all frames of a video must have one size.")
        self._frames = frames
        self.num_frames = len(frames)
        self.height, self.width = frames[0].shape[:2]

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        stop = _check_range(self.name, self.num_frames, start, stop)
        chosen = self._frames[start:stop]
        yield from reversed(chosen) if reverse else chosen

    def time(self, index: int) -> float:
        """Seconds of a frame after the first, at 24 frames per second for want of a rate of its own."""
        return index / DEFAULT_FPS


class FrameIterator:
    """Frames that come one by one, to be read once and forward; their number is not known."""

    name = "video"
    fps = None
    num_frames = None

    def __init__(self, frames: Iterator):
        first = next(frames, None)
        if first is None:
            raise ValueError("video holds no frames.")
        first = _as_frame(first)
        self.height, self.width = first.shape[:2]
        self._rest: Iterator[np.ndarray] | None = itertools.chain([first], map(_as_frame, frames))

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        if reverse:
            raise ValueError(
                "video is an iterator: it can be read forward only; pass an array or a file for the other way."
            )
        if self._rest is None:
            raise ValueError("video is an iterator, and has been read already.")
        rest, self._rest = self._rest, None
        yield from itertools.islice(rest, start, stop)

    time = FrameArray.time


class ImageFolder:
    """A folder of images as a video, in natural order of names: frame2 before frame10."""

    fps = None

    def __init__(self, path: Path):
        self.name = str(path)
        images = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise FileNotFoundError(f"{path}: holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        self._files = sorted(images, key=_natural_order)
        self.num_frames = len(self._files)
        self.height, self.width = self._read(self._files[0]).shape[:2]

    def _read(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise OSError(f"{file}: cannot be read as an image ({error}).") from None

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        stop = _check_range(self.name, self.num_frames, start, stop)
        files = self._files[start:stop]
        for file in reversed(files) if reverse else files:
            frame = self._read(file)
            if frame.shape[:2] != (self.height, self.width):
                size = f"{frame.shape[0]}x{frame.shape[1]}"
                raise OSError(f"{file}: is {size}, but the frames before are {self.height}x{self.width}.")
            yield frame

    time = FrameArray.time


def _natural_order(path: Path) -> list:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


class VideoFile:
    """A video file, upright as its metadata says.

    Opening reads the index of the file and decodes its first frame. The index is the presentation times of all frames,
    so frame numbers are exact whatever the frame rate does.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        try:
            with _av().open(str(path)) as container:
                self._read_index(container)
        except _av().FFmpegError as error:
            raise OSError(f"{path}: is no video that can be read, or is damaged ({error.strerror}).") from None
        first = next(self._decode(0, 1))
        self.height, self.width = first.shape[:2]

    def _read_index(self, container) -> None:
        if not container.streams.video:
            raise OSError(f"{self.path}: has no video stream.")
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise OSError(f"{self.path}: has no frames.")
        self._check_complete(container, stream, packets)
        shown = [packet.pts for packet in packets if not packet.is_discard]
        self.num_frames = len(shown)
        self.fps = float(stream.average_rate) if stream.average_rate else None
        self._time_base = stream.time_base
        # Some containers (AVI) store no presentation times: frames are then counted as they are decoded
        self._pts = None if None in shown else sorted(shown)

    def _check_complete(self, container, stream, packets) -> None:
        """A file that was cut off still plays up to there; its header tells how much there should be."""
        found = len(packets)
        if "mov" in container.format.name:  # MP4 and its kin count their frames
            expected = stream.frames
        elif container.duration and len(container.streams) == 1 and stream.average_rate:
            # Others state a duration, loosely; half a second covers that
            seconds = container.duration / 1_000_000
            last = max(packet.dts if packet.pts is None else packet.pts for packet in packets) * stream.time_base
            start = (stream.start_time or 0) * stream.time_base
            expected = round(seconds * stream.average_rate) if last - start < seconds - 0.5 else found
        else:
            return
        if found < expected:
            raise OSError(f"{self.path}: is damaged, only {found} of {expected} frames are there.")

    def time(self, index: int) -> float:
        """Seconds of a frame after the first, as stored in the file."""
        if self._pts is None:
            return index / (self.fps or DEFAULT_FPS)
        return float((self._pts[index] - self._pts[0]) * self._time_base)

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        """Frames start..stop-1; in reverse, a chunk at a time is decoded forward and held.

        Raises:
            `OSError`: the file is damaged where it is read, or frames change in size.
        """
        stop = _check_range(self.name, self.num_frames, start, stop)
        if not reverse:
            yield from self._sized(start, stop)
            return
        for end in range(stop, start, -REVERSE_CHUNK):
            yield from reversed(list(self._sized(max(start, end - REVERSE_CHUNK), end)))

    def _sized(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for i, frame in enumerate(self._decode(start, stop), start):
            if frame.shape[:2] != (self.height, self.width):
                size = f"{frame.shape[0]}x{frame.shape[1]}"
                raise OSError(f"{self.path}: frame {i} is {size}, but those before are {self.height}x{self.width}.")
            yield frame

    def _decode(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Decode from the key frame before `start`; whatever the decoder leaves out is an error, not a shorter clip."""
        position = start
        try:
            for number, frame in self._numbered(start):
                if position == stop:
                    break
                if number < position:
                    continue
                if number > position:
                    break
                yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                position += 1
        except _av().FFmpegError as error:
            readable = f"decoding stops at frame {position} of {self.num_frames}"
            raise OSError(f"{self.path}: is damaged, {readable} ({error.strerror}).") from None
        if position < stop:
            raise OSError(f"{self.path}: is damaged, frame {position} of {self.num_frames} cannot be decoded.")

    def _numbered(self, start: int) -> Iterator[tuple[int, Any]]:
        """Decoded frames with their numbers, from one at or before `start` on."""
        with _av().open(str(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if self._pts is None:
                yield from enumerate(container.decode(stream))
                return
            number = {pts: i for i, pts in enumerate(self._pts)}
            if start:
                container.seek(self._pts[start], stream=stream)
            decoded = ((number[frame.pts], frame) for frame in container.decode(stream) if frame.pts in number)
            first = next(decoded, None)
            if start and (first is None or first[0] > start):  # a container that seeks past its target
                container.seek(self._pts[0], stream=stream)
                first = next(decoded, None)
            if first is not None:
                yield first
            yield from decoded


# ---- writing ------------------------------------------------------------------------------------------------------


def check_writable(path: str | Path) -> Path:
    """The path, if a file can be written there.

    Raises:
        `OSError`: its folder does not exist or may not be written to, or it is a folder itself.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: cannot be written, the folder {path.parent} does not exist.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: cannot be written, it is a folder.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: cannot be written, the folder {path.parent} is not writable.")
    return path


def check_video_name(path: str | Path) -> Path:
    """The path, if its suffix is one that [`VideoWriter`] writes; a `ValueError` otherwise."""
    path = Path(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: the name must end in {', '.join(VIDEO_SUFFIXES)}.")
    return path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """
    A temporary file beside `path` that takes its place in the end, or disappears if anything goes wrong.

    Yields:
        The temporary path, with the suffix of `path`.

    Raises:
        `OSError`: the file cannot be written; the disk may be full.
    """
    path = check_writable(path)
    try:
        handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}-", dir=path.parent)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}).") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # temporary files are private; the result is a file like any other
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        temporary.unlink(missing_ok=True)


class VideoWriter:
    """
    Writes an H.264 file (yuv420p, plays everywhere); a context manager. Nothing is left behind if it is left by an error.

    Args:
        path: A name that ends in .mp4, .mov or .mkv.
        fps (`float`): Frames per second, where frames come without a time of their own.
        height, width (`int`): Size of the frames. Odd sizes grow by a repeated row or column, as yuv420p needs.

    Raises:
        `ValueError`: another suffix, a size below one, a rate that is not positive, or a frame of another size.
        `OSError`: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, height: int, width: int):
        path = check_video_name(path)
        if height < 1 or width < 1 or not fps > 0:
            raise ValueError(f"height, width and fps must be positive, got {height}, {width} and {fps}.")
        self._target = atomic_write(path)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._size = height, width
        self._written = 0

    def __enter__(self) -> "VideoWriter":
        temporary = self._target.__enter__()
        self._container = _av().open(str(temporary), "w", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "18", "preset": "fast"})
        self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        return self

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame (H, W, 3) uint8, shown at `time` seconds, or when its turn comes at the constant rate."""
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame must be uint8 of shape {(*self._size, 3)}, got {frame.dtype} of {frame.shape}.")
        height, width = self._size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = _av().VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        picture.time_base = Fraction(1, TICKS)
        picture.pts = round((self._written / self._rate if time is None else time) * TICKS)
        self._container.mux(self._stream.encode(picture))
        self._written += 1

    def __exit__(self, *error) -> bool | None:
        try:
            if error[0] is None:
                self._container.mux(self._stream.encode())
            self._container.close()
        except OSError as failure:
            error = (type(failure), failure, failure.__traceback__) if error[0] is None else error
        return self._target.__exit__(*error)
