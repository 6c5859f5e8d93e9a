"""What goes wrong with one clip becomes a row; what goes wrong with the machine ends the run."""

import weakref

import numpy as np

from fgvc_hf import Tracker, open_video, track_rows
from fgvc_hf.data.dataset_tracking import clip_tracking


def test_a_clip_over_its_time_becomes_a_row(run, clips, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(clip_tracking.time, "monotonic", lambda: next(seconds))
    rows = run(clips, time_limit=2.5)
    assert rows["a.mp4"]["error"] == "time: the clip was not finished within 2.5 seconds."
    assert "video:" in rows["cut.mp4"]["error"]


def test_a_fault_of_the_tracker_becomes_a_row(run, clips, monkeypatch):
    def track(self, video, points):
        raise RuntimeError("out of\nmemory") if video.num_frames == 1 else ValueError("points: no")

    monkeypatch.setattr(Tracker, "track", track)
    rows = run(clips)
    assert (
        rows["one.mp4"]["error"] == "tracker: RuntimeError: out of memory"
        and rows["a.mp4"]["error"] == "points: points: no"
    )


def test_frames_are_not_held(checkpoint, clips):
    """Each frame is freed before the one after the next is decoded."""
    video, alive, most = open_video(clips / "a.mp4"), 0, 0

    class Counted(np.ndarray):
        pass

    class Frames(type(video)):
        def frames(self, *arguments):
            nonlocal alive, most

            def gone(_):
                nonlocal alive
                alive -= 1

            for frame in super().frames(*arguments):
                frame = frame.view(Counted)
                alive += 1
                most = max(most, alive)
                held.append(weakref.ref(frame, gone))
                yield frame

    held = []
    video.__class__ = Frames
    (row,) = track_rows([{"video": video, "points": "grid:2"}], Tracker.from_pretrained(checkpoint))
    assert row["error"] is None and len(held) == 4 and most <= 2
