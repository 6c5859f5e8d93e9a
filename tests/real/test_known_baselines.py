"""Baselines on real video reproduce what is known of them; skipped where the data is absent."""

from pathlib import Path

import pytest

from fgvc_hf.evaluation.baselines import ChainedTracker
from fgvc_hf.evaluation.tapvid import load_tapvid, track_queries
from fgvc_hf.metrics.average_jaccard import aggregate


DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no real data at {DATA}")]


@pytest.mark.parametrize(
    ("name", "size", "delta_avg", "pooled", "jaccard", "accuracy"),
    [
        ("lucas-kanade", (256, 256), 56.9, 55.5, 40.7, 84.3),
        ("lucas-kanade", None, 62.7, 60.6, 47.2, 81.8),
        ("dis", (256, 256), 51.8, 50.7, 36.6, 86.5),
    ],
)
def test_known_scores_on_the_dev_sequences(name, size, delta_avg, pooled, jaccard, accuracy):
    tracker = ChainedTracker(name, size)
    scores = aggregate({video.name: track_queries(tracker, video)[1] for video in load_tapvid(DATA)})
    found = [scores["tapvid"][metric] for metric in ("delta_avg", "AJ", "OA")] + [scores["pooled"]["delta_avg"]]
    assert [100 * value for value in found] == pytest.approx([delta_avg, jaccard, accuracy, pooled], abs=0.3)
