"""UVC, TimeCycle and the colour auto-encoder through the loop and the script: they resume exactly, share out, and refuse bad input."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from safetensors.torch import load_file, save_file
from scripts_as_functions import run_here
from training_runs import run, write_tracks

from fgvc_hf import FgvcConfig, FgvcModel, FgvcProcessor
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.training.ancestors.colour_autoencoder import (
    COLOURS_SMALL,
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    ColourTraining,
    load_colours,
)
from fgvc_hf.training.ancestors.time_cycle import TIME_CYCLE_SMALL, TimeCycleTraining
from fgvc_hf.training.ancestors.uvc import UVC_SMALL, UvcTraining
from fgvc_hf.training.loop import Training


SMALL = {"steps": 6, "batch_size": 2, "frame": 64}
RECIPES = {
    "uvc": replace(UVC_SMALL, **SMALL, crop=32),
    "timecycle": replace(TIME_CYCLE_SMALL, **SMALL, patch=32),
    "colours": replace(COLOURS_SMALL, **SMALL),
}
LOSSES = {
    "uvc": {"colour", "colour_cycle", "concentration", "cycle"},
    "timecycle": {"similarity", "skip", "long"},
    "colours": {"colour"},
}


def tiny_model():
    return FgvcModel(FgvcConfig(hidden_sizes=[16, 16, 32], depths=[1, 1, 1], output_stride=8))


def make(name, output, videos, precision="no", accumulate=1, **changes):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    torch.manual_seed(0)
    recipe = replace(RECIPES[name], **changes)
    if name == "uvc":
        module = UvcTraining(tiny_model(), recipe, ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16])))
    elif name == "timecycle":
        module = TimeCycleTraining(tiny_model(), recipe)
    else:
        module = ColourTraining(ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16])), recipe)
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    clips = VideoFolder(videos, *recipe.clip_settings, seed=recipe.seed)
    return Training(module, recipe, output, accelerator, clips, save_every=2)


def weights(output):
    return load_file(Path(output) / "last" / "model.safetensors")


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_stopped_run_goes_on_exactly(name, videos, tmp_path):
    make(name, tmp_path / "whole", videos).run()
    part = make(name, tmp_path / "parts", videos)
    part._log = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt) if part.step == 3 else None
    with pytest.raises(KeyboardInterrupt):
        part.run()
    make(name, tmp_path / "parts", videos).run()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    entries = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert LOSSES[name] < set(entries[-1])


@pytest.mark.parametrize("name", ["uvc", "timecycle"])
def test_a_coarse_to_fine_model_is_trained_with_its_head(name):
    """On the features that it gives, at stride 2: those of its encoder alone are at stride 8."""
    head = {"fine_size": 8, "num_attention_layers": 1, "num_attention_heads": 2, "attention_window": 2}
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], **head))
    colours = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8]))
    recipe = replace(RECIPES[name], frame=40)
    module = UvcTraining(model, recipe, colours) if name == "uvc" else TimeCycleTraining(model, recipe)
    assert module.encode(torch.rand(1, 3, 64, 48)).shape == (1, 32, 24, 8)
    frames = torch.randint(256, (2, 2 if name == "uvc" else 6, 3, 40, 40), dtype=torch.uint8)
    losses = module(frames=frames, seeds=[1, 2], step=3)
    torch.stack([losses[key] for key in LOSSES[name]]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.head.mix.weight.grad.any() and model.encoder.conv1.weight.grad.any()


@pytest.mark.parametrize("name", list(RECIPES))
def test_half_precision_learns(name, videos, tmp_path):
    training = make(name, tmp_path, videos, "bf16", accumulate=2, steps=2)
    before = {key: value.clone() for key, value in training.bare.state_dict().items()}
    training.run()
    after = training.bare.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before if before[key].is_floating_point())
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize(("name", "columns"), [("uvc", 2), ("timecycle", 5)])
def test_pictures_are_drawn(name, columns, videos, tmp_path):
    training = make(name, tmp_path, videos)
    training._draw()
    (picture,) = (tmp_path / "pictures").iterdir()
    assert Image.open(picture).size == (64 * columns, 64 * 2)
    assert training.bare.training


def test_the_colour_auto_encoder_learns(videos, tmp_path):
    make("colours", tmp_path, videos, steps=40, learning_rate=3e-3).run()
    losses = [json.loads(line)["colour"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])
    assert load_colours(tmp_path / "last").config.widths == [8, 8, 16]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model at stride 8, a colour auto-encoder at the same and one at another."""
    folder = tmp_path_factory.mktemp("start")
    tiny_model().save_pretrained(folder / "model")
    ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16])).save_pretrained(folder / "colours")
    ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8])).save_pretrained(folder / "fine")
    return folder


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("[1]", OSError, "is no colour auto-encoder"),
        ("{", ValueError, "config.json: must be settings and weights of a colour auto-encoder, or is damaged"),
    ],
)
def test_damaged_settings_of_colours_are_one_sentence(content, error, message, start, tmp_path):
    folder = shutil.copytree(start / "colours", tmp_path / "colours")
    (folder / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        load_colours(folder)


def test_colours_without_some_of_their_weights_are_refused(start, tmp_path):
    """Not filled with random numbers, which transformers does."""
    folder = shutil.copytree(start / "colours", tmp_path / "colours")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensors[name].clone() for name in sorted(tensors)[2:]}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="colours: is of another configuration .* it has no weights for: decoder"):
        load_colours(folder)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="colours: is no checkpoint that can be loaded .SafetensorError"):
        load_colours(folder)


