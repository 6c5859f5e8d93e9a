"""What a camera does to frames, by value: each change alone, on pictures that show it."""

import math

import pytest
import torch

from fgvc_hf.data import clip_disturbance
from fgvc_hf.data.clip_disturbance import add_haze, add_noise, change_exposure, compress, defocus, disturb
from fgvc_hf.data.moving_scenes import wave
from fgvc_hf.data.scene import Random


CLIPS, LENGTH = 200, 3


def over_time(random, length=LENGTH):
    return lambda rate, reach: wave(length, rate, reach, random)


def changed(change, frames, strength=1.0):
    random = Random(range(len(frames)))
    return change(frames.clone(), random, strength, over_time(random))


def test_a_part_of_a_clip_is_as_in_the_whole(monkeypatch):
    """But for noise, which is drawn for the frames there are."""
    monkeypatch.setattr(clip_disturbance, "add_noise", lambda frames, random, strength: frames)
    monkeypatch.setattr(clip_disturbance, "compress", lambda frames, steps: frames)
    frames, times = torch.rand(6, 12, 3, 16, 16), torch.tensor([0, 4, 11])
    whole = disturb(frames.clone(), Random(range(6)))
    part = disturb(frames[:, times].clone(), Random(range(6)), times=times)
    torch.testing.assert_close(part, whole[:, times])
    assert (whole - frames).abs().flatten(1).amax(1).min() > 0.02


def test_haze_lies_over_a_fifth_of_the_clips_and_what_is_behind_shows_through():
    black, white = (changed(add_haze, torch.full((CLIPS, LENGTH, 3, 8, 8), value)) for value in (0.0, 1.0))
    density = 1 - (white - black)  # (B, T, 3, H, W)
    hazy = density.flatten(1).amax(1) > 1e-6
    assert 0.1 < hazy.float().mean() < 0.3
    assert density.min() > -1e-6 and 0.4 < density.max() < 0.6
    grey = (black / density)[hazy].flatten(1)  # the same wherever it is dense enough to tell
    dense = density[hazy].flatten(1) > 0.05
    for values, where in zip(grey, dense, strict=True):
        assert 0.3 <= values[where].mean() <= 0.9 and values[where].std() < 1e-3
    assert density[hazy].std(dim=(3, 4)).max() > 0.05 and density[hazy].std(dim=1).max() > 1e-3  # uneven, and drifting
    thin = changed(add_haze, torch.zeros(CLIPS, LENGTH, 3, 8, 8), 0.5)
    torch.testing.assert_close(thin, black / 2)


def test_light_is_a_gain_for_each_channel_times_a_ramp_between_the_corners():
    frames = torch.full((CLIPS, LENGTH, 3, 9, 9), 0.5)
    logs = changed(change_exposure, frames).log()
    of_frame, side = logs[..., 4, 4], logs - logs[..., 4:5, 4:5]
    torch.testing.assert_close(side[:, :, :1].expand_as(side), side, atol=1e-5, rtol=0)  # alike for all channels
    for axis in (3, 4):
        assert side.diff(dim=axis).diff(dim=axis).abs().max() < 1e-5
        assert side.diff(dim=axis).abs().max() > 0.01
    sided = side.flatten(1).abs().amax(1) > 1e-4
    assert 0.7 < sided.float().mean() < 0.95  # each of four corners in four of ten
    assert of_frame.std(dim=2).min() > 0 and 0.01 < of_frame.std(dim=2).mean() < 0.08  # a tint
    means = of_frame.mean(2)
    assert means.std(dim=0).min() > 0.1 and 1e-4 < means.diff(dim=1).abs().mean() < 0.05  # it drifts
    half = changed(change_exposure, frames, 0.5).log()
    gains = (of_frame - math.log(0.5))[..., 0], (half[..., 0, 4, 4] - math.log(0.5))
    assert float(gains[1].std() / gains[0].std()) == pytest.approx(0.5, abs=0.05)


def test_the_focus_blends_with_a_picture_that_was_blurred_twice():
    impulse = torch.zeros(CLIPS, LENGTH, 3, 9, 9)
    impulse[..., 4, 4] = 1
    found, kernel = changed(defocus, impulse), torch.tensor([1, 2, 3, 2, 1]) / 9
    blurred = torch.zeros(9, 9)
    blurred[2:7, 2:7] = kernel[:, None] * kernel
    share = (1 - found[..., 4, 4]) / (1 - blurred[4, 4])
    assert share.min() > -1e-6 and 0.8 < share.max() < 1 + 1e-6
    torch.testing.assert_close(found, torch.lerp(impulse, blurred.expand_as(impulse), share[..., None, None]))
    assert 0.15 < (share.flatten(1).amax(1) > 1e-6).float().mean() < 0.4
    assert share.diff(dim=1).abs().max() > 1e-3


def test_noise_is_another_on_each_frame_of_half_of_the_clips():
    still = torch.full((CLIPS, LENGTH, 3, 8, 8), 0.5)
    noise = add_noise(still.clone(), Random(range(CLIPS)), 1.0) - still
    deviation = noise.flatten(1).std(dim=1)
    assert 0.4 < (deviation > 0).float().mean() < 0.6 and 0.03 < deviation.max() < 0.045
    first, second = (noise[:, t].flatten() for t in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    half = add_noise(still.clone(), Random(range(CLIPS)), 0.5) - still
    torch.testing.assert_close(half, noise / 2, atol=1e-6, rtol=1e-4)


def test_compression_rounds_the_cosine_transforms_of_blocks_by_value():
    """Of brightness, and three times as coarsely of what is left of the colours; fine detail more than coarse."""
    generator = torch.Generator().manual_seed(0)
    frames, step = torch.rand(1, 1, 3, 16, 8, generator=generator).double(), 0.05
    grid = torch.arange(8).double()
    basis = torch.stack(
        [((2 * grid + 1) * k * math.pi / 16).cos() * (0.125 if not k else 0.25) ** 0.5 for k in range(8)]
    )
    sizes = step * (1 + 0.7 * (grid[:, None] + grid))
    grey = (frames[0, 0] * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(0)
    expected = torch.zeros(3, 16, 8).double()
    for top in (0, 8):
        part = slice(top, top + 8)
        for values, size in ((grey[part].expand(3, 8, 8), sizes), (frames[0, 0, :, part] - grey[part], 3 * sizes)):
            for channel in range(3):
                transform = torch.einsum("ij,kl,jl->ik", basis, basis, values[channel])
                rounded = (transform / size).round() * size
                expected[channel, part] += torch.einsum("ij,kl,ik->jl", basis, basis, rounded)
    found = compress(frames[:, :, :].float().clone(), torch.tensor([step]))
    assert (found[0, 0] - expected).abs().median() < 1e-5 and (found - frames).abs().max() > 0.1
