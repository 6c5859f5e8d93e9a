"""Small files of media in every container that is read, of which tests cut and damage copies."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


CONTAINERS = {  # name -> codec of the pictures, codec of the sound, options of the muxer
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


def write_media(path: Path, frames: np.ndarray, codec: str, sound: str | None, options: dict) -> None:
    """Frames (T, H, W, 3), uint8, at 25 a second, and a tone beside them; arguments as in `CONTAINERS`."""
    if codec == "pillow":
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others)
        return
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=25, options={"g": "8", "threads": "1"})
        pix_fmt = next((name for name, codecs in FORMATS.items() if codec in codecs), "yuv420p")
        (video.height, video.width), video.pix_fmt = frames.shape[1:3], pix_fmt
        audio = container.add_stream(sound, rate=48000) if sound else None
        packets = []
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = number, Fraction(1, 25)
            packets += video.encode(picture)
        packets += video.encode()
        if audio is not None:
            packets += _tone(audio, len(frames) / 25)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _tone(audio, seconds: float) -> list:
    """Packets of a tone."""
    tone = np.sin(np.arange(round(48000 * seconds)) / 17).astype(np.float32)[None]
    whole = av.AudioFrame.from_ndarray(tone, format="flt", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = 48000, 0, Fraction(1, 48000)
    context = audio.codec_context
    resampler = av.AudioResampler(context.format, context.layout, 48000, context.frame_size or 1024)
    packets = []
    for part in (*resampler.resample(whole), *resampler.resample(None)):
        packets += audio.encode(part)
    return packets + audio.encode()


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Give an MP4 file, which has none, the display matrix (a, b, c, d)."""
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    at = content.index(identity, content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
