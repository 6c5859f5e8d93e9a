"""Whether a file of media was cut off or is broken inside, by the structure of its container alone: the sizes that it states, and its end marks.

Durations and numbers of frames in headers are no evidence: pauses, edit lists and encoders make them differ from what is stored. A file
without an index or duration, as a browser records it, is whole as long as its last element is.
"""

import mmap
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from .asf_packets import packets_are_whole
from .gif_images import has_hidden_images
from .matroska_blocks import block_is_whole
from .mp4_boxes import frames_are_within, tracks_have_clocks


Head = Callable[[bytes], int | None]  # the first bytes of an element -> its length; `None`: no element, or the end
HEAD = 300  # bytes that tell the length of any element; that of an Ogg page has up to 282
UNKNOWN = (0, 0xFFFFFFFF)  # sizes of a RIFF chunk that is still being written


CUT_OFF, BROKEN = "it is cut off", "its structure is broken"


class Incomplete(Exception):
    """The first bytes of an element are cut off."""


class Broken(Exception):
    """An element cannot be where it is: what comes next is skipped by demuxers, frames included."""


def damage(path: Path, kinds: set[str]) -> str | None:
    """
    What is wrong with a file, as far as its container tells: `CUT_OFF` if its end is missing, `BROKEN` inside, or nothing.

    Args:
        path: The file, not empty.
        kinds (`set[str]`): What FFmpeg calls its format. Containers without lengths and end marks, such as raw H.264, tell nothing.
    """
    checks: Mapping[str, Callable] = {
        "mov": _mp4,
        "matroska": _matroska,
        "avi": _riff,
        "webp_pipe": _riff,
        "gif": _gif,
        "apng": _png,
        "png_pipe": _png,
        "mpegts": _transport_stream,
        "mpeg": lambda data: _walk(data, _program_stream),
        "flv": _flv,
        "live_flv": _flv,
        "asf": _asf,
        "ogg": _ogg,
        "ivf": lambda data: _walk(data, lambda head: 12 + _u32(head), start=32),
        "yuv4mpegpipe": _yuv4mpeg,
        "jpeg_pipe": _motion_jpeg,
        "mjpeg": _ends_within_a_jpeg,
    }
    check = next((checks[name] for name in checks if name in kinds), None)
    if check is None:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return CUT_OFF if check(data) else None
        except (Broken, KeyError, ValueError, IndexError, struct.error):  # what a header says makes no sense
            return BROKEN


def _walk(data, head: Head, start: int = 0, slack: int = 0) -> bool:
    """Go from element to element; whether the last one ends more than `slack` bytes after the file."""
    position = start
    while position < len(data):
        try:
            length = head(data[position : position + HEAD])
        except (Incomplete, struct.error, IndexError):
            return True
        if length is None:
            return False
        position += length
    return position > len(data) + slack


def _u32(head: bytes, offset: int = 0, order: str = "<") -> int:
    return struct.unpack_from(f"{order}I", head, offset)[0]


# ---- MP4, Matroska, RIFF, ASF --------------------------------------------------------------------------------------


def _mp4(data) -> bool:
    last = b""

    def box(head: bytes) -> int | None:
        nonlocal last
        if len(head) < 8:
            if head[0] == 0 and any(head):
                raise Incomplete
            return None
        length, kind = struct.unpack_from(">I4s", head)
        if kind not in b"ftyp styp moov moof mdat free skip wide sidx ssix mfra uuid meta emsg prft udta pnot".split():
            return None  # programs append data of their own
        last = kind
        if length == 0:
            return None  # up to the end of the file
        length = struct.unpack_from(">Q", head, 8)[0] if length == 1 else length
        return length if length >= 8 else None

    if _walk(data, box) or last == b"moof":
        return True
    if not tracks_have_clocks(data) or not frames_are_within(data):
        raise Broken
    return False


EBML, SEGMENT, CLUSTER, VOID = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC
TRACK_NUMBER, BLOCKS = 0xD7, (0xA3, 0xA1)
# Elements that hold others: header, segment, information, tracks and one of them, clusters of frames and groups of blocks
PARENTS = (EBML, SEGMENT, 0x1549A966, 0x1654AE6B, 0xAE, CLUSTER, 0xA0)
# What a segment and a cluster hold (RFC 9559, section 5.1); in a cluster time, position and size are numbers
NUMBERS, ANYWHERE = {0xE7, 0xA7, 0xAB}, {VOID, 0xBF}
IN_CLUSTERS = {*NUMBERS, 0x5854, 0xA3, 0xA0, 0xAF, *ANYWHERE}
IN_SEGMENTS = {0x114D9B74, 0x1549A966, 0x1654AE6B, CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, *ANYWHERE}
CHILDREN = {
    SEGMENT: IN_SEGMENTS,
    CLUSTER: IN_CLUSTERS,
    None: {EBML, SEGMENT, *IN_SEGMENTS, *IN_CLUSTERS},
}  # `None`: of live files


