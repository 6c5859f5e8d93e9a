"""Files that are no videos, name other files, or claim what they do not hold."""

import resource
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fgvc_hf import VideoWriter, open_video


@pytest.fixture
def secret(tmp_path) -> Path:
    """A video that a list may name, and that only its own path opens."""
    path = tmp_path / "secret.mp4"
    with VideoWriter(path, 25, 48, 64) as writer:
        for level in (20, 120, 220):
            writer.write(np.full((48, 64, 3), level, np.uint8))
    return path


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
    "relative ffconcat": "ffconcat version 1.0\nfile secret.mp4\nduration 1\n",
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
    "m3u8 of fragments": '#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="secret.mp4"\n#EXTINF:9,\nsecret.mp4\n',
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
    "<Period><AdaptationSet><Representation id='0' mimeType='video/mp4' bandwidth='1'><BaseURL>secret.mp4</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\ntimestamp: 00:00:01:000, filepos: 000000000\n",
    "m3u": "#EXTM3U\nhttp://127.0.0.1:9/secret.ts\n",
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nwords\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
    "text": "this is a text file\n" * 50,
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="secret.mp4"/></svg>',
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".txt"])
def test_lists_of_files_are_not_followed(secret, kind, suffix):
    path = secret.with_name(f"list{suffix}")
    path.write_text(LISTS[kind].format(path=secret))
    for allow_truncated in (False, True):
        with pytest.raises(OSError, match=r"list\.(mp4|txt): is no video that can be read, or is damaged \(.*\)\.$"):
            open_video(path, allow_truncated=allow_truncated)


@pytest.mark.parametrize(
    "name",
    ["%03d.png", "frame%d.mp4", "concat:a|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "a:b.mp4", "*.mp4", "-i.mp4"],
)
def test_names_mean_themselves(secret, name):
    for number in range(3):  # what a pattern would match
        Image.new("RGB", (64, 48)).save(secret.with_name(f"{number:03d}.png"))
    path = secret.with_name(name)
    if name.endswith("png"):
        Image.new("RGB", (10, 8), (1, 2, 3)).save(path)
        assert (open_video(path).num_frames, open_video(path).width) == (1, 10)
    else:
        path.write_bytes(secret.read_bytes())
        assert open_video(path).num_frames == 3


def test_references_of_quicktime_are_not_followed(secret):
    """A `dref` that says that the samples are in another file."""
    content = bytearray(secret.read_bytes())
    at = content.index(b"url \0\0\0\1")
    content[at : at + 8] = b"url \0\0\0\0"
    secret.with_name("reference.mp4").write_bytes(content)
    assert open_video(secret.with_name("reference.mp4")).num_frames == 3  # from this file


@pytest.mark.parametrize(
    "url",
    ["https://example.org/a.mp4", "http://127.0.0.1/a.mp4", "rtsp://camera/1", "file:///tmp/a.mp4", "s3://b/a.mp4"],
)
def test_urls_are_named_as_given(tmp_path, url):
    for call in (open_video, lambda name: VideoWriter(name, 25, 48, 64)):
        with pytest.raises(ValueError, match=f"^{url}: is a URL; .*download") as refusal:
            call(url)
        assert url in str(refusal.value)


def gif(width: int, height: int) -> bytes:
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(3) + b"\xff" * 3 + image + b"\x3b"


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def resized(content: bytes, width: int, height: int) -> bytes:
    """An MP4 file whose track says another size."""
    at = content.index(b"avc1", content.index(b"stsd")) + 28
    return content[:at] + struct.pack(">HH", width, height) + content[at + 4 :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gif", gif(30000, 30000)),
        ("a.gif", gif(65535, 65535)),
        ("a.png", png(30000, 30000)),
        ("a.y4m", b"YUV4MPEG2 W30000 H30000 F25:1 C420\nFRAME\n" + bytes(99)),
        (
            "a.bmp",
            struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 154, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
            + bytes(99),
        ),
        (
            "a.ivf",
            struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", 16383, 16383, 25, 1, 1, 0)
            + struct.pack("<IQ", 10, 0)
            + b"\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
        ),
    ],
)
def test_huge_frames_in_small_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match=f"{name}: .*[.]$"):
        list(open_video(tmp_path / name).frames())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_huge_sizes_in_a_track(secret):
    path = secret.with_name("huge.mp4")
    path.write_bytes(resized(secret.read_bytes(), 40000, 40000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert next(open_video(path).frames()).shape == (48, 64, 3)  # the codec's own header is the one that counts
    except OSError as error:
        assert "are larger than" in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("png", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for stream, frame in ((cover, picture), (cover, None), (sound, silence), (sound, None)):
            container.mux(stream.encode(frame))
    with pytest.raises(OSError, match="has no video stream, only a cover picture"):
        open_video(path)


def test_content_counts_and_not_the_name(secret):
    pictures = [Image.new("RGB", (64, 48), (level, 0, 0)) for level in (10, 60, 110)]
    for kind, suffix in (("GIF", ".mp4"), ("TIFF", ".mp4"), ("WEBP", ".avi"), ("PNG", ".mkv")):
        path = secret.with_name(f"{kind}{suffix}")
        pictures[0].save(path, format=kind, save_all=True, append_images=pictures[1:], duration=40)
        assert [round(int(frame[0, 0, 0]) / 50) for frame in open_video(path).frames()] == [0, 1, 2]
    secret.rename(video := secret.with_name("video.png"))
    assert open_video(video).num_frames == 3
