"""TimeCycle's losses for trackers that are perfect, and the gradient of one that is not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.training.ancestors.patch_localisation import Place, crop, crop_image
from fgvc_hf.training.ancestors.time_cycle import (
    TIME_CYCLE_SMALL,
    Localiser,
    TimeCycleRecipe,
    TimeCycleTraining,
    Tracked,
    choose_patches,
    cycle,
    cycle_losses,
    distance,
    inlier_loss,
)
from fgvc_hf.training.experiment import parse_recipe
from fgvc_hf.training.objectives import cell_grid


TINY = TimeCycleRecipe(steps=4, batch_size=2, frame=160, patch=56, learning_rate=1e-3)
CENTRES = [
    (6.0, 5.0),
    (7.0, 6.0),
    (9.0, 6.0),
    (10.0, 8.0),
    (12.0, 9.0),
]  # of the patch in the base frames, and in the target
SIZE, FRAME = (5, 5), (20, 20)


def moving_frames():
    """Features of frames of noise, through which a patch of its own moves by whole cells."""
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(1, *SIZE, 32, generator=generator)
    frames = []
    for x, y in CENTRES:
        frame = torch.randn(1, *FRAME, 32, generator=generator)
        frame[:, int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = patch
        frames.append(frame)
    return patch, frames


class Perfect:
    """A tracker that knows where the patch is, and whose affinity is certain."""

    def __init__(self, frames):
        self.frames, self.asked = frames, []

    def __call__(self, patch, frame):
        number = next(i for i, one in enumerate(self.frames) if one is frame)
        self.asked.append(number)
        place = Place.at(torch.tensor([CENTRES[number]]))
        x, y = place.positions(SIZE).flatten(1, 2)[0].long().unbind(1)
        affinity = torch.zeros(1, len(x), FRAME[0] * FRAME[1])
        affinity[0, torch.arange(len(x)), y * FRAME[1] + x] = 1e4
        return Tracked(crop(frame, place, SIZE), place, affinity)


def make_training(localiser):
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[16, 16, 32], depths=[1, 1, 1], output_stride=8))
    with torch.no_grad():
        for parameter in model.parameters():  # residual branches start at zero, and let no gradient through
            parameter.add_(0.1 * torch.randn_like(parameter))
    return TimeCycleTraining(model, replace(TINY, localiser=localiser))


def test_a_perfect_tracker_has_no_loss_and_goes_round_as_it_should():
    patch, frames = moving_frames()
    tracker = Perfect(frames)
    losses = cycle_losses(tracker, patch, frames[:4], frames[4], Place.at(torch.tensor([CENTRES[4]])))
    assert {name: float(loss) for name, loss in losses.items()} == {
        "similarity": pytest.approx(0, abs=1e-5),
        "skip": pytest.approx(0, abs=1e-9),
        "long": pytest.approx(0, abs=1e-9),
    }
    tracker.asked.clear()
    cycle(tracker, patch, frames[:4], frames[4])
    assert tracker.asked == [3, 2, 1, 0, 1, 2, 3, 4]


def test_missing_costs_the_squared_distance_in_half_frames():
    true, found = Place.at(torch.tensor([[9.0, 9.0]])), Place.at(torch.tensor([[12.0, 5.0]]))
    assert float(distance(found, true, SIZE, FRAME)) == pytest.approx(25 / 9.5**2, rel=1e-5)
    turned = Place.at(torch.tensor([[9.0, 9.0]]), torch.tensor([0.5]))
    assert 0 < float(distance(turned, true, SIZE, FRAME)) < float(distance(found, true, SIZE, FRAME))


def unrolled(track, patch, frames, place):
    """The losses (B,) of patches and five frames, the last of which they are of, by the definition of each cycle."""
    direct = [track(patch, frame) for frame in frames[:4]]
    ends = [track(found.features, frames[4]).place for found in direct]
    long = []
    for way in ((3,), (3, 2, 3), (3, 2, 1, 2, 3), (3, 2, 1, 0, 1, 2, 3)):
        features = patch
        for t in way:
            features = track(features, frames[t]).features
        long.append(track(features, frames[4]).place)
    size, frame = patch.shape[1:3], frames[4].shape[1:3]
    return {
        "similarity": sum(inlier_loss(found, frame) for found in direct) / 4,
        "skip": sum(distance(end, place, size, frame) for end in ends) / 4,
        "long": sum(distance(end, place, size, frame) for end in long) / 4,
    }


def test_which_way_a_cycle_goes_by_value():
    """With a tracker whose answer depends on every frame it has seen, and their order."""
    generator = torch.Generator().manual_seed(3)
    patch, frames = torch.rand(2, 4, 5, 3, generator=generator), torch.rand(5, 2, 9, 13, 3, generator=generator)

    def wandering(features, frame):
        features = 1.3 * features + frame.mean((1, 2), keepdim=True)
        return Tracked(
            features,
            Place.at(features.mean((1, 2))[:, :2]),
            torch.einsum("bijc,bklc->bijkl", features, frame).reshape(2, 20, 117),
        )

    place = Place.at(torch.tensor([[3.0, 4.0], [7.0, 2.0]]))
    found = cycle_losses(wandering, patch, frames[:4], frames[4], place)
    torch.testing.assert_close(found, unrolled(wandering, patch, frames, place))


@pytest.mark.parametrize("localiser", ["network", "coordinates"])
@torch.no_grad()
def test_losses_by_definition(localiser):
    """The patch is of the last frame but one, turned as it was drawn."""
    training = make_training(localiser).eval()
    clips = (255 * torch.rand(2, 6, 3, 160, 160, generator=torch.Generator().manual_seed(4))).byte()
    images = clips / 255
    place = choose_patches(images[:, 4:], Random([5, 6]), 56, 8)
    patch = training.encode(crop_image(images[:, 4], place, (7, 7), 8))
    expected = unrolled(training.track, patch, [training.encode(images[:, t]) for t in range(5)], place)
    for name, loss in training(clips, [5, 6], 0).items():
        torch.testing.assert_close(loss, expected[name].mean())


@pytest.mark.parametrize("localiser", ["network", "coordinates"])
@torch.no_grad()
def test_a_step_of_the_tracker_by_value(localiser):
    """Cosines times the square root of 512, and the place by them: centre and rotation, at the scale of the frame."""
    training, generator = make_training(localiser), torch.Generator().manual_seed(5)
    patch, frame = (torch.randn(2, *size, 32, generator=generator) for size in ((7, 7), (20, 20)))
    found = training.track(patch, frame)
    cosines = F.cosine_similarity(patch.flatten(1, 2)[:, :, None], frame.flatten(1, 2)[:, None], dim=-1)
    torch.testing.assert_close(found.affinity, 22.627417 * cosines, atol=1e-4, rtol=1e-5)
    if localiser == "network":
        expected = training.localiser(found.affinity.softmax(-1))
        torch.testing.assert_close((found.place.centre, found.place.angle), (expected.centre, expected.angle))
    else:
        positions = found.affinity.softmax(-1) @ cell_grid(frame).flatten(0, 1)
        moved, own = positions - positions.mean(1, keepdim=True), cell_grid(patch).flatten(0, 1) - 3
        across = own[:, 0] * moved[..., 1] - own[:, 1] * moved[..., 0]
        angle = torch.atan2(across.sum(1), (own * moved).sum((1, 2)))
        assert angle.abs().min() > 0.05
        torch.testing.assert_close(found.place.centre, positions.mean(1))
        torch.testing.assert_close(found.place.angle, angle, atol=1e-4, rtol=1e-4)
    assert (found.place.scale == 1).all()
    torch.testing.assert_close(found.features, crop(frame, found.place, (7, 7)))


def test_the_distance_by_value():
    """Over points at every half cell, with rotation, in units of half the frame along each axis."""
    pair = [Place.at(torch.tensor([[4.0, 3.0]]), torch.tensor([0.3])), Place.at(torch.tensor([[6.5, 2.0]]))]
    squares = []
    for i in range(8):
        for j in range(10):
            x, y = j / 2 - 2, i / 2 - 1.5
            turned = 4 + math.cos(0.3) * x - math.sin(0.3) * y, 3 + math.sin(0.3) * x + math.cos(0.3) * y
            squares.append(((turned[0] - 6.5 - x) / 6) ** 2 + ((turned[1] - 2 - y) / 4) ** 2)
    assert float(distance(*pair, (4, 5), (9, 13))) == pytest.approx(sum(squares) / 80, rel=1e-5)


def test_the_inlier_loss_by_value():
    """The mean of what lands, between cells, where the place puts each cell; positions off the frame do not count."""
    affinity = 3 * torch.randn(2, 20, 9 * 13, generator=torch.Generator().manual_seed(6))
    place = Place.at(torch.tensor([[6.25, 1.5], [11.5, 4.0]]), torch.tensor([0.4, 0.0]))
    found = inlier_loss(Tracked(torch.zeros(2, 4, 5, 1), place, affinity), (9, 13))
    for b in range(2):
        masses = []
        for row, (x, y) in zip(affinity[b].softmax(1), place.positions((4, 5))[b].flatten(0, 1).tolist()):
            if 0 <= x <= 12 and 0 <= y <= 8:
                maps = F.pad(row.view(9, 13), (0, 1, 0, 1))
                u, v = int(x), int(y)
                top, bottom = (maps[at, u] + (x - u) * (maps[at, u + 1] - maps[at, u]) for at in (v, v + 1))
                masses.append(float(top + (y - v) * (bottom - top)))
        assert 8 <= len(masses) < 20
        assert float(found[b]) == pytest.approx(1 - sum(masses) / len(masses), rel=1e-5)
    away = Tracked(torch.zeros(2, 4, 5, 1), Place.at(torch.full((2, 2), -30.0)), affinity)
    assert inlier_loss(away, (9, 13)).tolist() == [1, 1]


@pytest.mark.parametrize("localiser", ["network", "coordinates"])
def test_the_gradient_goes_through_every_step_of_a_cycle(localiser):
    """Of four frames and back: each step's own features, and all of the encoder."""
    training = make_training(localiser)
    encoded = training.encode(torch.rand(5, 3, 160, 160))
    frames = [encoded[i : i + 1].clone() for i in range(5)]
    for frame in frames:
        frame.retain_grad()
    patch = training.encode(torch.rand(1, 3, 56, 56))
    patch.retain_grad()
    crops = []

    def track(features, frame):
        found = training.track(features, frame)
        found.features.retain_grad()
        crops.append(found.features)
        return found

    end = cycle(track, patch, frames[:4], frames[4])
    distance(end, Place.at(torch.tensor([[6.0, 12.0]])), (7, 7), FRAME).sum().backward()
    assert len(crops) == 8
    assert all(float(features.grad.abs().sum()) > 0 for features in (*crops[:-1], *frames, patch))
    assert all(float(p.grad.abs().sum()) > 0 for p in training.model.parameters())


