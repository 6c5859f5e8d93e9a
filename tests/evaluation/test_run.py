"""Benchmarks on small trees of the official layouts, whole, resumed, and shared out over processes."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel, FgvcProcessor, Tracker, open_video, render_clip
from fgvc_hf.cli.evaluate import gpu_of_process
from fgvc_hf.cli.main import main
from fgvc_hf.evaluation.badja import JOINTS, follow_joints, load_badja
from fgvc_hf.evaluation.benchmarks import BENCHMARKS
from fgvc_hf.evaluation.davis import load_davis, segment
from fgvc_hf.evaluation.jhmdb import follow_people, load_jhmdb
from fgvc_hf.evaluation.run import Task, evaluate
from fgvc_hf.evaluation.vip import label_parts, load_vip
from fgvc_hf.evaluation.visuals import keep_extremes
from fgvc_hf.io.masks import write_mask
from fgvc_hf.metrics.pck import aggregate_badja
from fgvc_hf.metrics.region_contour import aggregate
from fgvc_hf.tracking.results import PointTracks


H, W, T = 48, 64, 6
NAMES = ("bear", "camel", "dog")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """DAVIS, BADJA and TAP-Vid of three sequences: two bodies that stand still, in front of a moving picture."""
    root = tmp_path_factory.mktemp("data")
    tracks = {}
    for seed, name in enumerate(NAMES):
        clip = render_clip(T, H, W, num_points=5, seed=seed)
        frames, masks = (root / "davis" / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        ids = np.zeros((H, W), np.uint8)
        ids[10:24, 10:30] = 1
        if seed:
            ids[26:40, 34:58] = 2
        for t, frame in enumerate(clip.frames):
            Image.fromarray(frame).save(frames / f"{t:05d}.jpg", quality=95)
            write_mask(masks / f"{t:05d}.png", ids if seed else ids * 255)
        tracks |= {f"{name}/points": clip.tracks, f"{name}/occluded": ~clip.visible, f"{name}/size": np.array([W, H])}
        write_joints(root / "badja" / "joint_annotations" / f"{name}.json", name)
        write_jhmdb(root, name, clip.frames)
        write_vip(root / "VIP_Fine", name, clip.frames, ids)
    splits = root / "davis" / "ImageSets" / "2017"
    splits.mkdir(parents=True)
    (splits / "val.txt").write_text("\n".join(NAMES))
    (splits / "one.txt").write_text("camel\n")
    (root / "splits" / "run_test_split1.txt").write_text("".join(f"{name}.avi 2\n" for name in NAMES) + "cow.avi 1\n")
    (root / "VIP_Fine" / "lists").mkdir()
    (root / "VIP_Fine" / "lists" / "val_videos.txt").write_text("\n".join(NAMES))
    (root / "tapvid_davis_32").mkdir()
    np.savez(root / "tapvid_davis_32" / "dev.npz", **tracks)
    return root


def write_jhmdb(root, name, frames):
    """Fifteen joints that stand still on a grid; pixels are counted from 1."""
    folder, joints = root / "Rename_Images" / "run" / name, root / "joint_positions" / "run" / name
    for path in (folder, joints, root / "splits"):
        path.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t + 1:05d}.png")
    positions = np.stack(np.meshgrid(np.linspace(10, 50, 5), np.linspace(10, 40, 3))).reshape(2, 15, 1)
    savemat(joints / "joint_positions.mat", {"pos_img": np.repeat(positions, T - 1, axis=2)})


def write_vip(root, name, frames, ids):
    """Parts that stand still; class 255 is unknown."""
    folder, labels = root / "Images" / name, root / "Annotations" / "Category_ids" / name
    folder.mkdir(parents=True)
    labels.mkdir(parents=True)
    marked = ids.copy()
    marked[:2] = 255
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:012d}.jpg", quality=95)
        write_mask(labels / f"{t:012d}.png", marked)


def write_joints(path, name):
    """Two joints of the twenty, on frames 1, 3 and 5; the second is hidden in the first of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for t in (1, 3, 5):
        joints, visibility = [[0, 0]] * 37, [False] * 37
        joints[JOINTS[0]], visibility[JOINTS[0]] = [540, 960], True  # (y, x) of 1080x1920: the middle
        joints[JOINTS[1]], visibility[JOINTS[1]] = [270, 480], t > 1
        joint = {"joints": joints, "visibility": visibility}
        rows.append({**joint, "image_path": f"DAVIS/JPEGImages/Full-Resolution/{name}/{t:05d}.jpg"})
    path.write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], depths=[1, 1, 1], propagation_radius=4)).save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(resize_policy="none")).save_pretrained(folder)
    return folder


