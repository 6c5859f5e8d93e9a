"""Boxes of MP4 and QuickTime files, as far as times depend on them."""

import struct
from collections.abc import Generator


def tracks_have_clocks(data) -> bool:
    """Whether every track of a file has its media header, without which its times mean nothing and demuxers leave out frames."""
    for movie in _inside(data, (0, len(data)), b"moov"):
        for media in _inside(data, movie, b"trak", b"mdia"):
            if b"mdhd" not in dict(_boxes(data, *media)):
                return False
    return True


def _boxes(data, position: int, end: int) -> Generator[tuple[bytes, tuple[int, int]]]:
    """Yield the kind of each box between two places, and where its content begins and ends."""
    while position + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 16 if length == 1 else 8
        length = struct.unpack_from(">Q", data, position + 8)[0] if length == 1 else length or end - position
        if length < head:
            return
        yield kind, (position + head, min(position + length, end))
        position += length


def _inside(data, place: tuple[int, int], kind: bytes, *kinds: bytes) -> Generator[tuple[int, int]]:
    """Yield where the content of boxes of a kind is, or of boxes in those."""
    for found, content in _boxes(data, *place):
        if found == kind:
            yield from _inside(data, content, *kinds) if kinds else (content,)


__all__ = ["tracks_have_clocks"]
