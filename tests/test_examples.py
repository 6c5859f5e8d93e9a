"""The tutorials of scripts/examples, as a reader runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel, open_video
from fgvc_hf.io.masks import write_mask


ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "scripts" / "examples"


def run(name, *arguments, **variables):
    program = [sys.executable] if name.endswith(".py") else ["bash"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": path} | variables
    command = [*program, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_track_points(videos, tmp_path):
    printed = run("track_points.py", videos / "0.mp4", tmp_path / "overlay.mp4")
    assert len(re.findall(r"^point \d: seen on \d of 8 frames, off by about \d+\.\d px$", printed, re.MULTILINE)) == 10
    assert open_video(tmp_path / "overlay.mp4").num_frames == 8


@pytest.mark.slow
def test_propagate_mask(videos, tmp_path):
    ids = np.zeros((64, 96), np.uint8)
    ids[20:44, 30:60] = 2
    write_mask(tmp_path / "mask.png", ids)
    printed = run("propagate_mask.py", videos / "0.mp4", tmp_path / "mask.png", tmp_path / "overlay.mp4")
    assert "frame 0: share of the frame by object {2: '11.7%'}" in printed and "frame 7" in printed
    assert open_video(tmp_path / "overlay.mp4").num_frames == 8


@pytest.mark.slow
def test_live_camera(videos):
    lines = run("live_camera.py", videos / "0.mp4").splitlines()
    targets = [re.findall(r"(\d): \[", line.partition(": ")[2]) for line in lines]
    assert targets == [["1", "2"]] * 4 + [["1", "2", "3"]] * 3 + [["2", "3"]]
    assert lines[0] == "frame 0: {1: [32.0, 32.0], 2: [64.0, 32.0]}"


@pytest.mark.slow
def test_finetune(videos, tmp_path):
    assert run("finetune.py", videos, tmp_path / "mine", 1).strip() == f"{tmp_path / 'mine'}/last"
    assert FgvcModel.from_pretrained(tmp_path / "mine" / "last").config.hidden_size == 256


@pytest.mark.slow
def test_evaluate_your_encoder():
    plain, bundled = re.findall(r"delta_avg (\d+\.\d)", run("evaluate_your_encoder.py", 1))
    assert 0 < float(plain) < float(bundled) <= 100


@pytest.mark.slow
def test_train_on_several_gpus(videos, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("tries the command out where there is no GPU")
    torch.manual_seed(0)
    FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1])).save_pretrained(tmp_path / "teacher")
    small = [
        part
        for change in ("crop=32", "radius=4", "steps=1", "batch_size=2", "textures=4")
        for part in ("--set", change)
    ]
    run("train_on_several_gpus.sh", videos, tmp_path / "run", tmp_path / "teacher", *small, PROCESSES="2")
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1  # one process writes


def test_every_example_is_tried_and_named_in_readme():
    source, readme = Path(__file__).read_text(encoding="utf-8"), (ROOT / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh"):
            assert f'"{path.name}"' in source and f"scripts/examples/{path.name}" in readme, path
