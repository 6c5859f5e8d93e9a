"""Files of a few bytes, made by hand after the formats' specifications: whole ones, and every part of each."""

import struct

import pytest

from fgvc_hf.io.truncation import BROKEN, CUT_OFF, damage


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


def test_the_mark_of_a_packet_within_packets_is_none(cut_off):
    """A stream that begins 9 bytes before a packet; the content of its packets has the mark 188 bytes from the beginning of the stream."""
    stream = bytes(9) + 2 * (b"\x47" + 178 * b"\x01" + b"\x47" + 8 * b"\x01")
    assert stream[188] == 0x47 and not cut_off("mpegts", stream) and cut_off("mpegts", stream[: 2 * 188])


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


# ---- broken inside --------------------------------------------------------------------------------------------------


def avi(*pieces: bytes) -> bytes:
    return riff(b"AVI " + b"".join(pieces))


def listed(kind: bytes, *pieces: bytes) -> bytes:
    return piece(b"LIST", kind + b"".join(pieces))


def gif(*images: bytes, trailer: bytes = b"\x3b") -> bytes:
    return b"GIF89a" + bytes(4) + b"\0\0\0" + b"".join(images) + trailer


def image(size: bytes, *blocks: int) -> bytes:
    """An image of a size (width, height) in four bytes, with blocks of so many bytes."""
    return b"\x2c" + bytes(4) + size + b"\0\x02" + b"".join(bytes([n]) + n * b"d" for n in blocks) + b"\0"


def matroska(*pieces: bytes) -> bytes:
    return element(EBML, VERSION, 2) + b"".join(pieces)


def flv(*tags: bytes) -> bytes:
    return b"FLV\1\5\0\0\0\x09\0\0\0\0" + b"".join(tags)


FRAME, LIVE = piece(b"00dc", b"frame"), SEGMENT + UNKNOWN + CLUSTER + UNKNOWN
PICTURE, BAD_LENGTH, NO_LENGTH = (
    tag(9, b"picture"),
    tag(9, b"picture")[:-1] + b"\x11",
    tag(9, b"picture")[:-4] + bytes(4),
)

