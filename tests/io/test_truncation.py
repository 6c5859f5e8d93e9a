"""A recording that was cut off is told from a whole one, in every container and wherever it was cut."""

import re
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from fgvc_hf import open_video


FRAMES = 24
KINDS = {  # name -> codec of the pictures, codec of the sound, options of the muxer
    "index at the end.mp4": ("libx264", None, {}),
    "index in front.mp4": ("libx264", "aac", {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", None, {"movflags": "frag_keyframe+empty_moov"}),
    "fragments, sound.mp4": ("libx264", "aac", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mpeg4.mov": ("mpeg4", None, {"movflags": "faststart"}),
    "h264.mkv": ("libx264", None, {}),
    "sound.mkv": ("libx264", "aac", {}),
    "vp9.webm": ("libvpx-vp9", None, {}),
    "vp8, sound.webm": ("libvpx", "libopus", {}),
    "live.webm": ("libvpx", "libopus", {"live": "1"}),
    "mpeg4.avi": ("mpeg4", None, {}),
    "sound.avi": ("mpeg4", "mp2", {}),
    "h264.ts": ("libx264", None, {}),
    "sound.ts": ("mpeg2video", "mp2", {}),
    "blu-ray.m2ts": ("libx264", None, {"mpegts_m2ts_mode": "1"}),
    "h264.flv": ("libx264", None, {}),
    "mpeg2.mpg": ("mpeg2video", None, {}),
    "wmv.wmv": ("wmv2", None, {}),
    "vp8.ivf": ("libvpx", None, {}),
    "raw.y4m": ("wrapped_avframe", None, {}),
    "frames.gif": ("gif", None, {}),
    "frames.apng": ("apng", None, {}),
    "raw.mjpeg": ("mjpeg", None, {}),
    "pages.webp": ("pillow", None, {}),
    "pages.tif": ("pillow", None, {}),
}
FORMATS = {"rgb8": ("gif",), "rgb24": ("apng",), "yuvj420p": ("mjpeg",)}
SHARES = (0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 0.97, 0.995)


def write(path, codec, sound, options) -> None:
    """24 frames of noise, so that every frame takes many bytes, and a tone beside them."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8)
    if codec == "pillow":
        first, *others = map(Image.fromarray, noise)
        first.save(path, save_all=True, append_images=others)
        return
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=25, options={"g": "8", "threads": "1"})
        pix_fmt = next((name for name, codecs in FORMATS.items() if codec in codecs), "yuv420p")
        video.height, video.width, video.pix_fmt = 48, 64, pix_fmt
        audio = container.add_stream(sound, rate=48000) if sound else None
        packets = []
        for number, frame in enumerate(noise):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += video.encode(picture)
        packets += video.encode()
        if audio is not None:
            tone = np.sin(np.arange(48000 * FRAMES // 25) / 17).astype(np.float32)[None]
            whole = av.AudioFrame.from_ndarray(tone, format="flt", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = 48000, 0, Fraction(1, 48000)
            context = audio.codec_context
            resampler = av.AudioResampler(context.format, context.layout, 48000, context.frame_size or 1024)
            for part in (*resampler.resample(whole), *resampler.resample(None)):
                packets += audio.encode(part)
            packets += audio.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / request.param
    try:
        write(path, *KINDS[request.param])
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        pytest.skip(f"PyAV cannot write it here ({error}).")
    return path


def test_a_whole_file_raises_no_complaint(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_video(whole).frames())) == FRAMES


@pytest.mark.parametrize("share", SHARES)
def test_a_part_is_refused_or_read_with_a_warning(whole, tmp_path, share):
    content = whole.read_bytes()
    path = tmp_path / whole.name
    cut = int(len(content) * share)
    # A transport stream that ends between two of its packets is a whole one
    path.write_bytes(content[: cut + (cut % 188 == 0 or cut % 192 == 0)])
    with pytest.raises(OSError, match=f"^{re.escape(str(path))}: ") as refusal:
        list(open_video(path).frames())
    assert str(refusal.value).count(". ") == 0 and str(refusal.value).endswith(".")
    if not (told := re.search(r"after frame (\d+); the first (\d+) can be read", str(refusal.value))):
        with pytest.raises(OSError):
            list(open_video(path, allow_truncated=True).frames())
        return
    with pytest.warns(UserWarning, match=rf"after frame {told[1]}; it is read up to there"):
        video = open_video(path, allow_truncated=True)
    frames = list(video.frames())
    assert len(frames) == video.num_frames == int(told[2]) == int(told[1]) + 1 <= FRAMES
    truth = list(open_video(whole).frames(0, len(frames)))
    wrong = [n for n, (a, b) in enumerate(zip(frames, truth, strict=True)) if np.abs(a.astype(int) - b).mean() > 1]
    assert not wrong
    np.testing.assert_array_equal(next(video.frames(reverse=True)), frames[-1])


@pytest.mark.parametrize(
    "name", ["index at the end.mp4", "h264.mkv", "frames.gif", "mpeg4.avi", "frames.apng", "h264.flv"]
)
@pytest.mark.parametrize("appended", [bytes(100), b"SEFT and other data of cameras\n" * 50], ids=["zeros", "data"])
def test_what_programs_append_is_no_damage(tmp_path, name, appended):
    write(tmp_path / name, *KINDS[name])
    with (tmp_path / name).open("ab") as file:
        file.write(appended)
    assert open_video(tmp_path / name).num_frames == FRAMES


def test_a_recorder_that_was_killed(tmp_path):
    """A file without duration and index is whole, as a browser writes it, unless it ends within an element."""
    write(live := tmp_path / "live.webm", *KINDS["live.webm"])
    content = live.read_bytes()
    assert b"\x1c\x53\xbb\x6b" not in content  # no index
    assert open_video(live).num_frames == FRAMES
    live.write_bytes(content[:-5])
    with pytest.raises(OSError, match="cut off"):
        open_video(live)


def test_truncation_is_a_keyword_of_the_file_alone(tmp_path):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    assert open_video(frames, allow_truncated=True).num_frames == 2
