"""Follow points in frames as they come: a camera, a stream, or here a file that plays the camera.

    python scripts/examples/live_camera.py clip.mp4           a file
    python scripts/examples/live_camera.py /dev/video0        a camera, on Linux

Each frame is passed to `step` once, and gives where everything is on that very frame. Targets are added, corrected and removed between
frames; nothing is kept of the past but what the targets need, so this may run for days.
"""

import sys
from collections.abc import Iterator

import av
import numpy as np

from fgvc_hf import load


def camera(source: str) -> Iterator[np.ndarray]:
    """RGB frames of anything that FFmpeg reads."""
    with av.open(source, format="v4l2" if source.startswith("/dev/") else None) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main(source: str) -> None:
    model, processor = load(preset="fast")
    session = processor.init_video_session()  # no video: frames come one by one
    for t, frame in enumerate(camera(source)):
        if t == 0:
            height, width = frame.shape[:2]
            points = [(width / 3, height / 2), (2 * width / 3, height / 2)]
            processor.add_inputs_to_inference_session(session, 0, [1, 2], input_points=points)
        output = model.step(session, frame)
        if t == 3:  # someone clicks: another point, on the frame that was seen last
            processor.add_inputs_to_inference_session(session, t, 3, input_points=[(width / 2, height / 3)])
        if t == 6:  # and wants to hear no more of the first
            session.remove(1)
        scale = np.array(session.sizes[0][::-1]) / session.sizes[1][::-1]  # from the model's input to the frame
        where = {
            i: (xy.numpy() * scale).round(1).tolist() for i, xy in zip(output.object_ids, output.tracks, strict=True)
        }
        print(f"frame {t}: {where}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
