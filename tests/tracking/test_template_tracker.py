"""The template tracker: points followed by patches of features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_fields import frame_of, shifted, smooth_field, unit_features

from fgvc_hf import FgvcConfig
from fgvc_hf.matching.patches import search_cells
from fgvc_hf.tracking.encoded_frame import EncodedFrame
from fgvc_hf.tracking.prompts import PointLooks
from fgvc_hf.tracking.template_tracker import TemplateTracker, looks_of


@pytest.fixture(params=["torch", "numba"])
def kernels(request, monkeypatch):
    monkeypatch.setenv("FGVC_KERNELS", request.param)


def started(first, points, **fields):
    """A tracker of points (x, y) that are given on a frame, or on one with these features, with ids 0, 1 and so on."""
    frame = first if isinstance(first, EncodedFrame) else frame_of(first)
    tracker = TemplateTracker.empty(frame.features, FgvcConfig(point_matching="templates", **fields))
    tracker.start(list(range(len(points))), torch.as_tensor(points, dtype=torch.float64), frame)
    return tracker


@pytest.mark.parametrize("velocity", [(0.5, -0.25), (1.3, 0.8), (2.5, -2.0), (0.0, 0.0)])
def test_motion_by_fractions_of_cells(velocity, kernels):
    h = w = 48
    field = smooth_field(120, 120)
    points = torch.tensor([(x, y) for x in (40.5, 50.5) for y in (41.5, 56.0)], dtype=torch.float64)
    tracker = started(shifted(field, 0, 0, h, w), points)
    for t in range(1, 6):
        tracker.step(frame_of(shifted(field, velocity[0] * t, velocity[1] * t, h, w)))
        truth = points + 2 * t * torch.tensor(velocity, dtype=torch.float64)
        error = (tracker.read().points - truth).norm(dim=-1) / 2
        assert float(error.mean()) < 0.25, (t, error)


def test_the_window_moves_with_the_point():
    """Far beyond what one window reaches from where the point started."""
    h, w = 24, 120
    field = smooth_field(80, 180)
    tracker = started(shifted(field, 0, 0, h, w), [(20.5, 24.5)])
    for t in range(1, 20):
        tracker.step(frame_of(shifted(field, 4.0 * t, 0.0, h, w)))
    assert search_cells(h, w, tracker.config.search_radius) < 4 * 19
    readout = tracker.read()
    np.testing.assert_allclose(readout.points[0], (20.5 + 2 * 4 * 19, 24.5), atol=0.5)
    np.testing.assert_allclose(readout.expected[0], (20.5 + 2 * 4 * 20, 24.5), atol=1.0)  # goes on as fast


def test_a_similarity_is_compared_with_what_is_usual_for_the_point():
    """The same frame says more about a point that always looked as it did first than about one that changes all the time."""
    h = w = 40
    world, noise = (shifted(smooth_field(100, 100, seed=seed), 0, 0, h, w) for seed in (0, 5))
    doubtful = F.normalize(world + 0.9 * noise, dim=-1)
    confidence = []
    for before in (world, doubtful):
        tracker = started(world, [(40.5, 40.5)], recall_similarity=2.0)
        for features in (before, before, before, doubtful):
            for ring in (tracker.memory.recent, tracker.memory.trusted):
                ring.zero_()  # the first patch is the only template of both
            tracker.step(frame_of(features))
        confidence.append(float(tracker.read().confidence[0]))
    assert 1 - confidence[0] > 10 * (1 - confidence[1])


def test_what_covers_a_point_is_not_learnt_and_lowers_the_confidence(kernels):
    h = w = 40
    world, cover = shifted(smooth_field(100, 100), 0, 0, h, w), shifted(smooth_field(100, 100, seed=9), 0, 0, h, w)
    tracker = started(world, [(40.5, 40.5)])
    confidence = []
    for t in range(1, 9):
        features = world.clone()
        if 3 <= t < 7:
            features[8:33, 8:33] = cover[8:33, 8:33]
        slot = tracker.memory.next_slot(slice(0, 1))
        tracker.step(frame_of(features))
        confidence.append(float(tracker.read().confidence[0]))
        assert bool(tracker.memory.trusted[0, slot]) == (not 3 <= t < 7)
    assert min(confidence[:2] + confidence[6:]) > max(confidence[2:6]) + 0.3
    np.testing.assert_allclose(tracker.read().points[0], (40.5, 40.5), atol=0.2)


@pytest.mark.parametrize("temperature", [TemplateTracker.constants.cell_temperature, 1e9])
def test_a_thin_thing_is_followed_by_its_own_cells(temperature, monkeypatch, kernels):
    """A line of one cell that wanders over a ground at rest: most cells of the patch say that nothing moves."""
    constants = replace(TemplateTracker.constants, cell_temperature=temperature)
    monkeypatch.setattr(TemplateTracker, "constants", constants)
    h, w = 48, 60
    ground, line = shifted(smooth_field(110, 120), 0, 0, h, w), shifted(smooth_field(110, 120, seed=9), 0, 0, h, w)

    def frame(t):
        features, x = ground.clone(), 20 + t // 2
        features[:, x] = line[:, 20]
        return features

    tracker = started(frame(0), [(40.5, 40.5)])
    for t in range(1, 33):
        tracker.step(frame_of(frame(t)))
    assert (abs(float(tracker.state.cells[0, 0]) - 36) < 1) == (temperature < 1)


@pytest.mark.parametrize("recall", [0.84, 1.1])
def test_a_point_that_comes_back_elsewhere_is_found_again(recall, kernels):
    """Covered for three frames, and then far beyond its window."""
    h, w = 60, 90
    world, cover = shifted(smooth_field(120, 150), 0, 0, h, w), shifted(smooth_field(120, 150, seed=9), 0, 0, h, w)
    body = world[10:31, 10:31].clone()
    tracker = started(world, [(40.5, 40.5)], recall_similarity=recall, search_radius=0.1)  # cell (20, 20), mid-body
    for t in range(8):
        features = cover.clone()
        if t >= 4:
            features[25:46, 60:81] = body  # 50 cells to the right, and 15 down
        tracker.step(frame_of(features))
        assert float(tracker.read().confidence[0]) < 0.3 or t >= 4
        if t < 4:
            np.testing.assert_allclose(tracker.state.cells[0], (20, 20))  # waits
    readout = tracker.read()
    found = np.abs(readout.points[0].numpy() - (140.5, 70.5)).max() < 1
    assert found == (recall < 1) and bool(readout.confidence[0] > 0.5) == found


@pytest.mark.parametrize("at_once", [512, 4])
def test_other_points_change_nothing(at_once, monkeypatch):
    """Not those that are followed along, in the same part or in another, nor those that were dropped or came later."""
    monkeypatch.setattr("fgvc_hf.tracking.template_tracker.POINTS_AT_ONCE", {"cpu": at_once})
    h, w = 40, 60
    frames = [frame_of(unit_features(h, w, seed=seed // 2), seed=1) for seed in range(5)]
    points = torch.rand(21, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 80
    alone = started(frames[0], points[17:18], recall_similarity=0.5)
    among = started(frames[0], points[:18], recall_similarity=0.5)
    for t, frame in enumerate(frames[1:]):
        for tracker in (alone, among):
            tracker.step(frame)
        assert torch.equal(alone.read().points[0], among.read().points[among.ids.index(17)])
        assert torch.equal(alone.state.evidence[0], among.state.evidence[among.ids.index(17)])
        if t == 0:
            among.drop({0, 3, 16})
        if t == 1:
            among.start([18, 19, 20], points[18:], frame)
    assert among.read().ids == [i for i in range(21) if i not in (0, 3, 16)]


def test_thresholds_count_from_their_value_on():
    """Of trust in a patch, of being hidden and of being visible."""
    field = smooth_field(100, 100)
    frames = [frame_of(shifted(field, 2.0 * t, -1.0 * t, 40, 40)) for t in range(2)]
    point = [[40.5, 38.5]]

    def after(**fields):
        tracker = started(frames[0], point, **fields)
        tracker.step(frames[1])
        return tracker.state

    plain = after()
    mean, confidence = plain.evidence[0, 1], plain.confidence[0]
    above = {
        name: float(torch.nextafter(of, torch.tensor(9.0))) for name, of in (("mean", mean), ("seen", confidence))
    }
    assert after(template_trust=float(mean)).lost.tolist() == [0] and after(
        template_trust=above["mean"]
    ).lost.tolist() == [1]
    hidden = [after(hidden_threshold=of, recall_similarity=2.0).cells for of in (float(confidence), above["seen"])]
    assert torch.equal(hidden[0], plain.cells) and hidden[1].tolist() == [[20.0, 19.0]]  # where it was before
    expected = [after(visibility_threshold=of).expected for of in (float(confidence), above["seen"])]
    assert torch.equal(expected[0], plain.expected) and expected[1].tolist() == point
    torch.testing.assert_close(plain.expected, torch.tensor([[48.5, 34.5]]).double(), atol=0.5, rtol=0)


def test_a_tracker_without_points_goes_on():
    features = unit_features(12, 12)
    tracker = started(features, [(5.0, 5.0), (9.0, 9.0)])
    tracker.step(frame_of(features))
    tracker.drop({0, 1, 7})
    tracker.step(frame_of(features))
    readout = tracker.read()
    assert readout.ids == [] and readout.points.shape == readout.expected.shape == (0, 2) and tracker.nbytes == 0
    tracker.start([3], torch.tensor([[7.0, 7.0]], dtype=torch.float64), frame_of(features))
    tracker.step(frame_of(features))
    np.testing.assert_allclose(tracker.read().points[0], (7.0, 7.0), atol=0.3)


def test_a_readout_stays_as_it_is():
    features = unit_features(12, 12)
    tracker = started(features, [(5.0, 5.0)])
    readout = tracker.read()
    tracker.step(frame_of(unit_features(12, 12, seed=1)))
    assert readout.points.tolist() == readout.expected.tolist() == [[5.0, 5.0]] and readout.confidence.tolist() == [
        1.0
    ]
    assert readout.ids == [0] and readout.uncertainty.tolist() == [0.0]


def test_points_stay_in_the_frame():
    tracker = started(unit_features(10, 14), [(0.0, 0.0), (28.0, 20.0)], search_radius=0.5)
    for seed in range(1, 5):
        tracker.step(frame_of(unit_features(10, 14, seed=seed)))
        readout = tracker.read()
        assert (readout.points >= 0).all() and (readout.points <= torch.tensor([28, 20])).all()
        assert ((readout.confidence >= 0) & (readout.confidence <= 1)).all()


@pytest.mark.parametrize(("by", "corner"), [(100.0, (28, 20)), (-100.0, (0, 0))])
def test_the_image_carries_no_point_out_of_the_frame(by, corner, monkeypatch):
    """Of 20x28 pixels, whose last corner is at (28, 20)."""
    monkeypatch.setattr(TemplateTracker, "_align", lambda self, rows, image, match: self._points(match.cells) + by)
    tracker = started(unit_features(10, 14), [(14.0, 9.0)])
    tracker.step(frame_of(unit_features(10, 14)))
    assert tracker.read().points.tolist() == [list(corner)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_and_is_known_before(dtype):
    """All that the tracker holds, counted from its tensors, is what it was when the points were added."""
    tracker = started(unit_features(12, 12, dtype=dtype), [(5.0, 5.0)] * 3)

    def held():
        tensors = [
            of
            for part in (tracker.memory, tracker.state)
            for of in vars(part).values()
            if isinstance(of, torch.Tensor)
        ]
        return sum(of.untyped_storage().nbytes() for of in tensors)

    assert tracker.nbytes == tracker.bytes_of(3) == 3 * (6 * 49 * 16 * dtype.itemsize + 6 * 13 * 13 * 4)
    before = held()
    assert 0 < before - tracker.nbytes < 3 * 2**10  # trust, similarities and positions
    for seed in range(20):
        tracker.step(frame_of(unit_features(12, 12, seed=seed, dtype=dtype)))
        assert held() == before and tracker.nbytes == tracker.bytes_of(3)


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16, torch.float64])
def test_patches_are_kept_in_another_type_than_features(kept):
    h, w = 30, 40
    features = shifted(smooth_field(60, 80), 0, 0, h, w)
    frames = frame_of(features), frame_of(shifted(smooth_field(60, 80), 0.4, -0.3, h, w))
    trackers = [started(frame_of(features.to(of)), [(40.5, 30.5), (22.0, 40.0)]) for of in (torch.float32, kept)]
    for tracker in trackers:
        for frame in frames:
            tracker.step(frame)
    one, other = (tracker.memory.recent[:, :2].float() for tracker in trackers)
    assert trackers[1].memory.recent.dtype == kept and one.flatten(1).any(dim=1).all()
    torch.testing.assert_close(other, one, atol=2e-3, rtol=2**-7)


def moving_image(h, w, velocity, t):
    """A smooth image (2h, 2w) whose content has moved by t times a velocity in pixels."""
    x, y = (torch.arange(n, dtype=torch.float64) - v * t for n, v in zip((2 * w, 2 * h), velocity, strict=True))
    return (torch.sin(x / 2.3) * torch.cos(y[:, None] / 3.1) + torch.sin((x + 2 * y[:, None]) / 5)).float()


@pytest.mark.parametrize("reach", [3.0, 0.0])
def test_the_image_places_points_where_features_see_no_motion(reach, monkeypatch, kernels):
    """Features at rest, and an image that moves by fractions of a pixel: without the image, points stay where they are."""
    monkeypatch.setattr(TemplateTracker, "constants", replace(TemplateTracker.constants, image_reach=reach))
    h, w, velocity = 40, 50, (0.15, -0.1)
    features = shifted(smooth_field(100, 100), 0, 0, h, w)
    points = torch.tensor([[40.5, 36.5], [52.25, 41.75]], dtype=torch.float64)
    tracker = started(EncodedFrame(features, moving_image(h, w, velocity, 0)), points)
    for t in range(1, 11):
        image, previous = (moving_image(h, w, velocity, at) for at in (t, t - 1))
        tracker.step(EncodedFrame(features, image, previous))
    error = (tracker.read().points - points - 10 * torch.tensor(velocity, dtype=torch.float64)).norm(dim=1)
    assert (error.max() < 0.1) if reach else (error.min() > 1.5)


def test_what_covers_a_point_on_the_image_does_not_place_it(kernels):
    """The image under a point is replaced by another that moves; features, which see neither, stay the same."""
    h, w = 40, 50
    features = shifted(smooth_field(100, 100), 0, 0, h, w)
    tracker = started(EncodedFrame(features, moving_image(h, w, (0, 0), 0)), [(40.5, 36.5)])
    other = torch.randn(2 * h, 2 * w, generator=torch.Generator().manual_seed(0))
    for shift in (1, 2):
        tracker.step(EncodedFrame(features, other.roll(shift, dims=1)))
        if shift == 1:  # nothing like the first image
            np.testing.assert_allclose(tracker.read().points[0], (40.5, 36.5), atol=0.3)


def jump_of(images, stays):
    """How far a point moves on a second frame on which its features have gone far away, in pixels. A share of them stays."""
    h, w = 60, 90
    world, cover = shifted(smooth_field(120, 150), 0, 0, h, w), shifted(smooth_field(120, 150, seed=9), 0, 0, h, w)
    there = F.normalize((1 - stays) * cover + stays * world, dim=-1)
    gone = 0.7 * world[10:31, 10:31] + 0.3 * cover[10:31, 10:31]  # looks a little different there
    there[25:46, 60:81] = F.normalize(gone, dim=-1)  # 50 cells to the right, and 15 down
    tracker = started(EncodedFrame(world, images[0]), [(40.5, 40.5)], search_radius=0.1)
    tracker.step(EncodedFrame(there, images[1], images[0]))
    return float((tracker.read().points[0] - torch.tensor([40.5, 40.5])).norm())


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize(("stays", "jump"), [(0.0, 104), (0.56, 104), (0.75, 0)])
def test_a_point_moves_to_where_it_is_found_again_whatever_the_images_say(stays, jump, carried, kernels):
    """What covers a point may carry it off. It is not there where its features resemble it about as well nearby."""
    noise = torch.randn(2, 120, 180, generator=torch.Generator().manual_seed(0))
    images = [moving_image(60, 90, (0, 0), 0)] * 2 if carried else noise
    assert abs(jump_of(images, stays) - jump) < 12


@pytest.mark.parametrize("moves", [True, False])
def test_the_images_say_where_to_look(moves, kernels):
    """A body faster than the search window reaches; where the images do not show its motion, it is lost."""
    h, w, shift = 48, 80, 9  # cells, of a window of 3
    ground, body = shifted(smooth_field(110, 140, seed=9), 0, 0, h, w), shifted(smooth_field(110, 140), 0, 0, h, w)
    features = ground.clone()
    features[14:35, 20 + shift : 41 + shift] = body[14:35, 20:41]
    start = ground.clone()
    start[14:35, 20:41] = body[14:35, 20:41]
    generator = torch.Generator().manual_seed(0)
    noise = [(k, torch.randn(1, 1, 2 * h // k, 2 * w // k, generator=generator)) for k in (4, 8, 16, 32)]
    image = sum(k * F.interpolate(of, (2 * h, 2 * w), mode="bicubic")[0, 0] for k, of in noise)  # of all sizes
    tracker = started(EncodedFrame(start, image), [(60.5, 48.5)], search_radius=0.05, recall_similarity=2.0)
    tracker.step(EncodedFrame(features, image.roll(2 * shift, dims=1) if moves else image, image))
    error = (tracker.read().points[0] - torch.tensor([60.5 + 2 * shift, 48.5])).norm()
    assert (error < 1) == moves


@pytest.mark.parametrize(("recall", "cell"), [(0.84, (70, 35)), (2.0, (20, 20))])
def test_a_point_that_is_found_afar_is_looked_for_there_even_if_it_is_taken_for_hidden(recall, cell, kernels):
    """Else it would have to be found in the whole frame again and again."""
    h, w = 60, 90
    world, features = (shifted(smooth_field(120, 150, seed=seed), 0, 0, h, w) for seed in (0, 9))
    features[25:46, 60:81] = world[10:31, 10:31]
    tracker = started(world, [(40.5, 40.5)], recall_similarity=recall, search_radius=0.1, hidden_threshold=1.0)
    tracker.step(frame_of(features))
    assert tracker.read().confidence[0] < 1
    np.testing.assert_allclose(tracker.state.cells[0], cell, atol=0.2)


def test_a_patch_is_trusted_by_the_mean_template_and_not_by_the_first_patch():
    """The looks change more and more: the last patch resembles the first one less than the mean with the one between."""
    world, noise = (shifted(smooth_field(100, 100, seed=seed), 0, 0, 40, 40) for seed in (0, 5))
    frames = [frame_of(F.normalize(world + share * noise, dim=-1)) for share in (0.3, 0.6)]

    def after(**fields):
        tracker = started(world, [(40.5, 40.5)], recall_similarity=2.0, **fields)
        for frame in frames:
            tracker.step(frame)
        return tracker.state

    anchor, mean = after(template_trust=0.0).evidence[0, :2].tolist()
    assert anchor + 0.01 < mean
    assert after(template_trust=(anchor + mean) / 2).lost.tolist() == [0]
    assert after(template_trust=mean + 0.001).lost.tolist() == [1]


def test_the_images_carry_points_that_were_followed_on_the_last_frame_alone():
    """Not one whose patch was not trusted there, nor one that was hidden: the image there does not show them."""
    h, w, velocity = 40, 50, (1.5, -0.75)
    previous, image = (moving_image(h, w, velocity, t) for t in (0, 1))
    points = torch.tensor([[40.5, 36.5], [52.25, 41.75], [30.0, 50.0], [60.5, 30.5]], dtype=torch.float64)
    tracker = started(EncodedFrame(unit_features(h, w), previous), points, hidden_threshold=0.3)
    tracker.state.lost[1] = 1
    tracker.state.confidence[2], tracker.state.confidence[3] = 0.29, 0.3
    before = tracker.state.cells.clone()
    cells = tracker._predict(tracker.state, EncodedFrame(unit_features(h, w), image, previous))
    torch.testing.assert_close(cells[[1, 2]], before[[1, 2]])
    torch.testing.assert_close(cells[[0, 3]], before[[0, 3]] + torch.tensor(velocity) / 2, atol=0.05, rtol=0)
    assert torch.equal(tracker._predict(tracker.state, EncodedFrame(unit_features(h, w), image)), before)


def test_points_that_are_looked_for_are_found_by_all_of_their_looks_and_placed_by_the_image():
    """The first look alone resembles too little; the image has moved by a fraction of a cell."""
    h, w, config = 40, 50, FgvcConfig(point_matching="templates")
    features, point = unit_features(h, w), torch.tensor([[40.5, 36.5]], dtype=torch.float64)
    seen = looks_of(point, EncodedFrame(features, moving_image(h, w, (0, 0), 0)), config)
    faint = F.normalize(seen.templates + unit_features(1, 49, seed=3), dim=-1)
    frame = EncodedFrame(features, moving_image(h, w, (0.8, -0.5), 1))
    first, both = (
        PointLooks(torch.cat(of), seen.images.repeat(len(of), 1, 1)) for of in ([faint], [faint, seen.templates])
    )
    tracker = TemplateTracker.empty(features, config)
    tracker.seek([5, 7], [first, both], frame)
    readout = tracker.read()
    assert readout.ids == [7, 5] and readout.points[1].isnan().all() and readout.confidence[1] == 0
    torch.testing.assert_close(readout.points[:1], point + torch.tensor([[0.8, -0.5]]), atol=0.1, rtol=0)
    held = tracker.nbytes
    tracker.drop({5})
    assert tracker.read().ids == [7] and tracker.nbytes < held
    tracker.step(frame)
    assert tracker.read().ids == [7]
