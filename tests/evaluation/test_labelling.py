"""Rates of labels, with passes whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from fgvc_hf.evaluation import labelling
from fgvc_hf.evaluation.labelling import label_rates, mean_of_videos, search_from, wrong_labels
from fgvc_hf.evaluation.tapvid import TapVidVideo
from fgvc_hf.tracking.blending import gaps
from fgvc_hf.tracking.results import LabelDisagreement, PointTracks


SIZE, LENGTH = (256, 256), 17


@pytest.fixture
def video():
    """Three points that go right by 2 pixels a frame; the last one is hidden from frame 8 on."""
    points = np.array([(30, 40), (60, 200), (90, 120)], np.float32)[:, None] + [(2.0 * t, 0.0) for t in range(LENGTH)]
    occluded = np.zeros((3, LENGTH), bool)
    occluded[2, 8:] = True
    return TapVidVideo("a", (), points.astype(np.float32), occluded, SIZE)


def tracks_of(video, offset, disagreements=()):
    number = len(video.points)
    values = [np.ones((number, LENGTH), np.float32) for _ in range(2)]
    hidden = np.zeros((number, LENGTH), bool)
    tracks = video.points + np.float32(offset)
    return PointTracks(
        list(range(number)), np.zeros((number, 3)), tracks, ~hidden, *values, hidden, SIZE, None, list(disagreements)
    )


def test_errors_between_labels_count_by_the_thresholds(video, monkeypatch):
    monkeypatch.setattr(labelling, "_passes", lambda *_: (tracks_of(video, (3, 0)), tracks_of(video, (0, 1.5))))
    rates = label_rates(None, video, 8)
    assert (rates.forward, rates.blended) == pytest.approx((3 / 5, 4 / 5))  # of 1, 2, 4, 8 and 16 pixels


def test_moved_labels_are_told_from_right_ones(video, monkeypatch):
    seen = []

    def reported(_tracker, video, labels):
        truth = video.points[[labels.object_ids[row] for row in labels.rows], labels.positions[:, 0].astype(int)]
        off = np.linalg.norm(labels.positions[:, 1:] - truth, axis=1)
        seen.append(off)
        found = [
            LabelDisagreement(labels.object_ids[gap.row], gap.first, gap.last, 99.0, 99.0)
            for gap in gaps(labels)
            if max(off[gap.earlier], off[gap.later]) > 1
        ]
        return tracks_of(video, 0), tracks_of(video, 0, found)

    monkeypatch.setattr(labelling, "_passes", reported)
    counts = wrong_labels(None, video, 8)
    right, moved = seen
    assert right.max() < 1 and (moved > 0).sum() == 2 and moved[moved > 0].min() > 0.2 * 256
    assert counts.right == 4 and counts.accused == 0 and counts.wrong == counts.told in (2, 3, 4)


def test_a_video_without_a_label_has_no_rates(video):
    """Nothing is tracked, for there is nothing to track, and the videos after it are."""
    hidden = replace(video, occluded=video.occluded | True)
    assert np.isnan(list(vars(label_rates(None, hidden, 8)).values())).all()
    assert vars(wrong_labels(None, hidden, 8)) == {"wrong": 0, "told": 0, "right": 0, "accused": 0}
    for of, start, shape in ((hidden, 4, (0, 13)), (video, LENGTH, (3, 0))):
        found = search_from(None, of, start)
        assert {part.shape for part in vars(found).values()} == {shape}
        assert np.isnan(mean_of_videos([found], "sought"))
