"""Files of many containers and codecs, read as the command `ffmpeg` reads them: frames, colours, orientation and pixel aspect.

All files are made here, of frames of 64x48. Those of an encoder that this ffmpeg lacks are skipped.
"""

import functools
import re
import shutil
import subprocess
import warnings
from fractions import Fraction

import numpy as np
import pytest
from media_files import turn
from PIL import Image

from fgvc_hf import open_video


pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no command ffmpeg")
FFMPEG = ("ffmpeg", "-v", "error", "-y", "-threads", "1")
BLOCKS = ",scale=4:4:flags=area,scale=64:48:flags=neighbor"  # of 16x12 pixels, in 20 frames
SOURCE = ("-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d=0.8{BLOCKS}")
SOUND = ("-f", "lavfi", "-i", "sine=440:d=0.8")
SMALL = ("-f", "lavfi", "-i", "testsrc=s=32x24:r=25:d=0.8")
BOTH, SMALL_FIRST = (*SOURCE, *SMALL), ("-map", "1:v", "-map", "0:v")
ALPHA = ("-vf", "format=yuva420p,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='4*X'")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "8", "-threads", "1")


def coded(*codec, source=SOURCE, muxer=()):
    return lambda path: run(*source, *codec, *muxer, path)


def run(*arguments) -> bytes:
    try:
        return subprocess.run([*FFMPEG, *map(str, arguments)], check=True, capture_output=True).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode()
        if re.search("Unknown encoder|Encoder not found|does not support|No such filter", reason):
            pytest.skip(reason.strip().splitlines()[-1])
        raise AssertionError(reason) from None


def joined(path, first, *others):
    """`cat first second > path`."""
    parts = []
    for number, make in enumerate((first, *others)):
        make(part := path.with_name(f"part{number}{path.suffix}"))
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def turned(path, matrix, *options):
    """A file whose display matrix is (a, b, c, d)."""
    coded(*H264, "-bf", "0", *options)(path)
    turn(path, matrix)


def two_pass(path):
    log = path.with_name("log")
    vp8 = (
        *SOURCE,
        "-c:v",
        "libvpx",
        "-b:v",
        "200k",
        "-auto-alt-ref",
        "1",
        "-lag-in-frames",
        "16",
        "-passlogfile",
        log,
    )
    run(*vp8, "-pass", "1", "-f", "null", "-")
    run(*vp8, "-pass", "2", path)


def with_cover(path, disposition):
    """A small picture as the first stream, and the video as the second."""
    cover = path.with_name("cover.png")
    Image.new("RGB", (640, 480), (250, 10, 10)).save(cover)
    maps = ("-map", "1:v", "-map", "0:v", "-c:v:0", "png", "-disposition:v:0", disposition)
    run(*SOURCE, "-i", cover, *maps, *(f"{o}:v:1" if o.startswith("-") else o for o in H264[:4]), path)


def trimmed(path):
    """An edit list: a copy that starts between key frames."""
    coded(*H264, "-sc_threshold", "0")(whole := path.with_name("whole.mp4"))
    run("-ss", "0.2", "-i", whole, "-c", "copy", path)


def pictures(path, durations=None, **options):
    frames = [Image.fromarray(np.full((48, 64, 3), (10 * i, 200 - 9 * i, 120), np.uint8)) for i in range(20)]
    timing = {"duration": durations or [80] * 20} if path.suffix != ".tif" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **timing, **options)


def with_zeros(path):
    coded(*H264)(path)
    path.write_bytes(path.read_bytes() + bytes(5000))