def run(name, data, checkpoint, output, *extra):
    arguments = ["evaluate", name, "--data", data, "--checkpoint", checkpoint, "--output", output, *extra]
    return main([str(argument) for argument in arguments])


def read(path):
    """A result without its timings."""
    result = json.loads(path.read_text())
    assert set(result.pop("seconds")) == set(result["videos"])
    return result


@pytest.mark.parametrize(
    ("name", "group", "metric"),
    [
        ("tapvid", "tapvid", "AJ"),
        ("davis", "objects", "J&F"),
        ("boxes", "objects", "IoU"),
        ("badja", "fgvc", "PCK@0.2"),
        ("jhmdb", "without_first", "PCK@0.1"),
        ("vip", "pixels", "mIoU"),
    ],
)
def test_a_run_writes_counts_metrics_and_settings(data, checkpoint, tmp_path, capsys, name, group, metric):
    output = tmp_path / "result.json"
    assert run(name, data, checkpoint, output, "--set", "temperature=0.05", "--set", "motion_prior=20") == 0
    result = read(output)
    assert 0 <= result["metrics"][group][metric] <= 1
    assert [video.removeprefix("run-") for video in result["videos"]] == list(NAMES)
    assert all(set(video) == {"counts", "metrics"} for video in result["videos"].values())
    assert result["settings"]["config"]["temperature"] == 0.05 and result["settings"]["benchmark"] == name
    printed = capsys.readouterr().out
    assert metric in printed and f"mean, {group}" in printed and "camel" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_interrupted_run_is_resumed_to_the_same_result(data, checkpoint, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    assert run("tapvid", data, checkpoint, whole) == 0
    measured, original = [], BENCHMARKS["tapvid"]

    def interrupted(tracker, video, **options):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(video.name)
        return original.measure(tracker, video, **options)

    monkeypatch.setitem(BENCHMARKS, "tapvid", dataclasses.replace(original, measure=interrupted))
    assert run("tapvid", data, checkpoint, parts) == 130
    assert not parts.exists() and measured == ["bear", "camel"]
    measured.clear()
    capsys.readouterr()
    assert run("tapvid", data, checkpoint, parts) == 2  # hours of work are not thrown away
    assert "holds an interrupted run: continue it by resume (--resume)" in capsys.readouterr().err
    assert run("tapvid", data, checkpoint, parts, "--resume", "--set", "temperature=0.05") == 2  # other settings
    assert run("tapvid", data, checkpoint, parts, "--resume") == 0
    assert measured == ["dog"] and read(parts) == read(whole)


@pytest.mark.slow
def test_two_processes_write_the_same_result(data, checkpoint, tmp_path):
    command = [
        "fgvc_hf.cli",
        "evaluate",
        "davis",
        "--data",
        str(data),
        "--checkpoint",
        str(checkpoint),
        "--dtype",
        "float32",
    ]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    for name, launched in {"one": command, "two": [*launcher, *command]}.items():
        words = [sys.executable, "-m", *launched, "--output", str(tmp_path / f"{name}.json")]
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len([line for line in done.stdout.splitlines() if " / 3 " in line]) == 3
    assert read(tmp_path / "two.json") == read(tmp_path / "one.json")


def test_overlays_of_the_best_and_the_worst_are_kept(data, checkpoint, tmp_path):
    visuals = tmp_path / "visuals"
    assert run("badja", data, checkpoint, tmp_path / "r.json", "--save-visuals", visuals) == 0
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in visuals.iterdir())
    assert kinds == ["best-1", "worst-1", "worst-2"]  # the middle one of three is the second worst
    assert all(open_video(path).width >= 480 for path in visuals.iterdir())  # small frames are enlarged
    before = {path.name for path in visuals.iterdir()}
    for name in ("best-1-of-my-own.txt", "notes-best-1-x.mp4"):
        (visuals / name).touch()
    assert run("davis", data, checkpoint, tmp_path / "r.json", "--save-visuals", visuals, "--split", "one") == 0
    after = {path.name for path in visuals.iterdir()}
    assert after == {"worst-1-camel.mp4", "best-1-of-my-own.txt", "notes-best-1-x.mp4"} and len(before) == 3


