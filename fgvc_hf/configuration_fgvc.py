"""Configuration of FGVC models."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


OUTPUT_STRIDES = {2: (2, 1, 1, 1), 4: (2, 1, 2, 1), 8: (2, 1, 2, 2)}  # output stride -> strides of stem, layer1, 2, 3
BASE_ARGUMENTS = {  # what the base class, or the machinery around it, understands beside its fields
    "torch_dtype",
    "attn_implementation",
    "experts_implementation",
    "per_layer_config",
    "auto_map",
    "tie_word_embeddings",
}


@strict
class FgvcConfig(PreTrainedConfig):
    r"""
    Configuration of an [`FgvcModel`]: the encoder, the probabilistic map, and the propagation of labels with it.

    The defaults of the encoder and of the propagation are those of the paper's released evaluation: ResNet-18 through
    layer3 at stride 2, a disc of 15 cells, the first and the five previous frames, the ten best keys, temperature 0.07.

    Args:
        num_channels (`int`, defaults to 3): Channels of the input (CIE Lab).
        hidden_sizes (`list[int]`, defaults to `[64, 128, 256]`):
            Channels of layer1, layer2 and layer3. The stem has those of layer1, the features those of layer3.
        depths (`list[int]`, defaults to `[2, 2, 2]`): Basic blocks of layer1, layer2 and layer3.
        output_stride (`int`, defaults to 2):
            Pixels per feature cell: 2 (fine; no layer after the stem is strided), 4 or 8. Weights do not depend on it.
        padding_mode (`str`, defaults to `"zeros"`): Padding of every convolution, `"zeros"` or `"reflect"`.
        batch_norm_eps (`float`, defaults to 1e-5): Epsilon of batch normalisation.
        window_radius (`int`, defaults to 24):
            Radius r in cells of the square window of the probabilistic map (Eq. 1 of the paper), as in its training.
        temperature (`float`, defaults to 0.07):
            Temperature of the softmax over cosine similarities, in [`FgvcModel.match`] and in propagation.
        propagation_radius (`int`, defaults to 15): Radius in cells of the neighbourhood that labels may come from.
        propagation_window (`str`, defaults to `"disc"`):
            `"disc"`: cells closer than the radius (radius 15: 697 cells); `"square"`: offsets up to the radius.
        propagation_topk (`int`, defaults to 10): Keys that a cell takes labels from, over all memory frames jointly.
        num_context_frames (`int`, defaults to 5):
            Previous frames in memory beside the frame of the query. Cost and memory per frame are linear in it.
        label_sigma (`float`, defaults to 6.0):
            Standard deviation, in pixels of the model's input, of the Gaussian that a point is drawn as.
        readout (`str`, defaults to `"aligned"`):
            How a label map becomes a point. `"aligned"` is the centre of its peak, and respects where cells are centred.
            `"legacy"` reproduces the official code, which moves every point by (stride - 1) / 2 pixels.
        visibility_threshold (`float`, defaults to 0.12):
            A point is reported visible where its confidence is at least this.

    Raises:
        `ValueError`: a value outside what is accepted, or an unknown field.
        `StrictDataclassFieldValidationError` (of huggingface_hub): a value of another type.
    """

    model_type = "fgvc"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256)
    depths: list[int] | tuple[int, ...] = (2, 2, 2)
    output_stride: int = 2
    padding_mode: str = "zeros"
    batch_norm_eps: float = 1e-5
    window_radius: int = 24
    temperature: float = 0.07
    propagation_radius: int = 15
    propagation_window: str = "disc"
    propagation_topk: int = 10
    num_context_frames: int = 5
    label_sigma: float = 6.0
    readout: str = "aligned"
    visibility_threshold: float = 0.12

    def __post_init__(self, **kwargs):
        for name in kwargs:  # what is left here are no fields; the base class would silently turn them into attributes
            known = name.startswith("_") or hasattr(PreTrainedConfig, name) or name in BASE_ARGUMENTS
            if not known:
                fields = ", ".join(name for name in FgvcConfig.__annotations__ if name != "model_type")
                raise ValueError(f"FgvcConfig has no field {name!r}; its fields are {fields}.")
        self.hidden_sizes = list(self.hidden_sizes)  # JSON has no tuples, and a loaded config equals the saved one
        self.depths = list(self.depths)
        super().__post_init__(**kwargs)
        self._check_values()

    def _check_values(self):
        """Types are checked by the dataclass; here is the rest."""
        if len(self.hidden_sizes) != 3 or len(self.depths) != 3:
            raise ValueError("hidden_sizes and depths must have three entries, for layer1, layer2 and layer3.")
        for name, accepted in (
            ("output_stride", tuple(OUTPUT_STRIDES)),
            ("padding_mode", ("zeros", "reflect")),
            ("propagation_window", ("disc", "square")),
            ("readout", ("aligned", "legacy")),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {getattr(self, name)!r}.")
        for name in (
            "num_channels",
            "window_radius",
            "propagation_radius",
            "propagation_topk",
            "num_context_frames",
            "temperature",
            "label_sigma",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def hidden_size(self) -> int:
        """Channels of the features."""
        return self.hidden_sizes[-1]

    @property
    def stage_strides(self) -> tuple[int, int, int, int]:
        """Strides of the stem and of layer1, layer2 and layer3."""
        return OUTPUT_STRIDES[self.output_stride]


__all__ = ["FgvcConfig"]