MATRICES = {
    "turned 90": (0, 1, -1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "mirrored, turned": (0, -1, -1, 0),
}
HD709 = ("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv")
FULL = ("-vf", "scale=out_range=pc", "-color_range", "pc")
VARIABLE = ("-vf", "setpts='(N+mod(N,3)*0.4)/25/TB'", "-vsync", "0")
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov")
CASES = {
    "B-frames.mp4": coded(*H264, "-bf", "2"),
    "no B-frames.mp4": coded(*H264, "-bf", "0"),
    "front.mp4": coded(*H264, "-movflags", "faststart"),
    "fragments.mp4": coded(*H264, *FRAGMENTS),
    "fragments and sound.mp4": coded(*H264, *FRAGMENTS, "-c:a", "aac", source=(*SOURCE, *SOUND)),
    "sound first.mp4": coded(*H264, "-map", "1:a", "-map", "0:v", "-c:a", "aac", source=(*SOURCE, *SOUND)),
    "longer sound.mp4": coded(*H264, "-c:a", "aac", source=(*SOURCE, "-f", "lavfi", "-i", "sine=440:d=2")),
    "mpeg4.mp4": coded("-c:v", "mpeg4", "-bf", "2"),
    "hevc.mp4": coded("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1"),
    "av1.mp4": coded("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime"),
    "vp9.mp4": coded("-c:v", "libvpx-vp9", "-cpu-used", "8"),
    "trimmed.mp4": trimmed,
    "delayed.mp4": coded(*H264, source=("-itsoffset", "0.5", *SOURCE)),
    "variable.mp4": coded(*H264, *VARIABLE),
    "open groups.mp4": coded(*H264, "-x264-params", "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3"),
    "interlaced.mp4": coded(*H264, "-flags", "+ildct+ilme", "-x264-params", "interlaced=1"),
    "refresh.mp4": coded(*H264, "-x264-params", "intra-refresh=1:keyint=10:bframes=0"),
    "anamorphic.mp4": coded(*H264, "-vf", "setsar=16/11"),
    "anamorphic, turned 90.mov": lambda path: turned(path, (0, 1, -1, 0), "-vf", "setsar=16/11"),
    "10 bit.mp4": coded("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p10le"),
    "4:4:4.mp4": coded("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv444p"),
    "BT.709.mp4": coded(*H264, *HD709),
    "BT.2020.mp4": coded(*H264, "-vf", "scale=out_color_matrix=bt2020", "-colorspace", "bt2020nc"),
    "full range.mp4": coded(*H264, *FULL),
    "padded.mp4": with_zeros,
    "cover.m4v": lambda path: with_cover(path, "attached_pic"),
    "small first.mp4": coded(*H264, *SMALL_FIRST, "-disposition:v:0", "0", "-disposition:v:1", "default", source=BOTH),
    "small first.mkv": coded(*H264, *SMALL_FIRST, "-disposition:v:0", "0", "-disposition:v:1", "0", source=BOTH),
    "small first.ts": coded(*H264, *SMALL_FIRST, source=BOTH),
    "B-frames.mkv": coded(*H264, "-bf", "2"),
    "piped.mkv": lambda path: path.write_bytes(run(*SOURCE, *H264, "-f", "matroska", "-")),
    "live.webm": lambda path: path.write_bytes(run(*SOURCE, "-c:v", "libvpx", "-live", "1", "-f", "webm", "-")),
    "ffv1.mkv": coded("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "alpha.mkv": coded("-c:v", "ffv1", *ALPHA),
    "grey.mkv": coded("-c:v", "ffv1", "-pix_fmt", "gray"),
    "grey 10 bit.mkv": coded("-c:v", "ffv1", "-pix_fmt", "gray10le"),
    "anamorphic.mkv": coded(*H264, "-vf", "setsar=8/9"),
    "mjpeg full range.mkv": coded("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2"),
    "vp8.webm": coded("-c:v", "libvpx", "-b:v", "200k"),
    "vp8 two passes.webm": two_pass,
    "vp8 alpha.webm": coded("-c:v", "libvpx", "-auto-alt-ref", "0", *ALPHA),
    "vp9.webm": coded("-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus", source=(*SOURCE, *SOUND)),
    "B-frames.avi": coded(*H264, "-bf", "2"),
    "B-frames and sound.avi": coded(*H264, "-bf", "2", "-c:a", "mp2", source=(*SOURCE, *SOUND)),
    "mpeg4.avi": coded("-c:v", "mpeg4", "-bf", "2"),
    "mjpeg.avi": coded("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p"),
    "palette.avi": coded("-c:v", "rawvideo", "-pix_fmt", "pal8", "-vf", "format=rgb8,format=pal8"),
    "piped.avi": lambda path: path.write_bytes(run(*SOURCE, "-c:v", "mpeg4", "-f", "avi", "-")),
    "prores.mov": coded("-c:v", "prores_ks"),
    "palette.mov": coded("-c:v", "qtrle", "-pix_fmt", "rgb555be"),
    "alpha.mov": coded("-c:v", "png", "-pix_fmt", "rgba"),
    "h264.ts": coded(*H264),
    "mpeg2 and sound.ts": coded("-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2", source=(*SOURCE, *SOUND)),
    "joined.ts": lambda path: joined(path, coded(*H264), coded(*H264)),
    "joined, sound.ts": lambda path: joined(path, *[coded(*H264, "-c:a", "aac", source=(*SOURCE, *SOUND))] * 3),
    "blu-ray.m2ts": coded(*H264, muxer=("-mpegts_m2ts_mode", "1")),
    "mpeg2.mpg": coded("-c:v", "mpeg2video", "-bf", "2"),
    "mpeg1.mpg": coded("-c:v", "mpeg1video"),
    "dvd.vob": coded("-c:v", "mpeg2video", "-aspect", "16:9"),
    "h264.flv": coded(*H264),
    "flv1.flv": coded("-c:v", "flv", "-c:a", "aac", source=(*SOURCE, *SOUND)),
    "theora.ogv": coded("-c:v", "libtheora", "-q:v", "8"),
    "wmv.wmv": coded("-c:v", "wmv2", "-q:v", "3"),
    "raw.h264": coded(*H264, "-bf", "2"),
    "raw.m2v": coded("-c:v", "mpeg2video", "-bf", "2"),
    "raw.mjpeg": coded("-c:v", "mjpeg", "-q:v", "2"),
    "raw.y4m": coded("-pix_fmt", "yuv420p"),
    "raw 4:4:4.y4m": coded("-pix_fmt", "yuv444p"),
    "vp8.ivf": coded("-c:v", "libvpx", "-b:v", "200k"),
    "h264.nut": coded(*H264),
    "animated.gif": coded("-loop", "0"),
    "pause.gif": lambda path: pictures(path, [80] * 19 + [3000], loop=0),
    "animated.apng": coded("-f", "apng", "-pix_fmt", "rgb24"),
}
ASPECTS = {
    "anamorphic.mp4": Fraction(16, 11),
    "anamorphic.mkv": Fraction(8, 9),
    "anamorphic, turned 90.mov": Fraction(11, 16),
    "dvd.vob": Fraction(4, 3),
}
CASES |= {f"{name}.mov": functools.partial(turned, matrix=matrix) for name, matrix in MATRICES.items()}


def shown_by_ffmpeg(path, width: int, height: int) -> np.ndarray:
    """All frames (T, H, W, 3) as ffmpeg shows them."""
    raw = run("-i", path, "-vsync", "0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def block_colours(frame: np.ndarray) -> np.ndarray:
    """Mean colours in the middle of the blocks, away from edges, where chroma is interpolated in ways of its own."""
    rows, columns = (12, 16) if frame.shape[0] < frame.shape[1] else (16, 12)
    blocks = frame.reshape(4, rows, 4, columns, 3)[
        :, rows // 2 - 2 : rows // 2 + 2, :, columns // 2 - 2 : columns // 2 + 2
    ]
    return blocks.mean((1, 3))


@pytest.mark.parametrize("name", CASES)
def test_read_as_ffmpeg_reads_it(tmp_path, name):
    path = tmp_path / name
    CASES[name](path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = open_video(path)
        frames = list(video.frames())
    size = (64, 48) if re.search("turned [29]|transposed|mirrored, turned", name) else (48, 64)
    assert (video.height, video.width) == size
    truth = shown_by_ffmpeg(path, video.width, video.height)
    assert video.num_frames == len(frames) == len(truth)
    for number in range(len(truth)):
        difference = np.abs(block_colours(frames[number]) - block_colours(truth[number])).max()
        assert difference <= 3, f"frame {number} differs by {difference:.1f}"
    times = [video.time(number) for number in range(len(truth))]
    assert times[0] == 0 and all(np.diff(times) > 0)
    assert video.pixel_aspect == ASPECTS.get(name, 1)
    middle = len(frames) // 2
    np.testing.assert_array_equal(next(video.frames(middle, middle + 1)), frames[middle])
    np.testing.assert_array_equal(next(video.frames(reverse=True)), frames[-1])


@pytest.mark.parametrize("name", ["pages.tif", "animated.webp", "animated.png"])
def test_pages_of_pictures(tmp_path, name):
    """ffmpeg shows the first page alone; the pages are known from their making."""
    pictures(path := tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    frames = list(open_video(path).frames())
    assert [tuple(frame[5, 5]) for frame in frames] == [(10 * i, 200 - 9 * i, 120) for i in range(20)]
