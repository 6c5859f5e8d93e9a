"""Hyperparameters of a training run in one dataclass. The defaults are the paper's; recipes by name, and small variants, are in `RECIPES`.

The recipes of UVC, TimeCycle and the colour auto-encoder are in `ancestors/`; `experiment.py` has all of them by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_args, get_origin, get_type_hints


EXAMPLES = {  # of values of fields, in messages
    bool: "true or false",
    int: "a whole number such as 3",
    float: "a number such as 0.5",
    tuple[int, int]: "two whole numbers such as 1,5",
    tuple[int, ...]: "whole numbers such as 64,128,256",
    tuple[float, float]: "two numbers such as 0.6,1",
}
ADVERSARIAL_STEPS = (1, 2, 4, 8)  # that divide the sides of a tile of queries
SEEDS = 2**32  # that a run may have
LAST_RATE = 1e-3  # learning rate at the end of the cosine, as a share of that at the start


def check_fields(recipe: Any) -> None:
    """Refuse a recipe with a field of another type or a number that is not finite, and views and seeds out of range, by a `ValueError`."""
    for name, kind in _kinds(recipe).items():
        value = getattr(recipe, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {EXAMPLES.get(kind, 'text')}, got {value!r:.100}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value}.")
    for name, low, high in (("gap", 1, math.inf), ("area", 1e-6, 1), ("aspect", 1e-6, math.inf)):
        first, last = getattr(recipe, name)
        if not low <= first <= last <= high:
            most = f" and at most {high}" if high < math.inf else ""
            raise ValueError(
                f"{name} must be two numbers, the smaller first, of at least {low}{most}, got {(first, last)}."
            )
    if not 0 <= recipe.seed < SEEDS:
        raise ValueError(f"seed must be from 0 to {SEEDS - 1}, got {recipe.seed}.")


def check_not_negative(recipe: Any, *names: str) -> None:
    """Refuse fields below 0, by a `ValueError`."""
    for name in names:
        if getattr(recipe, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(recipe, name)}.")


def _kinds(recipe: Any) -> dict[str, Any]:
    """The types of the fields by name."""
    known = get_type_hints(type(recipe))
    return {field.name: known[field.name] for field in fields(recipe)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field. A whole number is a number too, but a bool is none."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            return False
        return all(_fits(part, kinds[0]) for part in value)
    if kind is float:
        return isinstance(value, float) or type(value) is int
    return type(value) is kind


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of FGVC's training.

    Args:
        steps (`int`): Updates of the weights.
        batch_size (`int`): Pairs of each domain per update, over all processes and accumulated parts.
        crop (`int`): Side of the training frames in pixels.
        radius (`int`): Window radius r of the losses in cells.
        learning_rate (`float`): Of Adam, at the start; cosine decay to a thousandth.
        real (`float`), synthetic (`float`), adversarial (`float`): Weights of the losses: reconstruction of real pairs
            (Eq. 8), labels of synthetic pairs (Eqs. 2 to 5), and the discriminator on their maps (Eq. 10). 0 leaves one out.
        tracking (`float`): Weight of the tracking objective: patches of points of rendered clips, found again 1 to 16 frames later, and of tracked
            videos if these are given, found again within `gap`; see `tracking_objective.py`.
        tracking_search (`int`), tracking_temperature (`float`): Radius of its windows in cells, and what divides its scores.
        distillation (`float`): Weight of the cross-entropy with the maps of a frozen fine teacher on real pairs (section 3.2).
        freeze_encoder (`bool`): Train only the head of a coarse-to-fine model.
        label (`str`): `"soft"` (Eq. 5), `"gaussian"` (Eqs. 3 and 4, with `label_sigma`) or `"dirac"` (Eq. 2).
        label_sigma (`float`): Standard deviation of Gaussian labels in cells.
        temperature (`float`): Of the maps that are compared with labels. The paper states 1, its code has 0.07 on cosines.
        teacher_norm (`str`): `"channel"`, or `"height"` as in the released code; see `soft_label_loss`.
        reconstruction (`str`): `"aligned"` or `"official"`; see `reconstruction_loss`.
        occlusion_test (`bool`): Leave cells that fail the forward-backward check out of the reconstruction (Eq. 7).
        adversarial_maps (`str`), adversarial_step (`int`): Input of the discriminator; see `adversarial_loss`.
        both_ways (`bool`): Match in both directions, first frame to second as well; features are shared.
        synthetic_dropout (`float`): Share of the synthetic pairs with a dropped colour channel; 1 in the released code. Real
            pairs always drop one, which is then reconstructed.
        light (`float`): Strength of the photometric augmentation of synthetic pairs; 0 for none.
        reach (`float`): Largest shift of a body between synthetic frames, in pixels.
        gap (`tuple[int, int]`): Frames from one frame of a real pair to the other.
        area, aspect (`tuple[float, float]`): Crops of real pairs; see [`VideoFolder`].
        freeze_batch_norm (`bool`): Use the running statistics of batch normalisation, and do not update them.
        average (`float`): Decay of an exponential moving average (EMA) of the weights. The average is evaluated and saved as the
            model; 0 for no average.
        textures (`int`): Frames kept as textures of synthetic pairs.
        seed (`int`): Of weights, data and augmentation.

    Raises:
        `ValueError`: a field is outside its range, or there is nothing to learn from.
    """

    steps: int = 302_265  # 30 passes over 40,302 pairs
    batch_size: int = 4
    crop: int = 256
    radius: int = 24
    learning_rate: float = 1e-3
    real: float = 1.0
    synthetic: float = 1.0
    adversarial: float = 1.0
    tracking: float = 0.0
    tracking_search: int = 10
    tracking_temperature: float = 0.03
    distillation: float = 0.0
    freeze_encoder: bool = False
    label: str = "soft"
    label_sigma: float = 1.0
    temperature: float = 0.07
    teacher_norm: str = "channel"
    reconstruction: str = "aligned"
    occlusion_test: bool = False
    adversarial_maps: str = "probability"
    adversarial_step: int = 1
    both_ways: bool = True
    synthetic_dropout: float = 1.0
    light: float = 1.0
    reach: float = 44.0
    gap: tuple[int, int] = (1, 5)
    area: tuple[float, float] = (0.6, 1.0)
    aspect: tuple[float, float] = (1.5, 2.0)
    freeze_batch_norm: bool = False
    average: float = 0.0
    textures: int = 512
    seed: int = 0

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    max_grad_norm: ClassVar[float] = 0.0  # none

    def __post_init__(self):
        check_fields(self)
        for name, accepted in (
            ("label", ("soft", "gaussian", "dirac")),
            ("teacher_norm", ("channel", "height")),
            ("reconstruction", ("aligned", "official")),
            ("adversarial_maps", ("probability", "correlation")),
            ("adversarial_step", ADVERSARIAL_STEPS),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {getattr(self, name)!r}.")
        for name in (
            "steps",
            "batch_size",
            "radius",
            "learning_rate",
            "temperature",
            "label_sigma",
            "tracking_search",
            "tracking_temperature",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        check_not_negative(
            self, "real", "synthetic", "adversarial", "tracking", "distillation", "light", "reach", "textures"
        )
        if self.renders and self.textures <= 0:
            raise ValueError(f"textures must be positive, got {self.textures}.")
        if not 0 <= self.synthetic_dropout <= 1:
            raise ValueError(f"synthetic_dropout must be a share from 0 to 1, got {self.synthetic_dropout}.")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}.")
        if self.crop < 32 or self.crop % 8:
            raise ValueError(f"crop must be a multiple of 8 of at least 32, got {self.crop}.")
        if not (self.uses_real or self.renders):
            raise ValueError("real, distillation, synthetic and tracking are all 0: there is nothing to learn from.")
        if self.adversarial and not (self.real and self.synthetic):
            raise ValueError("adversarial needs both domains: set real and synthetic above 0, or adversarial to 0.")

    @property
    def uses_real(self) -> bool:
        """Whether it learns from real pairs."""
        return bool(self.real or self.distillation)

    @property
    def renders(self) -> bool:
        """Whether it learns from rendered pairs or clips, whose textures are cut from images."""
        return bool(self.synthetic or self.tracking)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the losses in the total, by name."""
        losses = {"reconstruction": self.real, "label": self.synthetic, "adversarial": self.adversarial}
        return losses | {"distillation": self.distillation, "tracking": self.tracking}

    @property
    def clip_settings(self) -> tuple:
        """Size, gap, area and aspect of real pairs; see [`VideoFolder`]."""
        return self.crop, self.gap, self.area, self.aspect

    def decay(self, step: int) -> float:
        """Factor on the learning rate of update `step`: cosine decay from 1 to a thousandth."""
        wave = (1 + math.cos(math.pi * step / self.steps)) / 2
        return LAST_RATE + (1 - LAST_RATE) * wave

    @property
    def needs_teacher(self) -> bool:
        """Whether it has soft labels or distils."""
        return bool(self.distillation) or (bool(self.synthetic) and self.label == "soft")


def _small(recipe: Recipe, **changes) -> Recipe:
    """Crops of 128 pixels and a window in proportion: an update takes about a second on two CPU cores."""
    recipe = replace(recipe, crop=128, radius=12, reach=22.0, gap=(1, 6), area=(0.15, 0.6), aspect=(0.8, 1.25))
    return replace(recipe, adversarial_step=4, **changes)


TEACHER = Recipe(synthetic=0, adversarial=0)
# Best at a small budget: labels with the exact sub-cell target, and no discriminator
JOINT_SMALL = _small(
    Recipe(),
    steps=2_800,
    batch_size=2,
    learning_rate=4e-4,
    label="gaussian",
    label_sigma=0.7,
    adversarial=0.0,
    synthetic_dropout=0.3,
)
# Reconstruction adapts the model; labels, whose loss is 40 times as large, keep what it knew. A third of the EMA over the whole run are the
# weights at the start, which keeps the accuracy on other videos and costs little of the gain
FINETUNE_SMALL = replace(
    JOINT_SMALL, steps=300, learning_rate=1e-4, synthetic=0.1, freeze_batch_norm=True, average=1 - 1 / 300
)
# On crops of 256 pixels, where r = 24 fine cells equal 6 coarse cells
DISTILL = Recipe(real=0.0, synthetic=0.0, adversarial=0.0, distillation=1.0, gap=(1, 8), freeze_batch_norm=True)
# The features for the template tracker: rendered clips, and tracks of real videos where they are given, enlarged up to twice
TRACKING = Recipe(
    real=0.0,
    synthetic=0.0,
    adversarial=0.0,
    tracking=1.0,
    batch_size=8,
    learning_rate=2e-4,
    gap=(1, 20),
    area=(0.1, 0.5),
    aspect=(0.9, 1.1),
    steps=20_000,
    average=0.999,
    freeze_batch_norm=True,
)
RECIPES: dict[str, Recipe] = {
    "teacher": TEACHER,
    "joint": Recipe(),
    "finetune": replace(
        FINETUNE_SMALL, crop=256, radius=24, reach=44.0, steps=2_000, batch_size=4, average=1 - 1 / 2_000
    ),
    "teacher-small": _small(TEACHER, steps=4_000),
    "joint-small": JOINT_SMALL,
    "finetune-small": FINETUNE_SMALL,
    "distill": DISTILL,
    "tracking": TRACKING,
    "tracking-small": replace(TRACKING, crop=176, area=(0.05, 0.35), batch_size=3, steps=3_000, average=0.998),
    "distill-small": _small(DISTILL, steps=6_000, batch_size=2, learning_rate=5e-4, average=0.99),
}


def parse_recipe(name: str, changes: Mapping[str, str], recipes: Mapping[str, Any] = RECIPES) -> Any:
    """The recipe of a name with some fields changed.

    Args:
        name (`str`): A key of `recipes`.
        changes (mapping of `str` to `str`): New values of fields as text: `3`, `0.5`, `true`, `1,5`.
        recipes (mapping of `str` to a recipe): [`fgvc_hf.training.experiment.RECIPES`] has those of the ancestors as well.

    Raises:
        `ValueError`: there is no such recipe or field, or the value does not fit the field.
    """
    if name not in recipes:
        raise ValueError(f"recipe must be one of {', '.join(recipes)}, got {name!r}.")
    recipe = recipes[name]
    known, values = _kinds(recipe), {}
    for field, text in changes.items():
        if field not in known:
            raise ValueError(f"a recipe has no field {field!r}; its fields are {', '.join(sorted(known))}.")
        values[field] = _parse(field, text, known[field])
    return replace(recipe, **values)


def _parse(field: str, text: str, kind: Any) -> Any:
    """A value of a field of the given type. The type is the field's own, so that a weight of 0 may become 0.5."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if get_origin(kind) is tuple:
            parts, kinds = text.split(","), get_args(kind)
            kinds = kinds[:1] * len(parts) if kinds[-1] is Ellipsis else kinds
            return tuple(of(part) for of, part in zip(kinds, parts, strict=True))
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{field} must be {EXAMPLES.get(kind, f'a value of type {kind}')}, got {text!r}.") from None
