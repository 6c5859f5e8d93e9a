"""Track points through a video, and draw the result.

    python scripts/examples/track_points.py clip.mp4 overlay.mp4

A point is (t, x, y): the frame on which it is given, and its position there in pixels of the video. `track` returns arrays over all
frames: the positions of each point, whether it is visible, the confidence of that, and the expected error in pixels.
"""

import sys

from fgvc_hf import Tracker, VideoWriter, draw_tracks, open_video
from fgvc_hf.io.files import check_outputs


def main(source: str, target: str) -> None:
    check_outputs([target], [source])
    video = open_video(source)  # a file or a folder of images; frames are read when they are needed
    tracker = Tracker.from_pretrained(
        preset="balanced"
    )  # "fast" works at a lower resolution, "accurate" at a higher one

    # Nine points on the first frame, and one on the last frame, which is tracked backward
    points = [(0, x * video.width / 4, y * video.height / 4) for x in (1, 2, 3) for y in (1, 2, 3)]
    points.append((video.num_frames - 1, video.width / 2, video.height / 2))
    tracks = tracker.track(video, points, direction="both", progress=True)

    for point in range(len(points)):
        seen, error = tracks.visible[point], tracks.uncertainty[point]
        print(f"point {point}: seen on {seen.sum()} of {len(seen)} frames, off by about {error[seen].mean():.1f} px")

    with VideoWriter(target, video.fps or 24, video.height, video.width) as writer:
        for t, frame in enumerate(video.frames()):
            drawn = draw_tracks(frame, tracks.tracks, tracks.visible, t, uncertainty=tracks.uncertainty)
            writer.write(drawn, time=video.time(t))
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
