import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import PILImageResampling

from fgvc_hf import FgvcImageProcessorPil
from fgvc_hf.coordinates import rescale_points
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
    ours = rgb_to_lab(torch.tensor(colours.T[:, :, None], dtype=torch.float32))[:, :, 0].T
    assert np.abs(ours.numpy() - np.array([cie_lab(colour) for colour in colours])).max() < 0.02
    assert ours.dtype == torch.float32


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.20))],
)
def test_known_colours(rgb, lab):
    pixel_values = FgvcImageProcessorPil()(np.full((16, 16, 3), rgb, np.uint8), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 256, 256)
    expected = (np.array(lab) - [50, 0, 0]) / [50, 127, 127]
    np.testing.assert_allclose(pixel_values[0, :, 100, 100], expected, atol=4e-4)


def test_colours_are_converted_on_the_device_that_is_asked_for():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    pixel_values = FgvcImageProcessorPil()(frame, return_tensors="pt", device="meta").pixel_values
    assert pixel_values.device.type == "meta" and pixel_values.shape == (1, 3, 256, 256)
    here = FgvcImageProcessorPil()(frame, return_tensors="np").pixel_values
    np.testing.assert_array_equal(here, FgvcImageProcessorPil()(frame, return_tensors="pt").pixel_values)


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


LONG = {"list": [0] * 10**5, "text": "x" * 10**5, "dict": {"height": "x" * 10**5, "width": 5}}


@pytest.mark.parametrize("policy", ["stretch", "short_side"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("resize_policy", "size", "size_divisor")
        for kind in LONG
        if (name, kind) != ("size", "text")
    ],
)  # of a text as size, transformers itself complains
def test_a_message_stays_short_whatever_was_given(name, policy, kind):
    """As a damaged file of a checkpoint may hold."""
    with pytest.raises((ValueError, TypeError)) as error:
        FgvcImageProcessorPil(**({"resize_policy": policy} | {name: LONG[kind]}))(np.zeros((40, 50, 3), np.uint8))
    assert len(str(error.value)) < 500


def test_four_channels_are_refused():
    with pytest.raises(ValueError, match="must have three channels"):
        FgvcImageProcessorPil(do_convert_rgb=False)(np.zeros((40, 50, 4), np.uint8))


def test_save_and_load(tmp_path):
    saved = FgvcImageProcessorPil(resize_policy="short_side", size={"shortest_edge": 120}, size_divisor=4)
    saved.save_pretrained(tmp_path)
    assert FgvcImageProcessorPil.from_pretrained(tmp_path).to_dict() == saved.to_dict()


def test_random_colours_are_right_after_all_steps():
    """Of uint8 frames in, undone from what comes out: within 0.02 of the formulas in float64."""
    frame = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    pixel_values = FgvcImageProcessorPil(resize_policy="none")(frame, return_tensors="np").pixel_values[0]
    lab = pixel_values * np.reshape([50, 127, 127], (3, 1, 1)) + np.reshape([50, 0, 0], (3, 1, 1))
    expected = np.array([cie_lab(colour / 255) for colour in frame.reshape(-1, 3)])
    assert np.abs(lab.reshape(3, -1).T - expected).max() < 0.02
    assert pixel_values.dtype == np.float32


@pytest.mark.parametrize(
    ("side", "divisor", "expected"),
    [(1, 8, 8), (11, 8, 8), (12, 8, 16), (19, 8, 16), (20, 8, 24), (21, 2, 22), (97, 1, 97), (100, 64, 128)],
)
def test_sides_are_rounded_to_the_nearest_multiple_half_up(side, divisor, expected):
    assert FgvcImageProcessorPil(resize_policy="none", size_divisor=divisor).output_size(side, 64) == (expected, 64)


@pytest.mark.parametrize(("settings", "original", "expected"), POLICIES)
def test_every_pixel_of_the_input_belongs_to_a_pixel_of_the_frame(settings, original, expected):
    """Corners go to corners, so that no prompt inside the frame ends up outside the input."""
    corners = np.array([[0, 0], [original[1], original[0]]])
    np.testing.assert_allclose(rescale_points(corners, original, expected), [[0, 0], [expected[1], expected[0]]])


FRAME = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
IMAGE = Image.fromarray(FRAME)


@pytest.mark.parametrize(
    "same",
    [
        IMAGE.convert("RGBA"),
        np.asarray(IMAGE.convert("RGBA")),
        np.asarray(IMAGE.convert("RGBA")).transpose(2, 0, 1),
        torch.from_numpy(FRAME),
        torch.from_numpy(FRAME).permute(2, 0, 1),
        FRAME.astype(np.float32),
        [IMAGE],
    ],
)
def test_frames_with_alpha_and_of_other_types_agree(same):
    image_processor = FgvcImageProcessorPil(resize_policy="none")
    expected = image_processor(FRAME, return_tensors="pt").pixel_values
    torch.testing.assert_close(image_processor(same, return_tensors="pt").pixel_values, expected)