def _matroska(data) -> bool:
    """Go through elements and those within them; demuxers skip to the next cluster where one does not fit into what holds it."""
    position, around, live = (
        0,
        [],
        False,
    )  # the elements around this position, by their ends; whether one is of unknown size
    tracks: set[int] = set()
    while position < len(data):
        around = [(end, kind) for end, kind in around if position < end]
        try:
            identity, size, head = matroska_element(data[position : position + 12])
        except (Incomplete, IndexError):
            return True
        if identity is None or not (live or around or identity in (EBML, SEGMENT, VOID)):
            if around or data.find(CLUSTER.to_bytes(4), position) >= 0 or (live and data[position:].strip(b"\0")):
                raise Broken
            return False  # programs append data of their own
        position += head
        if size is None:
            if identity not in (SEGMENT, CLUSTER):
                raise Broken
            live = True
            continue
        if position + size > len(data):
            return True
        end, parent = around[-1] if around else (len(data), None)
        if (
            position + size > end
            or identity not in CHILDREN.get(parent, {identity})
            or (identity in NUMBERS and size > 8)
        ):
            raise Broken
        if identity == TRACK_NUMBER and size <= 8:
            tracks.add(int.from_bytes(data[position : position + size]))
        if identity in BLOCKS and tracks and not block_is_whole(memoryview(data)[position : position + size], tracks):
            raise Broken
        if identity in PARENTS:
            around.append((position + size, identity))
        else:
            position += size
    return False


def matroska_element(head: bytes) -> tuple[int | None, int | None, int]:
    """Identity, size and bytes of the head of an element; no identity if it is none, and no size if that is unknown."""
    if head[0] < 0x10:
        return None, None, 0  # no id of four bytes at most
    id_size = 9 - head[0].bit_length()
    identity, rest = int.from_bytes(head[:id_size]), head[id_size:]
    if rest[:1] == b"\0":
        return None, None, 0
    size_size = 9 - rest[0].bit_length()
    if len(rest) < size_size:
        raise Incomplete
    bits = 7 * size_size
    size = int.from_bytes(rest[:size_size]) & ((1 << bits) - 1)
    return identity, None if size == (1 << bits) - 1 else size, id_size + size_size


def _riff(data) -> bool:
    position = 0
    while data[position : position + 4] == b"RIFF" and position + 8 <= len(data):
        size = _u32(data, position + 4)
        if size in UNKNOWN:
            return _walk(data, riff_chunk, slack=1)
        if position + size <= len(data):
            _check_chunks(data, position + 12, position + 8 + size)
        position += 8 + size + size % 2
    return position > len(data) + 8  # some programs count the eight bytes of the header in


def _check_chunks(data, position: int, end: int) -> None:
    """Go through the chunks of a RIFF file of known size, and those of its lists; one that does not fit is `Broken`."""
    ends = [end]
    while position + 8 <= end:
        ends = [other for other in ends if position < other]
        head = data[position : position + 12]
        if len(ends) == 1 and not any(data[position : position + HEAD]) and not data[position:end].strip(b"\0"):
            return  # programs fill up
        inside = position + 8 + _u32(head, 4)
        if not all(32 <= byte < 127 for byte in head[:4]) or inside > ends[-1]:
            raise Broken
        if head[:4] == b"LIST" and head[8:] in (b"hdrl", b"strl", b"movi", b"rec "):
            ends.append(inside)
            position += 12
        else:
            position = inside + inside % 2


def riff_chunk(head: bytes) -> int | None:
    """The bytes of a chunk of a RIFF file by its first 12; those in a list of frames follow its head. `None`: it is none."""
    if not head[:4].strip(b"\0"):
        return None
    size = _u32(head, 4)
    if head[:4] == b"RIFF" or (head[:4] == b"LIST" and (size in UNKNOWN or head[8:12] in (b"movi", b"rec "))):
        if len(head) < 12:
            raise Incomplete
        return 12
    return 8 + size + size % 2


def _asf(data) -> bool:
    def item(head: bytes) -> int | None:
        length = struct.unpack_from("<Q", head, 16)[0]
        return length if 24 <= length < 1 << 62 else None

    if _walk(data, item):
        return True
    if not packets_are_whole(data):
        raise Broken
    return False


# ---- GIF, PNG ------------------------------------------------------------------------------------------------------


def _gif(data) -> bool:
    """Whether the trailer is missing."""
    try:
        if has_hidden_images(data):
            raise Broken
    except IndexError:
        return True
    return False


def _png(data) -> bool:
    ended = False

    def chunk(head: bytes) -> int | None:
        nonlocal ended
        if ended:
            return None
        ended = head[4:8] == b"IEND"
        return 12 + _u32(head, 0, ">")

    return _walk(data, chunk, start=8) or not ended


