"""What an interrupted run is continued with, and two runs of one output."""

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from fgvc_hf.cli.main import main
from fgvc_hf.evaluation import run
from fgvc_hf.evaluation.benchmarks import BENCHMARKS
from fgvc_hf.evaluation.flow_baselines import FlowBaseline
from fgvc_hf.evaluation.flow_layouts import load_flow
from fgvc_hf.evaluation.run import Task, evaluate
from fgvc_hf.io.flow_files import save_flow
from fgvc_hf.io.scratch_folders import locked


@pytest.fixture
def data(tmp_path):
    """Two pairs of a folder."""
    sample = load_flow("rendered", "small")[0].read()
    (tmp_path / "data").mkdir()
    for number, frame in zip((1, 2, 3), (*sample.frames, sample.frames[0]), strict=True):
        Image.fromarray(frame).save(tmp_path / "data" / f"a_{number}.png")
    for number in (1, 2):
        save_flow(sample.flow, ~sample.valid, tmp_path / "data" / f"a_{number}.flo")
    return tmp_path / "data"


def measure(data, output, **options):
    return evaluate(FlowBaseline("zero"), Task("flow", data), output, {"note": 1}, report=lambda line: None, **options)


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """The output of a run that ended before the second pair."""
    original = BENCHMARKS["flow"]

    def measure_one(tracker, pair):
        if pair.name != "a_1":
            raise KeyboardInterrupt
        return original.measure(tracker, pair)

    with monkeypatch.context() as patch:
        patch.setitem(BENCHMARKS, "flow", dataclasses.replace(original, measure=measure_one))
        with pytest.raises(KeyboardInterrupt):
            measure(data, tmp_path / "r.json")
    return tmp_path / "r.json"


def test_a_run_is_not_continued_on_other_data(data, interrupted, tmp_path):
    shutil.copytree(data, tmp_path / "other" / "data")
    with pytest.raises(ValueError, match=r"r.json.parts: the interrupted run had other settings \(data\)"):
        measure(tmp_path / "other" / "data", interrupted, resume=True)
    (tmp_path / "link").symlink_to(data)
    result = measure(tmp_path / "link", interrupted, resume=True)  # the same folder by another name
    assert list(result["videos"]) == ["a_1", "a_2"] and not interrupted.with_name("r.json.parts").exists()
    assert json.loads(interrupted.read_text())["settings"] == result["settings"] and "data" not in result["settings"]


def test_a_run_is_not_continued_by_another_version(data, interrupted, monkeypatch):
    monkeypatch.setattr(run, "version", lambda package: "0.0.1")
    with pytest.raises(ValueError, match=r"the interrupted run had other settings \(versions\)"):
        measure(data, interrupted, resume=True)


def test_a_run_of_a_version_that_did_not_write_its_data_goes_on(data, interrupted):
    file = interrupted.with_name("r.json.parts") / ".settings.json"
    settings = json.loads(file.read_text())
    del settings["data"], settings["versions"]
    file.write_text(json.dumps(settings))
    assert list(measure(data, interrupted, resume=True)["videos"]) == ["a_1", "a_2"]


@pytest.mark.skipif(os.name == "nt", reason="files have no locks on Windows")
def test_the_lock_is_closed_before_its_folder_is_removed(data, tmp_path, monkeypatch):
    """A network file system keeps a file that is open, and the folder with it."""
    remove, free = shutil.rmtree, []

    def removed(folder, *arguments, **options):
        with locked(folder / ".lock", os.O_RDWR):
            free.append(folder.name)
        remove(folder, *arguments, **options)

    monkeypatch.setattr(run.shutil, "rmtree", removed)
    measure(data, tmp_path / "r.json")
    assert free == ["r.json.parts"]


@pytest.mark.skipif(os.name == "nt", reason="files have no locks on Windows")
@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_of_the_same_output_is_refused(data, tmp_path, monkeypatch, resume):
    original, refusals = BENCHMARKS["flow"], []

    def measure_twice(tracker, pair):
        with pytest.raises(ValueError, match="r.json.parts: another run is writing there") as refusal:
            measure(data, tmp_path / "r.json", resume=resume)
        refusals.append(refusal)
        return original.measure(tracker, pair)

    monkeypatch.setitem(BENCHMARKS, "flow", dataclasses.replace(original, measure=measure_twice))
    assert list(measure(data, tmp_path / "r.json")["videos"]) == ["a_1", "a_2"] and len(refusals) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "r.json"]


def test_a_line_is_printed_at_once(data, tmp_path, monkeypatch):
    """Without a buffer, as in processes that `torchrun` starts, the end of a line would be a piece of its own."""
    pieces = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=lambda text: pieces.append(text), flush=lambda: None))
    arguments = ["evaluate", "flow", "--baseline", "zero", "--data", str(data), "--output", str(tmp_path / "r.json")]
    assert main(arguments) == 0
    assert len([piece for piece in pieces if piece]) == 3 and all(piece.endswith("\n") for piece in pieces if piece)
