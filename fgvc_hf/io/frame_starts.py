"""Frames that begin in a file, and packets that it lost, by marks in its bytes: what demuxers do not tell where these are damaged."""

import itertools
import mmap
import re
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from .gif_images import image_blocks
from .matroska_blocks import number_at
from .mp4_boxes import has_empty_frames
from .truncation import BLOCKS, PARENTS, TRACK_NUMBER, Incomplete, matroska_element, riff_chunk


MARK = 0x47  # the first byte of a packet of a transport stream
PICTURES = 0xE0  # the upper half of the number of a stream of pictures in it
PICTURE, CODING_EXTENSION = b"\0\0\1\0", b"\0\0\1\xb5"
SLICE = re.compile(b"\0\0\1([\1-\xaf])", re.DOTALL)  # with its row of blocks; larger numbers are no slices
JPEG_START, JPEG_SCAN, JPEG_FRAMES = (
    b"\xff\xd8",
    b"\xff\xda",
    (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"),
)  # do not occur within a scan
ALL_COLOURS = b"\0\x0c\x03"  # a scan of all three, after which there is no other
VP8_START = b"\x9d\x01\x2a"
WEBP_PICTURES = b"VP8 ", b"VP8L", b"ALPH"
# Where the header of a stream whose units (NAL) have lengths says how many bytes a length has (ISO/IEC 14496-15, 5.3.3 and 8.3.3)
UNIT_WIDTH = {"h264": 4, "hevc": 21}
PROBED = 50  # packets of a transport stream that its packet length is told from


def frame_starts(path: Path, kinds: set[str], stream_id: int, stream_index: int) -> int:
    """
    The frames that begin in a file: no more than there are packets if it is whole.

    Args:
        path: The file.
        kinds (`set[str]`): What FFmpeg calls its format. Only transport streams, AVI, Matroska, motion JPEG and GIF have such marks; 0 for others.
        stream_id (`int`): What the container calls the stream of pictures.
        stream_index (`int`): Its number among the streams.
    """
    if "mpegts" in kinds:
        return _payload_starts(np.memmap(path, np.uint8, "r"), stream_id)
    if kinds & {"avi", "matroska"}:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _pictures_of_avi(content, stream_index) if "avi" in kinds else _blocks(content, stream_index)
    if "mjpeg" in kinds:
        return path.read_bytes().count(b"\xff\xd9\xff\xd8") + 1
    if "gif" in kinds:
        try:
            return sum(1 for _ in image_blocks(path.read_bytes()))
        except (IndexError, ValueError):
            return 0  # damaged anyway
    return 0


def _pictures_of_avi(content, stream_index: int) -> int:
    """Chunks with a picture of a stream, compressed or not; those of no bytes repeat the picture before."""
    names, position, found = {f"{stream_index:02d}{kind}".encode() for kind in ("dc", "db")}, 0, 0
    try:
        while position + 12 <= len(content) and (length := riff_chunk(content[position : position + 12])):
            found += content[position : position + 4] in names and length > 8
            position += length
    except Incomplete:
        pass
    return found


def _blocks(content, stream_index: int) -> int:
    """Blocks of a track of a Matroska file, each of one frame or more; streams are in the order of the tracks' heads."""
    position, tracks, found = 0, [], Counter()
    try:
        while position < len(content):
            identity, size, head = matroska_element(content[position : position + 12])
            if identity is None:
                break
            position += head
            if identity == TRACK_NUMBER and size is not None and size <= 8:
                tracks.append(int.from_bytes(content[position : position + size]))
            if identity in BLOCKS:
                found[number_at(content[position : position + 8], 0)[0]] += 1
            position += 0 if identity in PARENTS or size is None else size
    except (Incomplete, IndexError):
        pass
    return found[tracks[stream_index]] if stream_index < len(tracks) else 0


def webp_frames(content: bytes) -> int:
    """The frames of an animated WebP file, each a chunk of its own."""
    position, found = 12, 0
    while position + 8 <= len(content):
        # By its name, or, where that is damaged, by the picture in it
        found += content[position : position + 4] == b"ANMF" or content[position + 24 : position + 28] in WEBP_PICTURES
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return found


def loses_packets(path: Path, kinds: set[str], stream_ids: set[int]) -> bool:
    """Whether packets are lost where a demuxer goes on without a word: pictures of MP4 that have no bytes; in a transport stream, bytes between
    packets, packets without their mark, and pictures that begin in a packet of a stream that is not known."""
    if "mov" in kinds:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            suppress(struct.error),
        ):
            return has_empty_frames(content)
    if "mpegts" not in kinds:
        return False
    packets, rest = _transport_packets(np.memmap(path, np.uint8, "r"))
    if not len(packets) or (packets[:, 0] != MARK).any() or rest[:1].tolist() not in ([], [MARK]):
        return True
    packets = packets[(packets[:, 1] & 0xC0 == 0x40) & (packets[:, 3] & 0x10 > 0)]  # something begins in them
    more = packets[:, 3] & 0x20 > 0  # fields before it, of a stated length
    starts = 4 + np.where(more, 1 + packets[:, 4].astype(int), 0)
    heads = np.take_along_axis(packets, (starts[:, None] + np.arange(4)).clip(0, packets.shape[1] - 1), axis=1)
    pictures = (heads[:, :3] == (0, 0, 1)).all(axis=1) & (heads[:, 3] & 0xF0 == PICTURES)
    return not set(_identities(packets)[pictures].tolist()) <= stream_ids


