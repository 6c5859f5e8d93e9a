"""The benchmark of flow as a command: baselines, a checkpoint, rendered pairs, pictures and bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, open_video, render_clip
from fgvc_hf.cli.main import main
from fgvc_hf.evaluation.flow_baselines import FLOW_BASELINES, FlowBaseline
from fgvc_hf.evaluation.flow_layouts import describe_flow, load_flow
from fgvc_hf.evaluation.rendered_pairs import REACH, render_sample
from fgvc_hf.hub.measured_results import measured_results
from fgvc_hf.hub.model_card import results_table
from fgvc_hf.io.flow_files import save_flow


H, W = 64, 80
MOTION = np.float32([3, 2])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two pairs of a folder: a picture that moves by (3, 2) pixels, and one that stands still. The flow of the first row is not known."""
    root = tmp_path_factory.mktemp("flow") / "moved"
    root.mkdir()
    for number, motion in ((1, MOTION), (3, 0 * MOTION)):
        picture = render_clip(num_frames=1, height=H + 8, width=W + 8, num_points=1, seed=number).frames[0]
        for t in range(2):
            x, y = (6 - t * motion).astype(int)
            Image.fromarray(picture[y : y + H, x : x + W]).save(root / f"frame_{number + t:04d}.png")
        flow = np.broadcast_to(motion, (H, W, 2)).copy()
        flow[0] = np.nan
        save_flow(flow, np.zeros((H, W), bool), root / f"frame_{number:04d}.flo")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], depths=[1, 1, 1], search_radius=0.1)).save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    return folder


def run(*words):
    return main(["evaluate", "flow", *map(str, words)])


@pytest.mark.parametrize("name", FLOW_BASELINES)
def test_baselines_by_the_command(data, tmp_path, capsys, name):
    output = tmp_path / "r.json"
    assert run("--data", data, "--baseline", name, "--output", output) == 0
    result = json.loads(output.read_text())
    assert list(result["videos"]) == ["frame_0001", "frame_0003"]
    assert result["settings"]["dataset"] == "folder moved" and result["settings"]["split"] == "all"
    assert (result["settings"]["baseline"], result["settings"]["size"]) == (name, None)
    moved, still = (video["metrics"]["pairs"]["EPE"] for video in result["videos"].values())
    assert result["videos"]["frame_0001"]["counts"]["pixels"][:4] == [(H - 1) * W, (H - 1) * W, 0, 0]
    if name == "zero":
        assert (moved, still) == (pytest.approx(np.hypot(3, 2)), 0)
        assert result["metrics"]["pixels"]["EPE"] == pytest.approx(np.hypot(3, 2) / 2)
        assert result["metrics"]["pixels"]["Fl"] == result["metrics"]["pixels"]["1px"] == 0.5
    else:
        assert moved < 1.2 and still < 0.1
    printed = capsys.readouterr().out
    assert "mean, pixels" in printed and "mean, pairs" in printed
    if name == "zero":
        row = next(line.split() for line in printed.splitlines() if line.startswith("mean, pairs"))
        assert row[2:5] == ["1.80", "50.0", "50.0"]  # EPE in pixels, rates in per cent


def test_a_checkpoint_by_the_command_and_in_a_card(data, checkpoint, tmp_path):
    output = tmp_path / "r.json"
    assert run("--data", data, "--checkpoint", checkpoint, "--output", output) == 0
    result = json.loads(output.read_text())
    error = result["metrics"]["pixels"]["EPE"]
    assert np.isfinite(error) and np.isnan(result["metrics"]["pixels"]["EPE_occ"])
    entries = measured_results([output], FgvcModel.from_pretrained(checkpoint))
    stated = {(entry.metric_args["average"], entry.metric_name): entry for entry in entries}
    assert stated["pixels", "EPE"].metric_value == round(error, 2)  # pixels
    assert stated["pixels", "1px"].metric_value == round(100 * result["metrics"]["pixels"]["1px"], 2)
    first = stated["pixels", "EPE"]
    assert (first.task_type, first.dataset_name) == ("optical-flow", "folder moved all (2 pairs)")
    assert "In per cent, by `fgvc-hf evaluate`. EPE, EPE_noc" in results_table(entries)


def test_overlays_show_the_best_and_the_worst(data, tmp_path):
    visuals = tmp_path / "visuals"
    assert run("--data", data, "--baseline", "zero", "--output", tmp_path / "r.json", "--save-visuals", visuals) == 0
    assert sorted(path.name for path in visuals.iterdir()) == ["worst-1-frame_0001.mp4", "worst-2-frame_0003.mp4"]
    video = open_video(visuals / "worst-1-frame_0001.mp4")
    assert video.num_frames == 2 and video.width > 3 * W and video.height > H


