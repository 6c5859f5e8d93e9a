"""TimeCycle's losses for trackers that are perfect, and the gradient of one that is not."""

from dataclasses import replace

import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.scene import Random
from fgvc_hf.data.video_folder import VideoFolder
from fgvc_hf.training.ancestors.patch_localisation import Place, crop
from fgvc_hf.training.ancestors.time_cycle import (
    Localiser,
    TimeCycleRecipe,
    TimeCycleTraining,
    Tracked,
    choose_patches,
    cycle,
    cycle_losses,
    distance,
)
from fgvc_hf.training.experiment import parse_recipe


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


def test_clips_shorter_than_the_cycle_are_refused(videos, tmp_path):
    from fgvc_hf import VideoWriter

    whole = VideoFolder(videos, *TINY.clip_settings)  # 8 frames: fewer than the last offset, but enough
    assert whole[0].shape == (6, 3, 160, 160)
    with VideoWriter(tmp_path / "short.mp4", 12, 64, 96) as writer:
        for value in range(5):
            writer.write(torch.full((64, 96, 3), 40 * value, dtype=torch.uint8).numpy())
    with pytest.raises(OSError, match="holds no video of at least 6 frames"):
        VideoFolder(tmp_path, *TINY.clip_settings)
