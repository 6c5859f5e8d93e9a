"""Marks of frames that demuxers and decoders leave out, and tell their log alone; examples of blocks are those of RFC 9559, section 10.3."""

import re
import warnings

import numpy as np
import pytest
from damaged_media import frames_of_wmv, transport_packet, written

from fgvc_hf import open_video, render_clip
from fgvc_hf.io import asf_packets
from fgvc_hf.io.asf_packets import _follows
from fgvc_hf.io.frame_starts import frame_starts, is_damaged_packet, webp_frames
from fgvc_hf.io.matroska_blocks import block_is_whole
from fgvc_hf.io.mp4_boxes import tracks_have_clocks


XIPH, EQUAL, EBML = 0x02, 0x04, 0x06  # bits of the flags
SIZES = 800, 500, 1000


def block(lacing: int, head: str, frames: int, track: bytes = b"\x81") -> bytes:
    """A block of track 1 at time 0 with the head of its laces, and so many bytes of frames."""
    return track + bytes(2) + bytes([0x80 | lacing]) + bytes.fromhex(head) + bytes(frames)


@pytest.mark.parametrize(
    ("lacing", "head"), [(XIPH, "02 ffffff23 fff5"), (EBML, "02 4320 5ed3"), (EQUAL, "04"), (0, "")], ids=str
)
def test_blocks_of_the_specification_are_whole(lacing, head):
    frames = sum(SIZES)
    assert block_is_whole(block(lacing, head, frames), {1, 2})
    assert block_is_whole(block(lacing, head, frames, track=b"\x40\x01"), {1})  # the same number in two bytes
    assert not block_is_whole(block(lacing, head, frames), {2})
    assert not block_is_whole(block(lacing, head, frames, track=b"\x40\x02"), {1})


def test_frames_that_do_not_fit_into_a_block():
    for lacing, head in ((XIPH, "02 ffffff23 fff5"), (EBML, "02 4320 5ed3")):
        assert block_is_whole(block(lacing, head, 1300), {1})  # nothing is left for the last one
        assert not block_is_whole(block(lacing, head, 1299), {1})
    assert not block_is_whole(block(EQUAL, "02", 2300), {1})  # no multiple of three
    assert not block_is_whole(block(EBML, "02 8a 80", 100), {1})  # 10 bytes, and 63 less than that
    assert block_is_whole(block(EBML, "00", 100), {1}) and block_is_whole(block(XIPH, "00", 100), {1})
    assert block_is_whole(block(EBML, "02 8a bf", 20), {1})  # a second one of the same size
    assert block_is_whole(block(EBML, "02 8a b5", 20), {1})  # 10 bytes, none, and the rest
    assert not block_is_whole(block(EBML, "02 8a b4", 20), {1})  # one byte less than none
    assert not block_is_whole(block(EBML, "02 8a c0", 20), {1})  # of 11


@pytest.mark.parametrize(
    "content", [b"", b"\x81", b"\x81\0\0", b"\0\0\0\0", b"\x40", b"\x81\0\0\x02", b"\x81\0\0\x06\x01\x40"]
)
def test_a_block_that_ends_within_its_head_is_not_whole(content):
    assert not block_is_whole(content, {0, 1})


@pytest.mark.parametrize(("before", "length"), [(0, 188), (4, 192), (0, 204)])
def test_frames_that_begin_in_a_transport_stream(tmp_path, before, length):
    """Of one stream, in packets with the flag of a start (0x40); with that of an error (0x80) nothing begins for sure."""
    kinds = [(0x111, 0x40), (0x111, 0), (0x111, 0x40), (0x111, 0xC0), (0x101, 0x40), (0x110, 0x40), (0x111, 0x60)] * 4
    content = b"".join(transport_packet(stream, flags, before, length) for stream, flags in kinds)
    (tmp_path / "x.ts").write_bytes(content + bytes(7))  # and less than a packet
    assert frame_starts(tmp_path / "x.ts", {"mpegts"}, 0x111, 0) == 12
    assert frame_starts(tmp_path / "x.ts", {"mpegts"}, 0x101, 0) == 4
    assert frame_starts(tmp_path / "x.ts", {"mpegts"}, 0x011, 0) == 0
    assert frame_starts(tmp_path / "x.ts", {"mov"}, 0x111, 0) == 0  # other formats have no such marks