@pytest.mark.slow
def test_rendered_pairs_by_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", "rendered", "--sequences", "small-00", "--baseline", "zero", "--output", "r.json"]
    assert run(*words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["settings"]["dataset"], result["settings"]["split"]) == ("rendered pairs", "small")
    counts = result["videos"]["small-00"]["counts"]
    assert counts["pixels"][0] == 256**2 == counts["pixels"][4] + counts["pixels"][5]


def test_rendered_pairs_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe_flow("rendered", "large")["split"] == "large" and len(load_flow("rendered", "large")) == 24
    with pytest.raises(OSError, match="rendered pairs has no split 'huge'; there are small, large"):
        load_flow("rendered", "huge")
    (tmp_path / "rendered").mkdir()
    with pytest.raises(OSError, match="rendered: has no layout that is known"):
        load_flow("rendered")


@pytest.mark.slow
@pytest.mark.parametrize("split", REACH)
def test_rendered_truth_moves_pixels_to_their_places(split):
    """The second frame, sampled at the ends of the flow, shows the first wherever it is not occluded."""
    sample = render_sample(split, 1)
    again = render_sample(split, 1)
    np.testing.assert_array_equal(sample.flow, again.flow)
    np.testing.assert_array_equal(sample.frames[1], again.frames[1])
    y, x = np.mgrid[:256, :256]
    ends = np.floor(np.stack([x, y], axis=-1) + 0.5 + sample.flow).astype(int)
    inside = ((ends >= 0) & (ends < 256)).all(axis=-1)
    assert sample.occluded[~inside].all() and sample.valid.all()
    seen = ~sample.occluded
    there = sample.frames[1][ends[seen][:, 1], ends[seen][:, 0]].astype(float)
    difference = np.abs(there - sample.frames[0][seen]).mean()
    assert difference < np.abs(sample.frames[1].astype(float) - sample.frames[0])[seen].mean() / 2


@pytest.mark.parametrize(
    ("benchmark", "baseline", "message"),
    [
        ("flow", "lucas-kanade", "--baseline of flow must be one of dis, farneback, zero, got lucas-kanade"),
        ("flow", "stand-still", "--baseline of flow must be one of dis, farneback, zero, got stand-still"),
        ("tapvid", "farneback", "--baseline of tapvid must be one of stand-still, lucas-kanade, dis, got farneback"),
        ("badja", "zero", "--baseline of badja must be one of stand-still, lucas-kanade, dis, got zero"),
        ("vip", "dis", "--baseline tracks points or finds flow; vip measures masks"),
        ("boxes", "zero", "--baseline tracks points or finds flow; boxes measures boxes"),
    ],
)
def test_a_benchmark_has_its_own_baselines(data, tmp_path, capsys, benchmark, baseline, message):
    words = ["evaluate", benchmark, "--data", str(data), "--output", str(tmp_path / "r.json"), "--baseline", baseline]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "empty"], "empty: has no layout that is known; accepted are MPI-Sintel"),
        (["--data", "nowhere"], "nowhere: is no folder; accepted are MPI-Sintel"),
        (["--data", "rendered", "--split", "huge"], "rendered pairs has no split 'huge'; there are small, large"),
        (["--data", "rendered", "--sequences", "cow"], "there is no sequence 'cow'; there are small-00"),
        (["--data", "rendered", "--query-mode", "strided"], "query_mode must be 'first', or 'strided' for tapvid"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run(*words, "--baseline", "zero", "--output", "r.json") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_unknown_baselines():
    with pytest.raises(ValueError, match="baseline must be one of dis, farneback, zero, got 'raft'"):
        FlowBaseline("raft")


@pytest.mark.parametrize("name", ["dis", "farneback", "zero"])
def test_a_baseline_refuses_frames_that_are_no_pair(name):
    frame = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="must have one size"):
        FlowBaseline(name).flow(frame, frame[:, :30])
    assert FlowBaseline(name).flow(frame[..., 0], frame[..., 0]).flow.shape == (40, 40, 2)  # grey


def test_frames_that_are_too_small_for_a_baseline_are_said():
    frame = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="the baseline dis finds no flow on frames of 8x9, which are too small"):
        FlowBaseline("dis").flow(frame, frame)
