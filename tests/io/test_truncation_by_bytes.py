"""Files of a few bytes, made by hand after the formats' specifications: whole ones, and every part of each."""

import struct

import pytest

from fgvc_hf.io.truncation import CUT_OFF, damage


def after(*ends: int, zeros: int) -> tuple[int, ...]:
    """These lengths, and those of the same files with up to so many zeros after them, which may be padding."""
    return tuple(end + more for end in ends for more in range(zeros + 1))


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def large_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


def element(identity: bytes, content: bytes, size_bytes: int = 1) -> bytes:
    """An element of EBML: its id, its size in so many bytes, and its content."""
    return identity + ((1 << 7 * size_bytes) | len(content)).to_bytes(size_bytes) + content


EBML, SEGMENT, CLUSTER, BLOCK = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x1fC\xb6u", b"\xa3"
UNKNOWN = b"\x01" + 7 * b"\xff"
VERSION = b"\x42\x86\x81\x01"  # of EBML


def riff(content: bytes, size: int | None = None) -> bytes:
    return b"RIFF" + struct.pack("<I", len(content) if size is None else size) + content


def piece(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def asf(length: int) -> bytes:
    return 16 * b"g" + struct.pack("<Q", length) + bytes(length - 24)


def png(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + b"crc!"


def packet(before: bytes = b"", after: int = 0) -> bytes:
    return before + b"\x47" + 187 * b"\x01" + bytes(after)


def tag(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(3) + 7 * b"\0" + content + struct.pack(">I", 11 + len(content))


def page(stream: int, last: bool, lengths: list[int]) -> bytes:
    head = b"OggS\0" + bytes([4 * last]) + bytes(8) + struct.pack("<I", stream) + bytes(8)
    return head + bytes([len(lengths), *lengths]) + bytes(sum(lengths))


def y4m(header: bytes, size: int, frames: int = 2) -> bytes:
    return b"YUV4MPEG2 " + header + b"\n" + frames * (b"FRAME\n" + bytes(size))


IMAGE = b"\x2c" + bytes(8) + b"\0\x02" + b"\x03abc\x02de\0"  # descriptor, code size, two blocks of data
COLOURED = b"\x2c" + bytes(8) + b"\x80" + bytes(6) + b"\x02" + b"\x01a\0"  # with two colours of its own
EXTENSION = b"\x21\xf9\x04" + bytes(4) + b"\0"
GIF = b"GIF89a" + bytes(4) + b"\0\0\0" + EXTENSION + IMAGE + COLOURED + b"\x3b"
GIF_OF_FOUR = b"GIF89a" + bytes(4) + b"\x81\0\0" + bytes(12) + IMAGE + b"\x3b"
LIVE_RIFF = (
    b"RIFF\0\0\0\0AVI "
    + piece(b"LIST", b"hdrlabc")
    + b"LIST\0\0\0\0movi"
    + piece(b"00dc", b"odd")
    + piece(b"00dc", b"even")
)
PACK_2, PACK_1 = b"\0\0\1\xba\x44" + bytes(8) + b"\xfa\xff\xff", b"\0\0\1\xba\x21" + bytes(7)

# Name -> format, the elements of a whole file, and the lengths of parts that are whole files as well
FILES = {
    "mp4": ("mov", [box(b"ftyp", b"isom"), box(b"moov", b"abcdef"), box(b"mdat", b"12345")], after(12, 26, zeros=3)),
    "mp4, large": ("mov", [box(b"ftyp", b"isom"), large_box(b"mdat", b"12345"), box(b"moov")], after(12, 33, zeros=3)),
    "mp4 in fragments": ("mov", [box(b"ftyp"), box(b"moof", b"12"), box(b"mdat", b"1234")], (8,)),
    "mp4 to the end": ("mov", [box(b"ftyp"), b"\0\0\0\0mdat"], after(8, zeros=4)),
    "matroska": ("matroska", [element(EBML, VERSION, 2), element(SEGMENT, element(CLUSTER, b"\xe7\x83abc"), 4)], (10,)),
    "live matroska": (
        "matroska",
        [element(EBML, VERSION), SEGMENT + UNKNOWN, CLUSTER + UNKNOWN, element(BLOCK, b"1234"), element(BLOCK, b"12", 2)],
        (9, 21, 33, 39),
    ),
    "live avi": ("avi", [LIVE_RIFF], (12, 27, 28, 40, 51, 52, 63)),  # the last byte may be missing, which only fills up
    "avi of two": ("avi", 2 * [riff(b"AVI " + piece(b"JUNK", 8 * b"a"))], (*range(20, 36), *range(48, 56))),  # sizes may be eight too large
    "wmv": ("asf", [asf(30), asf(45)], (30,)),
    "gif": ("gif", [GIF], ()),
    "gif of four colours": ("gif", [GIF_OF_FOUR], ()),
    "png": ("png_pipe", [b"\x89PNG\r\n\x1a\n", png(b"IHDR", b"1234567"), png(b"IDAT"), png(b"IEND")], ()),
    "flv": ("flv", [b"FLV\1\5\0\0\0\x09\0\0\0\0", tag(9, b"picture"), tag(8, b"tone"), tag(18, b"about")], (13, 35, 54)),
    "ivf": ("ivf", [32 * b"h", struct.pack("<IQ", 5, 0) + b"12345", struct.pack("<IQ", 3, 1) + b"123"], (32, 49)),
    "mpeg-2": ("mpeg", [PACK_2, b"\0\0\1\xe0\0\4abcd", PACK_2, b"\0\0\1\xb9"], after(16, 26, 42, zeros=2)),
    "mpeg-1": ("mpeg", [PACK_1, b"\0\0\1\xe0\0\4abcd", b"\0\0\1\xb9"], after(12, 22, zeros=2)),
    "ogg": ("ogg", [page(1, False, [5, 7]), page(2, True, [3]), page(1, True, [255, 2])], ()),
    "y4m": ("yuv4mpegpipe", [y4m(b"W3 H3 F25:1", 9 + 2 * 4)], (22, 45)),
}  # fmt: skip


@pytest.fixture
def cut_off(tmp_path):
    def check(kind: str, content: bytes) -> bool:
        (tmp_path / "file").write_bytes(content)
        return damage(tmp_path / "file", {kind}) == CUT_OFF

    return check


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_cut_off_unless_it_ends_with_an_element(name, cut_off):
    kind, elements, ends = FILES[name]
    whole = b"".join(elements)
    assert not cut_off(kind, whole)
    least = {"ivf": 33, "yuv4mpegpipe": 23, "png_pipe": 9}.get(
        kind, 13 if kind in ("gif", "matroska", "asf", "flv") else 12
    )
    found = [length for length in range(least, len(whole)) if not cut_off(kind, whole[:length])]
    assert found == [end for end in ends if end >= least]


@pytest.mark.parametrize(("length", "kept"), [(188, 188), (192, 192), (204, 204)])
def test_a_transport_stream_ends_with_a_packet(length, kept, cut_off):
    """Of 188 bytes, with a time in front, or with a check code behind; a part between two packets is a whole one."""
    one = {188: packet(), 192: packet(b"time"), 204: packet(after=16)}[length]
    stream = 7 * one
    assert not cut_off("mpegts", stream) and not cut_off("mpegts", stream[: 6 * length])
    for missing in (1, 2, 100, length - 1):
        assert cut_off("mpegts", stream[:-missing])
    assert not cut_off("mpegts", 900 * b"a")  # no packets


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"W4 H6 C420jpeg", 24 + 2 * 6), (b"W4 H6 C422", 24 + 2 * 12), (b"W4 H6 C444", 3 * 24), (b"W8 H2 C411", 16 + 2 * 4),
        (b"W4 H6 Cmono", 24), (b"W4 H6 Cmono16", 48), (b"W4 H6 C420p10", 2 * (24 + 2 * 6)), (b"W4 H6 C444alpha", 4 * 24), (b"W5 H3", 15 + 2 * 6),
    ],
)  # fmt: skip
def test_a_frame_of_yuv4mpeg_is_as_long_as_its_layout_says(header, size, cut_off):
    whole = y4m(header, size)
    assert not cut_off("yuv4mpegpipe", whole) and not cut_off("yuv4mpegpipe", whole[: -size - 6])
    assert cut_off("yuv4mpegpipe", whole[:-1]) and cut_off("yuv4mpegpipe", whole + b"FRAME\n")


def test_motion_jpeg_ends_with_an_end_of_image(cut_off):
    for end, expected in (
        (b"\xff\xd9", False),
        (b"\xff\xd9\0\0\r\n", False),
        (b"\xff\xd8", True),
        (b"\xff\xd9a", True),
    ):
        assert cut_off("mjpeg", 5000 * b"x" + end) == expected
    assert cut_off("mjpeg", b"\xff\xd9" + 5000 * b"\0")  # padding of a page at most


def test_a_stream_of_ogg_needs_its_last_page(cut_off):
    assert cut_off("ogg", page(1, False, [5]) + page(2, True, [3]))
    assert not cut_off("ogg", page(1, True, [5]) + b"other data")


def test_a_container_without_lengths_tells_nothing(cut_off):
    assert not cut_off("h264", b"\0\0\1abc")