def is_damaged_packet(packet: bytes | memoryview, codec: str, header: bytes = b"") -> bool:
    """Whether a packet shows damage that demuxers do not tell: more pictures than one, or than the two fields of a frame, because a parser that a
    damaged mark misleads joins two frames, of which the decoder gives one; a key frame of VP8 without its start code, which may seem to be
    one that is not shown; or units of H.264 and HEVC that do not fit into it, in a frame that may not be shown.

    Args:
        packet: What the demuxer gives.
        codec (`str`): What FFmpeg calls the codec.
        header (`bytes`): Of the stream ("extradata"). It tells whether units have lengths.
    """
    if codec in UNIT_WIDTH and header[:1] == b"\1":
        return not _units_fit(packet, (header[UNIT_WIDTH[codec]] & 3) + 1)
    if codec == "vp8":
        return not packet[0] & 1 and bytes(packet[3:6]) != VP8_START
    if codec == "mjpeg":
        scan = bytes(packet).partition(JPEG_SCAN)[2]
        again = JPEG_FRAMES if not scan.startswith(ALL_COLOURS) else (*JPEG_FRAMES, JPEG_SCAN)
        return JPEG_START not in scan and any(mark in scan for mark in again)
    if codec not in ("mpeg1video", "mpeg2video"):
        return False
    pictures = bytes(packet).split(PICTURE)[1:]
    if any(_goes_back(picture) for picture in pictures):
        return True
    if len(pictures) < 2:
        return False
    extensions = [picture.find(CODING_EXTENSION) for picture in pictures]
    structures = [
        picture[at + 6] & 3 for picture, at in zip(pictures, extensions, strict=True) if 0 <= at < len(picture) - 6
    ]
    return sorted(structures) != [1, 2]  # the upper and the lower field


def _goes_back(picture: bytes) -> bool:
    """Whether a picture of MPEG-1 or MPEG-2 has a slice above one before it: it is of another picture, whose head is lost."""
    rows = [found[1][0] for found in SLICE.finditer(picture)]
    return any(after < before for before, after in itertools.pairwise(rows))


def _units_fit(packet: bytes | memoryview, width: int) -> bool:
    """Whether units, each behind its length in `width` bytes, end within a packet."""
    position = 0
    while position + width < len(packet):
        position += width + int.from_bytes(packet[position : position + width])
    return position <= len(packet)


def _payload_starts(content: np.ndarray, stream_id: int) -> int:
    """Packets of an elementary stream with the start of a payload."""
    packets, _ = _transport_packets(content)
    return int(((_identities(packets) == stream_id) & (packets[:, 1] & 0xC0 == 0x40)).sum())


def _identities(packets: np.ndarray) -> np.ndarray:
    """The stream of each packet."""
    return (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]


def _transport_packets(content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a transport stream as packets (N, length) of 188, 192 or 204 bytes, each from its mark on, and the rest behind the last one."""
    for length in (188, 192, 204):
        for start in range(min(length, len(content))):
            end = start + (len(content) - start) // length * length
            packets = content[start:end].reshape(-1, length)
            if len(packets) and (packets[:PROBED, 0] == MARK).mean() > 0.9:
                return packets, content[end:]
    return content[:0].reshape(0, 188), content


__all__ = ["frame_starts", "loses_packets", "is_damaged_packet", "webp_frames"]
