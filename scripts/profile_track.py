"""Profile of `fgvc-hf track`: from the start to the first result, and per frame in steady state.

    python scripts/profile_track.py                                  a rendered clip of 256x256, 32 points
    python scripts/profile_track.py clip.mp4 --preset balanced --points 500 --output profile.json
    python scripts/profile_track.py --checkpoint fgvc-coarse --preset accurate --size 480 854

The time of a stage excludes the stages that it calls.
"""

import time


started = time.perf_counter()

from fgvc_hf.kernels.process import clean_end, keep_freed_memory, rest_soon


rest_soon()  # before torch is loaded, as the command line does

import argparse
import json
import tempfile
from collections import defaultdict
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgvc_hf import FgvcModel, Tracker, VideoWriter, open_video, render_clip
from fgvc_hf.io import overlays
from fgvc_hf.io.checkpoints import PRESETS
from fgvc_hf.io.files import check_outputs
from fgvc_hf.tracking.session import FgvcInferenceSession


imported = time.perf_counter()

STAGES = ("decode", "preprocess", "encode", "match", "read-out", "write", "other")


class Stopwatch:
    """Seconds of each stage; a stage stops the clock of the one that called it."""

    def __init__(self):
        self.seconds, self.running = defaultdict(float), ["other"]
        self.since = time.perf_counter()

    def switch(self) -> None:
        """Book the time since the last switch to the stage that runs."""
        now = time.perf_counter()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def start(self) -> None:
        """Reset all times."""
        self.switch()
        self.seconds.clear()

    def timed(self, function, stage: str):
        """The function, with its calls timed as a stage."""

        @wraps(function)
        def call(*args, **kwargs):
            self.switch()
            self.running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.running.pop()

        return call

    def watch(self, owner, stage: str, *names: str) -> None:
        """Time functions of a module, or methods of a class, as a stage."""
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name), stage))


class WatchedFrames:
    """A frame source whose frames are timed as decoding."""

    def __init__(self, video, watch: Stopwatch):
        self.video, self.watch = video, watch

    def __getattr__(self, name: str):
        return getattr(self.video, name)

    def frames(self, *args, **kwargs):
        iterator = self.video.frames(*args, **kwargs)
        decode = self.watch.timed(lambda: next(iterator, None), "decode")
        while (frame := decode()) is not None:
            yield frame


@clean_end()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", type=Path, help="a video file; default: a rendered clip")
    parser.add_argument("--points", type=int, default=32, help="points, spread over the first frame")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help="of the rendered clip"
    )
    parser.add_argument("--frames", type=int, default=24, help="of the rendered clip")
    parser.add_argument("--checkpoint", help="default: the package's")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="fast")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    try:
        check_outputs([arguments.output], [arguments.video, arguments.checkpoint])
    except ValueError as error:
        parser.error(str(error))
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        results = profile(arguments.video or rendered(arguments, Path(folder)), arguments, Path(folder))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


def rendered(arguments: argparse.Namespace, folder: Path) -> Path:
    """A video file of a rendered clip."""
    height, width = arguments.size
    clip = render_clip(num_frames=arguments.frames, height=height, width=width, num_points=1)
    with VideoWriter(folder / "clip.mp4", 24, height, width) as writer:
        for frame in clip.frames:
            writer.write(frame)
    return folder / "clip.mp4"


def profile(path: Path, arguments: argparse.Namespace, folder: Path) -> dict:
    """Track points in a file and draw them, as the command line does: once for the first results, and again in steady state."""
    begin = time.perf_counter()
    tracker = Tracker.from_pretrained(arguments.checkpoint, arguments.preset)
    loaded = time.perf_counter()
    watch = Stopwatch()
    video: Any = WatchedFrames(open_video(path), watch)
    points = np.random.default_rng(0).random((arguments.points, 2)) * (video.width, video.height)

    def prompted() -> FgvcInferenceSession:
        session = tracker.processor.init_video_session(video)
        tracker.processor.add_inputs_to_inference_session(session, 0, range(len(points)), points)
        return session

    frames = islice(tracker.model.propagate_in_video_iterator(prompted()), 2)
    first, second = (time.perf_counter() for _ in frames)
    watch_stages(watch)
    watch.start()
    session = prompted()
    outputs = list(tracker.model.propagate_in_video_iterator(session))
    tracks = tracker.processor.post_process_point_tracking(outputs, session)
    overlays.write_overlay(video, overlays.drawn_tracks({"": tracks}), folder / "overlay.mp4")
    watch.switch()
    start = {"import": imported - started, "load": loaded - begin, "first frame": first - loaded}
    start |= {"to the first result": sum(start.values()), "second frame": second - first}
    stages = {stage: 1000 * watch.seconds[stage] / len(outputs) for stage in STAGES}
    size = f"{video.height}x{video.width}, {len(outputs)} frames, {len(points)} points"
    print(f"{size}, {tracker.model.dtype}, {torch.get_num_threads()} threads")
    report(start, stages)
    return {"start_s": start, "ms_per_frame": stages, "frames_per_second": 1000 / sum(stages.values())}


def report(start: dict[str, float], stages: dict[str, float]) -> None:
    """Print seconds until the first results, and milliseconds per frame of each stage."""
    total = sum(stages.values())
    for name, seconds in start.items():
        print(f"  {name:22s} {seconds:8.2f} s")
    for stage, milliseconds in stages.items():
        print(f"  {stage:22s} {milliseconds:8.1f} ms per frame  {milliseconds / total:6.1%}")
    print(f"  {'all':22s} {total:8.1f} ms per frame, {1000 / total:.1f} frames/s, overlay included")


def watch_stages(watch: Stopwatch) -> None:
    """Time the stages of a session's step and of the overlay."""
    watch.watch(FgvcInferenceSession, "preprocess", "preprocess")
    watch.watch(FgvcModel, "encode", "normalized_features")
    watch.watch(FgvcInferenceSession, "match", "propagate")
    watch.watch(FgvcInferenceSession, "read-out", "read")
    watch.watch(overlays, "write", "draw_tracks")
    watch.watch(VideoWriter, "write", "write")


if __name__ == "__main__":
    main()
