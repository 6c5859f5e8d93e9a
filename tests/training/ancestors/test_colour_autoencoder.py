"""The training of UVC's colour auto-encoder by value: its stages, its schedule, and its loss on colours."""

from dataclasses import replace

import pytest
import torch

from fgvc_hf.training.ancestors.colour_autoencoder import (
    COLOURS,
    COLOURS_SMALL,
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    ColourTraining,
)


@pytest.mark.parametrize(("stride", "widths"), [(2, [64]), (4, [64, 128]), (8, [64, 128, 256])])
def test_each_stage_halves_the_resolution(stride, widths):
    assert replace(COLOURS, stride=stride).widths == widths
    assert ColourAutoEncoderConfig(widths=widths).stride == stride


@pytest.mark.parametrize("stride", [1, 3, 6, 16])
def test_other_strides_are_refused(stride):
    with pytest.raises(ValueError, match=f"stride must be 2, 4 or 8, got {stride}"):
        replace(COLOURS, stride=stride)


def test_the_learning_rate_falls_by_a_power_of_nine_tenths():
    """A half to the power of 0.9 is 0.5359, and a tenth 0.1259."""
    recipe = replace(COLOURS_SMALL, steps=1000)
    assert [recipe.decay(step) for step in (0, 500, 900)] == pytest.approx([1, 0.535887, 0.125893], rel=1e-5)


@pytest.mark.parametrize(("side", "fits"), [(24, False), (32, True), (36, False), (40, True)])
def test_frames_are_of_whole_cells_and_at_least_32_pixels(side, fits):
    if fits:
        assert replace(COLOURS, frame=side).frame == side
    else:
        with pytest.raises(ValueError, match=f"frame must be a multiple of 8 of at least 32, got {side}"):
            replace(COLOURS, frame=side)


def test_the_loss_on_colours_by_value(monkeypatch):
    """Of white, black and red, whose Lab are (100, 0, 0), (0, 0, 0) and (53.24, 80.09, 67.20), if the middle of all colours is found."""
    model = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8]))
    training = ColourTraining(model, replace(COLOURS_SMALL, stride=2))
    monkeypatch.setattr(model, "forward", torch.zeros_like)
    frames = torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8)
    frames[0, 0], frames[0, 2, 0] = 255, 255
    middle = 128 * 100 / 255  # of the lightness, which is also its scale
    white, black = (100 - middle) / middle / 3, 1 / 3
    red = ((53.24 - middle) / middle + 10 * 80.09 / 128 + 10 * 67.20 / 128) / 3
    (loss,) = training(frames, [0], 0).values()
    assert float(loss) == pytest.approx((white + black + red) / 3, rel=1e-3)
