"""Render a short clip with exact ground truth, track its points, and print the errors.

`scripts/demo.sh` makes an environment if needed and runs this file.
"""

import argparse
from pathlib import Path

import numpy as np

from fgvc_hf import Tracker, VideoWriter, open_video, render_clip, save_tracks
from fgvc_hf.io.overlays import drawn_tracks, write_overlay, write_sheet
from fgvc_hf.kernels.process import clean_end


FPS = 12


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder to write to")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    clip_path, overlay_path = arguments.output / "clip.mp4", arguments.output / "overlay.mp4"

    clip = render_clip(num_frames=arguments.frames, seed=arguments.seed)
    write_video(clip_path, clip.frames)
    print(f"rendered {len(clip.frames)} frames with {len(clip.queries)} known points: {clip_path}")

    result = Tracker.from_pretrained().track(clip_path, clip.queries, progress=True)

    after_query = np.arange(len(clip.frames)) > clip.queries[:, :1]  # (N, T)
    shown, hidden = clip.visible & after_query, ~clip.visible & after_query
    error = np.linalg.norm(result.tracks - clip.tracks, axis=-1)
    inside = [(error[shown] < threshold).mean() for threshold in (1, 2, 4, 8, 16)]
    print(f"error where visible: median {np.median(error[shown]):.2f} px, mean {error[shown].mean():.2f} px")
    print("within 1, 2, 4, 8, 16 px: " + ", ".join(f"{share:.0%}" for share in inside))
    print(
        f"predicted visible: {result.visible[shown].mean():.0%} of visible points, {result.visible[hidden].mean():.0%} of hidden ones"
    )

    save_tracks(result, arguments.output / "tracks.csv")
    video, draw = open_video(clip_path), drawn_tracks({"": result})
    write_overlay(video, draw, overlay_path)
    write_sheet(video, draw, arguments.output / "tracks.png")
    print(f"tracks: {arguments.output / 'tracks.csv'}")
    print(f"overlay: {overlay_path}, six frames of it: {arguments.output / 'tracks.png'}")


def write_video(path: Path, frames) -> None:
    """Frames `(H, W, 3)` as a video file."""
    height, width = frames[0].shape[:2]
    with VideoWriter(path, FPS, height, width) as writer:
        for frame in frames:
            writer.write(frame)


if __name__ == "__main__":
    main()
