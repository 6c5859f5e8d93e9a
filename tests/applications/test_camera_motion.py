"""The motion of the camera from tracks: of known cameras, with moving bodies, and of rendered clips that are tracked."""

import numpy as np
import pytest
import torch

from fgvc_hf import PointTracks, Tracker, camera_motion
from fgvc_hf.applications import camera_motion as module
from fgvc_hf.applications.camera_motion import project
from fgvc_hf.data.scene import Layer, Motion, Random, everywhere, render_frame
from fgvc_hf.data.synthetic import body_layer
from fgvc_hf.data.textures import sinusoid_texture


SIZE = (120, 160)  # (height, width)
CORNERS = np.array([(0, 0), (160, 0), (0, 120), (160, 120), (80, 60)], dtype=float)


def cameras(length: int, pan=(1.7, -0.6), turn=0.0, zoom=0.0, tilt=0.0) -> np.ndarray:
    """Homographies `(T, 3, 3)` from each frame to the first, of a camera that moves evenly."""
    middle = np.array([[1, 0, 80], [0, 1, 60], [0, 0, 1.0]])
    found = []
    for t in range(length):
        cos, sin, scale = np.cos(turn * t), np.sin(turn * t), np.exp(zoom * t)
        move = np.array(
            [[scale * cos, -scale * sin, pan[0] * t], [scale * sin, scale * cos, pan[1] * t], [tilt * t, 0, 1]]
        )
        found.append(middle @ move @ np.linalg.inv(middle))
    return np.stack(found)


def seen_by(truth: np.ndarray, number=60, moving=0.0, noise=0.0, seed=0) -> PointTracks:
    """Points of a flat world that lie in the first frame, a share of them on bodies that move, as the camera sees them."""
    random = np.random.default_rng(seed)
    length = len(truth)
    world = random.uniform((5, 5), (155, 115), (number, 2))
    bodies = np.arange(number) < moving * number
    drift = np.where(bodies[:, None], np.where(np.arange(number)[:, None] % 2, (2.5, 1.0), (-1.5, 2.0)), 0)
    tracks = np.stack([project(np.linalg.inv(h), world + t * drift) for t, h in enumerate(truth)], axis=1)
    tracks[:, 1:] += random.normal(0, noise, tracks[:, 1:].shape) if noise else 0
    inside = ((tracks >= 0) & (tracks <= (160, 120))).all(axis=-1)
    queries = np.column_stack([np.zeros(number), tracks[:, 0]])
    certain = np.ones((number, length), np.float32)
    return PointTracks(
        list(range(number)), queries, tracks.astype(np.float32), inside, certain, certain, ~inside, SIZE
    )


