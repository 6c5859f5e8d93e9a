"""Convert UVC's published colour auto-encoder: two files, one for the encoder and one for the decoder."""

from pathlib import Path

import torch

from ...conversion.official import compare_weights, read_checkpoint
from ...encoder.loading import check_finite, float32_weights
from .colour_autoencoder import ColourAutoEncoder, ColourAutoEncoderConfig


# Names of the layers in the files, from input to output
LAYERS = {
    "encoder": ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "downsample.1"),
    "decoder": ("upsample.1", "conv7", "conv8", "conv9", "conv10", "conv11"),
}


def convert_colours(encoder: str | Path, decoder: str | Path) -> ColourAutoEncoder:
    """Convert the two published files.

    Args:
        encoder, decoder (`str` or `Path`): The published files.

    Returns:
        [`ColourAutoEncoder`] in evaluation mode.

    Raises:
        `OSError`: A file is missing, or is no PyTorch checkpoint of tensors.
        `ValueError`: Weights are missing, unknown, of another shape, or no finite floating-point numbers; the message names them.
    """
    with float32_weights():
        model = ColourAutoEncoder(ColourAutoEncoderConfig())
    for half, path in (("encoder", encoder), ("decoder", decoder)):
        state, network = read_checkpoint(path, None), getattr(model, half)
        convolutions = [layer for layer in network if isinstance(layer, torch.nn.Conv2d)]
        expected = {
            f"{name}.{part}": getattr(layer, part)
            for name, layer in zip(LAYERS[half], convolutions, strict=True)
            for part in ("weight", "bias")
        }
        compare_weights(state, expected)
        with torch.no_grad():
            for name, parameter in expected.items():
                parameter.copy_(state[name])
        check_finite(network, f"{path}: ")
    return model.eval()
