"""Packets and pictures that a demuxer leaves out, by counting those that begin in a file."""

import itertools

import pytest
from damaged_media import frames_of_wmv, transport_packet, written

from fgvc_hf import open_video
from fgvc_hf.io import video_files
from fgvc_hf.io.frame_starts import frame_starts, loses_packets


def test_blocks_of_matroska_that_the_demuxer_does_not_give(tmp_path, noise_clip, monkeypatch):
    path, content = written(tmp_path, "sound.mkv", noise_clip[:8])
    assert frame_starts(path, {"matroska", "webm"}, 0, 0) == 8 < frame_starts(path, {"matroska", "webm"}, 0, 1)
    assert frame_starts(path, {"matroska", "webm"}, 0, 2) == 0
    assert open_video(path).num_frames == 8
    packets = video_files._packets
    monkeypatch.setattr(video_files, "_packets", lambda *media: itertools.islice(packets(*media), 7))
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(path)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert 3 < frame_starts(path, {"matroska", "webm"}, 0, 0) < 8


@pytest.mark.parametrize("codec, expected", [("h264", False), ("vp9", True)])
def test_only_some_codecs_have_a_packet_for_each_field(tmp_path, noise_clip, codec, expected):
    """Half as many frames as packets are what an interlaced clip has; VP9 has no fields."""
    name = {"h264": "h264.mkv", "vp9": "vp9.webm"}[codec]
    path, _ = written(tmp_path, name, noise_clip[:8])
    video = open_video(path)
    decoded = video._whole_frames
    video._whole_frames = lambda: itertools.islice(decoded(), 4)
    video._pts, video._packets_missing = [], False
    video._count(None, allow_truncated=False)
    assert video._packets_missing is expected


def test_a_clip_without_a_key_frame(tmp_path, noise_clip):
    path, content = written(tmp_path, "wmv.wmv", noise_clip[:8])
    first = frames_of_wmv(content)[0]
    assert content[first] == 0x81  # a key frame of the first stream
    path.write_bytes(content[:first] + b"\1" + content[first + 1 :])
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(path)


def test_a_picture_of_a_transport_stream_that_belongs_to_no_stream(tmp_path, noise_clip):
    """The number of the stream is damaged where a picture begins; the counter of what follows is right."""
    path, content = written(tmp_path, "h264.ts", noise_clip[:8])
    begins = [at for at in range(0, len(content), 188) if content[at + 1 : at + 3] == b"\x41\0"]
    assert len(begins) == 8
    for begin in begins[1], begins[7]:
        path.write_bytes(content[: begin + 1] + b"\x43" + content[begin + 2 :])
        with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
            open_video(path)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("47410010 000001e0", True),
        ("47410010 000001ef", True),
        ("47410030 0700000000000000 000001e0", True),  # behind other fields
        ("47410010 000001c0", False),  # sound
        ("47410010 000001f0", False),
        ("47410010 000002e0", False),  # data
        ("47010010 000001e0", False),  # in the middle
        ("47c10010 000001e0", False),  # damaged on its way
        ("47410020 000001e0", False),  # without content
        ("47410030 0700000000000000 00000000", False),
        ("47410030 ff000000 000001e0", False),  # the fields take all of it
        ("47411010 000001e0", False),  # of the stream that is known
    ],
)
def test_where_a_picture_begins_in_a_transport_stream(tmp_path, head, told):
    begin = bytes.fromhex(head)
    known = bytes.fromhex("47411010 000001e0") + bytes(180)
    (tmp_path / "x.ts").write_bytes(9 * known + begin + bytes(188 - len(begin)) + known)
    assert loses_packets(tmp_path / "x.ts", {"mpegts"}, {0x110}) is told
    assert not loses_packets(tmp_path / "x.ts", {"mkv"}, set())


@pytest.mark.parametrize(("behind", "told"), [(b"", False), (b"\x47\1", False), (b"\0", True), (b"\xff" * 187, True)])
def test_what_is_behind_the_last_packet_of_a_transport_stream(tmp_path, behind, told):
    """Less than a packet: the start of one that was cut off, or the end of one that lost its start."""
    (tmp_path / "x.ts").write_bytes(9 * transport_packet(0x110, 0, 0, 188) + behind)
    assert loses_packets(tmp_path / "x.ts", {"mpegts"}, {0x110}) is told


def test_a_demuxer_that_gives_up_in_the_middle(tmp_path, noise_clip, monkeypatch):
    path, _ = written(tmp_path, "index in front.mp4", noise_clip[:8])
    packets = video_files._packets

    def some(container, stream):
        for number, packet in enumerate(packets(container, stream)):
            if number == 5:
                raise video_files._CorruptFrameError
            yield packet

    monkeypatch.setattr(video_files, "_packets", some)
    with pytest.raises(OSError, match="is damaged, it is cut off after frame"):
        open_video(path)


def test_pictures_of_avi_that_the_demuxer_does_not_give(tmp_path):
    def chunk(kind, content):
        return kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)

    def listed(kind, *chunks):
        return chunk(b"LIST", kind + b"".join(chunks))

    frames = (
        chunk(b"00dc", b"odd"),
        chunk(b"01wb", b"sound"),
        listed(b"rec ", chunk(b"00db", b"even")),
        chunk(b"00dc", b""),
    )
    content = (
        b"AVI " + listed(b"hdrl", chunk(b"00dc", b"in a header")) + listed(b"movi", *frames, chunk(b"01dc", b"other"))
    )
    more = chunk(b"RIFF", b"AVIX" + listed(b"movi", chunk(b"00dc", b"more"), chunk(b"ix00", b"index")))
    path = tmp_path / "x.avi"
    for behind, found in ((b"", 3), (b"RIFF\1\0", 3), (bytes(30), 3)):
        path.write_bytes(chunk(b"RIFF", content) + more + behind)
        assert frame_starts(path, {"avi"}, 0, 0) == found
        assert frame_starts(path, {"avi"}, 0, 1) == 1


def test_an_index_of_avi_that_leaves_out_pictures(tmp_path, noise_clip, monkeypatch):
    path, _ = written(tmp_path, "mpeg4.avi", noise_clip[:8])
    assert open_video(path).num_frames == 8
    packets = video_files._packets
    monkeypatch.setattr(video_files, "_packets", lambda *media: itertools.islice(packets(*media), 7))
    with pytest.warns(UserWarning, match="packets are missing or damaged, and frames may be missing"):
        open_video(path)
