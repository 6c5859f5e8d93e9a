"""Configuration of FGVC models: one flat class, its fields in three groups, each with its default and range in one line."""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging


logger = logging.get_logger(__name__)

# Output stride -> strides of stem, layer1, 2, 3 and 4; and the same with a pooling layer of stride 2 after the stem
OUTPUT_STRIDES: dict[int, tuple[int, ...]] = {2: (2, 1, 1, 1, 1), 4: (2, 1, 2, 1, 1), 8: (2, 1, 2, 2, 1)}
POOLED_STRIDES: dict[int, tuple[int, ...]] = {4: (2, 1, 1, 1, 1), 8: (2, 1, 2, 1, 1), 16: (2, 1, 2, 2, 1)}
BOTTLENECK_EXPANSION = 4  # output channels of a ResNet-50 block per channel of its 3x3 convolution
EVIDENCE_WEIGHTS = 10  # three similarities, two running means (EMA) of each, and a constant
# Those of the bundled checkpoint fgvc-joint
VISIBILITY_WEIGHTS = (10.719, 7.429, -0.178, -2.299, 12.392, 3.217, -15.593, -11.263, 6.349, 0.695)
ERROR_WEIGHTS = (-9.795, 2.728, -3.388, -1.696, 0.059, -5.005, -10.27, 15.093, -2.68, 5.843)
COARSE_STRIDE = 8  # pixels per cell of the encoder of a coarse-to-fine model
FINE_STRIDE = 2  # pixels per cell of the features that its head makes
HEAD_FIELDS = ("fine_size", "num_attention_layers", "num_attention_heads", "attention_window", "upsampling")
# Keywords of the base class and of from_pretrained that are neither fields nor attributes
BASE_KEYS = {"torch_dtype", "attn_implementation", "experts_implementation", "per_layer_config", "tie_word_embeddings"}
CODE_REFERENCES = ("auto_map", "custom_pipelines")  # which file of a checkpoint with its own code defines which class


@dataclass(frozen=True)
class Number:
    """A finite number of one type in a range; `open_low` excludes `low` itself. A float field takes integers as well."""

    type: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def normalised(self, value: Any) -> Any:
        """Integers and NumPy scalars as the Python number that JSON stores; anything else unchanged."""
        if isinstance(value, Integral if self.type is int else Real) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer too large for a float stays one, and is refused
                return self.type(value)
        return value

    def __contains__(self, value: Any) -> bool:
        if type(value) is not self.type or not -math.inf < value < math.inf:
            return False
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        kind = "an integer" if self.type is int else "a finite number"
        if self.high < math.inf:
            return f"{kind} from {self.low} to {self.high}"
        if self.low == -math.inf:
            return kind
        return f"{kind} above {self.low}" if self.open_low else f"{kind} of {self.low} or more"


@dataclass(frozen=True)
class Choice:
    """One of a few values, of exactly their types: True is not 1."""

    values: tuple[Any, ...]

    def normalised(self, value: Any) -> Any:
        return value

    def __contains__(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True)
class ListOf:
    """A list of numbers of an accepted length. Tuples become lists: JSON has no tuples, and a loaded config equals the saved one."""

    item: Number
    lengths: tuple[int, ...]

    def normalised(self, value: Any) -> Any:
        return [self.item.normalised(item) for item in value] if isinstance(value, list | tuple) else value

    def __contains__(self, value: Any) -> bool:
        return type(value) is list and len(value) in self.lengths and all(item in self.item for item in value)

    def __str__(self) -> str:
        return f"a list of {' or '.join(map(str, self.lengths))} entries, each {self.item}"


def integer(default: int, low: int, high: float = math.inf) -> Any:
    """A field of an [`FgvcConfig`] with its default and the values that it takes, as by the four functions below."""
    return field(default=default, metadata={"accepted": Number(int, low, high)})


def number(default: float, low: float = -math.inf, high: float = math.inf, open_low: bool = False) -> Any:
    return field(default=default, metadata={"accepted": Number(float, low, high, open_low)})


def numbers(default: tuple[float, ...], item: Number, lengths: tuple[int, ...]) -> Any:
    return field(default=default, metadata={"accepted": ListOf(item, lengths)})


def choice(default: Any, *others: Any) -> Any:
    return field(default=default, metadata={"accepted": Choice((default, *others))})


