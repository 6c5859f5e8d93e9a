"""Boxes followed by the points inside them."""

import math

import numpy as np
import pytest
import torch
from feature_fields import frame_of, shifted, smooth_field, unit_features
from PIL import Image

from fgvc_hf import FgvcConfig, FgvcModel, load_session, render_clip, save_session
from fgvc_hf.tracking import box_tracker
from fgvc_hf.tracking.box_tracker import BoxTracker, fit_similarity, grid_in
from fgvc_hf.tracking.localisation import read_box


GRID = torch.cartesian_prod(torch.linspace(0, 70, 8), torch.linspace(0, 70, 8)).double()


@pytest.mark.parametrize("turns", [False, True])
def test_the_transform_of_most_points_is_found(turns):
    angle = 0.3 if turns else 0.0
    rotation = 1.2 * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    target = GRID @ rotation.T + torch.tensor([12.0, -5.0]).double()
    target[:20] += torch.tensor([60.0, 40.0]).double()  # a third of them went elsewhere
    transform, weights = fit_similarity(GRID, target, torch.ones(64).double(), 5.0, turns)
    expected = GRID[20:] @ rotation.T + torch.tensor([12.0, -5.0]).double()
    assert (transform(GRID[20:]) - expected).norm(dim=1).max() < 0.7
    assert weights[:20].max() < 0.05 and weights[20:].min() > 0.95


def test_a_box_that_does_not_turn_stays_upright():
    angle = 0.2
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    transform, _ = fit_similarity(GRID, GRID @ rotation.T, torch.ones(64).double(), 20.0, False)
    a, b = transform(torch.tensor([[0.0, 0.0], [10.0, 0.0]]).double())
    assert float(a[1]) == pytest.approx(float(b[1]))


def test_points_are_spread_evenly_over_a_box():
    """At the middles of 8 x 8 parts, row by row, of a quadrilateral whose sides are cut into eight."""
    corners = torch.tensor([[10.0, 20], [50, 28], [46, 60], [2, 44]]).double()
    (found,) = grid_in(corners[None])
    for i in range(8):
        for j in range(8):
            across, down = (j + 0.5) / 8, (i + 0.5) / 8
            top, bottom = corners[0].lerp(corners[1], across), corners[3].lerp(corners[2], across)
            torch.testing.assert_close(found[8 * i + j], top.lerp(bottom, down))


@pytest.mark.parametrize("turns", [False, True])
def test_the_fit_by_value(turns):
    """Cauchy's weights of the residuals, from the weighted median of the shifts on; scale, rotation and shift by least squares."""
    generator = torch.Generator().manual_seed(1)
    source = 50 * torch.rand(30, 2, generator=generator).double()
    target = source @ torch.tensor([[1.1, 0.3], [-0.3, 1.1]]).double() + 3 * torch.randn(30, 2, generator=generator)
    weights = torch.rand(30, generator=generator).double()
    shift = []
    for axis in range(2):
        passed = 0.0
        for move, weight in sorted(zip((target - source)[:, axis].tolist(), weights.tolist())):
            passed += weight
            if passed >= float(weights.sum()) / 2:
                shift.append(move)
                break
    fit = lambda x, y: (x + shift[0], y + shift[1])  # noqa: E731
    for _ in range(10):
        robust = []
        for (x, y), (u, v), weight in zip(source.tolist(), target.tolist(), weights.tolist()):
            residual = math.dist(fit(x, y), (u, v))
            robust.append(weight / (1 + (residual / 4) ** 2))
        share = torch.tensor(robust).double() / sum(robust)
        centre, moved = share @ source, share @ target
        a, b = source - centre, target - moved
        spread = float(share @ (a * a).sum(1))
        cos = float(share @ (a * b).sum(1)) / spread
        sin = float(share @ (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])) / spread if turns else 0.0
        (cx, cy), (mx, my) = centre.tolist(), moved.tolist()
        fit = lambda x, y, cos=cos, sin=sin, cx=cx, cy=cy, mx=mx, my=my: (  # noqa: E731
            mx + cos * (x - cx) - sin * (y - cy),
            my + sin * (x - cx) + cos * (y - cy),
        )
    transform, found = fit_similarity(source, target, weights, 4.0, turns)
    torch.testing.assert_close(found, torch.tensor(robust).double())
    torch.testing.assert_close(transform(source), torch.tensor([fit(x, y) for x, y in source.tolist()]).double())


