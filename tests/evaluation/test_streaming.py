"""A benchmark decodes a video when it is measured, and keeps none."""

import io
import pickle
import weakref

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from fgvc_hf.evaluation.baselines import ChainedTracker
from fgvc_hf.evaluation.run import Task, evaluate


class StillTracker(ChainedTracker):
    """Leaves every point where it is, and looks after the frames it is given."""

    def __init__(self):
        self.size, self.seen = None, []

    def track(self, video, points, direction="forward"):
        assert not [one for one in self.seen if one() is not None], "the frames of a video before are still held"
        self.seen.append(weakref.ref(video))
        return super().track(video, points, direction=direction)

    def step(self, frame, following, points):
        return points, np.ones(len(points), bool)


@pytest.fixture
def kinetics(tmp_path):
    """Two files of three videos of JPEG frames each."""
    folder = tmp_path / "data" / "tapvid_kinetics"
    folder.mkdir(parents=True)
    for number in range(2):
        videos = []
        for level in (40, 120, 200):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 48), (level, 0, 0)).save(buffer, "JPEG")
            points = np.full((2, 4, 2), 0.5, np.float32)
            videos.append({"video": [buffer.getvalue()] * 4, "points": points, "occluded": np.zeros((2, 4), bool)})
        (folder / f"{number:04d}_of_0002.pkl").write_bytes(pickle.dumps(videos))
    return tmp_path / "data"


def test_videos_are_decoded_one_at_a_time(kinetics, tmp_path, monkeypatch):
    decoded, load = [], JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda image: (decoded.append(1), load(image))[1])
    task = Task("tapvid", kinetics, "kinetics")
    assert len(task.names()) == 6 and not decoded
    reports, tracker = [], StillTracker()
    result = evaluate(
        tracker, task, tmp_path / "result.json", {}, report=lambda line: reports.append(len(tracker.seen))
    )
    assert list(result["videos"]) == task.names() and len(tracker.seen) == 6
    assert reports[:6] == [1, 2, 3, 4, 5, 6]  # each is reported before the next one is decoded


def test_chosen_videos_and_their_order(kinetics, tmp_path):
    names = [Task("tapvid", kinetics, "kinetics").names()[n] for n in (4, 1)]
    task = Task("tapvid", kinetics, "kinetics", sequences=names)
    result = evaluate(StillTracker(), task, tmp_path / "result.json", {}, report=lambda line: None)
    assert list(result["videos"]) == names
    with pytest.raises(ValueError, match="there is no sequence 'none'"):
        Task("tapvid", kinetics, "kinetics", sequences=["none"]).names()
