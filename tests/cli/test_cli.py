import csv
import json
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from fgvc_hf import (
    FgvcConfig,
    FgvcImageProcessorPil,
    FgvcModel,
    FgvcProcessor,
    Tracker,
    bundled_checkpoints,
    default_checkpoint,
)
from fgvc_hf.cli.main import main
from fgvc_hf.io.masks import write_mask
from fgvc_hf.io.video import VideoWriter, open_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = request.getfixturevalue("noise_clip")[:4]
    with VideoWriter(path, 12.5, *frames.shape[1:3]) as writer:
        for frame in frames:
            writer.write(frame)
    return str(path)


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """Small enough that a command takes no time; reads frames at 48x64."""
    folder = tmp_path_factory.mktemp("tiny")
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], propagation_radius=4)).save_pretrained(folder)
    FgvcProcessor(FgvcImageProcessorPil(size={"height": 48, "width": 64})).save_pretrained(folder)
    return str(folder)


def test_track_writes_everything(clip, tiny_checkpoint, tmp_path, capsys):
    outputs = [tmp_path / f"tracks{suffix}" for suffix in (".csv", ".json", ".npz")]
    for output in outputs:
        arguments = [
            "track",
            clip,
            "--points",
            "0,20,10;1,30.5,12",
            "--checkpoint",
            tiny_checkpoint,
            "--output",
            str(output),
        ]
        assert main(arguments) == 0
        assert capsys.readouterr().out.split() == [str(output)]
    with outputs[0].open() as file:
        rows = list(csv.DictReader(file))
    content = json.loads(outputs[1].read_text())
    with np.load(outputs[2]) as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {
            "queries": (2, 3),
            "tracks": (2, 4, 2),
            "visible": (2, 4),
            "confidence": (2, 4),
            "uncertainty": (2, 4),
            "outside": (2, 4),
            "size": (2,),
            "labels": (2, 4),
            "object_ids": (2,),
        }
        assert arrays["size"].tolist() == content["size"] == [40, 56]
        assert arrays["tracks"][0, 0].tolist() == [20, 10]
        assert np.isnan(arrays["tracks"][1, 0]).all() and content["tracks"][1][0] is None
        np.testing.assert_allclose(np.array(content["tracks"][0]), arrays["tracks"][0], rtol=1e-6)
        assert len(rows) == 8 and rows[4]["x"] == "" and rows[0]["x"] == "20.000"
        assert float(rows[7]["y"]) == pytest.approx(arrays["tracks"][1, 3, 1], abs=1e-3)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_track_draws_an_overlay_at_the_source_rate(clip, tiny_checkpoint, tmp_path, direction):
    overlay = tmp_path / "overlay.mp4"
    arguments = ["track", clip, "--grid", "2", "--direction", direction, "--checkpoint", tiny_checkpoint]
    assert main([*arguments, "--overlay", str(overlay)]) == 0
    video = open_video(overlay)
    assert (video.num_frames, video.fps, video.height, video.width) == (4, 12.5, 40, 56)
    source, drawn = next(open_video(clip).frames()), next(video.frames())
    assert np.abs(drawn.astype(int) - source).max() > 60
    assert os.listdir(tmp_path) == ["overlay.mp4"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz"])
def test_points_files(clip, tiny_checkpoint, tmp_path, suffix):
    points, path, output = [[0, 20, 10], [2, 5.5, 7]], tmp_path / f"points{suffix}", tmp_path / "out.npz"
    if suffix == ".csv":
        path.write_text("t,x,y\n0,20,10\n2,5.5,7\n")
    elif suffix == ".json":
        path.write_text(json.dumps({"queries": points}))
    else:
        np.savez(path, queries=np.array(points))
    arguments = ["track", clip, "--points-file", str(path), "--checkpoint", tiny_checkpoint, "--output", str(output)]
    assert main(arguments) == 0
    with np.load(output) as arrays:
        assert arrays["queries"].tolist() == points


@pytest.mark.parametrize("preset", ["paper", "fast", "balanced", "accurate"])
def test_presets_run(clip, tiny_checkpoint, tmp_path, preset):
    arguments = ["track", clip, "--points", "2,20,10", "--checkpoint", tiny_checkpoint, "--preset", preset]
    assert main([*arguments, "--dtype", "float32", "--output", str(tmp_path / "out.csv")]) == 0


def test_runs_are_compared_side_by_side(clip, tiny_checkpoint, tmp_path):
    overlay, sheet, alone = (tmp_path / name for name in ("compared.mp4", "sheet.png", "tracks.npz"))
    arguments = [
        "track",
        clip,
        "--grid",
        "2",
        "--checkpoint",
        tiny_checkpoint,
        "--preset",
        "fast",
        "--output",
        str(alone),
    ]
    written = ["--overlay", str(overlay), "--sheet", str(sheet)]
    assert main([*arguments, *written, "--compare", "paper", "fgvc-coarse"]) == 0
    video = open_video(overlay)
    assert video.num_frames == 4 and video.height > 40 and video.width == 3 * 56 + 2
    with Image.open(sheet) as picture:
        assert picture.width == 3 * 504 + 2 * 2 and picture.height > 4 * 360  # a row for each of the four frames
    left, middle = (np.asarray(list(video.frames())[3])[-40:, x : x + 56].astype(int) for x in (0, 57))
    assert np.abs(left - middle).max() > 60  # other tracks
    with np.load(alone) as compared:
        tracks = compared["tracks"]
    assert main(arguments) == 0
    with np.load(alone) as single:
        np.testing.assert_array_equal(tracks, single["tracks"])


@pytest.mark.parametrize("preset", [None, "balanced"])
def test_the_command_tracks_as_the_tracker_does(clip, tiny_checkpoint, tmp_path, preset):
    output = tmp_path / "tracks.npz"
    arguments = ["track", clip, "--checkpoint", tiny_checkpoint, "--output", str(output)]
    arguments += ["--preset", preset] * bool(preset)
    tracker = Tracker.from_pretrained(tiny_checkpoint, preset)
    for options, expected in (
        (["--grid", "3"], tracker.track(clip, grid=3)),
        (
            ["--points", "0,20,10;2,30.5,12", "--direction", "both", "--threshold", "0.3"],
            tracker.track(clip, [(0, 20, 10), (2, 30.5, 12)], direction="both", threshold=0.3),
        ),
    ):
        assert main([*arguments, *options]) == 0
        with np.load(output) as arrays:
            for name in arrays.files:
                np.testing.assert_array_equal(arrays[name], getattr(expected, name), err_msg=name)


def test_masks_paint_and_flow_are_drawn(clip, tiny_checkpoint, noise_clip, tmp_path):
    ids = np.zeros((40, 56), np.uint8)
    ids[10:30, 10:30] = 1
    write_mask(tmp_path / "mask.png", ids)
    texture = np.where(ids[..., None] > 0, np.uint8([255, 0, 0, 255]), np.uint8(0))
    Image.fromarray(texture).save(tmp_path / "texture.png")
    for t in (0, 1):
        Image.fromarray(noise_clip[t]).save(tmp_path / f"{t}.png")
    masks, painted, arrows = (str(tmp_path / f"{name}.png") for name in ("masks", "painted", "arrows"))
    model = ["--checkpoint", tiny_checkpoint]
    assert main(["propagate", clip, "--mask", str(tmp_path / "mask.png"), "--sheet", masks, *model]) == 0
    paint = ["paint", clip, "--texture", str(tmp_path / "texture.png"), "--output", str(tmp_path / "painted.mp4")]
    assert main([*paint, "--sheet", painted, "--frame", "1", *model]) == 0
    images = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    assert main(["flow", *images, "--output", str(tmp_path / "flow.flo"), "--overlay", arrows, *model]) == 0
    for sheet, columns, rows in ((masks, 2, 2), (painted, 3, 1)):
        with Image.open(sheet) as picture:
            strip = 18  # with the number of the frame
            assert picture.size == (columns * 504 + 4 * (columns - 1), rows * (360 + strip) + 4 * (rows - 1))
    with Image.open(arrows) as picture:
        assert picture.height == 360 + strip and picture.width > 2 * 504 + 100  # with colours and their wheel
        drawn, plain = np.asarray(picture)[strip:, :504], noise_clip[0].repeat(9, axis=0).repeat(9, axis=1)
        assert 0.5 < (drawn == plain).all(axis=-1).mean() < 1
    with Image.open(painted) as picture:
        assert np.asarray(picture)[strip + 158 : strip + 197, 158:197, 0].mean() > 200  # red, where it was painted
    with av.open(str(tmp_path / "painted.mp4")) as container:  # a player shows nothing until its first frame
        assert container.start_time == 0 and container.streams.video[0].frames == 3


def test_match_shows_or_writes_the_probability(tiny_checkpoint, noise_clip, tmp_path):
    Image.fromarray(noise_clip[0]).save(tmp_path / "a.png")
    Image.fromarray(noise_clip[2, :, :40]).save(tmp_path / "b.png")  # the content moves by (-2, -2)
    expected = Tracker.from_pretrained().match(noise_clip[0], noise_clip[2, :, :40], point=(20, 18))
    arguments = ["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--point", "20,18"]
    assert main([*arguments, "--output", str(tmp_path / "heat.npz")]) == 0
    with np.load(tmp_path / "heat.npz") as content:
        np.testing.assert_array_equal(content["probability"], expected)
        assert content["point"].tolist() == [20, 18]
        row, column = np.unravel_index(content["probability"].argmax(), (40, 40))
    assert abs(row + 0.5 - 16) <= 1.5 and abs(column + 0.5 - 18) <= 1.5
    assert main([*arguments, "--output", str(tmp_path / "heat.png")]) == 0
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.width == 504 + 2 + 360 and picture.height > 360  # panels of at least 480 pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "a.png", "a.png", "--point", "5", "--output", "o.png"], '--point must be "x,y", got "5"'),
        (["match", "a.png", "a.png", "--point", "1_0,5", "--output", "o.png"], '--point must be "x,y", got "1_0,5"'),
        (
            ["match", "a.png", "a.png", "--point", "5,99", "--output", "o.png"],
            "point must be (x, y) inside frame 0, x in 0..56",
        ),
        (
            ["match", "a.png", "none.png", "--point", "5,5", "--output", "o.png"],
            "none.png: cannot be read as an image",
        ),
        (["match", "a.png", "a.png", "--point", "5,5", "--output", "o.jpg"], "o.jpg: the name must end in .png"),
        (["flow", "a.png", "a.png", "--output", "o.flo", "--overlay", "o.mp4"], "o.mp4: the name must end in .png"),
        (["propagate", "{clip}", "--mask", "a.png", "--sheet", "o.gif"], "o.gif: the name must end in .png"),
        (["propagate", "{clip}", "--mask", "a.png"], "nothing to write"),
        (
            ["paint", "{clip}", "--texture", "a.png", "--output", "o.mp4", "--sheet", "o"],
            "o: the name must end in .png",
        ),
        (["track", "{clip}", "--grid", "1", "--output", "o.csv", "--compare", "fast"], "--compare is drawn"),
        (["track", "{clip}", "--grid", "1", "--sheet", "o.png", "--compare", "slow"], "slow: is no checkpoint"),
    ],
)
def test_errors_of_pictures(clip, noise_clip, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise_clip[0]).save("a.png")
    assert main([clip if argument == "{clip}" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and os.listdir() == ["a.png"]


def bad(tmp_path, name, content: bytes | str = b""):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def broken_checkpoint(tmp_path):
    bad(tmp_path, "model.safetensors", "no tensors")
    return bad(tmp_path, "config.json", '{"model_type": "fgvc"}')[:-12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "missing.mp4"}, "missing.mp4: there is no such video file"),
        ({"video": lambda p: bad(p, "empty.mp4")}, "empty.mp4: is no video that can be read"),
        ({"video": lambda p: bad(p, "text.mp4", "hello" * 99)}, "text.mp4: is no video that can be read"),
        ({"video": lambda p: str(p)}, "holds no images"),
        ({"points": "0,nan,5"}, "input_points must be finite"),
        ({"points": "0,5,500"}, "input_points must lie inside the frame"),
        ({"points": "4,5,5"}, "frame_idx must be a frame of the video, 0 to 3, got 4"),
        ({"points": "0,5"}, '--points must be "t,x,y;t,x,y;..."'),
        ({"points": "0,1_0,5"}, '--points must be "t,x,y;t,x,y;..."'),
        ({"points": "0,１,5"}, '--points must be "t,x,y;t,x,y;..."'),
        ({"points": "0.5,5,5"}, "whole frame numbers"),
        (
            {"points_file": lambda p: bad(p, "p.csv", "t,x,y\n0,5,5\n0,five,5\n")},
            "p.csv, line 3: expected three numbers",
        ),
        ({"points_file": lambda p: bad(p, "p.csv", "x,y,t\n")}, "p.csv, line 1: the header must be t,x,y"),
        ({"points_file": lambda p: bad(p, "p.csv", "t,x,y\n")}, "p.csv: holds no points"),
        ({"points_file": lambda p: bad(p, "p.csv", b"\xff\xfe\x00\x01")}, "p.csv: is not a CSV text file"),
        ({"points_file": lambda p: bad(p, "p.json", "{\n")}, "p.json, line 2: is not valid JSON"),
        ({"points_file": lambda p: bad(p, "p.json", '{"points": []}')}, 'p.json: must hold {"queries"'),
        ({"points_file": lambda p: bad(p, "p.npz", "text")}, "p.npz: must be an NPZ file"),
        ({"points_file": "none.csv"}, "none.csv: there is no such points file"),
        ({"points_file": "p.txt"}, "p.txt: the name must end in .csv, .json or .npz"),
        ({"checkpoint": "nothing"}, "nothing: is no checkpoint; accepted are fgvc-"),
        ({"checkpoint": lambda p: str(p)}, "is no checkpoint, it has no config.json"),
        (
            {"checkpoint": lambda p: bad(p, "config.json", '{"model_type": "bert"}')[:-12]},
            "of model type 'bert', not 'fgvc'",
        ),
        ({"checkpoint": lambda p: bad(p, "config.json", '{"model_type": "fgvc"}')[:-12]}, "has no weights"),
        ({"checkpoint": broken_checkpoint}, "is no checkpoint that can be loaded"),
        ({"output": "no/such/folder/out.csv"}, "the folder no/such/folder does not exist"),
        ({"output": "out.txt"}, "out.txt: the name must end in .csv, .json or .npz"),
        ({"output": None}, "nothing to write"),
        ({"points": None, "grid": "0"}, "--grid must be 1 or more, got 0"),
        ({"threshold": "1.5"}, "threshold must be a probability from 0 to 1, got 1.5"),
        ({"overlay": "out.gif"}, "out.gif: the name must end in .mp4"),
        ({"device": "quantum"}, "device quantum is not available here"),
    ],
)
def test_user_errors_are_one_line_and_leave_nothing(
    clip, tiny_checkpoint, tmp_path, capsys, monkeypatch, change, message
):
    work, inputs = tmp_path / "work", tmp_path / "inputs"
    work.mkdir()
    inputs.mkdir()
    monkeypatch.chdir(work)
    settings = {"video": clip, "points": "0,5,5", "checkpoint": tiny_checkpoint, "output": "out.csv"}
    settings |= {name: value(inputs) if callable(value) else value for name, value in change.items()}
    if "points_file" in change:
        del settings["points"]
    video = settings.pop("video")
    options = [part for name, value in settings.items() if value for part in (f"--{name.replace('_', '-')}", value)]
    assert main(["track", video, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("fgvc-hf: error: ")
    assert message in captured.err
    assert captured.out == "" and not list(work.iterdir())


def test_a_one_frame_clip_is_the_query_itself(tiny_checkpoint, noise_clip, tmp_path):
    with VideoWriter(tmp_path / "one.mp4", 24, 40, 56) as writer:
        writer.write(noise_clip[0])
    output = tmp_path / "out.npz"
    arguments = ["track", str(tmp_path / "one.mp4"), "--points", "0,20,10", "--checkpoint", tiny_checkpoint]
    assert main([*arguments, "--output", str(output)]) == 0
    with np.load(output) as arrays:
        assert arrays["tracks"].tolist() == [[[20, 10]]] and arrays["visible"].all()


def test_info_names_the_checkpoints(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("torch", "device:", *bundled_checkpoints()))


@pytest.mark.parametrize(
    "code", ["import fgvc_hf; fgvc_hf.default_checkpoint()", "from fgvc_hf.cli.main import main; main(['--help'])"]
)
def test_torch_is_not_imported_before_it_is_needed(code):
    script = (
        f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit:\n    print()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_the_auto_classes_know_the_model_if_transformers_was_there_first():
    script = f"from transformers import AutoModel\nimport fgvc_hf\nAutoModel.from_pretrained({default_checkpoint()!r})"
    subprocess.run([sys.executable, "-c", script], check=True, stderr=subprocess.DEVNULL)
