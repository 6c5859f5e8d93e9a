"""Boxes of MP4 and QuickTime files, as far as times and places of frames depend on them (ISO/IEC 14496-12)."""

import struct
from collections.abc import Generator

import numpy as np


Place = tuple[int, int]  # where the content of a box begins and ends
# Fields of a track's header in a fragment (section 8.8.7): the bit that announces each, and its bytes
BASE, DEFAULT_SIZE = 0x1, 0x10
HEADER_FIELDS = ((BASE, 8), (0x2, 4), (0x8, 4), (DEFAULT_SIZE, 4))
# Fields of a run of frames (section 8.8.8), and its columns, of four bytes for each frame
OFFSET, FIRST_FLAGS, SIZE = 0x1, 0x4, 0x200
COLUMNS = (0x100, SIZE, 0x400, 0x800)


def tracks_have_clocks(data) -> bool:
    """Whether every track of a file has its media header, without which its times mean nothing and demuxers leave out frames."""
    for movie in _inside(data, (0, len(data)), b"moov"):
        for media in _inside(data, movie, b"trak", b"mdia"):
            if b"mdhd" not in dict(_boxes(data, *media)):
                return False
    return True


def frames_are_within(data) -> bool:
    """Whether pictures lie in a file where its tables say, and are shown within the time of their track; demuxers leave out those that are not.

    Raises:
        `ValueError`: a table is broken.
    """
    for media, tables in _pictures(data):
        if _end_of_chunks(tables) > len(data) or 0 < 2 * _duration(data, media) < _shifts(tables):
            return False
    return all(
        _end_of_runs(data, fragment[0] - 8, track) <= len(data)
        for fragment in _inside(data, (0, len(data)), b"moof")
        for track in _inside(data, fragment, b"traf")
    )


def has_empty_frames(data) -> bool:
    """Whether a table says that pictures have no bytes; demuxers leave them out."""
    return any(not size and not sizes.all() for size, sizes in (_sizes(tables) for _, tables in _pictures(data)))


def _pictures(data) -> Generator[tuple[Place, dict[bytes, bytes]]]:
    """Yield each track of pictures and its tables by their kind, behind their versions."""
    for media in _inside(data, (0, len(data)), b"moov", b"trak", b"mdia"):
        for place in _inside(data, media, b"minf", b"stbl") if _handler(data, media) == b"vide" else ():
            yield media, {kind: data[begin + 4 : end] for kind, (begin, end) in _boxes(data, *place)}


def _handler(data, media: Place) -> bytes:
    """What a track holds: `vide`, `soun`, ..."""
    begin, _ = dict(_boxes(data, *media)).get(b"hdlr", (0, 0))
    return bytes(data[begin + 8 : begin + 12])


def _rows(tables: dict[bytes, bytes], kind: bytes, number: str, columns: int) -> np.ndarray:
    """A table (N, columns) of a track, behind the number of its rows; empty if there is none."""
    content = tables.get(kind, bytes(4))
    count = min(_u32(content, 0), (len(content) - 4) // (int(number[-1]) * columns))
    return np.frombuffer(content, number, count * columns, 4).reshape(count, columns)


def _end_of_chunks(tables: dict[bytes, bytes]) -> int:
    """Where the last frame of a track ends: by the chunks' offsets, the frames in each, and the frames' sizes."""
    offsets = np.append(_rows(tables, b"stco", ">u4", 1), _rows(tables, b"co64", ">u8", 1)).astype(float)
    # The first chunk of each run, counted from 1, and the frames in each chunk from there on
    runs = _rows(tables, b"stsc", ">u4", 3).astype(np.int64)
    if not (len(offsets) and len(runs)):
        return 0
    chunks = np.diff(np.append(runs[:, 0] - 1, len(offsets)).clip(0, len(offsets))).clip(0)
    frames = np.repeat(runs[:, 1], chunks)
    size, sizes = _sizes(tables)
    if size:
        lengths = frames * float(size)
    else:
        before = np.append(0, sizes.cumsum(dtype=float))
        numbers = np.append(0, frames.cumsum()).clip(0, len(before) - 1)
        lengths = np.diff(before[numbers])
    return int((offsets[: len(lengths)] + lengths).max(initial=0))


def _sizes(tables: dict[bytes, bytes]) -> tuple[int, np.ndarray]:
    """Bytes of every frame of a track, or 0 and the bytes of each."""
    content = tables.get(b"stsz", bytes(8))
    size, count = struct.unpack_from(">II", content)
    return size, np.frombuffer(content[8 : 8 + (len(content) - 8) // 4 * 4], ">u4")[:count]


def _shifts(tables: dict[bytes, bytes]) -> float:
    """By how much more one frame is shown after it is decoded than another; no more than twice the time of the track, if both are within it."""
    shifts = _rows(tables, b"ctts", ">i4", 2)[:, 1].astype(float)
    return shifts.max() - shifts.min() if len(shifts) else 0.0


def _duration(data, media: Place) -> int:
    """The time of a track in its units, as its media header states it."""
    begin, _ = dict(_boxes(data, *media))[b"mdhd"]
    return struct.unpack_from(">Q", data, begin + 24)[0] if data[begin] else _u32(data, begin + 16)


def _end_of_runs(data, base: int, track: Place) -> int:
    """Where the last frame of a track ends, in a fragment that begins at `base`."""
    position, default, last = base, 0, 0
    for kind, (at, _) in _boxes(data, *track):
        flags, count = _u32(data, at) & 0xFFFFFF, _u32(data, at + 4)
        at += 8
        if kind == b"tfhd":
            for bit, width in HEADER_FIELDS:
                if flags & bit:
                    value = int.from_bytes(data[at : at + width])
                    base, default = (value if bit == BASE else base), (value if bit == DEFAULT_SIZE else default)
                    at += width
            position = base
        elif kind == b"trun":
            if flags & OFFSET:
                position = base + struct.unpack_from(">i", data, at)[0]
            at += 4 * bool(flags & OFFSET) + 4 * bool(flags & FIRST_FLAGS)
            columns = [bit for bit in COLUMNS if flags & bit]
            if SIZE in columns:
                rows = np.frombuffer(data[at : at + 4 * count * len(columns)], ">u4").reshape(-1, len(columns))
                position += int(rows[:, columns.index(SIZE)].sum(dtype=np.int64))
            else:
                position += count * default
            last = max(last, position)
    return last


def _u32(data, at: int) -> int:
    return struct.unpack_from(">I", data, at)[0]


def _boxes(data, position: int, end: int) -> Generator[tuple[bytes, Place]]:
    """Yield the kind of each box between two places, and where its content begins and ends."""
    while position + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 16 if length == 1 else 8
        length = struct.unpack_from(">Q", data, position + 8)[0] if length == 1 else length or end - position
        if length < head:
            return
        yield kind, (position + head, min(position + length, end))
        position += length


def _inside(data, place: Place, kind: bytes, *kinds: bytes) -> Generator[Place]:
    """Yield where the content of boxes of a kind is, or of boxes in those."""
    for found, content in _boxes(data, *place):
        if found == kind:
            yield from _inside(data, content, *kinds) if kinds else (content,)


__all__ = ["frames_are_within", "has_empty_frames", "tracks_have_clocks"]