def flag(default: bool) -> Any:
    return choice(default, not default)


POSITIVE, FINITE = Number(int, low=1), Number(float)


class FgvcConfig(PreTrainedConfig):
    r"""
    Configuration of an [`FgvcModel`]: its encoder, label propagation, and template tracking.

    The defaults of the encoder and of label propagation are those of the paper's released evaluation: ResNet-18 through
    layer3 at stride 2, a disc of radius 15, the first and the five previous frames, top-k 10, temperature 0.07. The defaults
    of template tracking were chosen together with the bundled checkpoint, whose own settings are in its `config.json`.

    Fields are checked when they are set, combinations of fields on construction, loading and saving.

    Args:
        > Encoder

        encoder (`str`, defaults to `"resnet"`): `"resnet"`, as described below, or `"external"`, a network handed to the model.
        num_channels (`int` of 1 or more, defaults to 3): Channels of the input; 3 for CIE Lab.
        hidden_sizes (`list[int]`, 3 or 4 entries of 1 or more, defaults to `[64, 128, 256]`):
            Channels of layer1, layer2, layer3 and, if there are four, layer4: ResNet-18's numbers. The stem has those of
            layer1, the features those of the last layer.
        depths (`list[int]`, 3 or 4 entries of 1 or more, defaults to `[2, 2, 2]`): Residual blocks of the same layers.
        bottleneck (`bool`, defaults to `False`):
            ResNet-50's blocks instead of ResNet-18's; their outputs have four times the channels in `hidden_sizes`.
        stem_pooling (`str`, *optional*):
            `"max"` or `"avg"` pools with stride 2 after the stem, as ResNet does; `None` keeps the resolution, which fine
            matching needs. A coarse-to-fine model always pools, by `"avg"` if nothing is given.
        projection_size (`int` of 0 or more, defaults to 0): Channels of a convolution after the last layer; 0 for none.
        projection_kernel (`int`, defaults to 1): Kernel size of that convolution, 1 or 3.
        projection_relu (`bool`, defaults to `False`): Whether a ReLU follows it.
        output_stride (`int` of 1 or more, defaults to 2):
            Pixels per feature cell: 2, 4 or 8; 4, 8 or 16 with `stem_pooling`; 2 if coarse-to-fine; any if external. Weights
            do not depend on it. 2 is the most precise and the slowest.
        cell_origin (`float`, defaults to 0.5): Coordinate in pixels of the centre of the first cell, along x and y: 0.5
            for convolutions with symmetric padding, half the stride for patches that do not overlap.
        fine_size (`int` of 0 or more, defaults to 0):
            Channels of the features of a coarse-to-fine model, whose encoder works at strides 4 and 8 and whose head
            computes features of stride 2 from its outputs. 0 is a fine model without a head. Part of the weights.
        num_attention_layers (`int` of 0 or more, defaults to 0): Self-attention layers on coarse features (section 3.2 of the paper).
        num_attention_heads (`int` of 1 or more, defaults to 4): Attention heads of each.
        attention_window (`int` of 1 or more, defaults to 8): Side, in coarse cells, of the windows of self-attention; 8 cells are 64 pixels.
        upsampling (`str`, defaults to `"shuffle"`): How the head upsamples: `"shuffle"` (sub-pixel convolution) or `"bilinear"`.
        padding_mode (`str`, defaults to `"zeros"`): Padding of every convolution: `"zeros"`, as ResNet, or `"reflect"`.
        batch_norm_eps (`float` of 0 or more, defaults to 1e-05): Epsilon of batch normalisation; PyTorch's default.

        > Label propagation

        window_radius (`int` of 1 or more, defaults to 24):
            Radius r in cells of the square window of the affinity (Eq. 1 of the paper) in [`FgvcModel.match`], as in training.
        temperature (`float` above 0, defaults to 0.07): Temperature of the softmax over similarities, in `match` and in propagation.
        similarity (`str`, defaults to `"cosine"`): `"cosine"`, or `"dot"` for products of features that are not normalised.
        propagation_family (`str`, defaults to `"joint"`):
            How labels are propagated. `"joint"`: softmax over the top-k keys of all memory frames together (FGVC, CRW, VFS).
            `"per_reference"`: top-k of the softmax over each memory frame, then the mean over frames (UVC, TimeCycle).
            `"windowed"`: softmax over all keys of all memory frames (MAST).
        propagation_radius (`int` of 1 or more, defaults to 15): Radius in cells of the window that labels come from.
        propagation_window (`str`, defaults to `"disc"`):
            `"disc"`: cells closer than the radius (radius 15: 697 cells); `"square"`: offsets up to the radius; `"none"`: the
            whole frame, for the families other than `"joint"`.
        propagation_topk (`int` of 1 or more, defaults to 10): Keys per query cell that labels are taken from.
        num_context_frames (`int` of 1 or more, defaults to 5):
            Context frames: previous frames in memory, beside the frame of the prompt. Cost and memory are linear in it.
        context_step (`int` of 1 or more, defaults to 1): Frames from one context frame to the one before it.
        kept_frame (`int` of 0 or more, defaults to 0):
            One more frame that stays in memory, counted from the frame of the prompt; 0 for none. MAST's memory of the
            frames 0, 5, t-1, t-3 and t-5 is `num_context_frames=3, context_step=2, kept_frame=5`.
        repeat_first (`bool`, defaults to `False`):
            Whether copies of the frame of the prompt fill the memory while previous frames are missing (CRW, TimeCycle).
        first_windowed (`bool`, defaults to `True`):
            Whether the window applies to the frame of the prompt too; `False` takes labels from anywhere in it (CRW, DUL).
        refine_radius (`int` of 0 or more, defaults to 2):
            Coarse-to-fine models only: label maps match blocks of 4x4 cells first, then fine cells in the best block
            and this many cells around it. 0 compares whole windows, as a fine model does: slower.
        object_boxes (`bool`, defaults to `False`):
            Whether objects are localised first, and labels propagated from box to box (UVC). Needs a family other than `"joint"`.
        label_sigma (`float` above 0, defaults to 6.0):
            Standard deviation of the Gaussian that a point is drawn as in a label map, in pixels of the model's input.
        readout (`str`, defaults to `"aligned"`):
            How a label map becomes a point: `"aligned"` as the centre of its peak, with the cell centres of `cell_origin`;
            `"legacy"` as the official code, which shifts every point by (stride - 1) / 2 pixels.

        > Template tracking

        point_matching (`str`, defaults to `"labels"`):
            How points are tracked: `"labels"` by label maps, as in the paper; `"templates"` by patches of features around
            each point, matched in a window that moves with it, which is more precise and much faster.
        box_matching (`str`, defaults to `"templates"`):
            How boxes are tracked: `"templates"` of points in them, or `"coordinates"` that the affinity carries, with scale (UVC).
        template_radius (`int` from 0 to 32, defaults to 3): Radius in cells of the square patch of a template: 3 is 7x7 cells.
        template_trust (`float` of -1 or more, defaults to 0.75):
            A patch enters the template memory only if its similarity (cosine) to the mean template is at least this, so
            that an occluder does not become a template. Above 1 only the first patch is used.
        search_radius (`float` above 0, defaults to 0.12):
            Radius of the search window, as a fraction of the mean side of the frame, sqrt(height * width).
        motion_prior (`float` of 0 or more, defaults to 20.0):
            Weight of the motion prior: the similarity subtracted for a shift of one mean side per frame, quadratic in the shift.
        recall_similarity (`float` of -1 or more, defaults to 0.84):
            Re-detection: the least similarity to its first patch of a place where a point is found again that was searched for in
            the whole frame. Above 1 turns re-detection off.
        visibility_weights (`list[float]`, 10 entries):
            Logistic regression of visibility. Its inputs are the similarity to the first patch, the similarity to the mean
            template and the margin over the second best place; short-term means (EMA) of the three; long-term means; and
            a constant. The default was fitted to the bundled checkpoint; `scripts/calibrate.py` fits them to another.
        error_weights (`list[float]`, 10 entries):
            Log-linear regression, on the same inputs, of the expected error of a visible point in pixels of the model's input.
        hidden_threshold (`float` from 0 to 1, defaults to 0.2): Below this confidence the search window stays in place; 0 for never.
        visibility_threshold (`float` from 0 to 1, defaults to 0.5):
            A point is visible if its confidence is at least this: with templates the probability that it is visible, with
            label maps a function of the height of its peak.

    Raises:
        `ValueError`: a value or a combination that is not accepted, or an unknown field.
    """

    model_type = "fgvc"

    # Encoder
    encoder: str = choice("resnet", "external")
    num_channels: int = integer(3, low=1)
    hidden_sizes: list[int] | tuple[int, ...] = numbers((64, 128, 256), POSITIVE, lengths=(3, 4))
    depths: list[int] | tuple[int, ...] = numbers((2, 2, 2), POSITIVE, lengths=(3, 4))
    bottleneck: bool = flag(False)
    stem_pooling: str | None = choice(None, "max", "avg")
    projection_size: int = integer(0, low=0)
    projection_kernel: int = choice(1, 3)
    projection_relu: bool = flag(False)
    output_stride: int = integer(2, low=1)
    cell_origin: float = number(0.5)
    fine_size: int = integer(0, low=0)
    num_attention_layers: int = integer(0, low=0)
    num_attention_heads: int = integer(4, low=1)
    attention_window: int = integer(8, low=1)
    upsampling: str = choice("shuffle", "bilinear")
    padding_mode: str = choice("zeros", "reflect")
    batch_norm_eps: float = number(1e-5, low=0)

    # Label propagation
    window_radius: int = integer(24, low=1)
    temperature: float = number(0.07, low=0, open_low=True)
    similarity: str = choice("cosine", "dot")
    propagation_family: str = choice("joint", "per_reference", "windowed")
    propagation_radius: int = integer(15, low=1)
    propagation_window: str = choice("disc", "square", "none")
    propagation_topk: int = integer(10, low=1)
    num_context_frames: int = integer(5, low=1)
    context_step: int = integer(1, low=1)
    kept_frame: int = integer(0, low=0)
    repeat_first: bool = flag(False)
    first_windowed: bool = flag(True)
    refine_radius: int = integer(2, low=0)
    object_boxes: bool = flag(False)
    label_sigma: float = number(6.0, low=0, open_low=True)
    readout: str = choice("aligned", "legacy")

    # Template tracking
    point_matching: str = choice("labels", "templates")
    box_matching: str = choice("templates", "coordinates")
    template_radius: int = integer(3, low=0, high=32)
    template_trust: float = number(0.75, low=-1)
    search_radius: float = number(0.12, low=0, open_low=True)
    motion_prior: float = number(20.0, low=0)
    recall_similarity: float = number(0.84, low=-1)
    visibility_weights: list[float] | tuple[float, ...] = numbers(
        VISIBILITY_WEIGHTS, FINITE, lengths=(EVIDENCE_WEIGHTS,)
    )
    error_weights: list[float] | tuple[float, ...] = numbers(ERROR_WEIGHTS, FINITE, lengths=(EVIDENCE_WEIGHTS,))
    hidden_threshold: float = number(0.2, low=0, high=1)
    visibility_threshold: float = number(0.5, low=0, high=1)

    def __setattr__(self, key, value):
        if (accepted := FIELDS.get(key)) is not None:
            given, value = value, accepted.normalised(value)
            if value not in accepted:
                raise ValueError(f"{key} must be {accepted}, got {given!r:.100}.")
        super().__setattr__(key, value)

    def __post_init__(self, **kwargs):
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):  # the package's own classes need no reference
            kwargs = {name: value for name, value in kwargs.items() if name not in CODE_REFERENCES}
        _check_known(kwargs)  # the base class would turn a misspelt field into an attribute without effect
        if self.fine_size and self.stem_pooling is None:
            self.stem_pooling = "avg"
        super().__post_init__(**kwargs)
        self.validate()

    def validate(self):
        """Check the fields that depend on one another; a `ValueError` if they do not fit. Also called before saving."""
        super().validate()  # ty: ignore[missing-attribute]
        if len(self.depths) != len(self.hidden_sizes):
            got = f"{self.hidden_sizes} and {self.depths}"
            raise ValueError(f"hidden_sizes and depths must have an entry per layer each, got {got:.100}.")
        if self.fine_size:
            self._validate_head()
        strides = (FINE_STRIDE,) if self.fine_size else tuple(self._strides)
        if self.encoder == "resnet" and self.output_stride not in strides:
            why = ": a coarse-to-fine model (fine_size above 0) has no other" if self.fine_size else ""
            raise ValueError(f"output_stride must be one of {strides}, got {self.output_stride!r:.100}{why}.")
        if self.propagation_family == "joint" and (self.object_boxes or self.propagation_window == "none"):
            needing = "object_boxes" if self.object_boxes else "propagation_window 'none'"
            raise ValueError(f"{needing} needs the propagation_family 'per_reference' or 'windowed', got 'joint'.")

    def _validate_head(self):
        for name, needed in (("encoder", ("resnet",)), ("projection_size", (0,)), ("stem_pooling", ("avg", "max"))):
            if (value := getattr(self, name)) not in needed:
                accepted = " or ".join(map(repr, needed))
                raise ValueError(f"a coarse-to-fine model needs {name} {accepted}, got {value!r:.100}.")
        if len(self.hidden_sizes) != 3:
            raise ValueError(f"a coarse-to-fine model has three layers, got hidden_sizes {self.hidden_sizes}.")
        channels, heads = self._encoder_channels, self.num_attention_heads
        if channels % (4 * heads):  # rotary embedding: pairs of channels for rows and for columns
            raise ValueError(f"num_attention_heads must split {channels} channels into multiples of 4, got {heads}.")

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in the base class, for the content of a `config.json` and keywords that change fields of it.

        Fields that other tools have added to the file are kept as attributes without effect, with a warning; keywords must
        be fields. A `ValueError` if one is not, or changes a field that the weights of a coarse-to-fine head depend on, or if the
        file is of another type of model.
        """
        for name in HEAD_FIELDS:
            saved = config_dict.get(name, getattr(cls, name))
            if name in kwargs and config_dict.get("model_type") == cls.model_type and kwargs[name] != saved:
                kind = "coarse-to-fine" if config_dict.get("fine_size") else "fine"
                checkpoint = f"this checkpoint is of a {kind} model with {saved!r:.100}"
                raise ValueError(f"{name} is part of the weights: {checkpoint}, got {kwargs[name]!r:.100}.")
        if (model_type := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"the configuration is of a model of type {model_type!r:.100}, not {cls.model_type!r}.")
        returned = kwargs.get("return_unused_kwargs", False)  # the caller takes back what is no attribute of a config
        _check_known(name for name in kwargs.keys() - {"return_unused_kwargs"} if hasattr(cls, name) or not returned)
        extra = {name: value for name, value in config_dict.items() if not _is_known(name)}
        if unused := [name for name in extra if name != "quantization_config"]:  # from_pretrained reads that
            logger.warning(f"FgvcConfig has no field {', '.join(unused)}: set in the file, but without effect.")
        loaded = super().from_dict({name: config_dict[name] for name in config_dict if name not in extra}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in extra.items():
            if not hasattr(cls, name):  # a property such as hidden_size has no setter
                setattr(config, name, value)
        config.validate()
        return loaded

    @property
    def _strides(self) -> dict[int, tuple[int, ...]]:
        return OUTPUT_STRIDES if self.stem_pooling is None else POOLED_STRIDES

    @property
    def context_length(self) -> int:
        """Previous frames that have to be remembered."""
        return (self.num_context_frames - 1) * self.context_step + 1

    @property
    def hidden_size(self) -> int:
        """Channels of the features."""
        return self.fine_size or self.projection_size or self._encoder_channels

    @property
    def _encoder_channels(self) -> int:
        return self.hidden_sizes[-1] * (BOTTLENECK_EXPANSION if self.bottleneck else 1)

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Strides of the stem and of each layer."""
        return self._strides[COARSE_STRIDE if self.fine_size else self.output_stride][: len(self.hidden_sizes) + 1]


# Name of each field -> the values that it takes
FIELDS = {of.name: of.metadata["accepted"] for of in fields(FgvcConfig) if "accepted" in of.metadata}


def _is_known(name: str) -> bool:
    """Whether a keyword means something to [`FgvcConfig`] or to its base class."""
    known = name in FIELDS or name in BASE_KEYS or name in CODE_REFERENCES
    return known or name.startswith("_") or hasattr(PreTrainedConfig, name)


def _check_known(names: Iterable[str]) -> None:
    for name in names:
        if not _is_known(name):
            near = "".join(f"; did you mean {other}?" for other in get_close_matches(name, FIELDS, n=1))
            raise ValueError(f"FgvcConfig has no field {name!r:.100}{near or '.'} Its fields are {', '.join(FIELDS)}.")


__all__ = ["FgvcConfig"]