def test_a_box_begins_at_the_lower_median_of_equal_weights():
    values = torch.tensor([[9.0, 1], [2, 5], [4, 3], [7, 8]]).double()
    assert box_tracker._weighted_median(values, torch.ones(4).double()).tolist() == [4, 3]
    weights = torch.tensor([1.0, 3, 1, 1]).double()
    assert box_tracker._weighted_median(values, weights).tolist() == [2, 5]


@pytest.fixture(scope="module")
def zoom():
    """A picture that grows by 3 % a frame and turns by 2 degrees, about its middle (64, 64)."""
    picture = Image.fromarray(render_clip(num_frames=1, height=128, width=128, num_points=1, seed=5).frames[0])
    frames = []
    for t in range(6):
        scale, angle = 1.03**-t, math.radians(2 * t)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        matrix = (cos, sin, 64 - 64 * cos - 64 * sin, -sin, cos, 64 + 64 * sin - 64 * cos)
        frames.append(
            np.asarray(picture.transform((128, 128), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
        )
    return np.stack(frames)


def follow(model, processor, frames, box):
    session = processor.init_video_session(frames)
    processor.add_inputs_to_inference_session(session, 0, 1, input_boxes=box)
    outputs = list(model.propagate_in_video_iterator(session))
    return np.stack([output.boxes[0] for output in outputs]), outputs


def test_a_box_grows_and_turns(bundled_model, processor, zoom):
    corners = np.array([(44.0, 40.0), (88.0, 40.0), (88.0, 84.0), (44.0, 84.0)])
    found, outputs = follow(bundled_model, processor, zoom, corners[None])
    np.testing.assert_array_equal(found[0], corners)
    scale, angle = 1.03**5, math.radians(2 * 5)
    rotation = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = (corners - 64) @ rotation.T + 64
    assert np.linalg.norm(found[-1] - expected, axis=1).max() < 1.5
    assert float(outputs[-1].box_confidence[0]) > 0.5


def test_sides_stay_sides(bundled_model, processor, zoom):
    found, _ = follow(bundled_model, processor, zoom, [44.0, 40.0, 88.0, 84.0])
    np.testing.assert_array_equal(found[0], [(44, 40), (88, 40), (88, 84), (44, 84)])
    x, y = found[-1].T
    assert x[0] == pytest.approx(x[3]) and x[1] == pytest.approx(x[2])
    assert y[0] == pytest.approx(y[1]) and y[2] == pytest.approx(y[3])
    assert (x[1] - x[0]) / 44 == pytest.approx(1.03**5, abs=0.04)


@pytest.fixture(scope="module")
def carrying_model(bundled_model):
    """The bundled model, with boxes followed by the coordinates that the affinity carries along."""
    model = FgvcModel(FgvcConfig.from_dict(bundled_model.config.to_dict() | {"box_matching": "coordinates"})).eval()
    model.load_state_dict(bundled_model.state_dict())
    return model


def test_carried_coordinates_move_and_grow_a_box(carrying_model, processor, zoom):
    found, outputs = follow(carrying_model, processor, zoom[:1].repeat(6, axis=0), [44.0, 40.0, 88.0, 84.0])
    np.testing.assert_allclose(found[-1], found[0], atol=2.0)  # a cell
    assert float(outputs[-1].box_confidence[0]) > 0.7
    found, _ = follow(carrying_model, processor, zoom, [34.0, 36.0, 94.0, 88.0])
    x, y = found[-1].T
    middle = np.array([64.0, 62.0]) - 64
    scale, angle = 1.03**5, math.radians(2 * 5)
    rotation = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    np.testing.assert_allclose(found[-1].mean(axis=0), rotation @ middle + 64, atol=2.0)  # a cell
    assert 1.02 < (x[1] - x[0]) / 60 < scale + 0.05 and 1.02 < (y[2] - y[1]) / 52 < scale + 0.05  # it lags behind


def test_carried_coordinates_turn_a_box(carrying_model, processor, zoom):
    corners = np.array([(34.0, 36.0), (94.0, 36.0), (94.0, 88.0), (34.0, 88.0)])
    found, _ = follow(carrying_model, processor, zoom, corners[None])
    edge = found[-1][1] - found[-1][0]
    assert math.degrees(math.atan2(edge[1], edge[0])) == pytest.approx(10, abs=3)


def test_a_size_is_read_off_the_mean_distance_and_strays_do_not_count():
    target = GRID * torch.tensor([1.2, 0.9]) + torch.tensor([12.0, -5.0])
    target[:10] += 200.0
    shift, growth, weights = read_box(GRID[10:], target[10:], 16.0)
    expected = (target[10:] - GRID[10:]).mean(0)
    assert (shift - expected).abs().max() < 1.5
    assert growth.tolist() == pytest.approx([1.2, 0.9], rel=0.1)
    shift, growth, weights = read_box(GRID, target, 16.0)
    assert weights[:10].max() < 1e-6 < 0.5 < float(weights[10:].mean())
    assert growth.tolist() == pytest.approx([1.2, 0.9], rel=0.1)


CORNERS = torch.tensor(
    [[[30.0, 20], [70, 20], [70, 60], [30, 60]], [[50.0, 30], [90, 36], [84, 76], [44, 70]]]
).double()


@pytest.mark.parametrize("matching", ["templates", "coordinates"])
def test_other_boxes_change_nothing(matching):
    """Not those that are followed along, nor those that were dropped or came later."""
    config, frames = FgvcConfig(box_matching=matching), [unit_features(50, 60, seed=seed // 3) for seed in range(6)]
    among, alone = (BoxTracker.empty(frames[0], config) for _ in range(2))
    among.start([3, 8], CORNERS, [False, True], frame_of(frames[0]))
    alone.start([8], CORNERS[1:], [True], frame_of(frames[0]))
    for t, features in enumerate(frames[1:]):
        for tracker in (among, alone):
            tracker.step(frame_of(features))
        readout, single, row = among.read(), alone.read(), among.ids.index(8)
        assert torch.equal(readout.corners[row], single.corners[0])
        assert torch.equal(readout.confidence[row], single.confidence[0])
        if t == 1:
            among.drop({3})
        if t == 2:
            among.start([1], CORNERS[:1], [False], frame_of(features))
    assert among.read().ids == [8, 1] and among.turns == [True, False]
    assert among.nbytes == among.bytes_of(2) == 2 * alone.nbytes == 2 * 64 * (6 * 49 * 16 + 6 * 13 * 13) * 4
    assert (alone.read().corners - CORNERS[1:]).abs().max() > 0.01  # it did move


def boxes(matching="templates", turns=(False, True)):
    features = unit_features(50, 60)
    tracker = BoxTracker.empty(features, FgvcConfig(box_matching=matching))
    tracker.start([3, 8], CORNERS, list(turns), frame_of(features))
    return tracker, features


def test_a_box_moves_as_its_visible_points_do_by_value(monkeypatch):
    """The tolerance is a twentieth of its diagonal; below a confidence of 0.02 it stays where it was."""
    tracker, features = boxes()
    generator = torch.Generator().manual_seed(2)
    points = tracker.grid.flatten(0, 1) + 2 * torch.randn(128, 2, generator=generator).double() + 5
    confidence = torch.rand(128, generator=generator)

    def step(frame):
        tracker.templates.state.points[:], tracker.templates.state.confidence[:] = points, confidence

    monkeypatch.setattr(tracker.templates, "step", step)
    tracker.step(frame_of(features))
    readout = tracker.read()
    for box, (corners, turns) in enumerate(zip(CORNERS, (False, True))):
        rows, tolerance = slice(64 * box, 64 * box + 64), 0.05 * math.dist(corners[0].tolist(), corners[2].tolist())
        transform, weights = fit_similarity(
            grid_in(corners[None])[0], points[rows], confidence[rows].double(), tolerance, turns
        )
        torch.testing.assert_close(readout.corners[box], transform(corners))
        assert float(readout.confidence[box]) == pytest.approx(float(weights.mean()))
    points, confidence = tracker.grid.flatten(0, 1) + 9.0, torch.full((128,), 0.0199)
    confidence[64:] = 0.0201
    tracker.step(frame_of(features))
    assert torch.equal(tracker.corners[0], readout.corners[0])
    torch.testing.assert_close(tracker.corners[1], CORNERS[1] + 9)


@pytest.mark.parametrize("beyond", [30.0, 90.0])
def test_a_box_that_begins_partly_beside_the_frame_moves_by_what_is_in_it(beyond):
    """Its points beside the frame have not been seen, and may be farther from it than the search reaches: frames are of 120x160 pixels."""
    field = smooth_field(100, 120)
    frames = [frame_of(shifted(field, 1.5 * t, t, 60, 80)) for t in range(5)]
    tracker = BoxTracker.empty(frames[0].features, FgvcConfig())
    corners = torch.tensor([[[-beyond, 20.0], [80, 20], [80, 100], [-beyond, 100]]]).double()
    tracker.start([1], corners, [False], frames[0])
    for t, frame in enumerate(frames[1:], 1):
        tracker.step(frame)
        torch.testing.assert_close(tracker.corners, corners + torch.tensor([3.0 * t, 2.0 * t]), atol=0.3, rtol=0)
    assert 0.85 < float(tracker.confidence[0]) <= 1  # the share of the points that were in the frame


@pytest.mark.parametrize("factor", [1.3, 5.0, 0.1])
def test_a_box_by_carried_coordinates_by_value(monkeypatch, factor):
    """Half its size before and half the new one, which is at most twice as large or half as large."""
    tracker, features = boxes("coordinates")
    asked = []

    def carried(queries, features, within, config):
        asked.append((queries, within))
        return (tracker.grid[len(asked) - 1] * factor - 0.5) / 2 + torch.tensor([1.5, -2.0]).double()

    monkeypatch.setattr(box_tracker, "carried", carried)
    tracker.step(frame_of(features))
    for box in range(2):
        queries, within = asked[box]
        middle, half = CORNERS[box].mean(0), (CORNERS[box] - CORNERS[box].mean(0)).abs().amax(0)
        for y in range(50):
            for x in range(60):
                inside = (
                    abs(2 * x + 0.5 - middle[0]) <= 1.5 * half[0] and abs(2 * y + 0.5 - middle[1]) <= 1.5 * half[1]
                )
                assert bool(within[y, x]) == bool(inside)
        assert torch.equal(queries, tracker.templates.memory.anchor[64 * box : 64 * box + 64, 24])
    grid, found = tracker.grid[0], tracker.grid[0] * factor + torch.tensor([3.0, -4.0]).double()
    shift, growth, weights = read_box(grid, found, 8.0)
    size = 0.5 + 0.5 * growth.clamp(0.5, 2)
    middle = CORNERS[0].mean(0)
    torch.testing.assert_close(tracker.corners[0], middle + shift + (CORNERS[0] - middle) * size)
    assert float(tracker.confidence[0]) == pytest.approx(float(weights.mean()), abs=1e-6)
    found = tracker.grid[1] * factor + torch.tensor([3.0, -4.0]).double()
    tolerance = 0.05 * math.dist(CORNERS[1, 0].tolist(), CORNERS[1, 2].tolist())
    transform, weights = fit_similarity(tracker.grid[1], found, torch.ones(64).double(), tolerance, True)
    torch.testing.assert_close(tracker.corners[1], transform(CORNERS[1]))
    assert float(tracker.confidence[1]) == pytest.approx(float(weights.mean()), abs=1e-6)


def test_a_box_that_has_left_the_frame_stays_there_and_a_small_one_is_looked_for_around():
    tracker, features = boxes("coordinates", (False, False))
    tracker.corners[0] += torch.tensor([500.0, 0.0])
    gone = tracker.corners[0].clone()
    tracker.step(frame_of(features))
    assert torch.equal(tracker.corners[0], gone) and tracker.confidence[0] == 0 and tracker.confidence[1] > 0
    within = tracker._cells_around(torch.tensor([[40.5, 30.5]]).double().expand(4, 2), features)
    y, x = within.nonzero().unbind(1)  # 12 pixels, half of four cells more, on every side of the cell (20, 15)
    assert (x.min(), x.max(), y.min(), y.max()) == (14, 26, 9, 21) and within.sum() == 13 * 13


def test_a_readout_of_boxes_stays_as_it_is():
    features = unit_features(50, 60)
    tracker = BoxTracker.empty(features, FgvcConfig())
    tracker.start([3], CORNERS[:1], [False], frame_of(features))
    readout = tracker.read()
    tracker.step(frame_of(unit_features(50, 60, seed=1)))
    assert torch.equal(readout.corners, CORNERS[:1]) and readout.confidence.tolist() == [1.0]
    tracker.drop({3})
    tracker.step(frame_of(features))
    assert tracker.read().ids == [] and tracker.read().corners.shape == (0, 4, 2)


def mixed(session, processor):
    mask = np.zeros((40, 56), bool)
    mask[5:20, 5:20] = True
    processor.add_inputs_to_inference_session(session, 0, 4, [(30.0, 12.0)])
    processor.add_inputs_to_inference_session(session, 0, 5, input_masks=mask)
    processor.add_inputs_to_inference_session(session, 1, [6, 7], input_boxes=[(10, 8, 30, 25), (20, 10, 50, 38)])


def test_boxes_share_a_session_with_points_and_masks(tiny_model, processor, noise_clip, tmp_path):
    session = processor.init_video_session()
    mixed(session, processor)
    outputs = [tiny_model.step(session, frame) for frame in noise_clip[:5]]
    assert outputs[0].box_ids == [] and outputs[0].boxes.shape == (0, 4, 2)
    assert (outputs[4].ids, outputs[4].box_ids) == ([4], [6, 7]) and set(np.unique(outputs[4].masks)) <= {0, 5}
    save_session(session, tiny_model, tmp_path / "s.safetensors")
    restored = load_session(tmp_path / "s.safetensors", tiny_model)
    session.remove(6)
    for frame in noise_clip[5:]:
        output, again = tiny_model.step(session, frame), tiny_model.step(restored, frame)
        assert output.box_ids == [7] and again.box_ids == [6, 7]
        np.testing.assert_array_equal(output.boxes[0], again.boxes[1])
        np.testing.assert_array_equal(output.points, again.points)
        np.testing.assert_array_equal(output.masks, again.masks)


def test_boxes_follow_by_templates_whatever_points_do(tiny_model, processor, noise_clip):
    config = FgvcConfig.from_dict(tiny_model.config.to_dict() | {"point_matching": "templates"})
    other = FgvcModel(config).eval()
    other.load_state_dict(tiny_model.state_dict())
    box = [10.0, 8.0, 40.0, 30.0]
    np.testing.assert_array_equal(
        follow(tiny_model, processor, noise_clip, box)[0], follow(other, processor, noise_clip, box)[0]
    )


@pytest.mark.parametrize(
    ("ids", "boxes", "message"),
    [
        (1, [5, 5, 5, 9], "must have an area"),
        (1, [9, 5, 5, 9], "must have an area"),
        (1, [(5, 5), (6, 6), (7, 7), (8, 8)], "must have an area"),
        (1, [5, 5, np.nan, 9], "must be finite"),
        (1, [100, 5, 120, 9], "must have their middle inside the frame, 40x56"),
        ([1, 2], [5, 5, 9, 9], "for each of 2 obj_ids"),
        (1, [5, 5, 9], "for each of 1 obj_ids"),
        (9, [5, 5, 9, 9], "target 9 exists already, as another kind"),
    ],
)
def test_bad_boxes(processor, noise_clip, ids, boxes, message):
    session = processor.init_video_session(noise_clip)
    processor.add_inputs_to_inference_session(session, 3, 9, [(20, 20)])
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, 0, ids, input_boxes=boxes)
    assert session.obj_ids == [9]
