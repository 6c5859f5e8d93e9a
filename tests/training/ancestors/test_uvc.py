"""UVC's losses where their values are known, its schedule, and what is refused before training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fgvc_hf import FgvcConfig, FgvcModel
from fgvc_hf.data.augmentation import rgb_to_pixel_values
from fgvc_hf.data.scene import Random
from fgvc_hf.image_processing_pil_fgvc import FgvcImageProcessorPil
from fgvc_hf.io.drawing import draw_boxes
from fgvc_hf.training.ancestors import uvc
from fgvc_hf.training.ancestors.colour_autoencoder import (
    COLOUR_INPUT,
    ColourAutoEncoder,
    ColourAutoEncoderConfig,
    colour_loss,
    load_colours,
)
from fgvc_hf.training.ancestors.patch_localisation import Place, crop, crop_image
from fgvc_hf.training.ancestors.uvc import (
    UVC,
    UVC_SMALL,
    UvcRecipe,
    UvcTraining,
    concentration_loss,
    orthogonality_loss,
    transported,
    views,
)
from fgvc_hf.training.experiment import parse_recipe
from fgvc_hf.training.objectives import cell_grid


TINY = UvcRecipe(steps=30, batch_size=2, frame=96, crop=64, learning_rate=1e-3, temperature=16.0)


@pytest.fixture(scope="module")
def training():
    torch.manual_seed(0)
    model = FgvcModel(FgvcConfig(hidden_sizes=[16, 16, 32], depths=[1, 1, 1], output_stride=8))
    with torch.no_grad():
        for parameter in model.parameters():  # residual branches start at zero, and let no gradient through
            parameter.add_(0.1 * torch.randn_like(parameter))
    colours = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8, 16]))
    return UvcTraining(model, TINY, colours)


def permutation(cells, seed=0):
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))
    return 1e4 * torch.eye(cells)[order][None], order


def test_a_permutation_is_orthogonal_and_a_blur_is_not():
    grid = cell_grid(torch.zeros(1, 6, 8))
    affinity, _ = permutation(48)
    assert float(orthogonality_loss(affinity, grid)) == pytest.approx(0, abs=1e-5)
    assert float(orthogonality_loss(torch.zeros(1, 48, 48), grid)) == pytest.approx(
        float(((grid - grid.mean((0, 1))) / (torch.tensor([7, 5]) / 2)).abs().mean()), abs=1e-5
    )


def test_a_permutation_carries_coordinates():
    affinity, order = permutation(48)
    grid = cell_grid(torch.zeros(1, 6, 8))
    torch.testing.assert_close(transported(affinity, grid)[0].flatten(0, 1), grid.flatten(0, 1)[order])


def test_a_rigid_shift_is_concentrated_and_torn_regions_are_not():
    grid = cell_grid(torch.zeros(1, 16, 16))[None]
    shifted = grid + torch.tensor([3.5, -2.25])
    assert float(concentration_loss(shifted)) == 0
    # as the released code has it, a region's own extent costs: the variance of 8 cells along both axes, in half maps
    assert float(concentration_loss(shifted, truncated=False)) == pytest.approx(2 * 63 / 12 / 7.5**2, rel=1e-5)
    torn = shifted.clone()
    torn[0, 3, 3] += 12.0
    assert float(concentration_loss(torn)) > 0.005
    assert float(concentration_loss(0.5 * shifted)) == 0  # nor does it cost to shrink
    small = cell_grid(torch.zeros(1, 5, 12))[None]
    assert float(concentration_loss(small)) == 0


@pytest.mark.parametrize("size", [(17, 24), (9, 5), (6, 20)])
@pytest.mark.parametrize("truncated", [True, False])
def test_concentration_by_value(size, truncated):
    """Eq. 5 in loops over whole regions of 8 x 8 cells; what is left over at the right and below does not count."""
    (h, w), distances = size, []
    positions = cell_grid(torch.zeros(1, h, w))[None] + 4 * torch.randn(
        2, h, w, 2, generator=torch.Generator().manual_seed(4)
    )
    for top in range(0, max(h - 7, 1), 8):
        for left in range(0, max(w - 7, 1), 8):
            region = positions[:, top : top + 8, left : left + 8]
            rows, columns = region.shape[1:3]
            for axis, (cells, side) in enumerate(((columns, w), (rows, h))):
                away = (region[..., axis] - region[..., axis].mean((1, 2), keepdim=True)).abs()
                away = (away - (cells - 1) / 2).clamp_min(0) if truncated else away
                distances.append((2 * away / (side - 1)).square().flatten(1))
    expected = 2 * torch.cat(distances, dim=1).mean(1)  # both axes of a cell
    torch.testing.assert_close(concentration_loss(positions, truncated), expected)
    assert torch.equal(concentration_loss(positions), concentration_loss(positions, truncated)) == truncated


def test_the_way_there_and_back_by_value():
    """Eq. 7: the expected cell of the expected cells, by one matrix and its transpose."""
    grid = cell_grid(torch.zeros(1, 3, 5))
    affinity, positions = torch.randn(2, 15, 15, generator=torch.Generator().manual_seed(5)), grid.flatten(0, 1)
    expected = []
    for matrix in affinity:
        sources = torch.stack([matrix[:, m].softmax(0) @ positions for m in range(15)])
        returned = torch.stack([matrix[n].softmax(0) @ sources for n in range(15)])
        expected.append(((returned - positions).abs() / torch.tensor([2.0, 1.0])).mean())
    torch.testing.assert_close(orthogonality_loss(affinity, grid), torch.stack(expected))


@pytest.mark.parametrize("box", ["estimated", "fixed"])
def test_the_place_of_a_patch_by_value(training, monkeypatch, box):
    """The mean of the expected positions, and their mean deviation beside that of the cells themselves; inside the frame."""
    monkeypatch.setattr(training, "recipe", replace(TINY, box=box, temperature=0.5))
    patch, frame = (torch.randn(3, *size, 4, generator=torch.Generator().manual_seed(6)) for size in ((4, 5), (9, 7)))
    found = training.find(patch, frame)
    grid, own = cell_grid(frame).flatten(0, 1), cell_grid(patch).flatten(0, 1)
    for i in range(3):
        positions = (2 * patch[i].flatten(0, 1) @ frame[i].flatten(0, 1).T).softmax(1) @ grid
        deviation, of_cells = ((at - at.mean(0)).abs().mean(0) for at in (positions, own))
        scale = deviation / of_cells if box == "estimated" else torch.ones(2)
        half = scale * torch.tensor([4.0, 3.0]) / 2
        centre = positions.mean(0).maximum(half).minimum(torch.tensor([6.0, 8.0]) - half)
        torch.testing.assert_close(found.scale[i], scale)
        torch.testing.assert_close(found.centre[i], centre)
    assert not found.angle.any()


def test_a_reference_patch_is_found_in_its_own_frame(training):
    features = torch.randn(1, 14, 14, 64, generator=torch.Generator().manual_seed(2))
    found = training.find(features[:, 3:9, 5:11].contiguous() * 16, features)
    torch.testing.assert_close(found.centre, torch.tensor([[7.5, 5.5]]), atol=0.05, rtol=0)
    torch.testing.assert_close(found.scale, torch.ones(1, 2), atol=0.02, rtol=0)


def test_losses_reach_the_encoder_in_both_stages(training):
    frames = (255 * torch.rand(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1))).byte()
    for step in (5, 15):
        losses = training(frames, [1, 2], step)
        assert set(losses) == set(TINY.weights)
        training.zero_grad()
        sum(TINY.weights[name] * loss for name, loss in losses.items()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in training.model.parameters())
    (colours,) = training.frozen
    assert not list(training.named_parameters())[0][0].startswith("_") and all(
        p.grad is None for p in colours.parameters()
    )
    assert not any("autoencoder" in name or "colours" in name for name in training.state_dict())


def defined(training, frames, step):
    """Losses (B,) of pairs, by name, from their definitions in the paper, before any pair is left out."""
    localising, (autoencoder,) = step >= 10, training.frozen
    reference, target = views(frames.float() / 255, Random([1, 2, 3]), 64, localising)
    key, query = training.encode(reference), training.encode(target)
    if localising:
        place = training.find(key, query)
        target, query = crop_image(target, place, (8, 8), 8), crop(query, place, (8, 8))
    affinity = torch.einsum("bijc,bklc->bijkl", key, query).reshape(3, 64, 64) / training.recipe.temperature
    copying = affinity.softmax(1)  # (B, reference cells, target cells)
    images = [rgb_to_pixel_values(rgb, FgvcImageProcessorPil(**COLOUR_INPUT)) for rgb in (reference, target)]
    codes = [autoencoder.encode(image).flatten(1, 2) for image in images]
    copies = torch.einsum("bnm,bnc->bmc", copying, codes[0]), torch.einsum("bnm,bmc->bnc", copying, codes[1])
    to_target, to_reference = (autoencoder.decode(copy.unflatten(1, (8, 8))) for copy in copies)
    grid = cell_grid(key)
    moved = [weights @ grid.flatten(0, 1) for weights in (affinity.softmax(2), copying.transpose(1, 2))]
    return {
        "colour": colour_loss(to_target, images[1]),
        "colour_cycle": colour_loss(to_reference, images[0]),
        "concentration": sum(concentration_loss(at.unflatten(1, (8, 8)), truncated=False) for at in moved),
        "cycle": orthogonality_loss(affinity, grid),
    }


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 12])
@torch.no_grad()
def test_losses_by_definition(training, monkeypatch, step):
    """Colours of a pair with a larger loss do not count, but in the first epoch and the first two of the second stage."""
    frames = (255 * torch.rand(3, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1))).byte()
    frames[0] //= 2
    frames[1] //= 3
    monkeypatch.setattr(training, "recipe", replace(TINY, truncated=False, temperature=4.0))
    expected = defined(training, frames, step)
    totals = expected["colour"] + TINY.colour_cycle * expected["colour_cycle"]
    assert len(totals.unique()) == 3 and expected["concentration"].min() > 0
    for limit, counted in ((0.999, totals < 0), (1.001, totals == totals.min())):
        monkeypatch.setattr(uvc, "OUTLIER", limit * float(totals.min()))
        found = training(frames, [1, 2, 3], step)
        counted = torch.ones(3) if step in (0, 10, 11) else counted.float()
        for name in ("colour", "colour_cycle"):
            torch.testing.assert_close(found[name], (counted * expected[name]).mean())
        torch.testing.assert_close(found["concentration"], expected["concentration"].mean() * (step > 0))
        torch.testing.assert_close(found["cycle"], expected["cycle"].mean())


def test_pictures_show_the_middle_patch_and_where_it_is_found(training, monkeypatch):
    frames = (255 * torch.rand(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(7))).byte()
    asked = []

    def find(*features):
        asked.extend(features)
        return Place(torch.tensor([[3.0, 5.0], [6.0, 4.0]]), torch.tensor([[0.5, 1.0], [1.0, 0.75]]), torch.zeros(2))

    monkeypatch.setattr(training, "find", find)
    (picture,) = training.draw(frames, None, [0, 0]).values()
    boxes = [(8 * 3 - 16, 8 * 5 - 32, 8 * 3 + 16, 8 * 5 + 32), (8 * 6 - 32, 8 * 4 - 24, 8 * 6 + 32, 8 * 4 + 24)]
    middle = 8 * 5.5 + 0.5 + 32 * np.array([-1, -1, 1, 1])  # cells 2 to 9 of 12
    rows = [
        np.concatenate(
            [
                draw_boxes(frame.movedim(0, -1).numpy(), at[None])
                for frame, at in zip(pair, (middle, np.array(box) + 0.5))
            ],
            axis=1,
        )
        for pair, box in zip(frames, boxes)
    ]
    np.testing.assert_array_equal(picture, np.concatenate(rows))
    torch.testing.assert_close(asked[0], training.encode(frames[:, 0, :, 16:80, 16:80] / 255), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(asked[1], training.encode(frames[:, 1] / 255))


def poses(view):
    """The similarity (N, 2, 3), from pixels off the middle of a view to pixels of the frame, of views of frames of (x, y, 1)."""
    off = cell_grid(view.movedim(1, -1)) - (view.shape[-1] - 1) / 2
    columns = torch.cat([off, torch.ones_like(off[..., :1])], dim=-1).flatten(0, 1).to(view.dtype)
    inside = view[:, 2].flatten(1) > 1 - 1e-5
    fits = [
        torch.linalg.lstsq(columns[kept], one[:2].flatten(1).T[kept]).solution.T for one, kept in zip(view, inside)
    ]
    return torch.stack(fits)


@pytest.mark.parametrize("localising", [False, True])
def test_views_by_their_geometry(localising):
    """A common rotation by up to 10 degrees and, of two patches, a common scale within 1.2; patches anywhere on the frame."""
    side, size, count = 96, 48, 60
    frame = torch.cat([cell_grid(torch.zeros(1, side, side)), torch.ones(side, side, 1)], dim=-1).movedim(-1, 0)
    pair = views(frame.expand(count, 2, -1, -1, -1), Random(range(count)), size, localising)
    first, second = (poses(view.double()) for view in pair)
    torch.testing.assert_close(first[:, :, :2], second[:, :, :2], atol=1e-4, rtol=0)
    (a, b), (c, d) = first[:, :, :2].permute(1, 2, 0)
    torch.testing.assert_close((a, b), (d, -c), atol=1e-4, rtol=0)
    degrees, zoom = torch.rad2deg(torch.atan2(c, a)), (a**2 + c**2).sqrt()
    assert -10.01 < degrees.min() < -9 and 9 < degrees.max() < 10.01
    if localising:
        torch.testing.assert_close(zoom, torch.ones_like(zoom), atol=1e-4, rtol=0)
        torch.testing.assert_close(second[:, :, 2], torch.full((count, 2), 47.5).double(), atol=1e-3, rtol=0)
    else:
        assert 1 / 1.2001 < zoom.min() < 0.86 and 1.17 < zoom.max() < 1.2001
        assert (first[:, :, 2] - second[:, :, 2]).abs().min(0).values.max() < 2  # drawn apart
        assert (first[:, :, 2] - second[:, :, 2]).abs().max() > 20
    for patches in (first,) if localising else (first, second):
        x, y = patches[:, :, 2].T
        assert all(23.5 - 0.01 < at.min() < 27 and 68 < at.max() < 71.5 + 0.01 for at in (x, y))
        assert (x - y).abs().max() > 20


def test_views_are_patches_and_then_a_whole_frame():
    frames = torch.rand(2, 2, 3, 96, 96)
    first, second = views(frames, Random([3, 4]), 48, localising=False)
    assert first.shape == second.shape == (2, 3, 48, 48)
    first, second = views(frames, Random([3, 4]), 48, localising=True)
    assert first.shape == (2, 3, 48, 48) and second.shape == (2, 3, 96, 96)


def test_the_schedule():
    assert (UVC.epoch(0), UVC.epoch(99_999), UVC.epoch(100_000), UVC.first_localising) == (0, 9, 10, 10)
    assert UVC.decay(0) == UVC.decay(100_000) == 1
    assert UVC.decay(90_000) == pytest.approx((1 - 9 / 30) ** 0.9)
    assert UVC.decay(299_999) == pytest.approx((1 - 19 / 30) ** 0.9)
    assert UvcRecipe.decay(replace(UVC, localise_from=0.5), 299_999) == pytest.approx((1 - 14 / 30) ** 0.9)
    assert UVC.weights == {"colour": 1.0, "colour_cycle": 0.1, "concentration": 0.3, "cycle": 0.1}


def test_pairs_that_cannot_be_matched_do_not_count_after_a_while(training):
    frames = (255 * torch.rand(2, 2, 3, 96, 96, generator=torch.Generator().manual_seed(1))).byte()
    frames[0, 0] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    frames[0, 1] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]
    early, late = (float(training(frames, [1, 2], step)["colour"]) for step in (0, 5))
    alone = float(training(frames[1:], [2], 5)["colour"])
    assert early > late and late <= alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "200"}, "crop, a patch, must not be larger than the frame of 192 pixels, got 200"),
        ({"crop": "50"}, "crop must be a multiple of 8"),
        ({"box": "round"}, "box must be 'estimated' or 'fixed'"),
        ({"temperature": "0"}, "temperature must be positive"),
        ({"localise_from": "2"}, "localise_from must be a share"),
        ({"steps": "0"}, "steps must be positive"),
        ({"radius": "3"}, "a recipe has no field 'radius'"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe("uvc-small", changes)


def test_the_recipe_holds_the_values_of_the_paper_and_its_script():
    """Patches of 256 pixels, regions of 8 x 8 cells, boxes estimated, distances truncated."""
    of_paper = {"crop": 256, "box": "estimated", "truncated": True, "temperature": 1.0, "localise_from": 1 / 3}
    of_script = {"steps": 300_000, "batch_size": 40, "frame": 640, "learning_rate": 1e-4}
    recipe = parse_recipe("uvc", {})
    assert vars(recipe) | of_paper | of_script == vars(recipe)


@pytest.mark.parametrize("fields", [{"crop": 192}, {"localise_from": 0.0}, {"localise_from": 1.0}, {"box": "fixed"}])
def test_recipes_at_the_ends_of_their_ranges(fields):
    assert vars(replace(UVC_SMALL, **fields)) == vars(UVC_SMALL) | fields


def test_colours_of_another_resolution_are_refused(training):
    with pytest.raises(ValueError, match="works at stride 4, but the model's features are at stride 8"):
        UvcTraining(training.model, TINY, ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 8])))
    with pytest.raises(ValueError, match="needs a colour auto-encoder"):
        UvcTraining(training.model, replace(TINY), None)


def test_colours_come_back_from_a_folder(tmp_path):
    model = ColourAutoEncoder(ColourAutoEncoderConfig(widths=[8, 16]))
    model.save_pretrained(tmp_path / "colours")
    again, colours = load_colours(tmp_path / "colours"), torch.rand(1, 3, 32, 40) * 2 - 1
    assert again.config.stride == 4 and again.encode(colours).shape == (1, 8, 10, 16)
    torch.testing.assert_close(again(colours), model(colours))
    with pytest.raises(OSError, match="is no colour auto-encoder"):
        load_colours(tmp_path)


def test_a_and_b_weigh_ten_times_as_much_as_lightness():
    true, found = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    found[0, 0], found[1, 2] = 0.3, 0.3
    assert colour_loss(found, true).tolist() == pytest.approx([0.1, 1.0])
