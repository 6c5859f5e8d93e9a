"""Propagate the masks of objects through a video.

    python scripts/examples/propagate_mask.py clip.mp4 mask.png overlay.mp4

The mask is an image of the size of the video whose values are object ids, 0 for the background. The mask of one frame, here the first,
is enough. Frames are processed one by one, so memory does not grow with the length of the video.
"""

import sys

import numpy as np

from fgvc_hf import Tracker, VideoWriter, draw_masks, open_video, read_mask
from fgvc_hf.io.files import check_outputs


def main(source: str, mask: str, target: str) -> None:
    check_outputs([target], [source, mask])
    video, ids = open_video(source), read_mask(mask)
    # Several times faster than the default checkpoint, whose masks are a little better; docs/numbers.md says by how much
    tracker = Tracker.from_pretrained("fgvc-coarse")
    with VideoWriter(target, video.fps or 24, video.height, video.width) as writer:
        found = tracker.propagate_masks(video, ids, progress=True)
        for frame, (t, masks) in zip(video.frames(), found, strict=True):
            writer.write(draw_masks(frame, masks), time=video.time(t))
            shares = {int(i): f"{(masks == i).mean():.1%}" for i in np.unique(masks) if i}
            print(f"frame {t}: share of the frame by object {shares}")
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
