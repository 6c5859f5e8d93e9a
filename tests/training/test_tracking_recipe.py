"""Training by the tracking objective: it finds points better afterwards, resumes exactly, and refuses what it cannot train."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from scripts_as_functions import forget_accelerators

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.textures import natural_image
from fgvc_hf.training import joint
from fgvc_hf.training.joint import JointTraining, make_clips
from fgvc_hf.training.loop import Training
from fgvc_hf.training.recipes import Recipe


ALONE = Recipe(
    steps=6,
    batch_size=2,
    crop=64,
    learning_rate=3e-3,
    real=0.0,
    synthetic=0.0,
    adversarial=0.0,
    tracking=1.0,
    tracking_search=6,
    textures=4,
)


@pytest.fixture(scope="module")
def textures():
    return (255 * natural_image(128, 30, 0.4, Random(range(4)))).byte()


def model():
    torch.manual_seed(0)
    return FgvcModel(FgvcConfig(hidden_sizes=[8, 8, 16], depths=[1, 1, 1], output_stride=4, template_radius=1))


def make(output, textures, recipe=ALONE, accumulate=1):
    forget_accelerators()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    return Training(JointTraining(model(), recipe), recipe, output, accelerator, None, textures, save_every=3)


def held_out_loss(network, textures):
    """The objective on clips with other seeds."""
    module = JointTraining(network, ALONE).eval()
    with torch.no_grad():
        clips = make_clips(ALONE, textures, [10**6 + i for i in range(4)], 0)
        return float(module(None, None, [1, 2, 3, 4], clips=clips)["tracking"])


@pytest.mark.slow
def test_points_of_other_clips_are_found_better_afterwards(textures, tmp_path):
    training = make(tmp_path, textures, replace(ALONE, steps=40))
    before = held_out_loss(model(), textures)
    training.run()
    assert held_out_loss(FgvcModel.from_pretrained(tmp_path / "last"), textures) < before - 0.15


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly(textures, tmp_path):
    make(tmp_path / "whole", textures).run()
    part = make(tmp_path / "parts", textures)
    part._log = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt) if part.step == 4 else None
    with pytest.raises(KeyboardInterrupt):
        part.run()
    make(tmp_path / "parts", textures).run()
    whole, parts = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_parts_of_a_batch_have_clips_of_their_own_at_the_same_times(textures):
    both = make_clips(ALONE, textures, [5, 6], step=3)
    first = make_clips(ALONE, textures, [5], step=3)
    difference = (both.frames[:1] - first.frames).abs()
    assert difference.quantile(0.99) < 0.01  # coefficients of the compression may round to a neighbour
    assert not torch.equal(both.frames[0], both.frames[1])


def test_all_distances_in_time_are_learned(textures, monkeypatch):
    """One short, one middle and one long, each in turn: all eight of them in eight updates."""
    asked = []
    monkeypatch.setattr(joint, "render_training_clips", lambda *_, **named: asked.append(named))
    for step in range(9):
        make_clips(ALONE, textures, [5], step)
    later = [
        (1, 4, 12),
        (2, 4, 12),
        (1, 8, 12),
        (2, 8, 12),
        (1, 4, 16),
        (2, 4, 16),
        (1, 8, 16),
        (2, 8, 16),
        (1, 4, 12),
    ]
    assert [named["times"] for named in asked] == [[0, *times] for times in later]
    assert [named["num_frames"] for named in asked] == [times[2] + 1 for times in later]
    assert all((named["size"], named["num_points"]) == (64, joint.CLIP_POINTS) for named in asked)


def test_it_needs_textures(tmp_path):
    with pytest.raises(ValueError, match="needs images for the textures"):
        make(tmp_path, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracking": -1.0}, "tracking must not be negative"),
        ({"tracking": 0.0}, "distillation, synthetic and tracking are all 0"),
        ({"tracking_search": 0}, "tracking_search must be positive"),
        ({"tracking_temperature": 0.0}, "tracking_temperature must be positive"),
        ({"textures": 0}, "textures must be positive"),
    ],
)
def test_recipes_that_cannot_train_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ALONE, **changes)
