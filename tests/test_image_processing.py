import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_hf import FgvcImageProcessorPil
from fgvc_hf.coordinates_fgvc import rescale_points
from fgvc_hf.image_processing_pil_fgvc import rgb_to_lab


def cie_lab(rgb: np.ndarray) -> np.ndarray:
    """The formulas of CIE 15 and IEC 61966-2-1 for one colour in [0, 1], written out in float64."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb.astype(np.float64)]
    r, g, b = linear
    xyz = (
        (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
        0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
        (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
    )
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in xyz)
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_lab_is_within_002_of_the_cie_formulas():
    axis = np.linspace(0, 1, 18)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    colours = np.concatenate([grid, np.arange(256)[:, None].repeat(3, 1) / 255])
    ours = rgb_to_lab(colours.T[:, :, None])[:, :, 0].T
    assert np.abs(ours - np.array([cie_lab(colour) for colour in colours])).max() < 0.02
    assert ours.dtype == np.float32


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.20))],
)
def test_known_colours(rgb, lab):
    pixel_values = FgvcImageProcessorPil()(np.full((16, 16, 3), rgb, np.uint8), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 256, 256)
    expected = (np.array(lab) - [50, 0, 0]) / [50, 127, 127]
    np.testing.assert_allclose(pixel_values[0, :, 100, 100], expected, atol=4e-4)


POLICIES = [
    ({}, (480, 854), (256, 256)),
    ({"size": {"height": 100, "width": 203}, "size_divisor": 2}, (480, 854), (100, 204)),
    ({"resize_policy": "short_side", "size": {"shortest_edge": 256}}, (480, 854), (256, 456)),
    ({"resize_policy": "short_side", "size": {"shortest_edge": 100}}, (854, 480), (176, 104)),
    ({"resize_policy": "none"}, (480, 854), (480, 856)),
    ({"resize_policy": "none", "size_divisor": 2}, (97, 131), (98, 132)),
    ({"resize_policy": "none"}, (3, 5), (8, 8)),
    ({"do_resize": False}, (97, 131), (97, 131)),
]


@pytest.mark.parametrize(("settings", "original", "expected"), POLICIES)
def test_resize_policies_and_coordinate_round_trip(settings, original, expected):
    image_processor = FgvcImageProcessorPil(**settings)
    assert image_processor.output_size(*original) == expected
    frame = np.random.default_rng(0).integers(0, 256, (*original, 3), dtype=np.uint8)
    assert image_processor(frame, return_tensors="pt").pixel_values.shape == (1, 3, *expected)
    points = np.random.default_rng(1).uniform((0, 0), (original[1], original[0]), (100, 2)).astype(np.float32)
    back = rescale_points(rescale_points(points, original, expected), expected, original)
    assert np.abs(back - points).max() < 1e-3


def test_resizing_moves_no_point():
    """The centre of mass of a blob is where the coordinate map says."""
    y, x = np.mgrid[:120, :160] + 0.5
    blob = np.exp(-((x - 61.3) ** 2 + (y - 42.8) ** 2) / 100)
    frame = np.round(255 * blob).astype(np.uint8)[..., None].repeat(3, axis=2)
    resized = FgvcImageProcessorPil(do_convert_lab=False, do_normalize=False)(frame, return_tensors="np").pixel_values
    weights = resized[0, 0] / resized[0, 0].sum()
    y, x = np.mgrid[:256, :256] + 0.5
    centre = np.array([(weights * x).sum(), (weights * y).sum()])
    np.testing.assert_allclose(centre, rescale_points(np.array([61.3, 42.8]), (120, 160), (256, 256)), atol=0.05)


def test_inputs_of_every_kind_agree():
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image_processor = FgvcImageProcessorPil(resize_policy="none")
    reference = image_processor(frame, return_tensors="pt").pixel_values
    for same in (Image.fromarray(frame), frame.transpose(2, 0, 1), torch.from_numpy(frame.transpose(2, 0, 1).copy())):
        torch.testing.assert_close(image_processor(same, return_tensors="pt").pixel_values, reference)
    grey = Image.fromarray(frame[..., 0])
    assert image_processor(grey, return_tensors="pt").pixel_values.shape == reference.shape
    assert image_processor([frame, frame], return_tensors="pt").pixel_values.shape[0] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize_policy": "crop"}, "resize_policy must be one of"),
        ({"resize_policy": "short_side"}, "'short_side' needs size with 'shortest_edge'"),
        ({"size": {"shortest_edge": 256}}, "'stretch' needs size with 'height' and 'width'"),
        ({"do_rescale": False}, "do_convert_lab needs do_rescale"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        FgvcImageProcessorPil(**settings)(np.zeros((40, 50, 3), np.uint8))


def test_four_channels_are_refused():
    with pytest.raises(ValueError, match="must have three channels"):
        FgvcImageProcessorPil(do_convert_rgb=False)(np.zeros((40, 50, 4), np.uint8))


def test_save_and_load(tmp_path):
    saved = FgvcImageProcessorPil(resize_policy="short_side", size={"shortest_edge": 120}, size_divisor=4)
    saved.save_pretrained(tmp_path)
    assert FgvcImageProcessorPil.from_pretrained(tmp_path).to_dict() == saved.to_dict()