def wmv_packet(correction: bool, number: int = 5, offset: int = 0, whole: int = 24, stream: int = 1) -> bytes:
    """A packet of 64 bytes with one piece of a frame: its number in a byte, its offset in four, and 8 bytes that begin with its size."""
    piece = (
        bytes([stream, number]) + offset.to_bytes(4, "little") + bytes([8]) + whole.to_bytes(4, "little") + bytes(4)
    )
    head = (b"\x82\0\0" if correction else b"") + bytes([0x08, 0x5D])  # the padding takes a byte
    used = len(head) + 1 + 6 + len(piece) + 24
    return head + bytes([64 - used]) + bytes(6) + piece + bytes(24) + bytes(64 - used)


@pytest.mark.parametrize("correction", [True, False])
def test_packets_of_wmv_with_and_without_data_for_their_correction(correction):
    rest = {}
    assert asf_packets._is_whole(wmv_packet(correction), 64, {1}, rest) and rest == {1: (5, 0)}
    damaged = b"\x82\1\0" + wmv_packet(True)[3:], b"\x82\0\1" + wmv_packet(True)[3:]
    assert not any(asf_packets._is_whole(packet, 64, {1}, {}) for packet in damaged)
    assert not asf_packets._is_whole(wmv_packet(correction), 64, {2}, {})  # of a stream that is not there
    assert not asf_packets._is_whole(wmv_packet(correction, whole=23), 64, {1}, {})  # more than the frame holds
    assert asf_packets._is_whole(wmv_packet(correction, whole=34), 64, {1}, rest := {}) and rest == {1: (5, 10)}
    assert not asf_packets._is_whole(wmv_packet(correction), 20, {1}, {})  # shorter than its padding


def test_a_packet_of_wmv_may_be_shorter_than_the_others_and_has_a_piece_at_least():
    """Its length in a byte, in two, or in four; as in the specification, what fills up is no part of it."""
    piece = bytes([1, 5]) + bytes(4) + bytes([8]) + (24).to_bytes(4, "little") + bytes(4) + bytes(24)
    for flag, width in ((0x20, 1), (0x40, 2), (0x60, 4)):
        length = 2 + width + 6 + len(piece)
        packet = bytes([flag, 0x5D]) + length.to_bytes(width, "little") + bytes(6) + piece
        assert asf_packets._is_whole(packet + bytes(64 - len(packet)), 64, {1}, rest := {}) and rest == {1: (5, 0)}
        # The last byte comes in the next packet; or there is one too many
        for wrong, whole, missing in ((length - 1, True, {1: (5, 1)}), (length + 1, False, {})):
            other = bytes([flag, 0x5D]) + wrong.to_bytes(width, "little") + packet[2 + width :]
            assert asf_packets._is_whole(other + bytes(64 - len(packet)), 64, {1}, rest := {}) is whole
            assert rest == missing
    several = bytes([0x01, 0x5D]) + bytes(6) + b"\x81" + piece[:15] + b"\x18" + piece[15:]
    assert asf_packets._is_whole(several + bytes(64 - len(several)), 64, {1}, {})
    assert not asf_packets._is_whole(several.replace(b"\x81", b"\x80", 1) + bytes(64 - len(several)), 64, {1}, {})


def picture(structure: int | None) -> bytes:
    """The heads of a picture of MPEG-2; `None`: of MPEG-1."""
    extension = b"" if structure is None else b"\0\0\1\xb5\x8f\xff" + bytes([0x40 | structure, 0x41, 0x80])
    return b"\0\0\1\0\0\x0f\xff\xf8" + extension + b"\0\0\1\1slices"


@pytest.mark.parametrize(
    ("structures", "merged"),
    [([3], False), ([1, 2], False), ([2, 1], False), ([1], False), ([None], False), ([], False)]
    + [([1, 3], True), ([3, 3], True), ([1, 1], True), ([1, 2, 3], True), ([None, None], True)],
    ids=str,
)
def test_two_pictures_in_a_packet_are_the_fields_of_one_frame(structures, merged):
    packet = b"\0\0\1\xb3sequence" + b"".join(map(picture, structures))
    assert is_damaged_packet(packet, "mpeg2video") is merged
    assert not is_damaged_packet(packet, "h264")