# ---- Streams -------------------------------------------------------------------------------------------------------


def _motion_jpeg(data) -> bool:
    """Motion JPEG that is taken for a picture, because its first frame is damaged, is read up to there."""
    if data.find(b"\xff\xd9\xff\xd8") >= 0:
        raise Broken
    return _ends_within_a_jpeg(data)


def _ends_within_a_jpeg(data) -> bool:
    return not data[-4096:].rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def _transport_stream(data) -> bool:
    """Whether the last packet is incomplete, of 188 bytes or, with a time or check code, of 192 or 204."""
    for length in (188, 192, 204):
        starts = range(min(length, len(data)))
        if not any(all(data[i] == 0x47 for i in range(s, min(len(data), s + 5 * length), length)) for s in starts):
            continue
        after = {188: 0, 192: 0, 204: 16}[length]  # bytes between the end of the 188 and that of the packet
        for missing in range(length):
            ends = [len(data) + missing - after - 188 - k * length for k in range(5)]
            if all(data[i] == 0x47 for i in ends if 0 <= i < len(data)):
                return missing > 0
    return False


def _program_stream(head: bytes) -> int | None:
    if head[:3] != b"\0\0\1":
        return None
    kind = head[3]
    if kind == 0xBA:  # a pack, of MPEG-2 or MPEG-1
        return 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
    if kind == 0xB9:
        return 4
    return 6 + struct.unpack_from(">H", head, 4)[0] if kind > 0xBA else None


FLV_TAG = re.compile(rb"(?=[\x08\x09\x12].{7}\0{3})", re.DOTALL)
EXTENDED = 0x80  # the bit of a picture whose codec has a name of four letters


def _flv(data) -> bool:
    """Whether the last tag is incomplete; the length of each is there again behind it, or 0 behind all of them."""
    position, codecs, stated = min(_u32(data, 5, ">") + 4, len(data)), set(), set()
    while position < len(data):
        head = data[position : position + 12]
        if len(head) < 4:
            return bool(head.strip(b"\0"))
        if head[0] & 0x1F not in (8, 9, 18):
            if any(_is_flv_tag(data, found.start()) for found in FLV_TAG.finditer(data, position)):
                raise Broken  # not data of programs behind the last tag
            return False
        length = 11 + int.from_bytes(head[1:4])
        if length == 11 and head[0] & 0x1F == 9:
            raise Broken  # a picture of no bytes: zeros, as a disk gives them for a part that was not written
        if head[0] & 0x1F == 9 and len(head) == 12 and not head[11] & EXTENDED:
            codecs.add(head[11] & 0x0F)
        if len(codecs) > 1:
            raise Broken  # demuxers take it for another stream
        position += length + 4
        if position <= len(data):
            stated.add({length: True, 0: False}.get(_u32(data, position - 4, ">")))
        if None in stated or len(stated) > 1:
            raise Broken
    return position > len(data)


def _is_flv_tag(data, position: int) -> bool:
    """Whether something has the length behind it that its head states."""
    end = position + 11 + int.from_bytes(data[position + 1 : position + 4])
    return end + 4 <= len(data) and _u32(data, end, ">") == end - position


def _ogg(data) -> bool:
    """Whether a page is incomplete, or a stream has no last page."""
    ended: dict[int, bool] = {}

    def page(head: bytes) -> int | None:
        if head[:4] != b"OggS":
            if b"OggS".startswith(head[:4]):
                raise Incomplete
            return None
        ended[_u32(head, 14)] = bool(head[5] & 4)
        return 27 + head[26] + sum(head[27 : 27 + head[26]])

    return _walk(data, page) or not all(ended.values())


def _yuv4mpeg(data) -> bool:
    """Whether the last frame is incomplete."""
    line = data[: data.find(b"\n")].split()
    fields = {field[:1]: field[1:].decode(errors="replace") for field in reversed(line[1:])}
    width, height, layout = int(fields[b"W"]), int(fields[b"H"]), fields.get(b"C", "420")
    shares = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}
    across, down = shares.get(layout[:3], (1, 1))
    samples = width * height
    if not layout.startswith("mono"):
        samples += 2 * -(-width // across) * -(-height // down) + width * height * layout.endswith("alpha")
    size = samples * (2 if re.search(r"(p|mono)\d", layout) else 1)

    def frame(head: bytes) -> int:
        if b"\n" not in head:
            raise Incomplete
        return head.index(b"\n") + 1 + size

    return _walk(data, frame, start=data.find(b"\n") + 1)


__all__ = [
    "BLOCKS",
    "BROKEN",
    "CUT_OFF",
    "PARENTS",
    "TRACK_NUMBER",
    "Incomplete",
    "damage",
    "matroska_element",
    "riff_chunk",
]