# Name -> format, bytes, and what is wrong with them
INSIDE = {
    "avi": ("avi", avi(listed(b"hdrl", listed(b"strl", FRAME)), listed(b"movi", FRAME, listed(b"rec ", FRAME))), None),
    "avi, padded": ("avi", avi(listed(b"movi", FRAME), bytes(500)), None),
    "avi, zeros among frames": ("avi", avi(listed(b"movi", FRAME, bytes(500), FRAME)), BROKEN),
    "avi, zeros among lists": ("avi", avi(listed(b"movi", FRAME), bytes(500), FRAME), BROKEN),
    "avi, list of text": ("avi", avi(listed(b"INFO", b"\1\2\3\4 and what programs say"), FRAME), None),
    "avi, first and last sign of a name": ("avi", avi(piece(b" ~a0", b"1")), None),
    **{
        f"avi, name with byte {byte} at {at}": ("avi", avi(piece((b"00dc"[:at] + bytes([byte]) + b"00dc")[:4], b"1")), BROKEN)
        for byte, at in ((31, 0), (127, 1), (0, 2), (200, 3))
    },
    "avi, frame as long as its list": ("avi", avi(listed(b"movi", piece(b"00dc", b"four")), FRAME), None),
    "avi, frame longer than its list": ("avi", avi(listed(b"movi", b"00dc\5\0\0\0four"), FRAME), BROKEN),
    "avi, list longer than its list": ("avi", avi(listed(b"movi", b"LIST\x20\0\0\0rec ", FRAME), FRAME + FRAME), BROKEN),
    "avi, frame longer than the file says": ("avi", avi(b"00dc\6\0\0\0four"), BROKEN),
    "gif": ("gif", gif(EXTENSION, image(b"\1\0\1\0", 3), b"\0\0", image(b"\1\0\1\0", 3)), None),
    "gif, neither image nor extension": ("gif", gif(image(b"\1\0\1\0", 3), b"\x2d"), BROKEN),
    "gif, image in the blocks of another": ("gif", gif(image(b"\1\0\1\0", 3)[:-1], b"\x0a" + EXTENSION + b"\x2c\1", b"\0"), BROKEN),
    "gif, image behind the trailer": ("gif", gif(image(b"\1\0\1\0", 3)) + EXTENSION + image(b"\1\0\1\0", 3), BROKEN),
    "gif, other data behind the trailer": ("gif", gif(image(b"\1\0\1\0", 3)) + 20 * b"\x2c", None),
    "gif, as long as spare bytes": ("gif", gif(image(b"\0\0\0\0", 15, 1)), None),
    "gif, longer than its pixels": ("gif", gif(image(b"\0\0\0\0", 17)), BROKEN),
    "gif, a long extension": ("gif", gif(b"\x21\xfe" + 9 * (b"\xff" + 255 * b"c") + b"\0", image(b"\1\0\1\0", 3)), None),
    "png and other data": ("png_pipe", b"\x89PNG\r\n\x1a\n" + png(b"IHDR", b"1") + png(b"IEND") + b"data of programs", None),
    "matroska": ("matroska", matroska(element(SEGMENT, element(CLUSTER, element(BLOCK, b"1234")))), None),
    "matroska, data behind": ("matroska", matroska(element(SEGMENT, element(CLUSTER, b""))) + b"\xfedata of programs", None),
    "matroska, zeros behind": ("matroska", matroska(element(SEGMENT, element(CLUSTER, b""))) + bytes(9), None),
    "matroska, clusters behind data": ("matroska", matroska(element(SEGMENT, b"")) + b"\1data" + element(CLUSTER, b""), BROKEN),
    "matroska, void behind": ("matroska", matroska(element(SEGMENT, b""), element(b"\xec", b"12345")), None),
    "matroska, no element in a cluster": ("matroska", matroska(element(SEGMENT, element(CLUSTER, b"\5" + 9 * b"x"))), BROKEN),
    "matroska, no size": ("matroska", matroska(element(SEGMENT, element(CLUSTER, BLOCK + b"\0" + 9 * b"x"))), BROKEN),
    "matroska, longer than its cluster": ("matroska", matroska(element(SEGMENT, element(CLUSTER, BLOCK + b"\x85four") + 9 * b"\xec\x80")), BROKEN),
    "matroska, as long as its cluster": ("matroska", matroska(element(SEGMENT, element(CLUSTER, BLOCK + b"\x84four") + 9 * b"\xec\x80")), None),
    **{
        f"matroska, longer than its {kind.hex()}": ("matroska", matroska(element(SEGMENT, outer + element(kind, b"\xec\x85four") + 9 * b"\xec\x80")), BROKEN)
        for kind, outer in ((b"\x15\x49\xa9\x66", b""), (b"\x16\x54\xae\x6b", b""), (CLUSTER, b""))
    },
    "matroska, text is no parent": ("matroska", matroska(element(SEGMENT, element(b"\x12\x54\xc3\x67", b"\xec\x85four"))), None),
    **{
        f"matroska, {kind.hex()} in a segment": ("matroska", matroska(element(SEGMENT, element(kind, b"\xec\x81a"))), None if sound else BROKEN)
        for kind, sound in (
            (b"\x11\x4d\x9b\x74", True), (b"\x15\x49\xa9\x66", True), (b"\x16\x54\xae\x6b", True), (b"\x1c\x53\xbb\x6b", True),
            (b"\x19\x41\xa4\x69", True), (b"\x10\x43\xa7\x70", True), (b"\x12\x54\xc3\x67", True), (b"\xbf", True), (b"\x80", False), (b"\xa3", False),
        )
    },
    "matroska, no other element in a live segment": ("matroska", matroska(SEGMENT + UNKNOWN, element(b"\x80", b"12")), BROKEN),
    "matroska, a time of eight bytes": ("matroska", matroska(element(SEGMENT, element(CLUSTER, element(b"\xe7", bytes(8))))), None),
    "matroska, a time of nine bytes": ("matroska", matroska(element(SEGMENT, element(CLUSTER, element(b"\xe7", bytes(9))))), BROKEN),
    "matroska, live, zeros and data": ("matroska", matroska(LIVE, element(BLOCK, b"1234"), bytes(70), b"data"), BROKEN),
    **{
        f"matroska, {kind.hex()} in a cluster": ("matroska", matroska(element(SEGMENT, element(CLUSTER, element(kind, b"\xec\x81a")))), None if sound else BROKEN)
        for kind, sound in (
            (b"\xe7", True), (b"\xa7", True), (b"\xab", True), (b"\x58\x54", True), (b"\xa0", True), (b"\xaf", True), (b"\xec", True), (b"\xbf", True),
            (b"\xa2", False), (b"\xe3", False), (b"\x42\x54", False),
        )
    },
    "matroska, a block of unknown size": ("matroska", matroska(LIVE, BLOCK + b"\xff"), BROKEN),
    "matroska, live": ("matroska", matroska(LIVE, element(BLOCK, b"1234")), None),
    "matroska, live and zeros": ("matroska", matroska(LIVE, element(BLOCK, b"1234"), bytes(70)), None),
    "matroska, live and data": ("matroska", matroska(LIVE, element(BLOCK, b"1234"), bytes(3) + b"data"), BROKEN),
    "flv": ("flv", flv(PICTURE, tag(8, b""), tag(18, b"about"), PICTURE), None),
    "flv, another length behind": ("flv", flv(PICTURE, BAD_LENGTH, PICTURE), BROKEN),
    "flv, no length behind": ("flv", flv(NO_LENGTH, NO_LENGTH), None),
    "flv, no length behind some": ("flv", flv(PICTURE, NO_LENGTH, PICTURE), BROKEN),
    "flv, encrypted": ("flv", flv(bytes([9 | 0x20]) + PICTURE[1:]), None),
    "flv, a picture of no bytes": ("flv", flv(PICTURE, tag(9, b""), PICTURE), BROKEN),
    "flv, other data": ("flv", flv(PICTURE, b"data of programs, which is not a tag, and long enough"), None),
    "flv, other data and a tag": ("flv", flv(PICTURE, b"something that is no tag", PICTURE), BROKEN),
    "flv, other data and a part of a tag": ("flv", flv(PICTURE, b"something that is no tag", PICTURE[:-1]), None),
    "flv, zeros over the head of a tag": ("flv", flv(PICTURE, bytes(11) + PICTURE[11:], PICTURE, NO_LENGTH), BROKEN),
    "flv, another codec": ("flv", flv(PICTURE, tag(9, b"\x25icture"), PICTURE), BROKEN),
    "flv, another kind of picture": ("flv", flv(PICTURE, tag(9, b"\x10icture"), PICTURE), None),
    "flv, a codec with a name": ("flv", flv(PICTURE, tag(9, b"\x91avc1"), PICTURE), None),
    "flv, sound of another codec": ("flv", flv(PICTURE, tag(8, b"\x21"), tag(8, b"\x22")), None),
    "flv, zeros": ("flv", flv(PICTURE, bytes(3)), None),
    "flv, a piece of a tag": ("flv", flv(PICTURE, b"\x09\0\0"), CUT_OFF),
    "jpeg": ("jpeg_pipe", b"\xff\xd8abc\xff\xd9", None),
    "jpeg, cut off": ("jpeg_pipe", b"\xff\xd8abc\xff", CUT_OFF),
    "jpeg of several frames": ("jpeg_pipe", 2 * b"\xff\xd8abc\xff\xd9", BROKEN),
    "y4m with a comment in another script": ("yuv4mpegpipe", y4m(b"W3 H3 X\xff\xe9 F25:1", 9 + 2 * 4), None),
    "y4m without a width": ("yuv4mpegpipe", y4m(b"H3 F25:1", 17), BROKEN),
    "y4m without a number": ("yuv4mpegpipe", y4m(b"Wx H3 F25:1", 17), BROKEN),
    "mp4 and other data": ("mov", box(b"ftyp") + box(b"moov") + box(b"mdat", b"1") + b"\0\0\0\1data of programs", None),
    "mp4 in fragments without the last": ("mov", box(b"ftyp") + box(b"moof", b"12"), CUT_OFF),
    "mp4, a box of less than its head": ("mov", box(b"ftyp") + b"\0\0\0\7free" + 20 * b"x", None),
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_what_is_wrong_inside(name, tmp_path):
    kind, content, wrong = INSIDE[name]
    (tmp_path / "file").write_bytes(content)
    assert damage(tmp_path / "file", {kind, "another"}) == wrong
