import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fgvc_hf import FgvcConfig, FgvcImageProcessorPil, FgvcModel
from fgvc_hf.coordinates import cell_to_point, feature_size, point_to_cell, rescale_points
from fgvc_hf.image_processing_pil_fgvc import MOST_PIXELS


SIDES = st.integers(1, 4096)


@pytest.mark.parametrize(
    ("stride", "cell", "point"), [(1, 4, 4.5), (2, 4, 8.5), (4, 0, 0.5), (8, 3, 24.5), (8, 2.5, 20.5)]
)
def test_a_cell_is_centred_on_the_pixel_with_its_number_times_the_stride(stride, cell, point):
    assert cell_to_point(cell, stride) == point
    assert point_to_cell(point, stride) == cell
    torch.testing.assert_close(cell_to_point(torch.tensor([cell, cell + 1.0]), stride)[1].item(), point + stride)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [(32, 48), (33, 47), (39, 41), (8, 9)])
def test_feature_size_is_what_the_encoder_gives(stride, size):
    model = FgvcModel(FgvcConfig(hidden_sizes=[8, 16, 32], output_stride=stride)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *size)).features.shape[-2:] == feature_size(*size, stride)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_the_encoder_sees_a_pixel_centred_on_the_cell_that_the_convention_names(stride):
    """The response to an impulse, summed over channels, is symmetric about it where all weights are equal."""
    model = FgvcModel(FgvcConfig(hidden_sizes=[2, 2, 2], output_stride=stride)).eval()
    cell = 5
    pixel_values = torch.zeros(1, 3, 96, 96)
    pixel_values[..., cell * stride, cell * stride] = 1  # the pixel around cell_to_point(cell, stride)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.01 if "conv" in name or "downsample.0" in name else float(name.endswith("weight")))
        response = model(pixel_values).features[0].sum(0).double()
    axis = torch.arange(response.shape[0], dtype=torch.float64)
    assert (response.sum(0) @ axis / response.sum()).item() == pytest.approx(cell, abs=1e-4)
    assert (response.sum(1) @ axis / response.sum()).item() == pytest.approx(cell, abs=1e-4)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("int64", "float32"), ("uint8", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_rescaling_keeps_kind_shape_and_precision(kind, dtype, expected):
    points = kind(np.array([[[10, 5], [0, 0]]], dtype=dtype))
    scaled = rescale_points(points, (50, 100), (25, 300))
    assert type(scaled) is type(points) and scaled.shape == points.shape
    assert scaled.tolist() == [[[30, 2.5], [0, 0]]]
    if dtype.startswith("float"):
        assert str(scaled.dtype).endswith(expected)
    assert scaled.dtype in (np.float32, np.float64, torch.float32, torch.float64)


@given(SIDES, SIDES, SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_rescaling_there_and_back_is_exact_to_float32(h0, w0, h1, w1, x, y):
    points = np.array([x * w0, y * h0], dtype=np.float32).astype(np.float64)
    there = rescale_points(points, (h0, w0), (h1, w1))
    assert (there >= 0).all() and (there <= np.array([w1, h1]) * (1 + 1e-12)).all()
    back = rescale_points(torch.from_numpy(there), (h1, w1), (h0, w0)).numpy()
    np.testing.assert_array_equal(back.astype(np.float32), points)


@given(SIDES, SIDES, st.sampled_from(["stretch", "short_side", "none"]), st.integers(0, 10**6))
def test_every_policy_brings_float32_points_back_exactly(height, width, policy, seed):
    """A prompt is stored in float64 and returned as float32, so the way there and back must not show."""
    enlarged = height * width * (256 / min(height, width)) ** 2
    assume(policy != "short_side" or enlarged < MOST_PIXELS)  # more are refused
    size = {"shortest_edge": 256} if policy == "short_side" else {"height": 256, "width": 192}
    input_size = FgvcImageProcessorPil(resize_policy=policy, size=size).output_size(height, width)
    points = np.random.default_rng(seed).uniform((0, 0), (width, height), (50, 2)).astype(np.float32)
    there = rescale_points(torch.tensor(points, dtype=torch.float64), (height, width), input_size)
    back = rescale_points(there, input_size, (height, width))
    np.testing.assert_array_equal(back.float().numpy(), points)