@pytest.mark.parametrize("localiser", ["network", "coordinates"])
def test_all_losses_of_a_clip(localiser):
    training = make_training(localiser)
    clips = (255 * torch.rand(2, 6, 3, 160, 160)).byte()
    losses = training(clips, [5, 6], 0)
    assert set(losses) == {"similarity", "skip", "long"} and all(float(loss) > 0 for loss in losses.values())
    assert float(losses["similarity"]) <= 1
    again = training(clips, [5, 6], 0)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


def test_patches_are_chosen_where_something_moves():
    pair = torch.zeros(1, 2, 3, 144, 144)
    pair[0, 1, :, 16:64, 80:128] = 1.0
    for seed in range(8):
        place = choose_patches(pair, Random([seed]), patch=48, stride=8)
        x, y = (8 * place.centre[0]).tolist()
        assert 50 < x < 120 and y < 80
        assert abs(float(place.angle)) <= 0.786
        positions = Place.at(place.centre).positions((6, 6))
        assert positions.min() >= 0 and positions.max() <= 17


def test_patches_are_drawn_from_the_ten_places_with_the_most_motion():
    """Places of 3 x 3 of 9 x 9 blocks, shifted by up to half the way to the next along each axis, but not over the border."""
    blocks = torch.rand(9, 9, generator=torch.Generator().manual_seed(8))
    motion = {(i, j): float(blocks[i : i + 3, j : j + 3].mean()) for i in range(7) for j in range(7)}
    best = sorted(motion, key=motion.get)[-10:]
    image = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
    # the difference counts in either direction, and in each channel for itself
    pair = torch.stack([torch.stack([image, -image, 0 * image]), torch.zeros(3, 144, 144)])
    count = 600
    place = choose_patches(pair.expand(count, 2, 3, 144, 144), Random(range(count)), patch=48, stride=8)
    steps = (place.centre - 2.5) / 2  # from place to place are two cells, and the first is centred on 2.5
    assert steps.min() >= 0 and steps.max() <= 6
    nearest = steps.round().long()
    assert {(y, x) for x, y in nearest.tolist()} == set(best)
    off = (steps - nearest)[((nearest > 0) & (nearest < 6)).all(dim=1)]
    assert all(-0.501 < at.min() < -0.45 and 0.45 < at.max() < 0.501 for at in off.T)
    assert (off[:, 0] - off[:, 1]).abs().max() > 0.8
    degrees = torch.rad2deg(place.angle)
    assert -45.01 < degrees.min() < -43 and 43 < degrees.max() < 45.01
    assert (place.scale == 1).all()


