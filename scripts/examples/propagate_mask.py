"""Carry the masks of objects through a video.

    python scripts/examples/propagate_mask.py clip.mp4 mask.png overlay.mp4

The mask is an image of the size of the video whose values are the ids of objects, 0 for the background: one of the first frame is
enough. Frames come out one by one, so a long video needs no more memory than a short one.
"""

import sys

import numpy as np

from fgvc_hf import VideoWriter, draw_masks, load, open_video, read_mask


def main(source: str, mask: str, target: str) -> None:
    video, ids = open_video(source), read_mask(mask)
    # Masks are label maps. At stride 4 they take less than half of the time that they take at stride 2; docs/numbers.md has what it costs
    model, processor = load(output_stride=4, propagation_radius=10)
    with VideoWriter(target, video.fps or 24, video.height, video.width) as writer:
        found = model.propagate_masks(video, ids, processor=processor, show_progress_bar=True)
        for frame, (t, masks) in zip(video.frames(), found, strict=True):
            writer.write(draw_masks(frame, masks), time=video.time(t))
            shares = {int(i): f"{(masks == i).mean():.1%}" for i in np.unique(masks) if i}
            print(f"frame {t}: share of the frame by object {shares}")
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