@pytest.mark.parametrize("grey", [IMAGE.convert("L"), np.asarray(IMAGE.convert("L"))[..., None]])
def test_grey_frames_are_those_with_three_equal_channels(grey):
    image_processor = FgvcImageProcessorPil(resize_policy="none")
    same = np.asarray(IMAGE.convert("L"))[..., None].repeat(3, axis=2)
    pixel_values = image_processor(grey, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values, image_processor(same, return_tensors="pt").pixel_values)
    assert pixel_values[:, 1:].abs().max() < 1e-4  # no colour


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize_policy": "crop"}, "resize_policy"),
        ({"resize_policy": "none", "size_divisor": 0}, "size_divisor"),
        ({"size_divisor": -8}, "size_divisor"),
        ({"resize_policy": "none", "size_divisor": 8000}, "size_divisor from 1 to 256, got .* and 8000"),
        ({"size": {"height": 0, "width": 64}}, "size"),
        ({"size": {"height": -8, "width": 64}}, "size"),
        ({"resize_policy": "short_side", "size": {"shortest_edge": -5}}, "size"),
        ({"size": {"height": 64}}, "size"),
        ({"size": "big"}, "size"),
    ],
)
def test_sizes_that_are_none_are_plain_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        FgvcImageProcessorPil(**settings)(FRAME)
    with pytest.raises(ValueError, match=message):
        FgvcImageProcessorPil(**settings).output_size(40, 50)


@pytest.mark.parametrize("kind", [">u2", ">i4", ">f4", ">f8", "longdouble", "float16", "uint64"])
def test_numbers_of_every_width_and_order_of_bytes_are_the_same_picture(kind):
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    process = FgvcImageProcessorPil(do_resize=False, return_tensors="pt")
    assert torch.equal(process(frame.astype(kind)).pixel_values, process(frame).pixel_values)


def test_settings_of_one_call_leave_those_of_the_processor(tmp_path):
    image_processor = FgvcImageProcessorPil()
    short = image_processor(FRAME, resize_policy="short_side", size={"shortest_edge": 32}, return_tensors="pt")
    assert short.pixel_values.shape == (1, 3, 32, 40)
    image_processor.save_pretrained(tmp_path)
    for after in (image_processor, FgvcImageProcessorPil.from_pretrained(tmp_path)):
        assert after(FRAME, return_tensors="pt").pixel_values.shape == (1, 3, 256, 256)
        assert after.output_size(40, 50) == (256, 256)


def resized_by_torch(image, size):
    """An image (H, W, C) resized in float64 by another implementation of the same filter: (C, height, width)."""
    values = torch.from_numpy(np.asarray(image, np.float64)).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(values, size, mode="bilinear", antialias=True)[0].numpy()


@pytest.mark.parametrize("size", [(32, 24), (64, 96)])
@pytest.mark.parametrize(
    ("kind", "scale", "settings"),
    [
        (np.float32, 1, {"rescale_factor": 1.0}),
        (np.float64, 1, {"do_rescale": False}),
        (">f4", 1, {"rescale_factor": 1.0}),
        (np.uint16, 65535, {"rescale_factor": 1 / 65535}),
        (np.uint8, 10, {"rescale_factor": 0.1}),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_floats_and_16_bits_are_resized_without_rounding_to_8_bits(binary, kind, scale, settings, size):
    values = np.random.default_rng(0).random((40, 50, 3))
    image = (scale * (values > 0.5 if binary else values)).astype(kind)
    process = FgvcImageProcessorPil(
        do_convert_lab=False, do_normalize=False, size={"height": size[0], "width": size[1]}, **settings
    )
    found = process(image, return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(found, resized_by_torch(image.astype(float) / scale, size), atol=1e-6)


@pytest.mark.parametrize("dark_and_bright", [(64, 192), (0, 255)])
@pytest.mark.parametrize("resample", [PILImageResampling.BICUBIC, PILImageResampling.LANCZOS])
def test_sharp_filters_exceed_the_values_at_edges_alike(resample, dark_and_bright):
    """As for 8 bits: beyond the values of the image, but not beyond black and white."""
    frame = np.repeat(np.array(dark_and_bright, np.uint8), 32)[None, :, None] * np.ones((64, 1, 3), np.uint8)
    settings = {
        "do_convert_lab": False,
        "do_normalize": False,
        "size": {"height": 96, "width": 96},
        "resample": resample,
    }
    levels = FgvcImageProcessorPil(**settings)(frame, return_tensors="np").pixel_values
    floats = FgvcImageProcessorPil(**settings, rescale_factor=1.0)(frame / 255, return_tensors="np").pixel_values
    np.testing.assert_allclose(floats, levels, atol=1.1 / 255)
    assert levels.max() > 195 / 255 and floats.min() >= 0 and floats.max() <= 1


def test_levels_of_8_bits_stay_levels_where_they_are_resized():
    process = FgvcImageProcessorPil(do_convert_lab=False, do_normalize=False, return_tensors="np")
    found = process(FRAME).pixel_values
    for kind in (np.float32, np.int64, np.uint16):
        np.testing.assert_array_equal(process(FRAME.astype(kind)).pixel_values, found)
    np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-4)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (None, {}, "images must be PIL images or arrays, .*, got NoneType"),
        ([FRAME, None], {}, "images must be PIL images or arrays, .*, got NoneType"),
        ({"frame": FRAME}, {}, "images must be PIL images or arrays, .*, got dict"),
        ([], {}, "images is empty"),
        (FRAME[..., 0], {}, r"images must be PIL images or arrays, .*, got uint8 of shape \(40, 50\)"),
        (FRAME[None, None], {}, r"images must be PIL images or arrays, .*, got uint8 of shape \(1, 1, 40, 50, 3\)"),
        (FRAME, {"device": "nowhere"}, "device nowhere is not available here; cpu always is"),
        (FRAME, {"device": f"cuda:{torch.cuda.device_count()}"}, "device cuda:. is not available here"),
    ],
)
def test_what_is_no_image_and_no_device_are_plain_errors(images, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        FgvcImageProcessorPil()(images, **settings)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200