def test_a_video_without_a_score_is_neither_the_best_nor_the_worst(tmp_path):
    scores = {"a": 0.5, "b": float("nan"), "c": 0.1, "d": 0.7, "e": float("nan"), "f": 0.3, "g": 0.4}
    for name in scores:
        (tmp_path / f"{name}.mp4").touch()
    keep_extremes(tmp_path, scores)
    kept = sorted(path.stem for path in tmp_path.iterdir())
    assert kept == ["best-1-d", "best-2-a", "worst-1-c", "worst-2-f"]


def test_the_command_measures_as_the_function_does(data, checkpoint, tmp_path):
    assert run("davis", data, checkpoint, tmp_path / "r.json", "--split", "one", "--set", "temperature=0.05") == 0
    result, printed = read(tmp_path / "r.json"), []
    tracker = Tracker.from_pretrained(checkpoint, temperature=0.05)
    evaluated = evaluate(tracker, Task("davis", data, "one"), tmp_path / "f.json", {"note": 1}, report=printed.append)
    assert evaluated == json.loads((tmp_path / "f.json").read_text())
    assert evaluated["metrics"] == result["metrics"] and evaluated["videos"] == result["videos"]
    assert evaluated["settings"] == {"benchmark": "davis", "split": "one", "sequences": ["camel"], "note": 1}
    assert list(result["settings"]) == [
        *("benchmark", "split", "sequences", "checkpoint", "weights", "dtype", "preset", "input", "config")
    ]
    assert len(printed) == 2 and "camel" in printed[0] and "J&F" in printed[1]
    with pytest.raises(
        ValueError, match="benchmark must be one of tapvid, davis, boxes, badja, jhmdb, vip, flow, got 'x'"
    ):
        Task("x", data)


def test_splits_and_sequences(data, checkpoint, tmp_path):
    assert run("davis", data, checkpoint, tmp_path / "r.json", "--split", "one") == 0
    assert list(read(tmp_path / "r.json")["videos"]) == ["camel"]
    assert run("badja", data, checkpoint, tmp_path / "r.json", "--sequences", "dog", "bear") == 0
    assert list(read(tmp_path / "r.json")["videos"]) == ["dog", "bear"]


class Still:
    """A tracker that predicts that nothing moves: exact scores are known for a scene without motion."""

    def track(self, frames, queries):
        tracks = np.repeat(queries[:, None, 1:], len(frames), axis=1)
        seen = np.ones(tracks.shape[:2], bool)
        return PointTracks(
            list(range(len(queries))), queries, tracks, seen, seen.astype(float), seen, seen, frames.shape[1:3]
        )

    def propagate_masks(self, video, masks):
        return ((t, masks) for t in range(video.num_frames))


def test_standing_still_is_right_where_nothing_moves(data):
    scores = {video.name: segment(Still(), video)[1] for video in load_davis(data)}
    assert [len(objects) for objects in scores.values()] == [1, 2, 2]
    assert aggregate(scores)["J&F"] == 1
    counts = {video.name: follow_joints(Still(), video)[1] for video in load_badja(data)}
    scores = aggregate_badja(counts)
    assert scores["fgvc"]["PCK@0.1"] == pytest.approx(3 / 5)  # the joint that is hidden at first is missed later
    assert scores["pips"]["PCK@0.1"] == pytest.approx(1 / 2)


def test_joints_that_stand_still(data):
    videos = load_jhmdb(data)
    assert [video.name for video in videos] == [f"run-{name}" for name in NAMES]  # not the clip for training
    np.testing.assert_allclose(videos[0].joints[0, [0, -1]], [(9.5, 9.5), (49.5, 39.5)])
    _, counts = follow_people(Still(), videos[0])
    assert counts.distance.shape == (T - 1, 15) and counts.counted.all()
    np.testing.assert_allclose(counts.distance, 0, atol=1e-6)


def test_parts_that_stand_still(data):
    found, matrix = label_parts(Still(), load_vip(data)[0])
    assert found.shape == (T, H, W)
    assert matrix.sum() == T * (H - 2) * W  # the unknown does not count
    assert matrix.sum() == np.diag(matrix).sum()


