"""The probabilistic map of one point against the dense map of the model, and on frames whose motion is known."""

import numpy as np
import pytest
import torch

from fgvc_hf import probability_map


@pytest.fixture(scope="module")
def frames():
    """Two frames (48, 64, 3); the second one is moved by (6, 4) pixels."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (20, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return image[4:52, 6:70], image[:48, :64]


def test_it_is_a_row_of_the_dense_map(tiny_model, processor, frames):
    """At the centre of a cell, and normalised over the window that the dense map has."""
    radius, cell = 6, (9, 12)
    pixel_values = processor(list(frames), return_tensors="pt").pixel_values
    with torch.inference_mode():
        dense = tiny_model.match(pixel_values[:1], pixel_values[1:], radius=radius).log_probs[0, *cell].exp()
    found = probability_map(tiny_model, *frames, (2 * cell[1] + 0.5, 2 * cell[0] + 0.5), processor)
    window = found[::2, ::2][cell[0] - radius : cell[0] + radius + 1, cell[1] - radius : cell[1] + radius + 1]
    np.testing.assert_allclose(window.ravel() / window.sum(), dense.numpy(), rtol=1e-3, atol=1e-6)
    assert found.shape == frames[0].shape[:2] and found[::2, ::2].sum() == pytest.approx(1, abs=1e-3)


def test_it_finds_the_point_where_it_went(bundled_model, processor, frames):
    found = probability_map(bundled_model, *frames, (30.5, 20.5), processor)
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert abs(x - 36) <= 1 and abs(y - 24) <= 1
    wider = probability_map(bundled_model, *frames, (30.5, 20.5), processor, temperature=1.0)
    assert wider.max() < found.max() / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point": (64.5, 3)}, "point must lie inside the frame of 48x64"),
        ({"point": (float("nan"), 3)}, "point must lie inside the frame"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_wrong_arguments_are_named(tiny_model, processor, frames, arguments, message):
    with pytest.raises(ValueError, match=message):
        probability_map(tiny_model, *frames, **({"point": (5, 5), "processor": processor} | arguments))


def test_frames_of_two_sizes_are_refused(tiny_model, processor, frames):
    with pytest.raises(ValueError, match="frame must be of size"):
        probability_map(tiny_model, frames[0], frames[1][:40], (5, 5), processor)