def test_pictures_follow_the_patch_back_in_time(monkeypatch):
    training = make_training("coordinates")
    clips = (255 * torch.rand(2, 6, 3, 160, 160, generator=torch.Generator().manual_seed(9))).byte()
    places = [Place.at(torch.tensor([[5.0 + n, 6.0], [12.0, 14.0 - n]])) for n in range(4)]
    asked = []

    def track(patch, frame):
        asked.append((patch, frame))
        return Tracked(patch, places[len(asked) - 1], torch.zeros(0))

    monkeypatch.setattr(training, "track", track)
    (picture,) = training.draw(clips, None, [3, 4]).values()
    images = clips / 255
    own = choose_patches(images[:, 4:], Random([3, 4]), 56, 8)
    shown = [
        np.concatenate([training.outlined(images[i, 4 - n], at, i, (7, 7)) for n, at in enumerate([own, *places])], 1)
        for i in range(2)
    ]
    np.testing.assert_array_equal(picture, np.concatenate(shown))
    patch = training.encode(crop_image(images[:, 4], own, (7, 7), 8))
    for (of, frame), t in zip(asked, (3, 2, 1, 0), strict=True):
        torch.testing.assert_close((of, frame), (patch, training.encode(images[:, t])))


def test_several_patches_of_a_clip_count_alike():
    training = make_training("coordinates").eval()
    clips = (255 * torch.rand(2, 6, 3, TINY.frame, TINY.frame)).byte()
    training.recipe = replace(training.recipe, patches=2)
    together = training(clips, [3, 8], 0)
    training.recipe = replace(training.recipe, patches=1)
    first, second = training(clips, [6, 16], 0), training(clips, [7, 17], 0)
    for name, loss in together.items():
        assert float(loss) == pytest.approx(float(first[name] + second[name]) / 2, rel=1e-4)
        assert float(first[name]) != pytest.approx(float(second[name]), rel=1e-4)


