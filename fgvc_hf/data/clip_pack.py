"""A pack: the frames of all clips of a folder in one file, which travels to a machine without videos and is read there without PyAV.

A file is a header, an index and the frames. Numbers are little-endian and unsigned:

    8 bytes   FGVCPACK
    4 bytes   version
    32 bytes  SHA-256 of all that follows
    8 bytes   length of the index in bytes
    index     JSON, a list of clips: `name`, `fps` (null if it is unknown), and `sizes`, the bytes of each frame
    frames    JPEG images, one after the other, in the order of the index
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from ..io.files import atomic_write, check_writable, local_path
from ..io.json_files import reason_of
from ..io.video import open_video
from .shards import JPEG_QUALITY, decode_image, encode_image
from .video_folder import HeldClips, readable_clips


MAGIC, VERSION = b"FGVCPACK", 1
HEADER, LENGTH = struct.Struct("<8sI32s"), struct.Struct("<Q")
MAX_BYTES = 40_000_000


@dataclass(frozen=True)
class PackedClip:
    """A clip of a pack.

    Args:
        name (`str`): Its path in the folder, without a suffix.
        fps (`float`, *optional*): Frames per second of the clip, if the video states them.
        frames (sequence of `bytes`): JPEG images.
    """

    name: str
    fps: float | None
    frames: Sequence[bytes]


def packed_clips(
    folder: str | Path,
    short_side: int = 256,
    quality: int = JPEG_QUALITY,
    every: int = 1,
    max_frames: int | None = None,
) -> Iterator[PackedClip]:
    """The videos in a folder as clips of a pack.

    Args:
        folder: Searched with its subfolders.
        short_side (`int`): The shorter side of frames is reduced to this, in pixels.
        quality (`int`): Of the JPEG images, 1 to 95.
        every (`int`): Only every so many-th frame of a video.
        max_frames (`int`, *optional*): At most so many frames of a video, the first ones; all if not given.

    Raises:
        `ValueError`: an argument is outside its range.
        `OSError`: the folder holds no video that can be read with at least two frames. Other videos are skipped, and their number is logged.
    """
    for name, value, least, most in (
        ("short_side", short_side, 32, math.inf),
        ("quality", quality, 1, 95),
        ("every", every, 1, math.inf),
        ("max_frames", 2 if max_frames is None else max_frames, 2, math.inf),
    ):
        if not least <= value <= most:
            limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{name} of a pack must be {limits}, got {value}.")
    for source, frames in readable_clips(folder, short_side, every=every, most=max_frames):
        name = source.relative_to(folder) if source != Path(folder) else Path(source.name)
        fps = open_video(source).fps
        images = [encode_image(frame, "JPEG", quality) for frame in frames]
        yield PackedClip((name if source.is_dir() else name.with_suffix("")).as_posix(), fps and fps / every, images)


def write_pack(path: str | Path, clips: Iterable[PackedClip], max_bytes: int = MAX_BYTES) -> int:
    """Write clips as a pack, which is complete or absent.

    Args:
        path: The file.
        clips (iterable of [`PackedClip`]): At least one.
        max_bytes (`int`): Largest size of the file.

    Returns:
        Its size in bytes.

    Raises:
        `ValueError`: there is no clip, or the file would be larger. The sentence says how many frames of each clip fit.
        `OSError`: it cannot be written.
    """
    check_writable(path)
    clips = list(clips)
    if not clips:
        raise ValueError(f"{path}: there is nothing to write, a pack holds one clip or more.")
    content = _index(clips) + b"".join(frame for clip in clips for frame in clip.frames)
    size = HEADER.size + len(content)
    if size > max_bytes:
        raise ValueError(
            f"{path}: {size / 1e6:.1f} MB of frames are more than the {max_bytes / 1e6:g} MB that a pack may have; "
            f"{_frames_that_fit(clips, max_bytes)}."
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(HEADER.pack(MAGIC, VERSION, hashlib.sha256(content).digest()) + content)
    return size


def _index(clips: Sequence[PackedClip]) -> bytes:
    """The index of clips, after its length."""
    rows = [{"name": clip.name, "fps": clip.fps, "sizes": [len(frame) for frame in clip.frames]} for clip in clips]
    index = json.dumps(rows).encode()
    return LENGTH.pack(len(index)) + index


def _frames_that_fit(clips: Sequence[PackedClip], max_bytes: int) -> str:
    """What to do about a pack that is too large."""
    left = max_bytes - HEADER.size - len(_index(clips))
    for count in range(max(len(clip.frames) for clip in clips), 1, -1):
        if sum(len(frame) for clip in clips for frame in clip.frames[:count]) <= left:
            return f"the first {count} frames of each clip would fit (--max-frames {count}), or more of a lower --short-side or --quality"
    return "not even two frames of each clip would fit: pack fewer videos"


def read_pack(path: str | Path) -> list[PackedClip]:
    """The clips of a pack.

    Raises:
        `ValueError`: the file is no pack, of another version, cut off or damaged.
        `OSError`: there is no such file, or it cannot be read.
    """
    path = local_path(path)
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise OSError(f"{path}: cannot be read as a pack of clips ({error.strerror}).") from None
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path}: is no pack of clips; scripts/prepare.py pack writes one.")
    _, version, digest = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"{path}: is a pack of version {version}, but this program reads version {VERSION}.")
    content = data[HEADER.size :]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path}: is cut off or damaged, its checksum is wrong.")
    clips, start = [], LENGTH.size + LENGTH.unpack_from(content)[0]
    for row in json.loads(bytes(content[LENGTH.size : start])):
        edges = list(accumulate(row["sizes"], initial=start))
        clips.append(PackedClip(row["name"], row["fps"], [bytes(content[a:b]) for a, b in pairwise(edges)]))
        start = edges[-1]
    return clips


class PackedVideos(HeldClips):
    """Pairs of frames, or clips of several, of the clips of a pack, as [`VideoFolder`] gives them from videos.

    All frames are decoded at the start, in threads, and held in memory.

    Args:
        path: The pack.
        settings, options: As of [`HeldClips`], from `size` on.

    Raises:
        `ValueError`: as of [`read_pack`] and of [`HeldClips`].
        `OSError`: as of [`read_pack`], or a frame is no image, or of another size than the first of its clip.
    """

    def __init__(self, path: str | Path, *settings, **options):
        packed = read_pack(path)
        with ThreadPoolExecutor() as threads:
            decoded = [threads.map(decode_image, clip.frames) for clip in packed]
            clips = [stacked(f"{path}, {clip.name}", images) for clip, images in zip(packed, decoded, strict=True)]
        super().__init__(path, clips, *settings, **options)


def stacked(place: str, images: Iterator[np.ndarray]) -> np.ndarray:
    """Frames `(T, H, W, 3)` of one clip; an `OSError` that says where it is if one cannot be read, or is of another size."""
    frames: list[np.ndarray] = []
    try:
        for image in images:
            if frames and image.shape != frames[0].shape:
                raise OSError("it is of another size than those before")
            frames.append(image)
    except OSError as error:
        raise OSError(f"{place}, frame {len(frames)}: cannot be used ({reason_of(error).rstrip('.')}).") from None
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)
