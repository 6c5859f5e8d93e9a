"""Tables of MP4 files that lead behind the end of the file or out of the time of the track: demuxers leave such frames out, and tell their log alone."""

import struct

import av
import pytest
from media_files import CONTAINERS, write_media

from fgvc_hf import open_video, render_clip
from fgvc_hf.io.frame_starts import is_damaged_packet
from fgvc_hf.io.mp4_boxes import frames_are_within, has_empty_frames


CLIP, FRAGMENTS = "index in front.mp4", "fragments.mp4"


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Sound files of 8 frames, by their names."""
    frames, folder = (
        render_clip(num_frames=8, height=48, width=64, num_points=0).frames,
        tmp_path_factory.mktemp("mp4"),
    )
    for name in (CLIP, FRAGMENTS):
        write_media(folder / name, frames, *CONTAINERS[name])
    return {name: (folder / name).read_bytes() for name in (CLIP, FRAGMENTS)}


def changed(content: bytes, kind: bytes, offset: int, value: int) -> bytes:
    """A file with another number of four bytes, so many bytes behind the first name of a box."""
    at = content.index(kind) + 4 + offset
    return content[:at] + struct.pack(">I", value) + content[at + 4 :]


def number(content: bytes, kind: bytes, offset: int) -> int:
    return struct.unpack_from(">I", content, content.index(kind) + 4 + offset)[0]


def test_sound_files_lie_within_themselves(contents):
    for content in contents.values():
        assert frames_are_within(content) and frames_are_within(content + b"of programs")
        assert not frames_are_within(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        ("stco", 8, 0x18000000),  # a chunk behind the end
        ("stsz", 12, 0x40000000),  # a frame that is too long
        ("stsz", 4, 0xFFFFFFFE),  # one length for all frames
        ("ctts", 12, 0x04000600),  # a frame that is shown an hour later
    ],
)
def test_a_table_that_leads_out_of_the_file_is_told(contents, tmp_path, kind, offset, value):
    damaged = changed(contents[CLIP], kind.encode(), offset, value)
    assert not frames_are_within(damaged)
    (tmp_path / "clip.mp4").write_bytes(damaged)
    with pytest.raises(OSError, match=r"has no frames|is damaged, its structure is broken"):
        open_video(tmp_path / "clip.mp4")


def test_the_last_frame_may_end_with_the_file_and_no_later(contents):
    """The last chunk of pictures is moved: its frames take as many bytes as the table of sizes says."""
    content = contents[CLIP]
    chunks, frames = number(content, b"stco", 4), number(content, b"stsz", 8)
    assert (chunks, frames) == (7, 8)  # two frames in the first chunk, and one in every other
    last, first = number(content, b"stsz", 12 + 4 * 7), number(content, b"stsz", 12) + number(content, b"stsz", 16)
    for chunk, held in ((6, last), (0, first)):
        assert frames_are_within(changed(content, b"stco", 8 + 4 * chunk, len(content) - held))
        assert not frames_are_within(changed(content, b"stco", 8 + 4 * chunk, len(content) - held + 1))


def test_chunks_of_several_frames():
    """Three chunks, of 2, 2 and 1 frames, of 10, 20, 30, 40 and 50 bytes: they take 30, 70 and 50."""

    def track(places, sizes, handler=b"vide"):
        def box(kind, content):
            return struct.pack(">I4s", 8 + len(content), kind) + content

        def table(*numbers):
            return struct.pack(f">{len(numbers) + 1}I", 0, *numbers)

        tables = (
            box(b"stsc", table(2, 1, 2, 1, 3, 1, 1)) + box(b"stco", table(3, *places)) + box(b"stsz", table(*sizes))
        )
        media = box(b"mdhd", bytes(24)) + box(b"hdlr", bytes(8) + handler) + box(b"minf", box(b"stbl", tables))
        movie = box(b"moov", box(b"trak", box(b"mdia", media)))
        return movie + bytes(1000 - len(movie))

    own = 0, 5, 10, 20, 30, 40, 50
    assert frames_are_within(track((970, 930, 950), own))
    for places in ((971, 930, 950), (970, 931, 950), (970, 930, 951)):
        assert not frames_are_within(track(places, own))
        assert frames_are_within(track(places, own, handler=b"soun"))  # only pictures matter
    assert frames_are_within(track((960, 960, 980), (20, 5))) and not frames_are_within(
        track((960, 961, 980), (20, 5))
    )
    assert not frames_are_within(track((960, 960, 981), (20, 5)))


@pytest.mark.parametrize("place", [992, 993])
def test_the_content_of_a_box_with_a_long_length_begins_behind_that(place):
    """A frame of eight bytes, in a file of 1000."""

    def box(kind, content):
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content

    tables = box(b"stsc", struct.pack(">5I", 0, 1, 1, 1, 1)) + box(b"stco", struct.pack(">3I", 0, 1, place))
    tables += box(b"stsz", struct.pack(">4I", 0, 0, 1, 8))
    media = box(b"mdhd", bytes(24)) + box(b"hdlr", bytes(8) + b"vide") + box(b"minf", box(b"stbl", tables))
    movie = box(b"moov", box(b"trak", box(b"mdia", media)))
    assert frames_are_within(movie + bytes(1000 - len(movie))) is (place == 992)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(("shift", "within"), [(0, True), (2000, True), (2001, False), (-2000, True), (-2001, False)])
def test_frames_are_shown_within_the_time_of_the_track(version, shift, within):
    def box(kind, content):
        return struct.pack(">I4s", 8 + len(content), kind) + content

    header = struct.pack(">BxxxQQIQ" if version else ">BxxxIIII", version, 0, 0, 90_000, 1000)
    tables = box(b"ctts", struct.pack(">IIIiIi", 0, 2, 1, 0, 7, shift)) + box(b"stco", struct.pack(">III", 0, 1, 100))
    media = box(b"mdhd", header) + box(b"hdlr", bytes(8) + b"vide") + box(b"minf", box(b"stbl", tables))
    assert frames_are_within(box(b"moov", box(b"trak", box(b"mdia", media)))) is within


def test_fragments(contents, tmp_path):
    content = contents[FRAGMENTS]
    flags, frames = number(content, b"trun", 0), number(content, b"trun", 4)
    assert (flags, frames) == (0xA05, 8)  # offset, first flags, sizes and shifts
    columns = [number(content, b"trun", 16 + 8 * i) for i in range(8)]
    end = number(content, b"trun", 8) + content.index(b"moof") - 4 + sum(columns)
    spare = len(content) - end
    for more, within in ((spare, True), (spare + 1, False), (0x80000000, False)):
        damaged = changed(content, b"trun", 16 + 8 * 7, columns[7] + more)
        assert frames_are_within(damaged) is within
        moved = changed(content, b"trun", 8, number(content, b"trun", 8) + min(more, 1 << 30))
        assert frames_are_within(moved) is within
    (tmp_path / "fragments.mp4").write_bytes(changed(content, b"trun", 16 + 8 * 5, 0x8000001B))
    with pytest.raises(OSError, match="its structure is broken"):
        open_video(tmp_path / "fragments.mp4")


@pytest.mark.parametrize(
    "second", [(0x4, 2, 700), (0x200, 2, 5, 15), (0x204, 2, 700, 5, 15), (0x300, 2, 700, 5, 700, 15)]
)
def test_a_fragment_by_the_fields_of_its_header(second):
    """Two runs, one behind the other, of three frames and of two; the place and the size of all frames are in the header, or the size is in the run."""

    def box(kind, content):
        return struct.pack(">I4s", 8 + len(content), kind) + content

    def fragment(place, size):
        header = box(b"tfhd", struct.pack(">IIQII", 0x000011 | 0x2, 1, place, 1, size))
        runs = (
            box(b"trun", struct.pack(">II", 0, 3))
            + box(b"free", bytes(300))
            + box(b"trun", struct.pack(f">{len(second)}I", *second))
        )
        moof = box(b"moof", box(b"traf", header + runs))
        return moof + bytes(996 - len(moof))

    def file(place, size):
        return box(b"ftyp", b"isom") + fragment(place, size)

    length = len(file(0, 1))
    assert frames_are_within(file(length - 50, 10)) and not frames_are_within(file(length - 49, 10))


def test_places_in_a_fragment_are_counted_from_its_start():
    """Where the header of a fragment names no place, a run is so many bytes from the first byte of the `moof` box."""
    header = struct.pack(">I4sIII", 20, b"tfhd", 0x020010, 1, 10)  # frames of ten bytes
    run = struct.pack(">I4sIIi", 20, b"trun", 0x1, 3, 64)  # three frames, 64 bytes behind the start
    traf = struct.pack(">I4s", 8 + len(header + run), b"traf") + header + run
    moof = struct.pack(">I4s", 8 + len(traf), b"moof") + traf
    content = bytes(100) + moof + struct.pack(">I4s", 38, b"mdat") + bytes(30)
    content = struct.pack(">I4s", 100, b"free") + content[8:]
    assert len(moof) == 56 and len(content) == 100 + 64 + 30
    assert frames_are_within(content) and not frames_are_within(content[:-1])


def test_units_of_h264_that_do_not_fit_into_their_packet():
    avc = b"\1\x42\0\x0a\xff" + bytes(3)  # lengths of four bytes
    units = b"\0\0\0\3abc" + b"\0\0\0\2de"
    assert not is_damaged_packet(units, "h264", avc) and not is_damaged_packet(units + b"\0\0\0", "h264", avc)
    assert is_damaged_packet(units[:-1], "h264", avc) and is_damaged_packet(b"\x9e" + units, "h264", avc)
    two = b"\1\x42\0\x0a\xfd"
    assert not is_damaged_packet(b"\0\3abc\0\2de", "h264", two) and is_damaged_packet(b"\0\3abc\0\3de", "h264", two)
    hevc = b"\1" + bytes(20) + b"\xff"
    assert not is_damaged_packet(units, "hevc", hevc) and is_damaged_packet(units[:-1], "hevc", hevc)
    for codec, header in (("h264", b""), ("h264", b"\0\0\0\1\x67"), ("mpeg4", avc)):  # start codes; another codec
        assert not is_damaged_packet(units[:-1], codec, header)


def test_damage_in_pictures_that_are_not_shown_is_told(contents, tmp_path):
    """An edit list shows a part; a picture behind it is damaged."""
    content = contents[CLIP]
    assert number(content, b"elst", 4) == 1
    shown = changed(content, b"elst", 8, number(content, b"elst", 8) // 4)
    (tmp_path / "clip.mp4").write_bytes(shown)
    with av.open(tmp_path / "clip.mp4") as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    assert open_video(tmp_path / "clip.mp4").num_frames < 8
    damaged = bytearray(shown)
    damaged[places[-1]] = 0x9E  # of the length of its first unit
    (tmp_path / "clip.mp4").write_bytes(damaged)
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("frame", [2, 7])
def test_a_picture_of_no_bytes_is_told(contents, tmp_path, frame):
    content = contents[CLIP]
    (tmp_path / "clip.mp4").write_bytes(changed(content, b"stsz", 12 + 4 * frame, 0))
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(tmp_path / "clip.mp4")
    assert not has_empty_frames(content) and not has_empty_frames(changed(content, b"stsz", 8, frame))
    assert has_empty_frames(changed(changed(content, b"stsz", 12 + 4 * frame, 0), b"stsz", 8, frame + 1))
    assert not has_empty_frames(changed(changed(content, b"stsz", 12 + 4 * frame, 0), b"stsz", 8, frame))
    assert not has_empty_frames(changed(content, b"stsz", 4, 7))  # one size of all frames