def test_strided_queries(data, checkpoint, tmp_path):
    assert run("tapvid", data, checkpoint, tmp_path / "first.json") == 0
    assert run("tapvid", data, checkpoint, tmp_path / "strided.json", "--query-mode", "strided") == 0
    first, strided = read(tmp_path / "first.json"), read(tmp_path / "strided.json")
    assert strided["settings"]["query_mode"] == "strided"
    count = lambda result: sum(sum(v["counts"]["evaluated"]) for v in result["videos"].values())  # noqa: E731
    assert count(strided) > count(first)
    baseline = ["--baseline", "stand-still", "--query-mode", "strided"]
    assert run("tapvid", data, checkpoint, tmp_path / "b.json", *baseline) == 0


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("jhmdb", ["--split", "split3"], "has no 'split3'; there are split1"),
        ("vip", ["--split", "test"], "has no split 'test'; there are val"),
        ("jhmdb", ["--data", "empty"], "splits/ACTION_test_split1.txt was expected there"),
        ("vip", ["--data", "empty"], "lists/val_videos.txt was expected there"),
        ("davis", ["--query-mode", "strided"], "query_mode must be 'first', or 'strided' for tapvid"),
        ("davis", ["--split", "test"], "has no split 'test'; there are one, val"),
        ("tapvid", ["--split", "val"], "has no split 'val'; there are dev"),
        ("badja", ["--split", "cows"], "has no cows; there are bear, camel, dog"),
        ("davis", ["--sequences", "cow"], "there is no sequence 'cow'; there are bear, camel, dog"),
        ("davis", ["--sequences", "dog", "bear", "dog"], "sequences: the name 'dog' is there twice"),
        ("davis", ["--set", "temperature"], "--set must be FIELD=VALUE"),
        ("davis", ["--data", "empty"], "ImageSets/2017/val.txt was expected there"),
        ("badja", ["--data", "empty"], "a folder joint_annotations was expected there"),
        ("tapvid", ["--data", "empty"], "tapvid_kinetics/*.pkl was expected there"),
    ],
)
def test_bad_input_is_one_line(data, checkpoint, tmp_path, capsys, monkeypatch, name, extra, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run(name, data, checkpoint, tmp_path / "r.json", *extra) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_missing_and_damaged_files_are_named(data, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(data, root)
    (root / "davis/Annotations/480p/bear/00003.png").unlink()
    with pytest.raises(OSError, match="the mask 00003 is missing"):
        load_davis(root)
    with pytest.raises(OSError, match="00003.png: was expected there"):
        load_badja(root)
    write_mask(root / "davis/Annotations/480p/bear/00003.png", np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="is 10x10, but its frame 48x64"):
        segment(Still(), load_davis(root)[0])
    (root / "badja/joint_annotations/dog.json").write_text("[{}]")
    with pytest.raises(OSError, match=r"dog.json: is no annotation of BADJA"):
        load_badja(root)


def test_missing_and_damaged_files_of_people(data, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(data, root)
    (root / "VIP_Fine/Images/dog/000000000002.jpg").unlink()
    with pytest.raises(OSError, match="dog: the frame 000000000002 is missing"):
        load_vip(root)
    annotation = root / "joint_positions/run/dog/joint_positions.mat"
    savemat(annotation, {"pos_img": np.zeros((2, 14, 3))})
    with pytest.raises(OSError, match=r"holds pos_img of \(2, 14, 3\)"):
        load_jhmdb(root)
    annotation.write_text("text")
    with pytest.raises(OSError, match="is no annotation of JHMDB"):
        load_jhmdb(root)
    annotation.unlink()
    with pytest.raises(OSError, match="joint_positions.mat was expected there"):
        load_jhmdb(root)


def test_an_error_names_its_video(data, tmp_path, monkeypatch):
    def fails(tracker, video):
        raise error

    monkeypatch.setitem(BENCHMARKS, "davis", dataclasses.replace(BENCHMARKS["davis"], measure=fails))
    for number, error in enumerate([ValueError("too few frames."), OSError("no frame.")]):
        with pytest.raises(type(error), match=f"^camel: {error}"):
            evaluate(Still(), Task("davis", data, "one"), tmp_path / f"{number}.json", {})


def test_nothing_to_measure_is_said(data):
    with pytest.raises(ValueError, match="there is no sequence to measure"):
        Task("davis", data, sequences=[]).names()


def test_baselines_are_measured_by_the_same_command(data, checkpoint, tmp_path, capsys):
    for name, preset in (("stand-still", []), ("lucas-kanade", ["--preset", "accurate"])):
        assert run("tapvid", data, checkpoint, tmp_path / "r.json", "--baseline", name, *preset) == 0
        result = read(tmp_path / "r.json")
        assert result["settings"]["baseline"] == name
    assert result["metrics"]["tapvid"]["delta_avg"] > 0.7
    assert run("davis", data, checkpoint, tmp_path / "r.json", "--baseline", "dis") == 2
    assert "davis measures masks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank", "gpus", "device"), [("0", 2, "cuda:0"), ("3", 2, "cuda:1"), ("1", 0, None), (None, 2, None)]
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, rank, gpus, device):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert gpu_of_process() == device
