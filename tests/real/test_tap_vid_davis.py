"""Accuracy on real video with human ground truth; skipped where the data is absent."""

from pathlib import Path

import pytest

from fgvc_hf import Tracker, open_video
from fgvc_hf.evaluation.tapvid import load_tapvid_npz, track_queries
from fgvc_hf.metrics.average_jaccard import aggregate


DATA = Path(__file__).parents[3] / "shared" / "data"
SEQUENCES = ("blackswan", "goat")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no real data at {DATA}")]


@pytest.fixture(scope="module")
def videos():
    return list(
        load_tapvid_npz(DATA / "tapvid_davis_32" / "dev.npz", DATA / "davis" / "JPEGImages" / "480p", SEQUENCES)
    )


def test_all_annotations_fit_the_frames():
    videos = load_tapvid_npz(DATA / "tapvid_davis_32" / "dev.npz", DATA / "davis" / "JPEGImages" / "480p")
    assert len({video.name for video in videos}) == 12


def test_two_easy_sequences_are_tracked(videos):
    tracker = Tracker.from_pretrained()  # in bfloat16 only where the processor multiplies it fast
    scores = aggregate({video.name: track_queries(tracker, video)[1] for video in videos})["tapvid"]
    assert scores["delta_avg"] > 0.85
    assert scores["OA"] > 0.95


def test_a_real_clip_is_decoded():
    video = open_video(DATA / "videos" / "clips" / "sam2_dog.mp4")
    frames = list(video.frames())
    assert len(frames) == video.num_frames and frames[0].shape == (video.height, video.width, 3)
    backwards = list(video.frames(reverse=True))
    assert all((a == b).all() for a, b in zip(frames, backwards[::-1], strict=True))
