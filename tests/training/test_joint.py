"""The training module by what it asks of the losses: which frames, colours and points each of them gets."""

from dataclasses import replace

import pytest
import torch
from test_loop import TINY, tiny

from fgvc_hf.data.augmentation import rgb_to_pixel_values
from fgvc_hf.data.synthetic_pairs import SyntheticPairs
from fgvc_hf.data.training_clips import TrainingClips
from fgvc_hf.training import joint
from fgvc_hf.training.joint import JointTraining


def asked(monkeypatch, name):
    """Calls of a loss, which is 0 instead."""
    calls = []
    monkeypatch.setattr(joint, name, lambda *arguments: calls.append(arguments) or torch.zeros(()))
    return calls


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_student_misses_a_colour_that_the_teacher_sees(monkeypatch, share):
    """One of a and b at random, of both frames, in a share of the pairs."""
    generator = torch.Generator().manual_seed(0)
    frames = 0.1 + 0.9 * torch.rand(12, 2, 3, 32, 32, generator=generator)
    pairs = SyntheticPairs(frames, torch.zeros(12, 2, 16, 16, 2), torch.ones(12, 2, 16, 16, dtype=torch.bool))
    training, seen, asked_of = (
        JointTraining(tiny(), replace(TINY, synthetic_dropout=share, light=0.0), tiny(1)),
        [],
        [],
    )
    encode, teach = training._encode, training._teach
    monkeypatch.setattr(training, "_encode", lambda values: seen.append(values) or encode(values))
    monkeypatch.setattr(training, "_teach", lambda values: asked_of.append(values) or teach(values))
    training(None, pairs, list(range(12)))
    whole = rgb_to_pixel_values(frames)
    torch.testing.assert_close(asked_of, [whole])
    gone = (seen[0] == 0).all(-1).all(-1)  # (B, 2, 3)
    assert torch.equal(gone[:, 0], gone[:, 1]) and not gone[..., 0].any()
    if share:
        assert (gone[:, 0].sum(1) == 1).all() and gone[:, 0, 1].any() and gone[:, 0, 2].any()
        torch.testing.assert_close(seen[0], 1.5 * whole * ~gone[..., None, None])
    else:
        torch.testing.assert_close(seen, [whole])


def test_points_of_a_clip_are_looked_for_between_all_of_its_frames_in_both_orders(monkeypatch):
    """Seen on both, or on the first alone, in windows that are off by all that the search radius allows along each axis."""
    generator = torch.Generator().manual_seed(0)
    tracks, visible = (
        32 * torch.rand(2, 40, 3, 2, generator=generator),
        torch.rand(2, 40, 3, generator=generator) < 0.6,
    )
    known = ~visible & (torch.rand(2, 40, 3, generator=generator) < 0.5)  # to be hidden
    frames = torch.rand(2, 3, 3, 32, 32, generator=generator)
    clips = TrainingClips(frames, torch.zeros(2, 40), tracks, visible, known)
    recipe = replace(TINY, tracking=1.0, tracking_search=5, label="dirac")
    training, calls = JointTraining(tiny(), recipe).eval(), asked(monkeypatch, "tracking_loss")
    assert float(training(None, None, [3, 4], clips=clips)["tracking"]) == 0
    features = training.model(rgb_to_pixel_values(clips.frames)).features.movedim(2, -1)
    cells, offsets = (tracks - 0.5) / 2, []
    orders = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    for (source, target), (one, other, places, truth, valid, hidden, shifts, *numbers) in zip(
        orders, calls, strict=True
    ):
        torch.testing.assert_close((one, other), (features[:, source], features[:, target]))
        torch.testing.assert_close((places, truth), (cells[:, :, source], cells[:, :, target]))
        assert torch.equal(valid, visible[:, :, source] & visible[:, :, target])
        assert torch.equal(hidden, visible[:, :, source] & known[:, :, target])
        assert numbers == [training.model.config.template_radius, 5, recipe.tracking_temperature, True]
        offsets.append(shifts)
    offsets = torch.stack(offsets)  # (6, B, N, 2)
    assert -1 < offsets.min() < -0.9 and 0.9 < offsets.max() < 1
    flat = torch.stack(
        [offsets[..., 0], offsets[..., 1], offsets.roll(1, 0)[..., 0], offsets.flip(1)[..., 0]]
    ).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.95  # drawn for each axis, order and clip


@pytest.mark.parametrize("light", [0.0, 1.0])
def test_labelled_pairs_change_their_light_by_the_strength_asked_for(monkeypatch, light):
    frames = 0.1 + 0.8 * torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pairs = SyntheticPairs(frames, torch.zeros(2, 2, 16, 16, 2), torch.ones(2, 2, 16, 16, dtype=torch.bool))
    training, seen = JointTraining(tiny(), replace(TINY, label="dirac", light=light, synthetic_dropout=0.0)), []
    encode = training._encode
    monkeypatch.setattr(training, "_encode", lambda values: seen.append(values) or encode(values))
    training(None, pairs, [1, 2])
    assert ((seen[0] - rgb_to_pixel_values(frames)).abs().max() > 0.05) == bool(light)


def test_the_discriminator_sees_the_maps_of_second_frames_in_first_ones(monkeypatch):
    """Of real pairs as such, and of labelled ones as others."""
    training, calls = JointTraining(tiny(), TINY, tiny(1)), asked(monkeypatch, "adversarial_loss")
    real, synthetic = torch.rand(2, 3, 2, 5, 5, 16)
    assert float(training._adversarial(real, synthetic)) == 0
    for (discriminator, query, key, is_real, *rest), features, truth in zip(calls, (real, synthetic), (True, False)):
        assert discriminator is training.discriminator and is_real == truth
        assert torch.equal(query, features[:, 1]) and torch.equal(key, features[:, 0])
        assert rest == [TINY.radius, TINY.adversarial_maps, TINY.adversarial_step]
    assert len(calls) == 2
