"""Video files as frame sources, decoded with PyAV.

Frames come as players show them: turned and mirrored by the display matrix, in the colours that the file's own matrix and range tags say.

Damage is what demuxer, decoder or the container's structure report, never what durations and frame counts in headers suggest. A file that was
cut off is refused, or, with `allow_truncated`, read up to the last frame before the cut.
"""

import itertools
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .containers import MAX_PIXELS, best_video, load_av, open_media
from .decoded_pictures import Pictures, transposes
from .frame_starts import frame_starts, is_damaged_packet, loses_packets
from .image_files import check_range
from .truncation import BROKEN, CUT_OFF, damage


DEFAULT_FPS = 24.0  # for sources without frame times
REVERSE_CHUNK = 32  # frames decoded and held at a time when a file is read in reverse
# Containers whose packets have presentation times; those of others are counted while they are decoded
TIMED = {"mov", "matroska", "mpegts", "mpeg", "flv", "asf", "ogg", "nut", "gif", "apng", "ivf"}
# Containers without lengths or end marks: whether the last frame is whole is seen by decoding it
ENDLESS = {"mpegts", "mpeg"}
FIELDS = {"mpeg2video", "h264", "hevc", "vc1"}  # codecs in which each of the two fields of a frame may be a packet


class VideoFile:
    """A video file, shown upright.

    Opening reads the presentation times (PTS) of all frames and decodes the first frame. Frame numbers are therefore exact for variable frame
    rates too. Frames without usable times are counted by decoding the file once.

    Args:
        path (`Path`): The file.
        allow_truncated (`bool`, defaults to `False`): Read a file that was cut off up to its last whole frame, with a warning.

    Attributes:
        pixel_aspect (`Fraction`): Width of a pixel as shown / its height; 1 for square pixels.

    Raises:
        `OSError`: the file is no video that can be read, or is damaged.
    """

    def __init__(self, path: Path, allow_truncated: bool = False):
        self.path, self.name, self._shape = path, str(path), ()
        self._pts: list[int] = []  # by number; empty where the packets do not tell them
        self._most: int | None = None  # packets that are decoded of a file that was cut off
        self._first_is_corrupt = False
        with open_media(path) as container:
            stream, kinds = best_video(container, path), set(container.format.name.split(","))
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self._stream, self._time_base, self._codec = stream.index, stream.time_base, stream.codec_context.name
            self.pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
            short = self._read_index(container, stream, kinds)
        self._seconds = [float((time - self._pts[0]) * self._time_base) for time in self._pts]
        self._number = {time: number for number, time in enumerate(self._pts)}
        problem = CUT_OFF if short else damage(path, kinds)
        if not problem and self._pts and kinds & ENDLESS and self._last_is_corrupt():
            problem = CUT_OFF
        if problem or not self._pts:
            self._pts, self._seconds = [], []
            self._count(problem, allow_truncated)
        self.num_frames = len(self._seconds)
        self.height, self.width = next(self._decode(0, 1)).shape[:2]
        if not problem and (self._packets_missing or self._first_is_corrupt):
            what = "packets are missing or damaged" if self._packets_missing else "its first frame is damaged"
            warnings.warn(f"{path}: {what}, and frames may be missing.", stacklevel=3)

    # ---- Index ------------------------------------------------------------------------------------------------------

    def _read_index(self, container, stream, kinds: set[str]) -> bool:
        """Take PTS from the packets, if every frame has one of its own; returns whether the packets end in the middle."""
        packets, marked = [], []  # not the packets themselves, which hold the compressed file
        corrupt = failed = damaged = False
        header = stream.codec_context.extradata or b""
        # Packets of raw motion JPEG are cut at marks alone: where one is damaged, two pictures are decoded as one
        strict = _strict_decoder(stream.codec_context.name) if kinds & {"mjpeg", "jpeg_pipe"} else None
        self._last, self._hidden, end = 0, 0, None  # number of packets, and where the last one ends in the file
        try:
            for packet in _packets(container, stream):
                corrupt, end = packet.is_corrupt, None if packet.pos is None else packet.pos + packet.size
                self._last += 1
                marked.append((corrupt, packet.dts, packet.is_keyframe))
                self._hidden += (hidden := _is_hidden(packet, stream))
                damaged |= is_damaged_packet(memoryview(packet), stream.codec_context.name, header)
                damaged |= strict is not None and not _decodes(strict, bytes(packet))
                if not hidden:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except _errors():
            failed = True
        if not packets:
            raise OSError(f"{self.path}: has no frames.")
        # Whether the last packet is whole even if the file was cut off
        self._whole = not corrupt and not kinds & ENDLESS and end is not None and end < self.path.stat().st_size
        pts, dts, keys, discarded = zip(*packets, strict=True)
        self._has_keys = any(keys)
        # In the middle, or before the first key frame
        self._packets_missing = (
            damaged
            or _are_missing(marked, kinds)
            or loses_packets(self.path, kinds, {other.id for other in container.streams.video})
            or self._last < frame_starts(self.path, kinds, stream.id, stream.index)
        )
        self._packets_missing |= not keys[0] and not (self._has_keys and kinds & ENDLESS)
        # Pictures before the first key frame are not counted on, for they may refer to others that are not there
        unique = None not in pts and len(set(pts)) == len(pts) and keys[0] and pts[0] == min(pts)
        ordered = None not in dts and all(before < after for before, after in itertools.pairwise(dts))
        if unique and ordered and kinds & TIMED:
            self._pts = sorted(time for time, discard in zip(pts, discarded, strict=True) if not discard)
        # In a transport stream the mark says that packets are missing somewhere, as where two recordings were joined
        return failed or (corrupt and "mpegts" not in kinds)

    def _last_is_corrupt(self) -> bool:
        corrupt = True
        try:
            for number, frame in self._numbered(len(self._pts) - 1):
                corrupt = frame.is_corrupt or number < len(self._pts) - 1
        except _errors():
            return True
        return corrupt

    def _count(self, problem: str | None, allow_truncated: bool) -> None:
        """Count and time the frames by decoding the file; one that is damaged is refused, or what is left of it read.

        Raises:
            `OSError`: decoding stops, or the file is damaged, and this is not allowed.
        """
        if problem == CUT_OFF:
            self._most = self._last if self._whole else self._last - 1
        try:
            self._time_frames()
        except _errors() as error:
            problem, self._most = problem or f"decoding stops ({error.strerror})", self._last
            with suppress(*_errors()):
                self._time_frames()
        count = len(self._seconds)
        if not count:
            raise OSError(f"{self.path}: is damaged, {problem or 'no frame can be decoded'}.")
        where = "and frames may be missing" if problem == BROKEN else f"after frame {count - 1}"
        if problem and not allow_truncated:
            way = f"the first {count} can be read with allow_truncated=True (--allow-truncated)"
            raise OSError(f"{self.path}: is damaged, {problem} {where}; {way}.")
        expected = self._last - self._hidden
        in_fields = self._codec in FIELDS and 2 * count - 2 <= expected <= 2 * count
        self._packets_missing |= count < expected and not problem and not in_fields
        if problem:
            warnings.warn(f"{self.path}: {problem} {where}; it is read up to there.", stacklevel=4)

    def _time_frames(self) -> None:
        """Take the times of the frames from the decoder."""
        step, last, self._seconds = 1 / (self.fps or DEFAULT_FPS), None, []
        for frame in self._whole_frames():
            time = None if frame.pts is None else float(frame.pts * self._time_base)
            # Where times are missing or go back, as where two recordings were joined, the clip goes on at its rate
            passed = step if time is None or last is None or time <= last else time - last
            self._seconds.append(self._seconds[-1] + passed if self._seconds else 0.0)
            last = time

    def time(self, index: int) -> float:
        """Seconds from the first frame, as stored in the file."""
        return self._seconds[index]

    # ---- Frames -----------------------------------------------------------------------------------------------------

    def frames(self, start: int = 0, stop: int | None = None, reverse: bool = False) -> Iterator[np.ndarray]:
        """Yield frames start..stop-1, or stop-1..start in reverse, for which chunks are decoded forward and held.

        Raises:
            `OSError`: the file is damaged in this range, or frames change in size.
            `ValueError`: the range is not within the video.
        """
        stop = check_range(self.name, self.num_frames, start, stop)
        if not reverse:
            yield from self._decode(start, stop)
            return
        for end in range(stop, start, -REVERSE_CHUNK):
            yield from reversed(list(self._decode(max(start, end - REVERSE_CHUNK), end)))

    def _decode(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Decode from the key frame before `start`. A frame that the decoder skips is an error, not a shorter video."""
        position = start
        try:
            pictures = Pictures()
            with closing(self._numbered(start)) as decoded:
                for number, frame in decoded if start < stop else ():
                    if number > position:
                        break
                    if number == position:
                        yield self._upright(number, frame, pictures)
                        position += 1
                    if position == stop:
                        return
        except _errors() as error:
            stops = f"decoding stops at frame {position} of {self.num_frames} ({error.strerror})"
            raise OSError(f"{self.path}: is damaged, {stops}.") from None
        if position < stop:
            raise OSError(f"{self.path}: is damaged, frame {position} of {self.num_frames} cannot be decoded.")

    def _upright(self, number: int, frame, pictures: Pictures) -> np.ndarray:
        shown = pictures.upright(frame)
        if not self._shape:
            self._shape, self._first_is_corrupt = shown.shape, frame.is_corrupt
            self.pixel_aspect = 1 / self.pixel_aspect if transposes(pictures.matrix) else self.pixel_aspect
        if shown.shape != self._shape:
            size, before = (f"{shape[0]}x{shape[1]}" for shape in (shown.shape, self._shape))
            raise OSError(f"{self.path}: frame {number} is {size}, but those before are {before}.")
        return np.ascontiguousarray(shown)  # torch has no negative strides

    def _numbered(self, start: int) -> Generator[tuple[int, Any]]:
        """Yield (number, decoded frame) from a frame at or before `start` on, as of [`_whole_frames`]."""
        if not self._pts:
            yield from enumerate(self._whole_frames())
            return
        # Some containers seek past the target: aim earlier and earlier, at last at the first frame
        for back in (0, REVERSE_CHUNK, 8 * REVERSE_CHUNK, start):
            target = max(start - back, 0)
            frames = self._whole_frames(self._pts[target] if target else None)
            decoded = ((self._number[frame.pts], frame) for frame in frames if frame.pts in self._number)
            first = next(decoded, None)
            if not target or (first and first[0] <= start):
                yield from itertools.chain([first] if first else [], decoded)
                return

    def _whole_frames(self, target: int | None = None) -> Iterator[Any]:
        """The frames from the first one, or from a key frame near the PTS `target`; one that the decoder calls corrupt is an error.

        Frames that are corrupt because those that they refer to come before the key frame are left out after a seek, and kept at the start.
        """
        whole = False
        for frame in self._decoded(target):
            if frame.is_corrupt and whole:
                raise _CorruptFrameError
            whole = whole or not frame.is_corrupt
            if whole or target is None:
                yield frame

    def _decoded(self, target: int | None) -> Iterator[Any]:
        with open_media(self.path) as container:
            if self._stream >= len(container.streams):  # what is found of damaged headers may differ
                raise _CorruptFrameError
            stream = container.streams[self._stream]
            context = stream.codec_context
            context.options = {"max_pixels": str(MAX_PIXELS)}
            # Of a file that was cut off, frames are taken as they are decoded, and none that waits for others that may be missing. The first
            # frame of all is decoded alone: threads that decode several frames at once may not mark it as corrupt
            stream.thread_type = "AUTO" if self._most is None and self._shape else "SLICE"
            started, shown = not self._has_keys, target is None
            if target is not None:
                container.seek(target, stream=stream)
            packets = itertools.islice(_packets(container, stream), self._most)
            for packet in itertools.chain(packets, [None] if self._most is None else []):
                started = started or packet is None or packet.is_keyframe
                for frame in context.decode(packet) if started else ():
                    # Frames before the next key frame may refer to frames that were not decoded
                    shown = shown or frame.key_frame
                    if shown:
                        yield frame


class _CorruptFrameError(Exception):
    strerror = "the frame is corrupt"


def _errors() -> Any:
    """What decoding raises: exceptions with a `strerror`."""
    return load_av().FFmpegError, _CorruptFrameError


def _packets(container, stream) -> Iterator[Any]:
    """The packets of a stream that hold something."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except IndexError:  # PyAV does not know a stream that damaged headers announce in the middle
        raise _CorruptFrameError from None


def _strict_decoder(codec: str) -> Any:
    """A decoder that refuses what others pass over with a line in their log."""
    context = load_av().CodecContext.create(codec, "r")
    context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    return context


def _decodes(context: Any, packet: bytes) -> bool:
    try:
        return bool(context.decode(load_av().Packet(packet)))
    except _errors():
        return False


def _are_missing(packets: list[tuple[bool, int | None, bool]], kinds: set[str]) -> bool:
    """Whether the demuxer marks packets (mark, DTS, key frame) as corrupt. Not so just before a key frame of a transport
    stream whose time begins anew.

    There two recordings were joined: transport packets are counted anew as well, which looks as if some were missing. The mark is on one of
    the two frames before, because FFmpeg's parser looks ahead.
    """
    anew = [
        "mpegts" in kinds and key and dts is not None and before is not None and dts < before
        for (_, before, _), (_, dts, key) in itertools.pairwise(packets)
    ]  # whether a recording begins after each packet but the last
    return any(mark and not any(anew[number : number + 2]) for number, (mark, _, _) in enumerate(packets))


def _is_hidden(packet, stream) -> bool:
    """Whether a packet holds a frame that is only referred to: in VP8 alone, these are packets of their own."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


__all__ = ["VideoFile"]
