"""Flow of a real pair of MPI-Sintel; skipped where the data is absent."""

from pathlib import Path

import pytest

from fgvc_hf import Tracker
from fgvc_hf.evaluation.flow_baselines import FlowBaseline
from fgvc_hf.evaluation.flow_layouts import load_flow
from fgvc_hf.evaluation.flow_pairs import measure_flow
from fgvc_hf.metrics.end_point_error import aggregate_flow


DATA = Path(__file__).parents[3] / "shared" / "data" / "flow" / "sintel_alley_1"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no pair of MPI-Sintel at {DATA}")


def scores(tracker):
    (pair,) = load_flow(DATA)
    return aggregate_flow({pair.name: measure_flow(tracker, pair)[1]})["pixels"]


@pytest.mark.parametrize(("name", "error"), [("dis", 0.298), ("farneback", 0.87), ("zero", 2.80)])
def test_known_errors_of_baselines(name, error):
    assert scores(FlowBaseline(name))["EPE"] == pytest.approx(error, abs=0.005)


@pytest.mark.slow
def test_the_tracker_is_better_than_any_baseline():
    assert scores(Tracker.from_pretrained())["EPE"] < 0.26