@pytest.mark.parametrize(
    ("rows", "goes_back"),
    [((1, 2, 3), False), ((1, 1, 2), False), ((1, 2, 1), True), ((2, 175, 1), True), ((), False)],
)
@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_slices_of_a_picture_go_down(rows, goes_back, codec):
    """The head of a picture was lost, so that its slices seem to be of the picture before."""
    slices = b"".join(b"\0\0\1" + bytes([row]) + b"codes" for row in rows)
    assert is_damaged_packet(picture(None)[:8] + slices + b"\0\0\1\xb7", codec) is goes_back
    two = b"".join(picture(structure).replace(b"\0\0\1\1slices", slices) for structure in (1, 2))  # fields
    assert is_damaged_packet(two, "mpeg2video") is goes_back


def test_chunks_of_webp_are_counted_and_not_bytes_of_pictures():
    def chunk(kind, data):
        return kind + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)

    content = b"RIFF\0\0\0\0WEBP" + chunk(b"ANIM", b"odd") + chunk(b"ANMF", b"ANMF ANMF") + chunk(b"ANMF", b"even")
    assert webp_frames(content) == 2 and webp_frames(content[:20]) == 0


def test_a_block_of_a_track_that_is_not_there(tmp_path, noise_clip):
    """Demuxers go on at the next cluster, of which there is none."""
    path, content = written(tmp_path, "h264.mkv", noise_clip[:8])
    fifth = content.index(
        b"\x81" + (160).to_bytes(2), content.index(b"\x1f\x43\xb6\x75")
    )  # in milliseconds, in the cluster
    path.write_bytes(content[:fifth] + b"\x87" + content[fifth + 1 :])
    with pytest.raises(OSError, match=r"is damaged, its structure is broken"):
        open_video(path)


def test_the_end_of_one_image_of_a_gif_and_the_start_of_the_next_are_lost(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4, 40, 56, 3)).astype(np.uint8)
    path, content = written(tmp_path, "frames.gif", noise)
    ends = content.index(b"\0\x21\xf9", 1500)  # of the first image
    block = content.index(b"\x2c", ends) + 10 + (768 if content[content.index(b"\x2c", ends) + 9] & 0x80 else 0) + 1
    path.write_bytes(content[:ends] + content[block:])
    with pytest.raises(OSError, match=r"is damaged, its structure is broken"):
        open_video(path)


def last_blocks(content: bytes) -> list[int]:
    """Where the length of the last block of each image of a GIF stands, but that of the last image."""
    ends = [found.start() for found in re.finditer(rb"\0\x21\xf9\x04.{4}\0\x2c", content, re.DOTALL)][1:]
    return [
        next(at for at in range(end - 255, end) if at + 1 + content[at] == end and _leads_to(content, at, end))
        for end in ends
    ]


def _leads_to(content: bytes, at: int, end: int) -> bool:
    """Whether the blocks of the image before begin so that one begins here."""
    start = content.rindex(b"\0\x2c", 0, at) + 11
    start += 3 << (content[start - 1] & 7) + 1 if content[start - 1] & 0x80 else 0
    start += 1
    while start < at:
        start += 1 + content[start]
    return start == at