def test_the_network_begins_in_the_middle_and_needs_room():
    torch.manual_seed(0)
    place = Localiser(20, 7)(torch.rand(2, 49, 400).softmax(-1))
    assert (place.centre - 9.5).abs().max() < 0.5 and place.angle.abs().max() < 0.05
    with pytest.raises(ValueError, match="patch must have at least 7 cells"):
        Localiser(20, 6)


@torch.no_grad()
def test_the_network_by_value():
    """The affinity as maps over the patch with a channel for each cell of the frame; -1 to 1 is from border to border."""
    torch.manual_seed(0)
    localiser, weights = Localiser(5, 8), torch.rand(2, 64, 25)
    first, _, second, _, _, last = localiser.layers
    assert not last.bias.any()
    last.weight.mul_(100)
    hidden = weights.view(2, 8, 8, 25).permute(0, 3, 1, 2)
    for layer in (first, second):
        hidden = F.conv2d(hidden, layer.weight)
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
    expected = hidden.reshape(2, 64 * 2 * 2) @ last.weight.T
    place = localiser(weights)
    torch.testing.assert_close(place.centre, 2 + 2 * expected[:, :2])
    torch.testing.assert_close(place.angle, expected[:, 2])
    assert (place.scale == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": "168"}, "patch must be smaller than the frame of 168 pixels, got 168"),
        ({"patch": "240"}, "patch must be smaller than the frame"),
        ({"patch": "30"}, "patch must be a multiple of 8 of at least 32"),
        ({"patches": "0"}, "patches must be 1 or more, got 0"),
        ({"offsets": "0,1,2,3,4"}, "offsets must be 6 increasing numbers from 0 on"),
        ({"offsets": "0,1,2,3,4,4"}, "offsets must be 6 increasing numbers from 0 on"),
        ({"localiser": "tree"}, "localiser must be 'network' or 'coordinates'"),
        ({"batch_size": "0"}, "batch_size must be positive"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe("timecycle-small", changes)


@pytest.mark.parametrize("fields", [{"patch": 160}, {"patches": 1}, {"offsets": (0, 1, 2, 3, 4, 5)}])
def test_recipes_at_the_ends_of_their_ranges(fields):
    assert vars(replace(TIME_CYCLE_SMALL, **fields)) == vars(TIME_CYCLE_SMALL) | fields


def test_the_recipe_holds_the_values_of_the_paper_and_its_script():
    """Frames of 240 pixels, patches of a third; four frames before by steps of two, and the patch's own; inliers 1, skip 0.1, long 0.02."""
    of_paper = {"frame": 240, "patch": 80, "patches": 1, "offsets": (0, 2, 4, 6, 15, 17), "localiser": "network"}
    of_script = {"steps": 95_000, "batch_size": 36, "learning_rate": 2e-4, "area": (0.45, 0.9), "aspect": (1.0, 1.0)}
    recipe = parse_recipe("timecycle", {})
    assert vars(recipe) | of_paper | of_script == vars(recipe)
    assert recipe.weights == {"similarity": 1.0, "skip": 0.1, "long": 0.02}
    assert (recipe.betas, recipe.max_grad_norm) == ((0.5, 0.999), 10)
    assert all(of.frame == 3 * of.patch for of in (recipe, TIME_CYCLE_SMALL))


def test_weights_are_those_of_the_recipe():
    recipe = replace(TINY, similarity=2.0, skip=3.0, long=4.0)
    assert recipe.weights == {"similarity": 2.0, "skip": 3.0, "long": 4.0}
    assert recipe.clip_settings == (160, TINY.gap, TINY.area, TINY.aspect, TINY.offsets)


def test_clips_shorter_than_the_cycle_are_refused(videos, tmp_path):
    from fgvc_hf import VideoWriter

    whole = VideoFolder(videos, *TINY.clip_settings)  # 8 frames: fewer than the last offset, but enough
    assert whole[0].shape == (6, 3, 160, 160)
    with VideoWriter(tmp_path / "short.mp4", 12, 64, 96) as writer:
        for value in range(5):
            writer.write(torch.full((64, 96, 3), 40 * value, dtype=torch.uint8).numpy())
    with pytest.raises(OSError, match="holds no video of at least 6 frames"):
        VideoFolder(tmp_path, *TINY.clip_settings)
