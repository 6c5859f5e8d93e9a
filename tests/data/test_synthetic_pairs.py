import math

import pytest
import torch
import torch.nn.functional as F

from fgvc_hf.data.augmentation import change_light, colour_of, drop_channel, rgb_to_pixel_values
from fgvc_hf.data.scene import Motion, Random, pixel_centres
from fgvc_hf.data.synthetic_pairs import pair_motion, render_pairs
from fgvc_hf.data.textures import natural_image
from fgvc_hf.image_processing_pil_fgvc import FgvcImageProcessorPil


SIZE = 96


@pytest.fixture(scope="module")
def images():
    return (255 * natural_image(160, 40, 0.4, Random(range(5)))).byte()


@pytest.fixture(scope="module")
def pairs(images):
    return render_pairs(images, range(12), SIZE, reach=20, stride=1)


def warped(frames, flow):
    """Frames (B, 3, H, W) sampled where the flow (B, H, W, 2) leads."""
    ends = pixel_centres(SIZE, SIZE).view(SIZE, SIZE, 2) + flow
    return F.grid_sample(frames, ends / SIZE * 2 - 1, align_corners=False)


def test_warping_by_the_flow_reproduces_the_other_frame_where_visible(pairs):
    for source, target in ((0, 1), (1, 0)):
        rebuilt = warped(pairs.frames[:, target], pairs.flow[:, source])
        error = (rebuilt - pairs.frames[:, source]).abs().mean(1)
        visible = pairs.visible[:, source]
        assert error[visible].mean() < 0.02  # motion blur, antialiased edges and resampling are all that is left
        assert error[~visible].mean() > 0.1
        assert 0.5 < visible.float().mean() < 0.98


def test_the_two_flows_are_inverse_where_visible(pairs):
    ends = pixel_centres(SIZE, SIZE).view(SIZE, SIZE, 2) + pairs.flow[:, 0]
    back = F.grid_sample(pairs.flow[:, 1].movedim(-1, 1), ends / SIZE * 2 - 1, align_corners=False).movedim(1, -1)
    gap = (pairs.flow[:, 0] + back).norm(dim=-1)[pairs.visible[:, 0]]
    assert gap.median() < 0.05  # edges mix the flows of two layers
    assert (gap < 0.5).float().mean() > 0.93


def test_a_pair_depends_on_its_own_seed_alone(images, pairs):
    alone = render_pairs(images, [7], SIZE, reach=20, stride=1)
    torch.testing.assert_close(alone.frames[0], pairs.frames[7], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.flow[0], pairs.flow[7], atol=1e-3, rtol=0)
    assert (pairs.frames[0] != pairs.frames[1]).any()


def test_flow_at_cells_is_that_at_their_centres(images, pairs):
    cells = render_pairs(images, range(2), SIZE, reach=20, stride=4)
    torch.testing.assert_close(cells.flow, pairs.flow[:2, :, ::4, ::4], atol=1e-3, rtol=0)
    assert (cells.visible == pairs.visible[:2, :, ::4, ::4]).float().mean() > 0.999


@pytest.mark.slow
def test_displacements_are_small_and_large(images):
    flow = render_pairs(images, range(40), SIZE, reach=20).flow.norm(dim=-1)
    assert (flow < 2).float().mean() > 0.2
    assert (flow > 10).float().mean() > 0.02


def test_bent_motions_are_inverted():
    random = Random(range(6))
    motion = pair_motion(torch.full((6, 2), 50.0), 100, 20, False, random, bend=5)
    points = random.uniform(0, 100, 200, 2)
    torch.testing.assert_close(motion.to_frame(motion.to_layer(points, 1), 1), points, atol=2e-3, rtol=0)
    unbent = Motion(motion.pose).to_frame(motion.to_layer(points, 1), 1)
    assert (unbent - points).abs().max() > 0.5


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), 16, "size is 16"),
        (torch.zeros(1, 3, 40, 40), 64, "images must be uint8"),
        (torch.zeros(0, 3, 40, 40, dtype=torch.uint8), 64, "images must be uint8"),
    ],
)
def test_bad_arguments(images, size, message):
    with pytest.raises(ValueError, match=message):
        render_pairs(images, [0], size)


