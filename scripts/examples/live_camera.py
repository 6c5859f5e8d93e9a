"""Track points in frames as they come: from a camera, a stream, or a file in place of a camera.

    python scripts/examples/live_camera.py clip.mp4           a file
    python scripts/examples/live_camera.py /dev/video0        a camera, on Linux

Each frame is passed to `step` once, which returns where the targets are on it. Targets are added and removed between frames. Memory
and time per frame stay the same however long this runs.
"""

import sys
from collections.abc import Iterator

import av
import numpy as np

from fgvc_hf import Tracker


def camera(source: str) -> Iterator[np.ndarray]:
    """RGB frames of anything that FFmpeg reads."""
    with av.open(source, format="v4l2" if source.startswith("/dev/") else None) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main(source: str) -> None:
    live = Tracker.from_pretrained(preset="fast").stream()
    for t, frame in enumerate(camera(source)):
        height, width = frame.shape[:2]
        if t == 0:  # before the first frame: two points on it, by ids of your own
            live.add_points({1: (width / 3, height / 2), 2: (2 * width / 3, height / 2)})
        result = live.step(frame)
        where = {i: xy.round(1).tolist() for i, xy in zip(result.ids, result.points, strict=True)}
        print(f"frame {t}: {where}", flush=True)
        if t == 3:  # someone clicks: another point, on the frame that was seen last
            live.add_points({3: (width / 2, height / 3)})
        if t == 6:  # the first point is not needed any more
            live.remove(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