def off(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest error in pixels of where the corners and the middle of the frames lie in the reference."""
    return max(np.abs(project(a, CORNERS) - project(b, CORNERS)).max() for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize(
    "motion", [{}, {"turn": 0.01}, {"zoom": -0.01}, {"tilt": 2e-5}, {"turn": -0.008, "zoom": 0.01, "tilt": 1e-5}]
)
@pytest.mark.parametrize("moving", [0.0, 0.4])
def test_a_camera_is_found_exactly(motion, moving):
    truth = cameras(16, **motion)
    tracks = seen_by(truth, moving=moving)
    found = camera_motion(tracks)
    assert off(found.homographies, truth) < 1e-3
    late = found.still[:, 4:]  # by then bodies have moved by more than the threshold
    assert (
        not late[: int(moving * 60)].any()
        and (late[int(moving * 60) :] == tracks.visible[int(moving * 60) :, 4:]).all()
    )
    world = found.to_world(tracks)
    seen = tracks.visible.copy()
    seen[: int(moving * 60)] = False
    spread = np.abs(world.tracks - world.tracks[:, :1]).max(axis=-1)
    assert spread[seen].max() < 1e-3
    np.testing.assert_allclose(world.queries, tracks.queries, atol=1e-6)


def test_noise_is_averaged_over_points_and_frames():
    truth = cameras(24, turn=0.005, zoom=0.004)
    tracks = seen_by(truth, number=150, moving=0.4, noise=0.5)
    errors = [
        np.abs(project(a, CORNERS) - project(b, CORNERS)).mean()
        for a, b in zip(camera_motion(tracks).homographies, truth, strict=True)
    ]
    assert np.mean(errors) < 0.3


def test_any_frame_can_be_the_reference():
    truth = cameras(12, turn=0.01)
    for reference in (0, 5, 11):
        found = camera_motion(seen_by(truth), reference)
        expected = np.linalg.inv(truth[reference]) @ truth
        assert off(found.homographies, expected) < 1e-3 and (found.homographies[reference] == np.eye(3)).all()


def test_hidden_points_do_not_count():
    truth = cameras(10)
    tracks = seen_by(truth)
    hidden = np.random.default_rng(1).random(tracks.visible.shape) < 0.5
    tracks.tracks[hidden] = 77.0
    tracks.visible &= ~hidden
    tracks.visible[:, 0] = True
    tracks.tracks[:, 0] = tracks.queries[:, 1:]
    assert off(camera_motion(tracks).homographies, truth) < 1e-3


def test_points_that_come_later_carry_on():
    """No point of the first frame is seen on the last: those between link them."""
    truth = cameras(40, pan=(4.5, 0.0))
    random = np.random.default_rng(0)
    number, length = 200, len(truth)
    world = random.uniform((0, 0), (160 + 176, 120), (number, 2))
    tracks = np.stack([project(np.linalg.inv(h), world) for h in truth], axis=1)
    inside = ((tracks >= 0) & (tracks <= (160, 120))).all(axis=-1)
    first = inside.argmax(axis=1)
    queries = np.column_stack([first, tracks[np.arange(number), first]])
    tracks[np.arange(length) < first[:, None]] = np.nan
    certain = np.ones((number, length), np.float32)
    moved = PointTracks(
        list(range(number)), queries, tracks.astype(np.float32), inside, certain, certain, ~inside, SIZE
    )
    assert not (inside[:, 0] & inside[:, -1]).any()
    found = camera_motion(moved)
    assert off(found.homographies, truth) < 5e-3
    np.testing.assert_allclose(found.to_world(moved).queries[:, 1:], world, atol=5e-3)


def test_the_same_each_time_and_the_background_can_be_named():
    truth = cameras(10)
    tracks = seen_by(truth, moving=0.7)  # more points move than stay
    assert off(camera_motion(tracks, background=range(42, 60)).homographies, truth) < 1e-3
    first, again = (camera_motion(tracks).homographies for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_what_cannot_be_done_is_said():
    tracks = seen_by(cameras(6))
    few = seen_by(cameras(6), number=3)
    with pytest.raises(ValueError, match="frame 1 has 3 visible background points in common .* needs 4; track more"):
        camera_motion(few)
    tracks.visible[:, 4] = False
    with pytest.raises(ValueError, match="frame 4 has 0 visible background points"):
        camera_motion(tracks)
    for arguments, message in (
        ({"reference": 6}, "reference must be a frame from 0 to 5, got 6"),
        ({"reference": 0.5}, "reference must be a whole number, got 0.5"),
        ({"threshold": "2"}, "threshold must be a positive number of pixels, got '2'"),
        ({"threshold": np.nan}, "threshold must be a positive number of pixels, got nan"),
        ({"background": [1, 99]}, "background has the id 99, which is not one of the tracks"),
        ({"background": 5}, "background must be ids of tracks, got 5"),
        ({"background": [1, None]}, "background must be a whole number, got None"),
        ({"background": [[1], [2]]}, r"background must be a whole number, got \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            camera_motion(tracks, **arguments)
    with pytest.raises(ValueError, match="tracks must be of the 6 frames of the camera motion, got 4"):
        camera_motion(seen_by(cameras(6))).to_world(seen_by(cameras(4)))


def test_a_prompt_beyond_the_tracks_is_named():
    """As of a live session, where a point may be prompted on a frame that has not come yet."""
    tracks = seen_by(cameras(6))
    camera = camera_motion(tracks)
    tracks.queries[3, 0] = 9
    with pytest.raises(ValueError, match="tracks have a prompt on frame 9, but the camera motion is of frames 0 to 5"):
        camera.to_world(tracks)


def placed(truth: np.ndarray, places, noise=0.0, movers=()) -> PointTracks:
    """Points at these places of the world, and others that move away from theirs."""
    tracks = seen_by(truth, number=len(places) + len(movers))
    world = np.array([*places, *movers], dtype=float)
    drift = np.array([(0, 0)] * len(places) + [(2.5, -3.5)] * len(movers), dtype=float)
    random = np.random.default_rng(0)
    for t, h in enumerate(truth):
        shift = random.normal(0, noise, world.shape) if noise and t else 0
        tracks.tracks[:, t] = project(np.linalg.inv(h), world + t * drift) + shift
    tracks.queries[:, 1:], tracks.visible[:] = tracks.tracks[:, 0], True
    return tracks


LINE = [(x, 40) for x in range(10, 151, 10)]
SLANTED = [(10 + 8 * i, 20 + 5 * i) for i in range(16)]
ALL_BUT_ONE = [*LINE, (80, 100)]
TOGETHER = [(60, 50)] * 6


@pytest.mark.parametrize("places", [LINE, SLANTED, ALL_BUT_ONE, [(x, 40 + 3e-4 * x) for x, _ in LINE]])
@pytest.mark.parametrize(("noise", "bound"), [(0.0, 1e-3), (0.5, 2.5)])
def test_points_on_a_line_tell_how_a_camera_shifts_turns_and_zooms(places, noise, bound):
    truth = cameras(12, turn=0.01, zoom=-0.01)
    assert off(camera_motion(placed(truth, places, noise)).homographies, truth) < bound


@pytest.mark.parametrize("movers", [[(80, 100)], [(80, 100), (30, 90)]])
def test_what_moves_beside_a_line_does_not_count(movers):
    truth = cameras(12)
    camera = camera_motion(placed(truth, LINE, movers=movers))
    assert off(camera.homographies, truth) < 1e-3
    assert camera.still[: len(LINE)].all() and not camera.still[len(LINE) :, 4:].any()


@pytest.mark.parametrize(("noise", "bound"), [(0.0, 1e-3), (0.5, 1.5)])
@pytest.mark.parametrize("movers", [[], [(120, 100)]])
def test_points_at_one_place_tell_how_a_camera_shifts(noise, bound, movers):
    truth = cameras(12)
    assert off(camera_motion(placed(truth, TOGETHER, noise, movers)).homographies, truth) < bound


def rendered(truth: np.ndarray, bodies: int, height: int, width: int) -> list[np.ndarray]:
    """Frames of a camera over a texture that is evaluated exactly where it looks, and of bodies that move over it."""
    random = Random([3], "cpu")
    pose = torch.from_numpy(np.linalg.inv(truth)).float()[
        None
    ]  # from the world, which is the first frame, to each frame
    layers = [Layer(everywhere, sinusoid_texture(random), Motion(pose))]
    layers += [body_layer(i, random.uniform(0, 1, 2), len(truth), height, width, random) for i in range(bodies)]
    frames = [render_frame(layers, t, height, width)[0].permute(1, 2, 0) for t in range(len(truth))]
    return [(255 * frame).round().byte().numpy() for frame in frames]


@pytest.mark.slow
@pytest.mark.parametrize(("motion", "bodies"), [({}, 0), ({"turn": 0.006, "zoom": 0.006, "pan": (1.2, 0.4)}, 2)])
def test_a_rendered_camera_is_found_within_a_fifth_of_a_pixel(motion, bodies):
    """As a user does: a grid of points, tracked."""
    truth = cameras(8, **motion)
    tracks = Tracker.from_pretrained(dtype="float32").track(rendered(truth, bodies, *SIZE), grid=(6, 8))
    assert off(camera_motion(tracks).homographies, truth) < 0.2


def test_points_count_by_the_squares_of_their_errors(monkeypatch):
    """In the fit of a frame, and in the places that its frames before have given the points; half a pixel is the least error."""
    tracks, asked = seen_by(cameras(3, pan=(0, 0)), number=12), []
    tracks.uncertainty[:] = np.random.default_rng(1).uniform(0.1, 3, tracks.uncertainty.shape)
    tracks.uncertainty[4, 1], tracks.uncertainty[5, 2] = np.nan, 0.2
    tracks.tracks[:, 1:] += np.random.default_rng(2).uniform(-0.5, 0.5, (12, 2, 2))

    def fit(source, target, weights, threshold):
        asked.append((source, target, weights))
        return np.eye(3)

    monkeypatch.setattr(module, "fit_motion", fit)
    camera_motion(tracks)
    shares = 1 / np.maximum(np.nan_to_num(tracks.uncertainty, nan=np.inf), 0.5) ** 2  # (N, T)
    for t, (source, target, weights) in enumerate(asked, start=1):
        np.testing.assert_allclose(source, tracks.tracks[:, t])
        np.testing.assert_allclose(weights, shares[:, t], rtol=1e-5)
        before = shares[:, :t, None]
        np.testing.assert_allclose(target, (before * tracks.tracks[:, :t]).sum(1) / before.sum(1), rtol=1e-5)
    assert len(asked) == 2 and weights[5] == 4