def test_lab_equals_the_image_processor():
    image = torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8)
    expected = FgvcImageProcessorPil(resize_policy="none")(image.numpy(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(rgb_to_pixel_values(image / 255), expected, atol=2e-5, rtol=0)


def test_a_dropped_channel_is_gone_in_both_frames():
    pixel_values = torch.rand(3, 2, 3, 8, 8)
    dropped = torch.tensor([1, 2, 0])
    seen = drop_channel(pixel_values, dropped)
    assert (seen[0, :, 1] == 0).all() and (seen[1, :, 2] == 0).all()
    torch.testing.assert_close(seen[0, :, [0, 2]], 1.5 * pixel_values[0, :, [0, 2]])
    torch.testing.assert_close(seen[2], pixel_values[2])
    torch.testing.assert_close(colour_of(pixel_values, torch.tensor([1, 2, 1]))[1, :, 0], pixel_values[1, :, 2])


def test_light_changes_frames_but_not_places(pairs):
    changed = change_light(pairs.frames, Random(range(12)))
    assert changed.min() >= 0 and changed.max() <= 1
    assert (changed - pairs.frames).abs().mean() > 0.02
    correlation = torch.corrcoef(torch.stack([changed.mean(2).flatten(), pairs.frames.mean(2).flatten()]))[0, 1]
    assert correlation > 0.8
    torch.testing.assert_close(change_light(pairs.frames, Random(range(12)), 0.0), pairs.frames.clamp_min(1e-4))


@pytest.mark.parametrize("upright", [True, False])
def test_the_anchor_of_a_layer_moves_by_the_reach_at_most_and_mostly_less(upright):
    """In all directions, whatever the layer turns, shears and zooms about it; a background is upright at first."""
    anchor = torch.tensor([30.0, 70.0]).expand(400, 2)
    motion = pair_motion(anchor, 100, 20, upright, Random(range(400)))
    origin, ahead = torch.zeros(400, 1, 2), torch.tensor([[[1.0, 0.0]]]).expand(400, 1, 2)
    first, second = (motion.to_frame(origin, time)[:, 0] for time in (0, 1))
    torch.testing.assert_close(first, anchor)
    shift = second - first
    assert shift.norm(dim=1).max() <= 20.001 and shift.norm(dim=1).max() > 19
    assert shift.norm(dim=1).median() == pytest.approx(5, abs=1.5)  # the square of an even number
    assert shift.mean(0).abs().max() < 1.5 and shift.abs().amax(0).min() > 17
    turn = torch.atan2(*(motion.to_frame(ahead, 0)[:, 0] - first).unbind(1)[::-1])
    assert turn.abs().max() < 1e-4 if upright else turn.min() < -3 and turn.max() > 3
    between = torch.atan2(*(motion.to_frame(ahead, 1)[:, 0] - second).unbind(1)[::-1]) - turn
    assert 0.3 < torch.atan2(between.sin(), between.cos()).abs().max() < 0.6


def test_a_background_moves_by_half_the_reach_and_stands_still_in_a_quarter_of_the_scenes(images):
    flow = render_pairs(images, range(200), 32, reach=20, stride=1, num_bodies=0).flow
    middle = flow[:, 0, 15:17, 15:17].mean((1, 2)).norm(dim=1)
    assert 9 < middle.max() < 10.5
    assert 0.17 < (flow.flatten(1).abs().amax(1) < 1e-3).float().mean() < 0.33


def test_light_differs_between_pairs_and_less_between_their_frames():
    """By a gain, by contrast and by a tint; the strength scales all of it."""
    frames = torch.full((300, 2, 3, 24, 24), 0.4)
    frames[..., 12:] = 0.8
    sides = {}
    for strength in (1.0, 0.5):
        changed = change_light(frames, Random(range(300)), strength)
        sides[strength] = torch.stack([changed[..., 2:9].mean((3, 4)), changed[..., 15:22].mean((3, 4))]).log()
    dark, bright = sides[1.0]  # (B, 2, 3)
    for values, least in ((dark, 0.15), (bright - dark, 0.05), (dark - dark.mean(2, keepdim=True), 0.02)):
        pair, frame = values.mean(1).std(dim=0), (values[:, 0] - values[:, 1]).std(dim=0) / 2**0.5
        assert pair.min() > least and (frame > 0.2 * pair).all() and (frame < pair).all()
    ratio = (sides[0.5][0] - math.log(0.4)).std() / (dark - math.log(0.4)).std()
    assert float(ratio) == pytest.approx(0.5, abs=0.05)