def train(recipe, videos, start, output, *options, by=run_here, **changes):
    sizes = {"uvc-small": {"crop": 32}, "timecycle-small": {"patch": 32}}.get(recipe, {})
    values = {"frame": 64, "steps": 2, "batch_size": 2, **sizes, **changes}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    words = ["--recipe", recipe, "--videos", videos, "--output", output, *sets, *options]
    if recipe != "colours-small":
        words += ["--start-from", start / "model"]
    return by("train.py", *words)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["uvc-small", "timecycle-small"])
def test_several_processes_train_and_the_result_is_a_model(recipe, videos, start, tmp_path):
    by = partial(run, launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"))
    colours = ["--colours", start / "colours"] if recipe == "uvc-small" else []
    done = train(recipe, videos, start, tmp_path, *colours, by=by)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert FgvcModel.from_pretrained(tmp_path / "last").config.output_stride == 8
    processor = FgvcProcessor.from_pretrained(tmp_path / "last").image_processor
    assert (processor.lightness_only, processor.do_convert_lab) == (
        (True, True) if recipe[0] == "u" else (False, False)
    )


@pytest.mark.slow
def test_a_colour_auto_encoder_is_trained_for_uvc(videos, start, tmp_path):
    done = train("colours-small", videos, start, tmp_path / "colours", stride=8)
    assert done.returncode == 0, done.stderr
    colours = tmp_path / "colours" / "last"
    assert load_colours(colours).config.stride == 8
    done = train("uvc-small", videos, start, tmp_path / "run", "--colours", colours, "--dry-run", steps=3)
    assert done.returncode == 0 and "an update:" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "options", "changes", "message"),
    [
        ("uvc-small", [], {}, "it needs a colour auto-encoder"),
        ("uvc-small", ["--colours", "fine"], {}, "works at stride 4, but the model's features are at stride 8"),
        ("uvc-small", ["--colours", "model"], {}, "is no colour auto-encoder"),
        ("uvc-small", ["--colours", "colours"], {"crop": 128}, "crop, a patch, must not be larger than the frame"),
        ("timecycle-small", [], {"patch": 128}, "patch must be smaller than the frame of 64 pixels"),
        ("timecycle-small", [], {"localiser": "network"}, "patch must have at least 7 cells"),
        ("colours-small", [], {"stride": 3}, "stride must be 2, 4 or 8"),
    ],
)
def test_bad_input_is_one_line_before_training(recipe, options, changes, message, videos, start, tmp_path):
    options = [str(start / word) if not word.startswith("--") else word for word in options]
    done = train(recipe, videos, start, tmp_path / "run", *options, **changes)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_comparison_makes_a_table_and_repeats_nothing(videos, start, tmp_path):
    tracks = write_tracks(tmp_path)
    words = ["--videos", videos, "--colours", start / "colours", "--evaluate", *tracks, "--output", tmp_path / "runs"]
    words += ["--steps", 1, "--batch-size", 1, "--only", "UVC"]
    first, second = run_here("compare.py", *words, MEASURED=2), run("compare.py", *words)
    assert first.returncode == second.returncode == 0, first.stderr
    rows = (tmp_path / "runs" / "table.md").read_text().splitlines()
    assert len(rows) == 3 and rows[2].startswith("| UVC |")
    assert "UVC: {" in first.stdout and "UVC: {" not in second.stdout
