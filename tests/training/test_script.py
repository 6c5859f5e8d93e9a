"""The scripts of training as a user runs them, on clips that the package renders.

Most run in this process. Of each script at least one run is a process of its own: with its imports, its exit status and its standard error.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_as_functions import run_here
from training_runs import run, write_tracks

from fgvc_hf import FgvcConfig, FgvcModel, Tracker, save_tracks
from fgvc_hf.data.shards import StreamedClips, shard_names
from fgvc_hf.training.ancestors.colour_autoencoder import ColourAutoEncoder, ColourAutoEncoderConfig


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
ANCESTORS = {
    "uvc-small": ["frame=64", "crop=32", "batch_size=1"],
    "timecycle-small": ["frame=64", "patch=32", "batch_size=1"],
    "colours-small": ["frame=64", "batch_size=1"],
}
SMALL = ["crop=32", "radius=4", "steps=3", "batch_size=2", "textures=8"]


def train(*arguments, changes=SMALL, by=run_here):
    return by("train.py", *arguments, *(part for change in changes for part in ("--set", change)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 16], depths=[1, 1, 1])).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    done = run_here("prepare.py", "videos", videos, folder, "--rows-per-shard", "2")
    assert done.returncode == 0 and "2 shards" in done.stdout, done.stderr
    return folder


@pytest.mark.parametrize("recipe", ["joint-small", "finetune-small", "teacher-small", "joint"])
def test_every_kind_of_recipe_trains(videos, checkpoint, tmp_path, recipe):
    extra = ["--teacher", checkpoint] if recipe == "joint" else []
    arguments = ["--videos", videos, "--start-from", checkpoint, "--output", tmp_path, *extra]
    done = train("--recipe", recipe, *arguments, by=run if recipe == "joint-small" else run_here)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = {"reconstruction", "label", "adversarial"} & set(entries[-1])
    assert (
        names
        == {
            "joint-small": {"reconstruction", "label"},
            "finetune-small": {"reconstruction", "label"},
            "teacher-small": {"reconstruction"},
            "joint": {"reconstruction", "label", "adversarial"},
        }[recipe]
    )
    assert FgvcModel.from_pretrained(tmp_path / "last").config.hidden_sizes == [8, 16, 16]


def test_tracks_of_the_videos_are_labels(videos, checkpoint, tmp_path):
    prompts = np.stack(np.meshgrid([0], np.arange(8, 96, 8), np.arange(8, 64, 8)), axis=-1).reshape(-1, 3)
    folder = tmp_path / "tracks"
    folder.mkdir()
    tracker = Tracker.from_pretrained(preset="fast")
    for path in videos.glob("*.mp4"):
        save_tracks(tracker.track(path, prompts), folder / f"{path.stem}.npz")
    start = ["--videos", videos, "--tracks", folder, "--start-from", checkpoint]
    done = train("--recipe", "joint-small", *start, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert entry["label"] > 0 and entry["reconstruction"] > 0


HEAD = ["num_attention_heads=2", "attention_window=2", "num_attention_layers=1", "fine_size=8"]


def test_distillation_makes_a_coarse_to_fine_model_and_goes_on_with_one(videos, checkpoint, tmp_path):
    arguments = ["--recipe", "distill-small", "--videos", videos, "--teacher", checkpoint]
    head = [part for change in HEAD for part in ("--student", change)]
    done = train(*arguments, "--start-from", checkpoint, "--output", tmp_path / "first", *head)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    assert len(entries) == 3 and all(entry["distillation"] > 0 for entry in entries)
    model = FgvcModel.from_pretrained(tmp_path / "first" / "last")
    assert (model.config.fine_size, model.config.num_attention_layers) == (8, 1)
    again = train(*arguments, "--start-from", tmp_path / "first" / "last", "--output", tmp_path / "second")
    assert again.returncode == 0, again.stderr
    refused = train(*arguments, "--start-from", tmp_path / "first" / "last", "--output", tmp_path / "third", *head)
    assert "--student is for a new head" in refused.stderr.splitlines()[-1] and not (tmp_path / "third").exists()


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_training_from_shards(shards, checkpoint, tmp_path, stream):
    arguments = ["--shards", shards, *stream, "--start-from", checkpoint, "--output", tmp_path]
    done = train("--recipe", "joint-small", *arguments, by=run if stream else run_here)  # which reads in threads
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_pictures_and_trackers_are_written(videos, checkpoint, tmp_path):
    options = ("--picture-every", "3")
    done = train(
        "--recipe", "joint-small", "--videos", videos, "--start-from", checkpoint, "--output", tmp_path, *options
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "labelled-00000003.png",
        "real-00000003.png",
    }


def test_a_dry_run_changes_nothing(videos, checkpoint, tmp_path):
    output = tmp_path / "run"
    done = train(
        "--recipe", "joint-small", "--videos", videos, "--start-from", checkpoint, "--output", output, "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    assert "3 clips" in done.stdout and "trained" in done.stdout and "an update:" in done.stdout
    assert not output.exists()


def test_a_stream_goes_on_where_it_is_asked_to(shards):
    settings = {"size": 32, "gap": (1, 2), "buffer": 3}
    whole = StreamedClips(shard_names(shards), **settings)
    whole.numbers = range(7)
    later = StreamedClips(shard_names(shards), **settings)
    later.numbers = range(4, 7)
    expected = dict(iter(whole))
    found = dict(iter(later))
    assert sorted(found) == [4, 5, 6]
    assert all((found[number] == expected[number]).all() for number in found)


def test_a_corrupt_shard_is_reported_by_name_and_left_out(shards, tmp_path, caplog):
    for name in shard_names(shards):
        (tmp_path / Path(name).name).write_bytes(Path(name).read_bytes())
    broken = tmp_path / "data-00000.parquet"
    broken.write_bytes(broken.read_bytes()[:300])
    stream = StreamedClips(sorted(tmp_path.glob("*.parquet")), size=32, gap=(1, 2), buffer=1)
    stream.numbers = range(3)
    assert len(list(stream)) == 3
    assert "data-00000.parquet: cannot be read and is left out" in caplog.text
    (tmp_path / "data-00001.parquet").write_bytes(b"nothing")
    with pytest.raises(OSError, match="none of the 2 shards can be read"):
        list(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "joint-small", "--videos", "absent"], "absent: there is no such folder of videos"),
        (["--recipe", "joint", "--videos", "{videos}"], "it needs a teacher"),
        (["--recipe", "joint-small", "--shards", "{empty}"], "holds no shards"),
        (["--recipe", "joint-small", "--videos", "{videos}", "--set", "stepz=3"], "a recipe has no field 'stepz'"),
        (
            ["--recipe", "distill-small", "--videos", "{videos}", "--teacher", "fgvc-joint", "--student", "depths=3"],
            "a head has no field 'depths'",
        ),
        (
            [
                "--recipe",
                "distill-small",
                "--videos",
                "{videos}",
                "--teacher",
                "fgvc-joint",
                "--student",
                "fine_size=x",
            ],
            "fields of a head but upsampling must be whole numbers, got {'fine_size': 'x'}",
        ),
        (["--recipe", "joint", "--videos", "{videos}", "--teacher", "out/of/way"], "out/of/way: is no checkpoint"),
        (["--recipe", "joint-small", "--videos", "{videos}", "--accumulate", "5"], "batch_size is 2, but must be"),
        (["--recipe", "joint-small", "--videos", "{videos}", "--flyingthings3d", "{empty}"], "was expected there"),
        (["--recipe", "joint-small", "--videos", "{videos}", "--tracks", "{empty}"], "holds no tracks (NAME.npz)"),
        (
            ["--recipe", "joint-small", "--videos", "{videos}", "--tracks", "{empty}", "--flyingthings3d", "{empty}"],
            "are both for labelled pairs: choose one",
        ),
        (
            ["--recipe", "tracking-small", "--videos", "{videos}", "--flyingthings3d", "{empty}"],
            "is for the recipes that",
        ),
        (
            ["--recipe", "teacher-small", "--videos", "{videos}", "--tracks", "{empty}"],
            "--tracks are of --videos, and for",
        ),
        (
            [
                "--recipe",
                "tracking-small",
                "--videos",
                "{videos}",
                "--tracks",
                "{empty}",
                "--set",
                "synthetic=1",
                "--set",
                "label=dirac",
            ],
            "set synthetic or tracking to 0",
        ),
        (
            ["--recipe", "tracking-small", "--videos", "{videos}", "--teacher", "fgvc-joint"],
            "no use for --teacher: leave it out",
        ),
        (["--recipe", "teacher-small", "--videos", "{videos}", "--student", "fine_size=8"], "no use for --student"),
        (["--recipe", "joint-small", "--videos", "{videos}", "--colours", "{empty}"], "no use for --colours"),
    ],
)
def test_bad_input_is_one_line_before_training(videos, checkpoint, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [a.format(videos=videos, empty=tmp_path / "empty") for a in arguments]
    by = run if "absent" in arguments else run_here
    done = train(*arguments, "--start-from", checkpoint, "--output", tmp_path / "run", by=by)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_preparing_named_layouts(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    done = run("prepare.py", "youtube-vos", root, tmp_path / "out")
    assert done.returncode != 0 and "a folder train/JPEGImages was expected there" in done.stderr
    frames = root / "train" / "JPEGImages" / "0a1b"
    frames.mkdir(parents=True)

    for number in (0, 5, 10):
        Image.fromarray(np.full((40, 60, 3), number, np.uint8)).save(frames / f"{number:05d}.jpg")
    done = run_here("prepare.py", "youtube-vos", root, tmp_path / "out")
    assert done.returncode == 0 and "1 shards" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    return write_tracks(tmp_path_factory.mktemp("tracks"))


def test_scores_during_training(videos, checkpoint, tracks, tmp_path):
    arguments = ["--videos", videos, "--output", tmp_path / "run", "--start-from", checkpoint, "--evaluate", *tracks]
    done = train("--recipe", "joint-small", *arguments, "--evaluate-every", 2, changes=[*SMALL, "average=0.5"])
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = {entry["step"]: entry["scores"] for entry in entries if "scores" in entry}
    assert list(scores) == [2, 3] and all(0 < score["delta_avg"] <= 1 for score in scores.values())
    for name in ("best", "last"):  # measured by templates, and saved as it was
        assert FgvcModel.from_pretrained(tmp_path / "run" / name).config.point_matching == "labels"


def test_ablations_make_a_table_and_are_not_repeated(videos, checkpoint, tracks, tmp_path):
    arguments = ["--videos", videos, "--teacher", checkpoint, "--start-from", checkpoint, "--evaluate", *tracks]
    arguments += ["--output", tmp_path, "--only", "Dirac labels", "reconstruction"]
    arguments += [part for change in SMALL for part in ("--set", change)]
    first, second = run_here("ablate.py", *arguments), run("ablate.py", *arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| before training", "| Dirac labels", "| reconstruction"]
    assert "reconstruction: {" in first.stdout and "reconstruction: {" not in second.stdout


def test_ablations_of_the_head(videos, checkpoint, tracks, tmp_path):
    arguments = ["--of", "head", "--videos", videos, "--teacher", checkpoint, "--start-from", checkpoint]
    arguments += [
        "--evaluate",
        *tracks,
        "--output",
        tmp_path,
        "--only",
        "2 layers of attention",
        "bilinear up-sampling",
    ]
    wide = [*SMALL, "crop=64"]  # a window of attention
    done = run_here("ablate.py", *arguments, *(part for change in wide for part in ("--set", change)))
    assert done.returncode == 0, done.stderr
    configs = [FgvcModel.from_pretrained(path.parent).config for path in sorted(tmp_path.glob("*/last/config.json"))]
    assert [(config.num_attention_layers, config.upsampling) for config in configs] == [
        (2, "shuffle"),
        (0, "bilinear"),
    ]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + 3


def test_averaging_checkpoints(videos, checkpoint, tmp_path):
    out = tmp_path / "average"
    halves = f"{checkpoint}=0.5", f"{checkpoint}=0.5"
    done = run_here("average.py", *halves, "--videos", videos, "--output", out, "--frames", "4")
    assert done.returncode == 0, done.stderr
    before, after = FgvcModel.from_pretrained(checkpoint), FgvcModel.from_pretrained(out)
    assert torch.equal(before.encoder.conv1.weight, after.encoder.conv1.weight)
    assert not torch.equal(before.encoder.bn1.running_mean, after.encoder.bn1.running_mean)


def test_averaging_without_frames_keeps_the_statistics(checkpoint, tmp_path):
    other = FgvcModel.from_pretrained(checkpoint)
    for layer in (other.encoder.bn1, other.encoder.conv1):
        layer.weight.data.mul_(3)
    other.encoder.bn1.running_mean += 4
    other.save_pretrained(tmp_path / "other")
    shares = f"{checkpoint}=0.75", f"{tmp_path / 'other'}=0.25"
    done = run_here("average.py", *shares, "--frames", "0", "--output", tmp_path / "average")
    assert done.returncode == 0, done.stderr
    before, after = (FgvcModel.from_pretrained(path).encoder for path in (checkpoint, tmp_path / "average"))
    torch.testing.assert_close(after.conv1.weight, 1.5 * before.conv1.weight)
    torch.testing.assert_close(after.bn1.running_mean, before.bn1.running_mean + 1)
    for options, message in ([], "--videos is needed"), (["--frames", "-1"], "--frames must be at least 0, got -1"):
        refused = run_here("average.py", *shares, *options, "--output", tmp_path / "out")
        assert refused.returncode == 2 and message in refused.stderr and not (tmp_path / "out").exists()


def test_averaging_needs_numbers(videos, checkpoint, tmp_path):
    done = run("average.py", f"{checkpoint}=much", "--videos", videos, "--output", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("error: a share must be a number"), done.stderr
    assert not (tmp_path / "out").exists()


def documented_commands():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("python scripts/train.py")]


@pytest.mark.parametrize("line", documented_commands(), ids=lambda line: line.split()[3])
def test_documented_commands(videos, checkpoint, tmp_path, line):
    """As they stand, but for the folders, the size, and that they stop after a rehearsal."""
    colours = tmp_path / "colours"
    ColourAutoEncoder(ColourAutoEncoderConfig()).save_pretrained(colours)
    places = {"MY_CLIPS": videos, "outputs/teacher/last": checkpoint, "outputs/colours/last": colours}
    if "clips.pack" in line:
        places["clips.pack"] = tmp_path / "clips.pack"
        assert run_here("prepare.py", "pack", videos, places["clips.pack"]).returncode == 0
    if "MY_TRACKS" in line:
        places["MY_TRACKS"] = tmp_path / "tracks"
        labelled = run_here("self_label.py", videos, places["MY_TRACKS"], "--grid", "4")
        assert labelled.returncode == 0, labelled.stderr
    words = [str(places.get(word, word)) for word in line.split()[2:]]
    words[words.index("--output") + 1] = str(tmp_path / "run")
    done = train(*words, "--dry-run", changes=ANCESTORS.get(line.split()[3], SMALL))
    assert done.returncode == 0, done.stderr
    assert ("data: labelled pairs, 8 texture images" in done.stdout) == ("MY_TRACKS" in line), done.stdout


def test_commands_are_documented():
    assert {line.split()[3] for line in documented_commands()} == {
        *ANCESTORS,
        "teacher-small",
        "joint-small",
        "finetune-small",
        "joint",
        "distill-small",
        "tracking-small",
    }
