"""Track the points of the demo's examples, and write tracks and thumbnails into the package.

Run it again whenever the bundled checkpoint or the tracker changes: `python scripts/demo_examples.py`
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fgvc_hf.demo.examples import DIRECTION, EXAMPLES, FOLDER, PRESET
from fgvc_hf.demo.work import loaded
from fgvc_hf.io.drawing import draw_tracks
from fgvc_hf.io.video import VideoFile


THUMBNAIL_HEIGHT = 180


def main() -> None:
    tracker = loaded(PRESET)
    FOLDER.mkdir(exist_ok=True)
    for example in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            example.write_clip(path)
            points = [(point.t, point.x, point.y) for point in example.points]
            tracks = tracker.track(path, points, direction=DIRECTION)
            frames = list(VideoFile(path).frames())
        example.save_tracks(tracks)
        t = len(frames) // 4
        scale = THUMBNAIL_HEIGHT / frames[t].shape[0]
        drawn = draw_tracks(frames[t], tracks.tracks, tracks.visible, t, trail=32, scale=scale)
        Image.fromarray(drawn).save(example.thumbnail)
        seen = dict(
            zip([point.name for point in example.points], np.round(tracks.visible.mean(axis=1), 2), strict=True)
        )
        print(f"{example.key}: {len(frames)} frames, seen {seen}")


if __name__ == "__main__":
    main()
