"""The metrics of `evaluate` load from their folders, offline, and say what the plain functions say."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

import fgvc_hf
from fgvc_hf.metrics.average_jaccard import aggregate, count_tapvid
from fgvc_hf.metrics.end_point_error import aggregate_flow, count_flow
from fgvc_hf.metrics.region_contour import aggregate as aggregate_davis
from fgvc_hf.metrics.region_contour import count_davis


MODULES = Path(fgvc_hf.__file__).parent / "metrics" / "evaluate_modules"
pytestmark = pytest.mark.usefixtures("evaluate_cache")


def load(name):
    return evaluate.load(str(MODULES / name), module_type="metric")


def test_tap_vid():
    draw = np.random.default_rng(0)
    truth = {
        "query_frames": [0, 1, 0],
        "points": draw.uniform(0, 256, (3, 8, 2)),
        "occluded": draw.random((3, 8)) < 0.3,
    }
    found = {"tracks": truth["points"] + draw.normal(0, 4, (3, 8, 2)), "visible": draw.random((3, 8)) < 0.7}
    as_lists = [{key: np.asarray(value).tolist() for key, value in rows.items()} for rows in (found, truth)]
    scores = load("tap_vid").compute(predictions=[as_lists[0]], references=[as_lists[1]])
    expected = aggregate({"a": count_tapvid(*truth.values(), *found.values())})
    assert scores["tapvid/AJ"] == pytest.approx(expected["tapvid"]["AJ"], abs=1e-9)
    assert scores["track/delta_avg"] == pytest.approx(expected["track"]["delta_avg"], abs=1e-9)


def test_davis():
    truth = np.zeros((5, 20, 24), np.uint8)
    truth[:, 4:12, 5:15] = 1
    found = np.roll(truth, 2, axis=2)
    scores = load("davis_jf").compute(predictions=[found.tolist()], references=[truth.tolist()])
    assert scores["J&F"] == pytest.approx(aggregate_davis({"a": count_davis(found, truth)})["J&F"], abs=1e-9)


def test_badja_in_batches():
    metric = load("badja_pck")
    points = np.full((3, 2, 2), 50.0)
    reference = {"points": points.tolist(), "visible": [[True, True]] * 3, "areas": [400.0] * 3}
    metric.add_batch(predictions=[points.tolist()], references=[reference])
    metric.add_batch(predictions=[(points + [5.0, 0]).tolist()], references=[reference])
    scores = metric.compute()
    assert scores["pips/PCK@0.2"] == 0.5 and scores["fgvc/PCK@0.3"] == 1


@pytest.mark.parametrize("known", [True, False])
def test_optical_flow(known):
    draw = np.random.default_rng(0)
    truth = draw.normal(0, 20, (12, 16, 2)).astype(np.float32)
    flow = truth + draw.normal(0, 2, truth.shape).astype(np.float32)
    valid, occluded, predicted = (draw.random((3, 12, 16)) < [[[0.8]], [[0.3]], [[0.3]]]).astype(bool)
    reference = {"flow": truth.tolist(), "valid": valid.tolist(), "occluded": occluded.tolist() if known else None}
    prediction = {"flow": flow.tolist(), "occluded": predicted.tolist()}
    scores = load("optical_flow").compute(predictions=[prediction], references=[reference])
    counts = count_flow(flow, truth, valid, predicted, occluded if known else None)
    expected = {
        f"{kind}/{name}": value for kind, row in aggregate_flow({"a": counts}).items() for name, value in row.items()
    }
    assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)
