"""Configuration of FGVC models."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


# Output stride -> strides of stem, layer1, 2, 3 and 4; and the same with a pooling layer of stride 2 after the stem
OUTPUT_STRIDES: dict[int, tuple[int, ...]] = {2: (2, 1, 1, 1, 1), 4: (2, 1, 2, 1, 1), 8: (2, 1, 2, 2, 1)}
POOLED_STRIDES: dict[int, tuple[int, ...]] = {4: (2, 1, 1, 1, 1), 8: (2, 1, 2, 1, 1), 16: (2, 1, 2, 2, 1)}
BOTTLENECK_EXPANSION = 4
EVIDENCE_WEIGHTS = 10  # of what templates show: three numbers, two running means of each, and a constant
COARSE_STRIDE = 8  # pixels per cell of the encoder under a coarse-to-fine head
FINE_STRIDE = 2  # and of the features that the head makes
HEAD_FIELDS = ("fine_size", "num_attention_layers", "num_attention_heads", "attention_window", "upsampling")
BASE_ARGUMENTS = {  # what the base class, or the machinery around it, understands beside its fields
    "torch_dtype",
    "attn_implementation",
    "experts_implementation",
    "per_layer_config",
    "tie_word_embeddings",
}
CODE_REFERENCES = ("auto_map", "custom_pipelines")  # where a checkpoint that carries its code has which class


@strict
class FgvcConfig(PreTrainedConfig):
    r"""
    Configuration of an [`FgvcModel`]: the encoder, the probabilistic map, and the propagation of labels with it.

    The defaults of the encoder and of the propagation are those of the paper's released evaluation: ResNet-18 through
    layer3 at stride 2, a disc of 15 cells, the first and the five previous frames, the ten best keys, temperature 0.07.

    Args:
        encoder (`str`, defaults to `"resnet"`): The encoder described here, or `"external"` for one that is given to the model.
        num_channels (`int`, defaults to 3): Channels of the input (CIE Lab).
        hidden_sizes (`list[int]`, defaults to `[64, 128, 256]`):
            Channels of layer1, layer2 and layer3, and of layer4 if there is a fourth entry. The stem has those of layer1, the
            features those of the last layer.
        depths (`list[int]`, defaults to `[2, 2, 2]`): Blocks of the same layers.
        bottleneck (`bool`, defaults to `False`):
            Blocks of ResNet-50 instead of ResNet-18; their outputs have four times the channels of `hidden_sizes`.
        stem_pooling (`str`, *optional*): `"max"` or `"avg"` pools with stride 2 after the stem, as ResNet does for images.
            A coarse-to-fine model always pools, by `"avg"` if nothing is given.
        projection_size (`int`, defaults to 0): Channels of a convolution after the last layer; 0 for none.
        projection_kernel (`int`, defaults to 1): Its size, 1 or 3.
        projection_relu (`bool`, defaults to `False`): Whether a ReLU follows it.
        output_stride (`int`, defaults to 2):
            Pixels per feature cell: 2 (fine; no layer after the stem is strided), 4 or 8; with pooling 4, 8 or 16. Weights do
            not depend on it. An external encoder may have any.
        cell_origin (`float`, defaults to 0.5):
            Coordinate of the centre of the first cell: 0.5 for convolutions; half the stride for patches that do not overlap.
        fine_size (`int`, defaults to 0):
            Channels of the features of a coarse-to-fine model: its encoder pools after the stem and works at strides 4 and 8, and a head
            makes features of stride 2 of what it gives. 0 for a fine model, which has no head. The head's fields are part of the weights.
        num_attention_layers (`int`, defaults to 0):
            Layers of self-attention on the coarse features (section 3.2 of the paper). 0, none, is the fastest.
        num_attention_heads (`int`, defaults to 4): Heads of each.
        attention_window (`int`, defaults to 8): Cells along a side of the windows that attention is computed in; 64 pixels.
        upsampling (`str`, defaults to `"shuffle"`): How coarse features become fine: `"shuffle"` or `"bilinear"`.
        refine_radius (`int`, defaults to 2):
            Of a coarse-to-fine model: where label maps and dense flow are propagated, blocks of 4x4 cells are matched first, and fine
            features are compared in the best block and so many cells around it. 0 compares whole neighbourhoods, as a fine model does.
        padding_mode (`str`, defaults to `"zeros"`): Padding of every convolution, `"zeros"` or `"reflect"`.
        batch_norm_eps (`float`, defaults to 1e-5): Epsilon of batch normalisation.
        window_radius (`int`, defaults to 24):
            Radius r in cells of the square window of the probabilistic map (Eq. 1 of the paper), as in its training.
        temperature (`float`, defaults to 0.07):
            Temperature of the softmax over cosine similarities, in [`FgvcModel.match`] and in propagation.
        similarity (`str`, defaults to `"cosine"`): `"cosine"`, or `"dot"` for products of features as they are.
        propagation_family (`str`, defaults to `"joint"`):
            How labels travel. `"joint"`: the softmax over the best keys of all memory frames together (FGVC, CRW, VFS).
            `"per_reference"`: the best of the softmax over each memory frame, then the mean over frames (UVC, TimeCycle).
            `"windowed"`: the softmax over all keys of all memory frames (MAST).
        propagation_radius (`int`, defaults to 15): Radius in cells of the neighbourhood that labels may come from.
        propagation_window (`str`, defaults to `"disc"`):
            `"disc"`: cells closer than the radius (radius 15: 697 cells); `"square"`: offsets up to the radius; `"none"`: the whole
            frame, where the family is not joint.
        propagation_topk (`int`, defaults to 10): Keys that a cell takes labels from, over all memory frames jointly.
        num_context_frames (`int`, defaults to 5):
            Previous frames in memory beside the frame of the query. Cost and memory per frame are linear in it.
        context_step (`int`, defaults to 1): Of the previous frames every so many-th is used, the last first.
        kept_frame (`int`, defaults to 0):
            Number, after the frame of the query, of one more frame that stays in memory; 0 for none. MAST's memory of the frames
            0, 5, t-1, t-3 and t-5 is `num_context_frames=3, context_step=2, kept_frame=5`.
        repeat_first (`bool`, defaults to `False`):
            Whether copies of the frame of the query fill the memory as long as there are fewer previous frames (CRW, TimeCycle).
        first_windowed (`bool`, defaults to `True`):
            Whether labels come from the neighbourhood in the frame of the query as well, or from anywhere in it (CRW, DUL).
        object_boxes (`bool`, defaults to `False`):
            Whether an object is localised before its mask is matched, and labels travel from box to box alone (UVC). Needs the
            propagation_family `"per_reference"` or `"windowed"`.
        label_sigma (`float`, defaults to 6.0):
            Standard deviation, in pixels of the model's input, of the Gaussian that a point is drawn as.
        readout (`str`, defaults to `"aligned"`):
            How a label map becomes a point. `"aligned"` is the centre of its peak, and respects where cells are centred.
            `"legacy"` reproduces the official code, which moves every point by (stride - 1) / 2 pixels.
        point_matching (`str`, defaults to `"labels"`):
            How points are followed: by their label maps, as in the paper, or by `"templates"`: patches of features around each
            point, matched in a window that moves with it. Templates follow points more precisely, at a small part of the cost.
        box_matching (`str`, defaults to `"templates"`):
            How boxes are followed: by the templates of points in them, or by the `"coordinates"` that the affinity carries along, with
            their scale (UVC).
        template_radius (`int`, defaults to 3): Radius in cells of the square patch of a template.
        template_trust (`float`, defaults to 0.75): Mean cosine similarity from which a new patch becomes a template.
        search_radius (`float`, defaults to 0.12):
            Radius of the window that templates are searched in, per mean side of the frame (the root of its area).
        motion_prior (`float`, defaults to 20.0):
            Similarity that a shift of a mean side from one frame to the next costs; it grows with the square of the shift.
        recall_similarity (`float`, defaults to 0.84):
            A point that is less similar to its first patch is looked for in the whole frame, and found again where it is at least
            as similar as this; above 1 never.
        visibility_weights (`list[float]`, ten entries):
            Logistic model that tells from the matching of templates whether a point is visible: weights of the similarity to the
            first patch and to the mean of patches, and of the margin over the next best place; of the same three as they were on
            the frames just before, and as they are as a rule; and the constant. The default is the bundled checkpoint's;
            `scripts/calibrate.py` fits them.
        error_weights (`list[float]`, ten entries):
            Log-linear model of the same evidence that tells by how many pixels of the model's input a visible point is expected to be off.
        hidden_threshold (`float`, defaults to 0.2):
            Confidence below which a template's window waits where the point was seen last; 0 lets it follow whatever is found, as is
            best with features that visibility was not calibrated for.
        visibility_threshold (`float`, defaults to 0.5):
            A point is reported visible where its confidence is at least this. With templates the confidence is the probability
            that the point is visible; with labels a bare function of the height of its label map's peak.

    Raises:
        `ValueError`: a value outside what is accepted, or an unknown field.
        `StrictDataclassFieldValidationError` (of huggingface_hub): a value of another type.
    """

    model_type = "fgvc"

    encoder: str = "resnet"
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256)
    depths: list[int] | tuple[int, ...] = (2, 2, 2)
    bottleneck: bool = False
    stem_pooling: str | None = None
    projection_size: int = 0
    projection_kernel: int = 1
    projection_relu: bool = False
    output_stride: int = 2
    cell_origin: float = 0.5
    fine_size: int = 0
    num_attention_layers: int = 0
    num_attention_heads: int = 4
    attention_window: int = 8
    upsampling: str = "shuffle"
    refine_radius: int = 2
    padding_mode: str = "zeros"
    batch_norm_eps: float = 1e-5
    window_radius: int = 24
    temperature: float = 0.07
    similarity: str = "cosine"
    propagation_family: str = "joint"
    propagation_radius: int = 15
    propagation_window: str = "disc"
    propagation_topk: int = 10
    num_context_frames: int = 5
    context_step: int = 1
    kept_frame: int = 0
    repeat_first: bool = False
    first_windowed: bool = True
    object_boxes: bool = False
    label_sigma: float = 6.0
    readout: str = "aligned"
    point_matching: str = "labels"
    box_matching: str = "templates"
    template_radius: int = 3
    template_trust: float = 0.75
    search_radius: float = 0.12
    motion_prior: float = 20.0
    recall_similarity: float = 0.84
    visibility_weights: list[float] | tuple[float, ...] = (
        10.719,
        7.429,
        -0.178,
        -2.299,
        12.392,
        3.217,
        -15.593,
        -11.263,
        6.349,
        0.695,
    )
    error_weights: list[float] | tuple[float, ...] = (
        -9.795,
        2.728,
        -3.388,
        -1.696,
        0.059,
        -5.005,
        -10.27,
        15.093,
        -2.68,
        5.843,
    )
    hidden_threshold: float = 0.2
    visibility_threshold: float = 0.5

    def __post_init__(self, **kwargs):
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):  # the package's own classes are known already
            kwargs = {name: value for name, value in kwargs.items() if name not in CODE_REFERENCES}
        for name in kwargs:  # what is left here are no fields; the base class would silently turn them into attributes
            known = name.startswith("_") or hasattr(PreTrainedConfig, name)
            known = known or name in BASE_ARGUMENTS or name in CODE_REFERENCES
            if not known:
                fields = ", ".join(name for name in FgvcConfig.__annotations__ if name != "model_type")
                raise ValueError(f"FgvcConfig has no field {name!r}; its fields are {fields}.")
        if self.fine_size and self.stem_pooling is None:
            self.stem_pooling = "avg"
        self.hidden_sizes = list(self.hidden_sizes)  # JSON has no tuples, and a loaded config equals the saved one
        self.depths = list(self.depths)
        self.visibility_weights, self.error_weights = list(self.visibility_weights), list(self.error_weights)
        super().__post_init__(**kwargs)
        self._check_values()

    def _check_values(self):
        """Types are checked by the dataclass; here is the rest."""
        if len(self.hidden_sizes) not in (3, 4) or len(self.depths) != len(self.hidden_sizes):
            raise ValueError("hidden_sizes and depths must both have three entries, for layer1 to layer3, or four.")
        for name, accepted in (
            ("stem_pooling", (None, "max", "avg")),
            ("output_stride", self._accepted_strides),
            ("encoder", ("resnet", "external")),
            ("projection_kernel", (1, 3)),
            ("padding_mode", ("zeros", "reflect")),
            ("upsampling", ("shuffle", "bilinear")),
            ("similarity", ("cosine", "dot")),
            ("propagation_family", ("joint", "per_reference", "windowed")),
            ("propagation_window", ("disc", "square", "none")),
            ("readout", ("aligned", "legacy")),
            ("point_matching", ("labels", "templates")),
            ("box_matching", ("templates", "coordinates")),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {getattr(self, name)!r}.")
        for name in (
            "num_channels",
            "output_stride",
            "num_attention_heads",
            "attention_window",
            "window_radius",
            "propagation_radius",
            "propagation_topk",
            "num_context_frames",
            "context_step",
            "temperature",
            "label_sigma",
            "search_radius",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.propagation_window == "none" and self.propagation_family == "joint":
            raise ValueError("propagation_window 'none' needs the propagation_family 'per_reference' or 'windowed'.")
        if self.object_boxes and self.propagation_family == "joint":
            raise ValueError("object_boxes needs the propagation_family 'per_reference' or 'windowed'.")
        for name in (
            "kept_frame",
            "template_radius",
            "motion_prior",
            "fine_size",
            "num_attention_layers",
            "refine_radius",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("visibility_weights", "error_weights"):
            if len(getattr(self, name)) != EVIDENCE_WEIGHTS:
                raise ValueError(f"{name} must have {EVIDENCE_WEIGHTS} entries, got {len(getattr(self, name))}.")
        if self.fine_size:
            self._check_head()

    def _check_head(self):
        for name, needed in (
            ("encoder", "resnet"),
            ("projection_size", 0),
        ):
            if getattr(self, name) != needed:
                raise ValueError(f"a coarse-to-fine model needs {name} {needed!r}, got {getattr(self, name)!r}.")
        if len(self.hidden_sizes) != 3:
            raise ValueError(f"a coarse-to-fine model has three layers, got hidden_sizes {self.hidden_sizes}.")
        channels = self.hidden_sizes[-1] * (BOTTLENECK_EXPANSION if self.bottleneck else 1)
        if channels % (4 * self.num_attention_heads):  # rows and columns turn pairs of channels
            raise ValueError(
                f"num_attention_heads must split {channels} channels into multiples of 4, got {self.num_attention_heads}."
            )

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in the base class; a `ValueError` if a field is changed that weights of a coarse-to-fine head depend on."""
        for name in HEAD_FIELDS:
            saved = config_dict.get(name, getattr(cls, name))
            if config_dict.get("model_type") == cls.model_type and kwargs.get(name, saved) != saved:
                kind = "coarse-to-fine" if config_dict.get("fine_size") else "fine"
                raise ValueError(
                    f"{name} is part of the weights: this checkpoint is of a {kind} model with {saved!r}, got {kwargs[name]!r}."
                )
        return super().from_dict(config_dict, **kwargs)

    @property
    def _strides(self) -> dict[int, tuple[int, ...]]:
        return OUTPUT_STRIDES if self.stem_pooling is None else POOLED_STRIDES

    @property
    def _accepted_strides(self) -> tuple[int, ...]:
        if self.fine_size:
            return (FINE_STRIDE,)
        return tuple(self._strides) if self.encoder == "resnet" else (self.output_stride,)

    @property
    def context_length(self) -> int:
        """Previous frames that have to be remembered."""
        return (self.num_context_frames - 1) * self.context_step + 1

    @property
    def hidden_size(self) -> int:
        """Channels of the features."""
        if self.fine_size:
            return self.fine_size
        return self.projection_size or self.hidden_sizes[-1] * (BOTTLENECK_EXPANSION if self.bottleneck else 1)

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Strides of the stem and of the layers that there are."""
        return self._strides[COARSE_STRIDE if self.fine_size else self.output_stride][: len(self.hidden_sizes) + 1]


__all__ = ["FgvcConfig"]