@pytest.mark.parametrize("image", range(3))
@pytest.mark.parametrize("change", ["longer", "ends the file"])
def test_a_block_of_a_gif_that_hides_the_next_images(tmp_path, image, change):
    """A length that leads into the next image; and one of 0, behind which a byte looks like the end of the file."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 24, 30, 3)).astype(np.uint8)
    path, content = written(tmp_path, "frames.gif", noise)
    at = last_blocks(content)[image]
    damaged = bytearray(content)
    damaged[at : at + 2] = b"\0\x3b" if change == "ends the file" else bytes([content[at] + 40, content[at + 1]])
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"is damaged, its structure is broken|is cut off"):
        open_video(path)


def test_zeros_in_the_place_of_pictures(tmp_path, noise_clip):
    path, content = written(tmp_path, "h264.flv", noise_clip[:8])
    start, places = 13, []
    while start < len(content):
        places.append(start)
        start += 15 + int.from_bytes(content[start + 1 : start + 4])
    path.write_bytes(content[: places[5]] + b"\x09" + bytes(len(content) - places[5] - 1))
    with pytest.raises(OSError, match=r"is damaged, its structure is broken"):
        open_video(path)


def test_motion_jpeg_that_ends_within_its_first_picture(tmp_path, noise_clip):
    path, content = written(tmp_path, "raw.mjpeg", noise_clip[:8])
    path.write_bytes(content[: content.index(b"\xff\xd9")])
    with pytest.raises(OSError, match=r"is damaged, it is cut off"):
        open_video(path)


def test_the_only_picture_of_motion_jpeg_is_damaged(tmp_path, noise_clip):
    """What was behind it is gone, so that it is taken for a picture; the marks of start and end are right."""
    path, content = written(tmp_path, "raw.mjpeg", noise_clip[:8])
    end = content.index(b"\xff\xd9") + 2
    for picture, told in ((content[:end], False), (content[: end - 302] + content[end - 2 : end], True)):
        path.write_bytes(picture)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert open_video(path).num_frames == 1
        assert [" packets are missing or damaged" in str(one.message) for one in said] == [True] * told
        assert {one.filename for one in said} <= {__file__}  # the line that opened it


def test_a_page_without_pictures_is_told(tmp_path, noise_clip):
    path, content = written(tmp_path, "pages.webp", noise_clip[:4])
    third = [at for at in range(len(content)) if content[at : at + 4] == b"ANMF"][2]
    kind = content.index(b"VP8", third)
    path.write_bytes(content[:third] + bytes(28) + content[third + 28 :])  # zeros over the head of a page
    with pytest.warns(UserWarning, match="pages are missing or damaged") as said:
        open_video(path)
    assert [one.filename for one in said] == [__file__]  # Python shows the line that opened it
    last = content.rindex(b"ANMF")
    for at in (kind, last):  # a picture that is none, and a frame that is not called so
        path.write_bytes(content[:at] + b"none" + content[at + 4 :])
        with pytest.warns(UserWarning, match="pages are missing or damaged"):
            open_video(path)


def test_a_track_without_its_clock(tmp_path, noise_clip):
    path, content = written(tmp_path, "index at the end.mp4", noise_clip[:8])
    path.write_bytes(content.replace(b"mdhd", b"mdhx"))
    with pytest.raises(OSError, match=r"is no video|is damaged, its structure is broken"):
        open_video(path)
    assert tracks_have_clocks(content) and not tracks_have_clocks(path.read_bytes())


def test_two_pictures_of_motion_jpeg_without_the_mark_between_them(tmp_path):
    clip = render_clip(num_frames=8, height=48, width=64, num_points=0, seed=1)
    path, content = written(tmp_path, "raw.mjpeg", clip.frames)
    marks = [at for at in range(len(content)) if content[at : at + 4] == b"\xff\xd9\xff\xd8"]
    scan = content.index(b"\xff\xda", marks[3])  # heads of the fifth picture are overwritten
    path.write_bytes(content[: marks[3]] + b"\x33" * (scan - marks[3]) + content[scan:])
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(path)
    scan = b"\xff\xda\0\x0c\x03codes"
    assert is_damaged_packet(scan + scan, "mjpeg") and is_damaged_packet(scan + b"\xff\xc0" + scan, "mjpeg")
    assert not is_damaged_packet(b"\xff\xd8" + scan + b"\xff\xd8\xff\xc0" + scan, "mjpeg")  # fields
    assert not is_damaged_packet(
        b"\xff\xd8\xff\xc2" + 3 * b"\xff\xda\0\x08\x01codes", "mjpeg"
    )  # a scan for each colour


def test_zeros_over_the_end_of_one_picture_of_motion_jpeg_and_the_start_of_the_next(tmp_path):
    """No mark of the second picture is left; that the scan of the first one makes no sense is in the decoder's log alone."""
    clip = render_clip(num_frames=8, height=48, width=64, num_points=0, seed=1)
    path, content = written(tmp_path, "raw.mjpeg", clip.frames)
    for picture in (4, 5, 6):
        start = [found.start() for found in re.finditer(b"\xff\xd8", content)][picture]
        scan = content.index(b"\xff\xda", start) + 20
        path.write_bytes(content[: start - 200] + bytes(scan - start + 200) + content[scan:])
        with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
            assert open_video(path).num_frames == 7
    path.write_bytes(content)
    assert open_video(path).num_frames == 8


