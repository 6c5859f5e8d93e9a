"""How many frames begin in a file by marks in its bytes, where demuxers take two frames for one if the start of the second is damaged."""

from pathlib import Path

import numpy as np

from .truncation import Broken, image_blocks


PROBED = 50  # packets of a transport stream that its packet length is told from


def frame_starts(path: Path, kinds: set[str], stream_id: int) -> int:
    """
    The frames that begin in a file: no more than there are packets if it is whole.

    Args:
        path: The file.
        kinds (`set[str]`): What FFmpeg calls its format. Only transport streams, motion JPEG and GIF have such marks; 0 for others.
        stream_id (`int`): What the container calls the stream of pictures.
    """
    if "mpegts" in kinds:
        return _payload_starts(np.memmap(path, np.uint8, "r"), stream_id)
    if "mjpeg" in kinds:
        return path.read_bytes().count(b"\xff\xd9\xff\xd8") + 1
    if "gif" in kinds:
        try:
            return sum(1 for _ in image_blocks(path.read_bytes()))
        except (IndexError, Broken):
            return 0  # damaged anyway
    return 0


def _payload_starts(content: np.ndarray, stream_id: int) -> int:
    """Packets of an elementary stream with the start of a payload, in packets of 188, 192 or 204 bytes."""
    for length in (188, 192, 204):
        for start in range(min(length, len(content))):
            packets = content[start : start + (len(content) - start) // length * length].reshape(-1, length)
            if len(packets) and (packets[:PROBED, 0] == 0x47).mean() > 0.9:
                identity = (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]
                return int(((identity == stream_id) & (packets[:, 1] & 0xC0 == 0x40)).sum())
    return 0


__all__ = ["frame_starts"]
