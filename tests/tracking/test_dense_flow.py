"""Dense flow between two frames."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fgvc_hf import FgvcConfig, Tracker, chain_flow, render_clip
from fgvc_hf.cli.main import main
from fgvc_hf.data.synthetic_pairs import render_pairs
from fgvc_hf.io.flow_files import FLO_TAG, read_flo, save_flow
from fgvc_hf.matching.affine_flow import EdgeAwareSums, affine_flow
from fgvc_hf.matching.feature_flow import feature_flow
from fgvc_hf.matching.flow_fields import cells_of, consistent, outside, resized
from fgvc_hf.matching.motion_layers import motion_layers
from fgvc_hf.matching.patch_flow import patch_flow
from fgvc_hf.metrics.end_point_error import end_point_error
from fgvc_hf.tracking import dense_flow as module
from fgvc_hf.tracking.dense_flow import _at_pixels, _completed, _Found, _found, _judged, _reduced, dense_flow


@pytest.mark.slow
def test_a_rendered_pair_with_exact_truth(bundled_model, processor):
    """Bodies over a background, some of it occluded: better than nothing moves and than single cells."""
    textures = torch.stack(
        [
            torch.from_numpy(render_clip(num_frames=1, height=160, width=160, num_points=1, seed=seed).frames[0])
            for seed in range(6)
        ]
    ).movedim(-1, 1)
    pairs = render_pairs(textures, [1, 5, 6], size=128, reach=30, stride=1, num_bodies=3)
    tracker, hits, found_occluded, truly_occluded = Tracker(bundled_model, processor), 0, 0, 0
    for frames, truth, visible in zip(pairs.frames, pairs.flow[:, 0].numpy(), pairs.visible[:, 0].numpy()):
        first, second = (255 * frames).round().byte().movedim(1, -1).numpy()
        found = tracker.flow(first, second)
        error = end_point_error(found.flow, truth, visible)
        nothing = end_point_error(np.zeros_like(truth), truth, visible)
        assert error["EPE"] < 0.4 * nothing["EPE"] and error["Fl"] < 0.25
        wrong = np.linalg.norm(found.flow - truth, axis=-1) > 3
        assert found.uncertainty[wrong].mean() > 3 * found.uncertainty[~wrong].mean()
        hits += (found.occluded & ~visible).sum()
        found_occluded, truly_occluded = found_occluded + found.occluded.sum(), truly_occluded + (~visible).sum()
    assert 2 * hits / (found_occluded + truly_occluded) > 0.6  # F1


def test_motion_of_half_a_frame_is_found(bundled_model, processor):
    texture = render_clip(num_frames=1, height=128, width=256, num_points=1, num_bodies=0, seed=3).frames[0]
    first, second = texture[:, :160], texture[:, 80:240]
    found = Tracker(bundled_model, processor).flow(first, second)
    assert found.flow[10:-10, 90:-10, 0].mean() == pytest.approx(-80, abs=1)
    assert found.occluded[:, :76].mean() > 0.9 and found.occluded[10:-10, 90:-10].mean() < 0.05


def test_large_frames_are_reduced_and_flow_is_enlarged(bundled_model, processor, monkeypatch):
    texture = render_clip(num_frames=1, height=160, width=200, num_points=1, num_bodies=0, seed=3).frames[0]
    first, second = texture[20:140, 30:170], texture[26:146, 26:166]  # by (+4, -6)
    monkeypatch.setattr("fgvc_hf.tracking.dense_flow.LARGEST", 60 * 70)
    found = Tracker(bundled_model, processor).flow(first, second)
    assert found.flow.shape == (120, 140, 2) and found.occluded.shape == found.uncertainty.shape == (120, 140)
    assert np.abs(found.flow[12:-6, 6:-10] - np.float32([4, -6])).mean() < 0.3


def test_flow_of_a_real_model_at_the_size_of_the_frames(bundled_model, processor):
    texture = render_clip(num_frames=1, height=160, width=200, num_points=1, seed=3).frames[0]
    first, second = texture[20:140, 30:170], texture[26:146, 26:166]  # by (+4, -6)
    found = Tracker(bundled_model, processor).flow(first, second)
    assert found.flow.shape == (120, 140, 2) and found.occluded.shape == (120, 140)
    truth = np.broadcast_to(np.float32([4, -6]), found.flow.shape)
    both = np.zeros((120, 140), bool)
    both[12:-6, 6:-10] = True
    assert end_point_error(found.flow, truth, both)["EPE"] < 0.5
    assert found.occluded[both].mean() < 0.02


@pytest.mark.slow
def test_chained_flow_goes_farther_than_one_step_can(bundled_model, processor):
    texture = render_clip(num_frames=1, height=140, width=240, num_points=1, num_bodies=0, seed=3).frames[0]
    clip = [texture[10:106, 80 - 8 * t : 208 - 8 * t] for t in range(8)]  # the content moves by +8 per frame
    found = dict(chain_flow(Tracker(bundled_model, processor), clip, frame_idx=1))
    assert list(found) == list(range(1, 8))
    assert not found[1].flow.any() and not found[1].occluded.any()
    reach = bundled_model.config.search_radius * (96 * 128) ** 0.5
    for t in (4, 7):
        stays = np.zeros((96, 128), bool)
        stays[12:-12, 12 : 116 - 8 * (t - 1)] = True
        truth = np.broadcast_to(np.float32([8 * (t - 1), 0]), (96, 128, 2))
        assert end_point_error(found[t].flow, truth, stays)["EPE"] < 1
        assert found[t].occluded[stays].mean() < 0.05
        assert found[t].occluded[:, 136 - 8 * (t - 1) :].mean() > 0.9  # has left the frame
    assert reach < 8 * 6


# ---- by value ---------------------------------------------------------------------------------------------------------


def smooth(*shape, seed=0):
    """Smooth noise (..., h, w) in [0, 1]."""
    *first, h, w = shape
    coarse = torch.rand(1, math.prod(first), -(-h // 4), -(-w // 4), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (h, w), mode="bilinear")[0].view(shape)


def test_both_directions_are_those_of_the_frames_in_the_other_order(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_judged", lambda *given: asked.append(given[3]) or _judged(*given))
    frames, features = smooth(2, 3, 24, 40), F.normalize(smooth(2, 12, 20, 8, seed=1) - 0.5, dim=-1)
    forward, backward = dense_flow(frames, features, (24, 40), FgvcConfig())
    turned = dense_flow(frames.flip(0), features.flip(0), (24, 40), FgvcConfig())
    for name in ("flow", "occluded", "uncertainty"):
        assert torch.equal(getattr(turned[0], name), getattr(backward, name))
        assert torch.equal(getattr(turned[1], name), getattr(forward, name))
    assert all(torch.equal(of, frames) for of in asked[::3]) and all(
        torch.equal(of, frames.flip(0)) for of in asked[1:3]
    )
    assert (forward.flow != backward.flow).any() and (forward.occluded != backward.occluded).any()


def test_flow_in_cells_becomes_one_in_pixels_along_each_axis():
    """Of frames of 20 x 60 pixels, which the model sees as 40 x 40."""
    flow = torch.tensor([1.0, 1.0]).expand(20, 20, 2)
    found = _at_pixels(flow, (20, 60), (40, 40), FgvcConfig(output_stride=2))
    torch.testing.assert_close(found, torch.tensor([3.0, 1.0]).expand(20, 60, 2))


def test_what_is_known_agrees_with_the_flow_back_stays_in_the_frame_and_looks_alike():
    first = smooth(3, 12, 15, seed=2)
    second = torch.roll(first, (-1, 2), (1, 2))  # motion by (2, -1)
    second[:, 8:, 8:] = 1 - second[:, 8:, 8:]  # something else is seen there
    flow = torch.tensor([2.0, -1.0]).repeat(12, 15, 1)
    back = -flow
    back[1:4, 5:9] = 9.0  # contradicts
    found = _found(flow, back, torch.stack([first, second]))
    assert torch.equal(found.flow, flow) and found.other_colour == 0.02
    x, y = cells_of(flow).unbind(-1)
    other = (y >= 7) & (x >= 4)  # up to two pixels around what leads there
    assert found.known[5:7, :11].all() and not found.known[y - 1 < 0].any() and not found.known[x + 2 > 14].any()
    assert not found.known[(y > 10) & (x > 7) & (x < 12)].any()
    assert torch.equal(found.known[~other], (consistent(flow, back, 0.5) & ~outside(cells_of(flow) + flow))[~other])
    assert not found.known[2:4, 4:6].any()


def test_another_exposure_does_not_make_things_unknown():
    """Colours are others from three times the usual difference on, where that is more than 0.02."""
    first = 0.2 + 0.5 * smooth(3, 20, 24, seed=3)
    second = 0.8 * first
    second[:, 12:, 14:] = 1 - second[:, 12:, 14:]
    still = torch.zeros(20, 24, 2)
    found = _found(still, still, torch.stack([first, second]))
    usual = F.avg_pool2d((second - first).abs().mean(dim=0)[None], 5, 1, 2, count_include_pad=False).median()
    assert found.other_colour == pytest.approx(3 * float(usual), rel=1e-5) and found.other_colour > 0.2
    assert found.known[:10].all() and not found.known[15:, 17:].any()
    nothing = _found(still + 99, still, torch.stack([first, second]))
    assert not nothing.known.any() and nothing.other_colour == 0.02


def test_hidden_pixels_move_as_the_surface_that_nothing_speaks_against():
    """
    A body moves right over a background that stands still, and most of it leaves the frame. Its hidden part lies nearer to the
    background below; but of the background, other colours would be seen, where it does not move behind the body.
    """
    h, w, shift = 48, 64, 36
    still, moving = torch.zeros(h, w, 2), torch.zeros(h, w, 2)
    moving[..., 0] = shift
    x, y = cells_of(still).unbind(-1)
    body = (x >= 24) & (y >= 8) & (y < 20)
    background, texture = 0.4 + 0.1 * smooth(3, h, w, seed=5), 0.5 + 0.1 * smooth(3, h, w, seed=6)
    first = torch.where(body, texture, background)
    second = torch.where((x >= 24 + shift) & (y >= 8) & (y < 20), torch.roll(texture, shift, 2), background)
    flow = torch.where(body[..., None], moving, still)
    known = torch.where(body, x + shift < w, ~((x >= 24 + shift) & (y >= 8) & (y < 20)))
    seen = (x >= 24 + shift) & (y >= 8) & (y < 20)
    back = _Found(
        torch.where(seen[..., None], -moving, still), ~((x >= 24) & (x < 24 + shift) & (y >= 8) & (y < 20)), 0.02
    )
    fitted = flow + 0.25
    found = _completed(fitted, _Found(flow, known, 0.02), back, torch.stack([first, second]))
    assert len(motion_layers(flow, known).motions) == 2
    assert torch.equal(found[known], fitted[known])
    hidden = body & ~known & (x < 24 + shift - 2)
    assert ((found - moving).norm(dim=-1)[hidden] < 0.5).float().mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_what_is_occluded_by_its_definition(seed):
    """What leaves the frame, and what contradicts the flow back by more than a pixel and a twentieth where the colours are others."""
    h, w, size = 9, 12, (18, 36)
    images, generator = smooth(2, 3, h, w, seed=seed), torch.Generator().manual_seed(seed)
    images[1] = images[0] + 0.1 * (images[1] - 0.5) * torch.linspace(0, 1, w).square()
    images[..., :8] *= 0.02  # of one colour
    flow, found = (torch.randn(h, w, 2, generator=generator) for _ in range(2))
    back = -found + 0.5 * torch.randn(h, w, 2, generator=generator)

    def read(values, place):
        """The value (C,) of a map (h, w, C) at a place (x, y), bilinear, and constant beyond the border."""
        x, y = (min(max(float(at), 0), side - 1) for at, side in zip(place, (w, h)))
        u, v = min(int(x), w - 2), min(int(y), h - 2)
        rows = [(1 - x + u) * values[at, u] + (x - u) * values[at, u + 1] for at in (v, v + 1)]
        return (1 - y + v) * rows[0] + (y - v) * rows[1]

    cells, first, second = list(itertools.product(range(h), range(w))), *images.movedim(1, -1)
    place = {(y, x): torch.tensor([x, y]) + flow[y, x] for y, x in cells}
    differs = {(y, x): float((read(second, place[y, x]) - first[y, x]).abs().mean()) for y, x in cells}
    occluded, gap, alike = torch.zeros(h, w, dtype=torch.bool), torch.zeros(h, w), 0
    for y, x in cells:
        there = read(back, torch.tensor([x, y]) + found[y, x])
        gap[y, x] = (found[y, x] + there).norm()
        agrees = gap[y, x] <= 1 + 0.05 * (found[y, x].norm() + there.norm())
        around = [differs[v, u] for v, u in cells if max(abs(v - y), abs(u - x)) <= 2]
        u, v = place[y, x].tolist()
        left = not (-0.5 <= u <= w - 0.5 and -0.5 <= v <= h - 0.5)
        other = sum(around) / len(around) > 0.025
        alike += not (agrees or other or left)
        occluded[y, x] = left or (not agrees and other)
    assert alike > 5
    both = _Found(found, torch.ones(h, w), 0.025), _Found(back, torch.ones(h, w), 0.5)
    judged = _judged(flow, *both, images, (h, w))
    assert torch.equal(judged.flow, flow) and torch.equal(judged.occluded, occluded) and occluded.float().mean() > 0.1
    torch.testing.assert_close(judged.uncertainty, gap)
    large = _judged(flow, *both, images, size)
    torch.testing.assert_close(large.flow, resized(flow, size))
    assert torch.equal(large.occluded, occluded.repeat_interleave(2, 0).repeat_interleave(3, 1))
    torch.testing.assert_close(large.uncertainty, 3 * F.interpolate(gap[None, None], size, mode="bilinear")[0, 0])


def test_the_way_from_features_to_both_flows_by_its_definition():
    """Features within one cell, then twice patches of the grey frames; what is known is continued each time, then completed."""
    frames, generator = smooth(2, 3, 36, 44, seed=4), torch.Generator().manual_seed(6)
    features = F.normalize(torch.randn(2, 18, 22, 8, generator=generator), dim=-1)
    config, both = FgvcConfig(output_stride=2), ((0, 1), (1, 0))
    small = frames.unflatten(3, (22, 2)).unflatten(2, (18, 2)).mean((3, 5))
    grey = 255 * (0.299 * frames[:, 0] + 0.587 * frames[:, 1] + 0.114 * frames[:, 2])
    found, fitted = feature_flow(*features), [torch.empty(0)] * 2
    for i, j in both:
        flow = affine_flow(found[i], consistent(found[i], found[j], 1.0), EdgeAwareSums(small[i], 16.0, 80.0), 6, 1.0)
        fitted[i] = _at_pixels(flow, (36, 44), (36, 44), config)
    for _ in range(2):
        flows = [patch_flow(grey[i], grey[j], fitted[i]) for i, j in both]
        found = [_found(flows[i], flows[j], frames[[i, j]]) for i, j in both]
        sums = [EdgeAwareSums(frame, 8.0, 120.0) for frame in frames]
        fitted = [affine_flow(of.flow, of.known, ways, 4, 1.0) for of, ways in zip(found, sums, strict=True)]
    results = dense_flow(frames, features, (36, 44), config)
    for (i, j), result in zip(both, results, strict=True):
        pair = found[i], found[j], frames[[i, j]]
        expected = _judged(_completed(fitted[i], *pair), *pair, (36, 44))
        torch.testing.assert_close(result.flow, expected.flow, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(result.uncertainty, expected.uncertainty, atol=1e-2, rtol=1e-2)
        assert (result.occluded == expected.occluded).float().mean() > 0.99


def test_frames_are_reduced_to_a_number_of_pixels_and_keep_their_shape(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1600)
    wide, small, thin = torch.rand(2, 3, 40, 160), torch.rand(2, 3, 20, 80), torch.rand(2, 3, 1, 6400)
    torch.testing.assert_close(_reduced(wide), wide.unflatten(3, (80, 2)).unflatten(2, (20, 2)).mean((3, 5)))
    assert _reduced(small) is small
    torch.testing.assert_close(_reduced(thin), thin.unflatten(3, (3200, 2)).mean(4))


def test_frames_must_be_of_one_size(bundled_model, processor):
    with pytest.raises(ValueError, match="frame must be of size"):
        Tracker(bundled_model, processor).flow(np.zeros((40, 50, 3), np.uint8), np.zeros((40, 48, 3), np.uint8))


def test_flo_files(tmp_path):
    flow = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    save_flow(flow, np.zeros((5, 7), bool), tmp_path / "a.flo")
    content = (tmp_path / "a.flo").read_bytes()
    assert content[:4] == FLO_TAG and np.frombuffer(content[:4], "<f4")[0] == np.float32(202021.25)
    assert np.frombuffer(content[4:12], "<i4").tolist() == [7, 5]
    np.testing.assert_array_equal(read_flo(tmp_path / "a.flo"), flow)
    (tmp_path / "b.flo").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="damaged"):
        read_flo(tmp_path / "b.flo")


@pytest.mark.parametrize("suffix", [".flo", ".npz", ".png"])
def test_command(tmp_path, noise_clip, suffix):
    for i in (0, 1):
        Image.fromarray(noise_clip[i]).save(tmp_path / f"{i}.png")
    out = tmp_path / f"flow{suffix}"
    assert main(["flow", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--output", str(out)]) == 0
    if suffix == ".npz":
        with np.load(out) as file:
            assert file["flow"].shape == (40, 56, 2) and file["occluded"].dtype == bool
    elif suffix == ".png":
        assert Image.open(out).size == (56, 40)
    else:
        assert read_flo(out).shape == (40, 56, 2)


@pytest.mark.parametrize(
    ("images", "output", "message"),
    [
        (["0.png", "none.png"], "out.flo", "none.png: cannot be read as an image"),
        (["0.png", "text.png"], "out.flo", "text.png: cannot be read as an image"),
        (["0.png", "small.png"], "out.flo", "frame must be of size (40, 56)"),
        (["0.png", "0.png"], "out.txt", "the name must end in .flo, .npz, .png or .exr"),
    ],
)
def test_user_errors(tmp_path, monkeypatch, capsys, noise_clip, images, output, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise_clip[0]).save("0.png")
    Image.fromarray(noise_clip[0, :20]).save("small.png")
    (tmp_path / "text.png").write_text("text")
    assert main(["flow", *images, "--output", output]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / output).exists()
