"""Follow points through a video, and look at the result.

    python scripts/examples/track_points.py clip.mp4 overlay.mp4

A point is (t, x, y): the frame that it is given on, and its position there in pixels of the video. `track` returns arrays over all
frames: where each point is, whether it can be seen, how sure that is, and by how many pixels it may be off.
"""

import sys

from fgvc_hf import VideoWriter, draw_tracks, load, open_video


def main(source: str, target: str) -> None:
    video = open_video(source)  # a file, or a folder of images; frames are read when they are needed
    model, processor = load(preset="balanced")  # "fast" looks at fewer pixels, "accurate" at more

    # Nine points on the first frame, and one on a later frame that is followed backward as well
    points = [(0, x * video.width / 4, y * video.height / 4) for x in (1, 2, 3) for y in (1, 2, 3)]
    points.append((video.num_frames - 1, video.width / 2, video.height / 2))
    tracks = model.track(video, points, direction="both", processor=processor, show_progress_bar=True)

    for point in range(len(points)):
        seen, known = tracks.visible[point], tracks.uncertainty[point]
        print(f"point {point}: seen on {seen.sum()} of {len(seen)} frames, off by about {known[seen].mean():.1f} px")

    with VideoWriter(target, video.fps or 24, video.height, video.width) as writer:
        for t, frame in enumerate(video.frames()):
            writer.write(draw_tracks(frame, tracks.tracks, tracks.visible, t), time=video.time(t))
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
