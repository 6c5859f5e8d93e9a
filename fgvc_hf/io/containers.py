"""Opening of media files: one local file, of a known format, whose stream of pictures is chosen as FFmpeg chooses it.

FFmpeg sees the bytes of the file and nothing else. It knows no name, so that `%03d.png`, `concat:` and addresses mean nothing, opens no other
file, and reads formats of media only: playlists and lists of files are refused.
"""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# The demuxers of FFmpeg that hold the pictures themselves. Those of single pictures end in "_pipe"
FORMATS = (
    "3gp aiff amv apng asf av1 avi avs avs2 avs3 bink caf cavsvideo dhav dirac dnxhd dv evc film_cpk flic flv gif gxf h261 h263 h264 hevc "
    "idcin ipmovie ivf ivr kux live_flv m4v matroska mjpeg mjpeg_2000 mov mpeg mpegts mpegvideo mpjpeg mtv mv mxf nsv nut obu ogg "
    "r3d rm roq smacker smjpeg swf ty vc1 vc1test viv vivo vvc webm wtv yuv4mpegpipe "
    "bmp_pipe jpeg_pipe png_pipe tiff_pipe webp_pipe"
).split()
MAX_PIXELS = 1 << 26  # of a frame, 8192 x 8192; a header of a few bytes may claim any size


def load_av() -> Any:
    """PyAV.

    Raises:
        `ImportError`: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise ImportError("reading or writing video files needs PyAV: pip install av") from None
    return av


class _Bytes:
    """A file without its name."""

    def __init__(self, file):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def open_media(path: Path) -> Generator[Any]:
    """
    A context manager: the container in a file, opened with PyAV.

    Raises:
        `OSError`: it is no media file, or of a format that is not read.
    """
    av = load_av()
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
    with path.open("rb") as file:
        try:
            container = av.open(_Bytes(file), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            if getattr(error, "errno", None) == errno.EINVAL:  # what FFmpeg says of a format that is not allowed
                reason = "its format is not one of media files; playlists and lists of files are not followed"
            raise OSError(f"{path}: is no video that can be read, or is damaged ({reason}).") from None
        with container:
            yield container


def best_video(container, path: Path) -> Any:
    """
    The video stream with the most pixels, as the command `ffmpeg` chooses it; one marked as the default comes first.

    Raises:
        `OSError`: there is no video stream but a cover picture, its codec is unknown, or its frames are too large.
    """
    av = load_av()
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        only = ", only a cover picture" if container.streams.video else ""
        raise OSError(f"{path}: has no video stream{only}.")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise OSError(f"{path}: has a video stream of a codec that is not known.")

    def rank(stream) -> int:
        context = stream.codec_context
        return context.width * context.height + 5_000_000 * bool(stream.disposition & av.stream.Disposition.default)

    stream = max(known, key=rank)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise OSError(f"{path}: has frames of {height}x{width}, which are larger than {MAX_PIXELS} pixels.")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


__all__ = ["MAX_PIXELS", "best_video", "load_av", "open_media"]