def test_packets_of_wmv_count_by_the_length_of_what_holds_them(tmp_path, noise_clip):
    """A damaged frame is told whatever number of packets the file states; and a sound file is read with any number."""
    path, content = written(tmp_path, "wmv.wmv", noise_clip[:8])
    count = content.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")) + 40
    third = frames_of_wmv(content)[3]
    empty = bytearray(content)
    empty[third + 7 : third + 11] = bytes(4)  # a frame of no bytes
    for stated in (0, 1, 2**40):
        sound = content[:count] + stated.to_bytes(8, "little") + content[count + 8 :]
        path.write_bytes(sound)
        assert asf_packets.packets_are_whole(sound)
        for damaged in (sound[: third + 1] + bytes([content[third + 1] + 1]) + sound[third + 2 :], empty):
            assert not asf_packets.packets_are_whole(bytes(damaged))


def test_less_than_a_packet_at_the_end_of_wmv_is_none(tmp_path, noise_clip):
    _, content = written(tmp_path, "wmv.wmv", noise_clip[:8])
    start = content.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))
    held = int.from_bytes(content[start + 16 : start + 24], "little")
    assert (held - 50) % 3200 == 0  # whole packets alone

    def longer(by: int) -> bytes:
        return (
            content[: start + 16] + (held + by).to_bytes(8, "little") + content[start + 24 : start + held] + bytes(by)
        )

    assert all(asf_packets.packets_are_whole(longer(by)) for by in (0, 1, 1600, 3199))
    assert not asf_packets.packets_are_whole(longer(3200))  # a packet of zeros


def test_frames_of_wmv_that_are_not_complete_or_not_there(tmp_path, noise_clip):
    path, content = written(tmp_path, "wmv.wmv", noise_clip[:8])
    frames = frames_of_wmv(content)
    assert len(frames) == 8 and len({content[at + 1] for at in frames}) == 8
    size = content.index((3200).to_bytes(4, "little") * 2)
    third = frames[3]
    for at, value in ((third + 1, content[third + 1] + 1), (third + 9, content[third + 9] ^ 0x80), (size + 6, 1)):
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        with pytest.raises(OSError, match=r"is no video|is damaged, its structure is broken"):
            open_video(path)


@pytest.mark.parametrize(
    ("before", "number", "whole", "offset", "follows"),
    [
        (None, 7, 100, 40, True),  # a stream may begin anywhere
        ((7, 60), 7, 100, 40, True),
        ((7, 60), 7, 100, 50, False),
        ((7, 60), 8, 100, 0, False),
        ((7, 0), 8, 100, 0, True),
        ((7, 0), 8, 100, 10, False),
        ((7, 0), 7, 100, 0, False),
        ((7, 0), 9, 100, 0, False),
        ((255, 0), 0, 100, 0, True),
    ],
)
def test_pieces_of_frames_follow_each_other(before, number, whole, offset, follows):
    assert _follows(before, number, 256, whole, offset) is follows


def test_a_key_frame_of_vp8_without_its_start_code(tmp_path, noise_clip):
    """With a bit more it seems to be a frame that is not shown, and nobody misses it."""
    path, content = written(tmp_path, "vp8.ivf", noise_clip[:9])
    places = [32]
    while (after := places[-1] + 12 + int.from_bytes(content[places[-1] : places[-1] + 4], "little")) < len(content):
        places.append(after)
    key = places[8] + 12
    assert not content[key] & 1 and content[key + 3 : key + 6] == b"\x9d\x01\x2a" and content[key] & 0x10
    path.write_bytes(
        content[:key] + bytes([content[key] ^ 0x10, *content[key + 1 : key + 3], 0, 0, 0]) + content[key + 6 :]
    )
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(path)
    path.write_bytes(content)
    assert open_video(path).num_frames == 9
